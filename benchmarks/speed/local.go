package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"

	"github.com/ingrain-go/ingrain/persistence/memory"
)

// local compares a command on the memory store with what protoactor itself
// takes for a request to a local actor and its reply: the command is routed,
// deduplicated, decided, encoded, appended and acknowledged on top.
func (b *bench) local(ctx context.Context) ([]*figure, error) {
	var figures []*figure
	for _, callers := range []int{1, 64} {
		name := map[int]string{1: "local-1", 64: "local-64"}[callers]
		if !b.wants(name) && (callers == 1 || !b.wants("cost-cpu-local", "cost-allocs-local")) {
			continue
		}
		taken, err := b.rounds(ctx,
			contender{"command, " + plural(callers, "caller"), b.brief, func(ctx context.Context, d time.Duration) (sample, error) {
				return localCommands(ctx, d, callers)
			}},
			contender{"RequestFuture, " + plural(callers, "caller"), b.brief, func(ctx context.Context, d time.Duration) (sample, error) {
				return requestFutures(ctx, d, callers)
			}})
		if err != nil {
			return nil, err
		}
		commands, futures := taken[0], taken[1]
		f := &figure{
			Name: name, What: "local command on the memory store, " + plural(callers, "caller"), Unit: "commands/s",
			Than: "protoactor RequestFuture to a local actor", Goal: ratioAtLeast(1),
		}
		figures = append(figures, f.rates(commands, futures))
		if callers == 1 {
			continue
		}
		figures = append(figures, &figure{
			Name: "cost-cpu-local", What: "processor time of a local command, memory store, 64 callers", Unit: "us", Than: "RequestFuture",
			Of: each(commands, sample.selfMicros), Base: each(futures, sample.selfMicros),
		}, &figure{
			Name: "cost-allocs-local", What: "allocations of a local command, memory store, 64 callers", Unit: "objects", Than: "RequestFuture",
			Of: each(commands, sample.allocations), Base: each(futures, sample.allocations),
		})
	}
	return figures, nil
}

func (s sample) selfMicros() float64 { return s.per(float64(s.cost.self.Nanoseconds()) / 1e3) }

func (s sample) allMicros() float64 { return s.selfMicros() + s.serverMicros() }

func (s sample) serverMicros() float64 { return s.per(float64(s.cost.children.Nanoseconds()) / 1e3) }

func (s sample) allocations() float64 { return s.per(float64(s.cost.allocations)) }

// localCommands starts from nothing, so that no sample inherits the events of
// the one before.
func localCommands(ctx context.Context, d time.Duration, callers int) (s sample, err error) {
	store, err := memory.Open(memory.Config{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	node, err := startNode(ctx, store, nil)
	if err != nil {
		return s, err
	}
	defer stopNode(node)
	booked := newBookings(node, 0, callers)
	if err := booked.warm(ctx, deposit{Cents: 1}); err != nil {
		return s, err
	}
	s.n, s.elapsed, err = closedLoop(ctx, d, callers, func(i int) error { return booked.send(ctx, i, deposit{Cents: 1}) })
	if err != nil {
		return s, err
	}
	inStore, err := stored(ctx, store)
	if err != nil {
		return s, err
	}
	return s, compare(inStore, booked)
}

func requestFutures(ctx context.Context, d time.Duration, callers int) (s sample, err error) {
	system := proto.NewActorSystem(proto.WithLoggerFactory(quiet))
	defer system.Shutdown()
	pids := make([]*proto.PID, callers)
	var handled sync.Map // what each actor has handled, told when it stops
	for i := range pids {
		n := int64(0)
		pids[i] = system.Root.Spawn(proto.PropsFromFunc(func(c proto.Context) {
			switch m := c.Message().(type) {
			case *deposit:
				n += m.Cents
				c.Respond(m)
			case *proto.Stopped:
				handled.Store(i, n)
			}
		}))
	}
	s.n, s.elapsed, err = closedLoop(ctx, d, callers, func(i int) error {
		_, err := system.Root.RequestFuture(pids[i], &deposit{Cents: 1}, patience).Result()
		return err
	})
	total := int64(0)
	for i, pid := range pids {
		err = errors.Join(err, system.Root.StopFuture(pid).Wait())
		if n, ok := handled.Load(i); ok {
			total += n.(int64)
		}
	}
	if err == nil && total != s.n {
		err = errors.New("the actors have not handled as many requests as were answered")
	}
	return s, err
}

// quiet drops protoactor's own chatter.
func quiet(*proto.ActorSystem) *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

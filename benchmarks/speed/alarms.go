package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
)

// alarm is an aggregate that sets timers.
type alarm struct{ Rung, Set int64 }

type alarmEvent = aggregate.Event[alarm]

// wind sets so many timers, all due at one moment.
type wind struct {
	Due   time.Time
	Count int
}

func (c wind) Decide(alarm) ([]alarmEvent, error) { return []alarmEvent{wound(c)}, nil }

type wound struct {
	Due   time.Time
	Count int
}

func (e wound) Evolve(a *alarm) { a.Set += int64(e.Count) }

func (e wound) Timers() []aggregate.Timer[alarm] {
	timers := make([]aggregate.Timer[alarm], e.Count)
	for i := range timers {
		timers[i] = aggregate.Timer[alarm]{Name: strconv.Itoa(i), Due: e.Due, Command: ring{}}
	}
	return timers
}

// ring is what timers and callers send alike.
type ring struct{}

func (ring) Decide(alarm) ([]alarmEvent, error) { return []alarmEvent{rang{}}, nil }

type rang struct{}

func (rang) Evolve(a *alarm) { a.Rung++ }

// rings asks how often it rang.
type rings struct{}

func (rings) Answer(a alarm) (int64, error) { return a.Rung, nil }

var alarms = aggregate.Define("alarm",
	aggregate.Accepts[wind]("wind"), aggregate.Records[wound]("wound"),
	aggregate.Accepts[ring]("ring"), aggregate.Records[rang]("rang"), aggregate.Answers[rings]("rings"))

var timerKinds = []kind{onMemory, onSQLite, onPostgres}

// timers compares how fast timers are fired that are all due at once with how fast
// callers get the same commands through, on the same aggregates.
func (b *bench) timers(ctx context.Context) ([]*figure, error) {
	return b.eachKind(ctx, timerKinds, []string{"timers-fired"}, b.timersOn)
}

func (b *bench) timersOn(ctx context.Context, k kind) (_ []*figure, err error) {
	store, closeStore, err := b.openNew(ctx, k)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	node, err := startNode(ctx, store, func(c *cluster.Config) { c.Aggregates = []aggregate.Any{alarms} })
	if err != nil {
		return nil, err
	}
	defer stopNode(node)
	c := &clockwork{bench: b, store: store, node: node, pace: 20_000}
	for i := range concurrent {
		c.refs = append(c.refs, alarms.Ref(node, accountID(i)))
	}
	taken, err := b.rounds(ctx,
		contender{"timers due at once on " + k.name, b.length, c.fire},
		contender{"the same commands from 1,024 callers", b.middle, c.call})
	if err != nil {
		return nil, err
	}
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	f := &figure{
		Name: "timers-fired" + k.suffix, What: "timers fired on " + k.name + ", of 1,024 aggregates, all due at one moment", Unit: "timers/s",
		Than: "the same commands from 1,024 callers on the same node", Goal: valueAtLeast(50_000),
	}
	return []*figure{f.rates(taken[0], taken[1])}, nil
}

// clockwork is a node whose aggregates have timers.
type clockwork struct {
	*bench
	store persistence.Store
	node  *cluster.Node
	refs  []aggregate.Ref[alarm]
	pace  float64 // timers set in a second, as far as is known
	rung  int64   // by timers and by callers
	waves int64
}

// fire sets as many timers as may be fired in two or three times d, all for one
// moment, and measures from that moment until all are.
func (c *clockwork) fire(ctx context.Context, d time.Duration) (s sample, err error) {
	each := max(8, int(d.Seconds()*150_000/float64(len(c.refs))))
	n := int64(each * len(c.refs))
	for range 5 {
		before := c.node.Stats().Host
		begin := time.Now()
		due := begin.Add(time.Duration(1.5*float64(n)/c.pace*float64(time.Second)) + time.Second)
		took, err := c.wind(ctx, wind{Due: due, Count: each})
		if err != nil {
			return s, err
		}
		late := !time.Now().Before(due)
		c.pace = float64(n) / took.Seconds()
		if err := rest(ctx, time.Until(due)); err != nil {
			return s, err
		}
		used, batches := c.machine.usage(), c.node.Stats().Host
		if err := c.silence(ctx, before.TimersFired+uint64(n)); err != nil {
			return s, err
		}
		c.rung += n
		if late {
			c.pace /= 2 // some were fired while others were set
			continue
		}
		s.n, s.elapsed, s.cost = n, time.Since(due), c.machine.usage().minus(used)
		after := c.node.Stats().Host
		s.batch = float64(after.Commits-batches.Commits) / float64(max(1, after.Batches-batches.Batches))
		return s, nil
	}
	return s, fmt.Errorf("%d timers were not set before they were due", n)
}

// silence waits until so many timers were fired in all.
func (c *clockwork) silence(ctx context.Context, fired uint64) error {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	limit := time.NewTimer(2 * patience)
	defer limit.Stop()
	for {
		now := c.node.Stats().Host.TimersFired
		if now >= fired {
			return nil
		}
		select {
		case <-look.C:
		case <-limit.C:
			return fmt.Errorf("%d timers were not fired in %s", fired-now, 2*patience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wind sends a command to every aggregate, all at once.
func (c *clockwork) wind(ctx context.Context, command wind) (time.Duration, error) {
	c.waves++
	errs := make([]error, len(c.refs))
	var wait sync.WaitGroup
	begin := time.Now()
	for i, ref := range c.refs {
		wait.Go(func() { _, errs[i] = ref.Send(ctx, command) })
	}
	wait.Wait()
	return time.Since(begin), first(errs)
}

// call lets callers send what the timers send.
func (c *clockwork) call(ctx context.Context, d time.Duration) (s sample, err error) {
	before := c.node.Stats().Host
	s.n, s.elapsed, err = closedLoop(ctx, d, len(c.refs), func(i int) error {
		_, err := c.refs[i].Send(ctx, ring{})
		return err
	})
	after := c.node.Stats().Host
	s.batch = float64(after.Commits-before.Commits) / float64(max(1, after.Batches-before.Batches))
	c.rung += s.n
	return s, err
}

// check sees to it that every timer rang once: by the aggregates, and by the log.
func (c *clockwork) check(ctx context.Context) error {
	inStore, err := stored(ctx, c.store)
	if err != nil {
		return err
	}
	var rung, events int64
	for _, ref := range c.refs {
		n, err := aggregate.Ask(ctx, ref, rings{})
		if err != nil {
			return err
		}
		rung += n
		events += inStore[ref.ID()]
	}
	if waves := c.waves * int64(len(c.refs)); rung != c.rung || events != rung+waves {
		return fmt.Errorf("%d rings were asked for, the aggregates have %d, the log %d besides %d times of setting", c.rung, rung, events-waves, waves)
	}
	return nil
}

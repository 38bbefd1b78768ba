package actor_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// BenchmarkLocalCommand compares a durable command on the memory store with a
// bare RequestFuture to a local actor.
func BenchmarkLocalCommand(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("host/callers=%d", callers), func(b *testing.B) {
			store, err := memory.Open(memory.Config{})
			require.NoError(b, err)
			host := startHost(b, store, nil)
			run(b, callers, func(i int) func() {
				id := "a" + strconv.Itoa(i)
				gateway := direct{host}
				ref := counters.Ref(gateway, id)
				ctx := b.Context()
				return func() {
					if _, err := ref.Send(ctx, add{N: 1}); err != nil {
						b.Error(err)
					}
				}
			})
		})
		b.Run(fmt.Sprintf("future/callers=%d", callers), func(b *testing.B) {
			system := quietSystem()
			run(b, callers, func(int) func() {
				pid := system.Root.Spawn(proto.PropsFromFunc(func(c proto.Context) {
					if _, ok := c.Message().(*add); ok {
						c.Respond(c.Message())
					}
				}))
				return func() {
					if _, err := system.Root.RequestFuture(pid, &add{N: 1}, 5*time.Second).Result(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func run(b *testing.B, callers int, caller func(i int) func()) {
	calls := []func(){}
	for i := range callers {
		calls = append(calls, caller(i))
		calls[i]()
	}
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan struct{}, callers)
	for i := range callers {
		go func() {
			for next.Add(1) <= int64(b.N) {
				calls[i]()
			}
			done <- struct{}{}
		}()
	}
	for range callers {
		<-done
	}
}

// direct is a gateway onto one host.
type direct struct{ host *actor.Host }

type waiter struct {
	call actor.Call
	ch   chan actor.Result
}

func (w *waiter) Reply(_ *actor.Call, r actor.Result) { w.ch <- r }

func (d direct) Deliver(ctx context.Context, r *aggregate.Request) (aggregate.Response, error) {
	w := &waiter{ch: make(chan actor.Result, 1)}
	s := persistence.Stream{Type: r.Definition.Name(), ID: r.ID}
	w.call = actor.Call{Request: r, Stream: s, Partition: persistence.PartitionOf(s, partitions), Reply: w}
	d.host.DeliverInline(&w.call)
	select {
	case res := <-w.ch:
		return res.Response, res.Err
	case <-ctx.Done():
		return aggregate.Response{}, aggregate.UnknownOutcome(aggregate.ReasonDeadline, ctx.Err())
	}
}

// BenchmarkTimersFired fires timers of 1,000 aggregates that are all due when a new
// owner takes them over, on the memory store. One operation is one timer, loaded
// and fired.
func BenchmarkTimersFired(b *testing.B) {
	store, err := memory.Open(memory.Config{Partitions: 64})
	require.NoError(b, err)
	benchmarkTimers(b, store)
}

// ahead is a clock that is an hour ahead of others.
type ahead struct{ actor.SystemClock }

func (ahead) Wall() time.Time { return time.Now().Add(time.Hour) }

func benchmarkTimers(b *testing.B, store persistence.Store) {
	const aggregates, each = 1000, 100
	withAlarms := func(c *actor.Config) { c.Types = append(c.Types, alarms) }
	first := startHost(b, store, withAlarms)
	due := time.Now().Add(30 * time.Minute)
	for left := b.N; left > 0; {
		var sent []*pending
		for i := 0; i < aggregates && left > 0; i++ {
			e := planned{}
			for ; len(e.Set) < each && left > 0; left-- {
				e.Set = append(e.Set, plan{Name: strconv.Itoa(left), Due: due, Ring: ring{N: 1}})
			}
			m := alarms.Definition().MessageOf(try{})
			p := &pending{t: b, ch: make(chan actor.Result, 1)}
			stream := streamOf(alarms, strconv.Itoa(i))
			first.Deliver(&actor.Call{
				Request: &aggregate.Request{
					Definition: alarms.Definition(), ID: stream.ID, Message: m, Value: events(e), Expect: -1, Command: aggregate.NewCommandID(),
				},
				Stream: stream, Partition: persistence.PartitionOf(stream, store.Meta().Partitions), Reply: p,
			})
			sent = append(sent, p)
		}
		for _, p := range sent {
			p.ok()
		}
	}
	b.ResetTimer()
	next := startHost(b, store, func(c *actor.Config) {
		withAlarms(c)
		c.Clock = ahead{}
	})
	for next.Stats().TimersFired < uint64(b.N) {
		runtime.Gosched()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "timers/s")
	require.Zero(b, next.Stats().TimersRetried)
}

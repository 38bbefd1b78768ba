package actor_test

import (
	"context"
	"fmt"
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

package actor_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

type released struct {
	epoch persistence.Epoch
	err   error
}

func (f *fixture) release(ctx context.Context, p persistence.Partition) <-chan released {
	done := make(chan released, 1)
	go func() {
		given, err := f.host.Release(ctx, p)
		done <- released{given.Epoch, err}
	}()
	return done
}

func TestReleaseAnswersWhatWasAdmittedAndThenRedirects(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	epoch := f.host.Epoch(p)
	f.state(labs, "a")
	stall := f.stallAppends()
	admitted := []*pending{f.send(labs, "a", note(1)), f.send(labs, "a", look{}), f.send(labs, neighbour(labs, "a"), note(1))}
	await(t, stall.Reached(), "the append")
	done := f.release(t.Context(), p)
	f.eventually(func() bool { return f.send(labs, "a", look{}).sealedOff() }, "the partition is sealed")
	require.Empty(t, done)
	require.False(t, admitted[0].answered())
	stall.Release()
	r := await(t, done, "the release")
	require.NoError(t, r.err)
	require.Equal(t, epoch, r.epoch)
	for _, c := range admitted {
		require.True(t, c.answered())
		c.ok()
	}
	require.True(t, f.send(labs, "a", note(1)).result().NotOwner)
	require.Zero(t, f.host.Epoch(p))
	require.Len(t, f.host.Owned(), partitions-1)
	require.Empty(t, f.depositions())

	_, err := f.host.Release(t.Context(), p)
	require.ErrorContains(t, err, "not served here")
}

// neighbour is another aggregate in the same partition.
func neighbour(a aggregate.Any, id string) string {
	for i := 0; ; i++ {
		if other := fmt.Sprint(id, i); partitionOf(a, other) == partitionOf(a, id) {
			return other
		}
	}
}

// sealedOff reports whether the call was turned away at once.
func (p *pending) sealedOff() bool { return p.answered() && p.result().NotOwner }

func TestReleaseThatCannotWaitDropsThePartition(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.state(labs, "a")
	stall := f.stallAppends()
	call := f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the append")
	query := f.send(labs, "a", look{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.host.Release(ctx, p)
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, f.send(labs, "a", look{}).result().NotOwner)
	require.False(t, call.answered(), "its fate is not known yet")
	stall.Release()
	call.ok()
	require.True(t, query.result().NotOwner)
}

func TestLostPartitionIsDroppedAtOnce(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.state(labs, "a")
	stall := f.stallAppends()
	inFlight := f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the append")
	waiting := f.send(labs, "a", note(2))
	query := f.send(labs, "a", look{})
	f.turnEnded(labs, "a")
	f.host.Lose(p)
	f.host.Lose(p)
	require.True(t, f.send(labs, "a", look{}).result().NotOwner)
	stall.Release()
	inFlight.ok()
	waiting.fails(aggregate.KindNotDone, aggregate.ReasonMoved)
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(query.result().Err))
	f.eventually(func() bool { return f.host.Stats().Resident == 0 }, "its aggregates leave memory")
	require.Empty(t, f.depositions(), "who loses a partition knows it")
	f.claim(p, 0)
	require.Equal(t, 1, f.state(labs, "a").N)
}

func TestStopDrains(t *testing.T) {
	f := start(t)
	next := f.join()
	for p := range persistence.Partition(partitions) {
		next.claim(p, 0)
	}
	next.host.ExtendLease(f.clock.Now() + time.Hour)
	var calls []*pending
	for i := range 200 {
		calls = append(calls, next.send(labs, fmt.Sprint(i%20), note(1)))
	}
	require.NoError(t, next.host.Stop(t.Context()))
	for _, c := range calls {
		require.True(t, c.answered())
		c.ok()
	}
	next.send(labs, "a", look{}).fails(aggregate.KindNotDone, aggregate.ReasonStopping)
	require.NoError(t, next.host.Stop(t.Context()), "stopping twice is harmless")
	require.Empty(t, next.host.Owned())
}

// Calls that a stop cannot wait for are answered all the same, wherever they
// stand.
func TestStopThatCannotWaitAnswersEveryCall(t *testing.T) {
	f := start(t)
	next := f.join()
	for p := range persistence.Partition(partitions) {
		next.claim(p, 0)
	}
	f.clock.Advance(time.Second)
	for range 40 {
		next.send(labs, "old", note(1)).ok()
	}
	f.clock.Advance(20 * time.Second)
	for range 40 {
		next.send(labs, "old", note(1)).ok()
	}
	next.send(labs, "a", note(1)).ok()

	stall := persistencetest.NewStall()
	t.Cleanup(stall.Release)
	f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		return persistencetest.Fault{Outcome: persistencetest.LostRequest, Before: stall.Hold}
	})
	f.store.OnCall(func(persistencetest.Call) persistencetest.Fault { return persistencetest.Fault{Before: stall.Hold} })
	calls := map[string]*pending{
		"appending":    next.send(labs, "a", note(1)),
		"behind":       next.send(labs, "a", look{}),
		"barrier":      next.send(labs, "old", look{}),
		"looked up":    next.send(labs, "old", note(1), withID(aggregate.CommandIDAt(f.clock.Wall().Add(-time.Minute)))),
		"loading":      next.send(labs, "new", note(1)),
		"loading too":  next.send(labs, "newer", look{}),
		"other append": next.send(labs, "old", note(1)),
	}
	for range 4 { // append, barrier, and two readers, one for a load and one for the look-up
		await(t, stall.Reached(), "the store to be asked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, next.host.Stop(ctx))
	for name, c := range calls {
		r := c.result()
		require.Contains(t, []aggregate.Kind{aggregate.KindNotDone, aggregate.KindUnknown}, aggregate.KindOf(r.Err), name)
	}
}

func TestCallsRacingWithStopAreAllAnswered(t *testing.T) {
	for _, immediate := range []bool{true, false} {
		t.Run(fmt.Sprint("immediate=", immediate), func(t *testing.T) {
			for range 10 {
				inner, err := memory.Open(memory.Config{Partitions: partitions})
				require.NoError(t, err)
				f := startOn(t, persistencetest.WithFaults(inner))
				next := f.join()
				if immediate {
					require.NoError(t, next.host.Stop(t.Context()))
					next.config.Store = inner
					next.host, err = actor.Start(next.config)
					require.NoError(t, err)
				}
				for p := range persistence.Partition(partitions) {
					next.claim(p, 0)
				}
				var group sync.WaitGroup
				begun := make(chan struct{}, 8)
				for caller := range 8 {
					group.Go(func() {
						for i := 0; ; i++ {
							r := next.send(labs, fmt.Sprint(caller%3, "-", i%7), note(1)).result()
							if i == 20 {
								begun <- struct{}{}
							}
							if i > 20 && r.Err != nil {
								return
							}
						}
					})
				}
				for range 8 {
					await(t, begun, "the callers")
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // nobody waits for calls in flight
				_ = next.host.Stop(ctx)
				group.Wait()
			}
		})
	}
}

// The sender of a call from before the tenure may have been answered by another
// owner since.
func TestCallFromBeforeTheTenureIsRedirected(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	under := func(e persistence.Epoch) callOption { return func(c *actor.Call) { c.Epoch = e } }
	old := f.host.Epoch(p)
	f.send(labs, "a", note(1), under(old)).ok()
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostAnswer})
	f.send(labs, "a", note(1)).ok()
	require.Equal(t, old+1, f.host.Epoch(p))
	f.send(labs, "a", note(1), under(old)).ok() // the same tenure, which has fenced itself
	f.claim(p, 0)
	require.True(t, f.send(labs, "a", note(1), under(old+1)).result().NotOwner)
	f.send(labs, "a", note(1), under(f.host.Epoch(p))).ok()
	f.send(labs, "a", note(1)).ok()
	require.Equal(t, 5, f.state(labs, "a").N)
}

// Grains are actors of a protoactor system, which anyone may stop.
func TestActorStoppedByOthersIsActivatedAgain(t *testing.T) {
	f := start(t)
	stall := f.stallAppends()
	first := f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the append")
	root := f.config.System.Root
	pid := f.host.PID(labs.Definition(), streamOf(labs, "a"), partitionOf(labs, "a"))
	root.Poison(pid)
	root.Stop(pid)
	f.eventually(func() bool { return f.host.Stats().Resident == 0 }, "the actor stops")
	stall.Release()
	first.ok()
	f.store.Heal()
	require.Equal(t, 1, f.state(labs, "a").N)
	require.True(t, f.send(labs, "a", note(1), withID(first.id)).ok().Receipt.Duplicate)
}

// What stands in the mailbox of an actor that stops goes to the next activation.
func TestCallsBehindAStopAreNotSwallowed(t *testing.T) {
	f := start(t)
	pid := f.host.PID(labs.Definition(), streamOf(labs, "a"), partitionOf(labs, "a"))
	computing, goOn := make(chan struct{}), make(chan struct{})
	f.send(labs, "a", look{answer: func(s lab) (lab, error) { close(computing); <-goOn; return s, nil }})
	await(t, computing, "the query")
	behind := []*pending{f.send(labs, "a", note(1)), f.send(labs, "a", look{}), f.send(labs, "a", note(1))}
	f.config.System.Root.Stop(pid)
	close(goOn)
	for _, p := range behind {
		p.ok()
	}
	require.Equal(t, 2, f.state(labs, "a").N)
	require.Equal(t, uint64(2), f.host.Stats().Loads)
}

func TestProtoactorMessagesAreAnswered(t *testing.T) {
	f := start(t)
	root := f.config.System.Root
	pid := func() *proto.PID {
		return f.host.PID(labs.Definition(), streamOf(labs, "a"), partitionOf(labs, "a"))
	}
	receipt, err := root.RequestFuture(pid(), note(3), patience).Result()
	require.NoError(t, err)
	require.Equal(t, aggregate.Version(1), receipt.(aggregate.Receipt).Version)
	state, err := root.RequestFuture(pid(), look{}, patience).Result()
	require.NoError(t, err)
	require.Equal(t, 3, state.(lab).N)
	refused, err := root.RequestFuture(pid(), refuse(), patience).Result()
	require.NoError(t, err)
	require.Equal(t, aggregate.KindRejected, aggregate.KindOf(refused.(error)))
	unknown, err := root.RequestFuture(pid(), "what is this", patience).Result()
	require.NoError(t, err)
	require.Equal(t, aggregate.KindInvalid, aggregate.KindOf(unknown.(error)))
	f.host.Lose(partitionOf(labs, "a"))
	require.Nil(t, pid())
}

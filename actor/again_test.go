package actor_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// unreachable is an append that does not come to the store.
var unreachable = persistencetest.Fault{Outcome: persistencetest.Refused, Err: persistence.ErrUnreachable}

// goes takes the store away: appends end as the fault says, once they are let go,
// and all other calls are refused. It tells of every append.
func (f *fixture) goes(fault persistencetest.Fault) (stall *persistencetest.Stall, appends chan struct{}) {
	stall, appends = persistencetest.NewStall(), make(chan struct{}, 1<<16)
	f.t.Cleanup(stall.Release)
	fault.Before = stall.Hold
	f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		appends <- struct{}{}
		return fault
	})
	f.store.OnCall(func(persistencetest.Call) persistencetest.Fault {
		return persistencetest.Fault{Outcome: persistencetest.Refused}
	})
	return stall, appends
}

// attempted lets time pass until an append is tried again.
func (f *fixture) attempted(appends chan struct{}) {
	f.t.Helper()
	f.eventually(func() bool {
		f.clock.Advance(time.Second)
		return len(appends) > 0
	}, "the next attempt")
	<-appends
}

// comesBack gives the store back and says so.
func (f *fixture) comesBack() {
	f.store.Heal()
	f.host.ExtendLease(f.clock.Now() + 2*time.Hour)
}

// Whatever became of the appends on their way when the store was lost: their
// callers get receipts when it is back, and no aggregate is loaded again.
func TestNothingIsLoadedAgainWhenTheStoreIsBack(t *testing.T) {
	for name, fault := range map[string]persistencetest.Fault{
		"not reached": unreachable, "request lost": {Outcome: persistencetest.LostRequest}, "answer lost": {Outcome: persistencetest.LostAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			ids := f.populate(40)
			before := f.host.Stats()
			stall, _ := f.goes(fault)
			var commands, queries []*pending
			for round := range 3 { // some are in the first batches of the lanes, others wait behind them
				for i, id := range ids {
					expected := aggregate.Version(round + 1)
					commands = append(commands, f.send(labs, id, note(i), expecting(expected)))
				}
			}
			for _, id := range ids {
				queries = append(queries, f.send(labs, id, look{}))
				f.turnEnded(labs, id)
			}
			stall.Release()
			f.eventually(f.host.StoreLost, "the outage is known")
			f.clock.Advance(time.Minute)
			for _, p := range append(commands, queries...) {
				require.False(t, p.answered(), "before it is durable")
			}
			f.comesBack()
			for i, p := range commands {
				receipt := p.ok().Receipt
				require.Equal(t, aggregate.Version(i/len(ids)+2), receipt.Version)
				require.False(t, receipt.Duplicate)
			}
			for i, p := range queries {
				require.Equal(t, 1+3*i, p.ok().Answer.(lab).N)
			}
			for i, id := range ids {
				state, version := f.replayed(labs, id)
				require.Equal(t, persistence.Version(4), version)
				require.Equal(t, 1+3*i, state.N)
				require.Equal(t, state, f.state(labs, id))
			}
			after := f.host.Stats()
			require.Equal(t, before.Loads, after.Loads)
			require.Equal(t, before.Activations, after.Activations)
			require.Equal(t, before.StoreErrors, after.StoreErrors)
			require.Equal(t, before.Broken, after.Broken)
			require.Equal(t, before.Commits+uint64(len(commands)), after.Commits)
			if fault.Outcome != persistencetest.LostAnswer {
				require.NotZero(t, after.Repeated)
			}
			require.Empty(t, f.depositions())
		})
	}
}

// While a batch waits for the store it is itself the attempt that is let through
// after every pause.
func TestNothingGathersBehindABatchThatWaitsForTheStore(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.Lanes = 1 })
	ids := f.populate(5)
	stall, appends := f.goes(unreachable)
	stall.Release()
	waiting := f.send(labs, ids[0], note(1))
	await(t, appends, "the append")
	f.eventually(f.host.StoreLost, "the outage is known")
	for range 50 {
		f.attempted(appends)
		for _, id := range ids {
			f.send(labs, id, note(1)).isDown()
		}
		for _, message := range []any{look{}, refuse(), idle()} { // they would have to wait for the commit
			f.send(labs, ids[0], message).isDown()
		}
		require.Equal(t, 1, f.state(labs, ids[1]).N)
	}
	require.False(t, waiting.answered())
	twin := f.send(labs, ids[0], note(1), withID(waiting.id)) // for whom "not done" would be a lie
	f.comesBack()
	require.Equal(t, aggregate.Version(2), waiting.ok().Receipt.Version)
	require.True(t, twin.ok().Receipt.Duplicate)
	for _, id := range ids {
		require.Equal(t, f.version(labs, id), f.state(labs, id).N)
	}
}

// What the store has refused it would refuse again.
func TestOnlyWhatDidNotReachTheStoreWaitsForIt(t *testing.T) {
	f := start(t)
	ids := f.populate(2)
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Refused, Err: errors.New("disk full")})
	f.send(labs, ids[0], note(1)).isDown()
	require.Zero(t, f.host.Stats().Repeated)
	f.send(labs, ids[1], note(1)).ok()
	f.send(labs, ids[0], note(1)).ok()
	require.Equal(t, 2, f.state(labs, ids[0]).N)
	require.EqualValues(t, 1, f.host.Stats().Broken)
}

// A partition that is given away, and a host that stops, wait for no store.
func TestWhoGoesWaitsForNoStore(t *testing.T) {
	for name, leave := range map[string]func(f *fixture, ctx context.Context) error{
		"release": func(f *fixture, ctx context.Context) error {
			_, err := f.host.Release(ctx, partitionOf(labs, "a"))
			return err
		},
		"stop": func(f *fixture, ctx context.Context) error { return f.host.Stop(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t).join()
			for p := range persistence.Partition(partitions) {
				f.claim(p, 0)
			}
			f.host.ExtendLease(f.clock.Now() + time.Hour)
			f.send(labs, "a", note(1)).ok()
			stall, appends := f.goes(unreachable)
			stall.Release()
			waiting := f.send(labs, "a", note(1))
			await(t, appends, "the append")
			f.eventually(f.host.StoreLost, "the outage is known")
			done := make(chan error, 1)
			go func() { done <- leave(f, t.Context()) }()
			f.eventually(func() bool {
				f.clock.Advance(10 * time.Millisecond)
				return waiting.answered()
			}, "the next attempt")
			waiting.isDown()
			require.NoError(t, await(t, done, name))
			f.store.Heal()
			require.Equal(t, 1, f.version(labs, "a"))
			require.NoError(t, f.host.Stop(t.Context()))
		})
	}
}

// A host that cannot wait any longer says what is certain.
func TestStopDuringAnOutageSaysWhatIsCertain(t *testing.T) {
	for name, fault := range map[string]persistencetest.Fault{"not reached": unreachable, "request lost": {Outcome: persistencetest.LostRequest}} {
		t.Run(name, func(t *testing.T) {
			f := start(t).join()
			f.claim(partitionOf(labs, "a"), 0)
			f.host.ExtendLease(f.clock.Now() + time.Hour)
			stall, appends := f.goes(fault)
			f.store.OnCall(nil)
			f.state(labs, "a")
			f.store.OnCall(func(persistencetest.Call) persistencetest.Fault {
				return persistencetest.Fault{Outcome: persistencetest.Refused}
			})
			calls := []*pending{f.send(labs, "a", note(1)), f.send(labs, "a", note(1))}
			await(t, appends, "the append")
			f.turnEnded(labs, "a")
			stall.Release()
			f.eventually(f.host.StoreLost, "the outage is known")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.Error(t, f.host.Stop(ctx))
			for _, call := range calls {
				if fault.Outcome == persistencetest.LostRequest {
					call.fails(aggregate.KindUnknown, aggregate.ReasonOutcome)
				} else {
					require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(call.result().Err))
				}
			}
		})
	}
}

// Somebody else has taken the partition while a batch waited for the store.
func TestWhatWaitedForTheStoreIsFenced(t *testing.T) {
	for name, notice := range map[string]func(f *fixture, p persistence.Partition){
		"and nobody said so": func(*fixture, persistence.Partition) {},
		"and we know":        func(f *fixture, p persistence.Partition) { f.host.Lose(p) },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			p := partitionOf(labs, "a")
			f.state(labs, "a")
			f.failAppends(1<<30, unreachable)
			waiting, query := f.send(labs, "a", note(1)), f.send(labs, "a", look{})
			f.eventually(f.host.StoreLost, "the outage is known")
			require.False(t, waiting.answered())
			next := f.takeOver(p, 0)
			notice(f, p)
			f.comesBack()
			waiting.fails(aggregate.KindNotDone, aggregate.ReasonMoved)
			require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(query.result().Err))
			require.False(t, next.send(labs, "a", note(1), withID(waiting.id)).ok().Receipt.Duplicate)
			require.Equal(t, 1, next.version(labs, "a"))
		})
	}
}

// However long the store was not reached, that is no fault of the commit.
func TestCommitOutlivesAnOutageOfAnyLength(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.Lanes = 1 })
	ids := f.populate(1)
	stall, appends := f.goes(unreachable)
	stall.Release()
	waiting := f.send(labs, ids[0], note(1))
	for range 30 {
		f.attempted(appends)
	}
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostRequest})
	f.store.OnCall(nil)
	f.host.ExtendLease(f.clock.Now() + 2*time.Hour)
	require.Equal(t, aggregate.Version(2), waiting.ok().Receipt.Version)
	require.Zero(t, f.host.Stats().Broken)
}

// A commit may be what brings the store down.
func TestCommitWhoseOutcomeIsUnknownTimeAndAgainIsGivenUp(t *testing.T) {
	f := start(t)
	ids := f.populate(2)
	var appends atomic.Int64
	f.store.OnAppend(func(b *persistence.Batch) persistencetest.Fault {
		if b.Commits[0].Stream.ID != ids[0] {
			return persistencetest.Fault{}
		}
		appends.Add(1)
		return persistencetest.Fault{Outcome: persistencetest.LostRequest}
	})
	f.send(labs, ids[0], note(1)).isDown()
	require.EqualValues(t, 8, appends.Load())
	f.store.Heal()
	f.send(labs, ids[0], note(1)).ok()
	require.Equal(t, 2, f.version(labs, ids[0]))
	require.Equal(t, 2, f.state(labs, ids[0]).N)
}

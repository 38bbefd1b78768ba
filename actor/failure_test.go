package actor_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// dependentsOf sends a commit and what depends on it while the append is held,
// then lets the append end as the fault says.
func (f *fixture) dependentsOf(outcome persistencetest.Outcome) (first, second, query, rejection, twin *pending) {
	f.t.Helper()
	f.state(labs, "a")
	stall := persistencetest.NewStall()
	f.failAppends(1, persistencetest.Fault{Outcome: outcome, Before: stall.Hold})
	first = f.send(labs, "a", note(1))
	await(f.t, stall.Reached(), "the append")
	second = f.send(labs, "a", note(2))
	query = f.send(labs, "a", look{})
	rejection = f.send(labs, "a", refuse())
	twin = f.send(labs, "a", note(1), withID(first.id))
	f.turnEnded(labs, "a")
	stall.Release()
	return first, second, query, rejection, twin
}

func TestFailedAppendUndoesEverythingThatDependedOnIt(t *testing.T) {
	f := start(t)
	first, second, query, rejection, twin := f.dependentsOf(persistencetest.Refused)
	first.fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	twin.fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	second.fails(aggregate.KindNotDone, aggregate.ReasonConflict)
	query.fails(aggregate.KindNotDone, aggregate.ReasonMoved)
	rejection.fails(aggregate.KindNotDone, aggregate.ReasonMoved)

	loads := f.host.Stats().Loads
	require.Equal(t, aggregate.Version(1), f.send(labs, "a", note(1), withID(first.id)).ok().Receipt.Version)
	require.Equal(t, 1, f.state(labs, "a").N)
	require.Greater(t, f.host.Stats().Loads, loads, "the activation was not dropped")
	require.Equal(t, uint64(1), f.host.Stats().StoreErrors)
}

func TestAmbiguousAppendThatHappenedIsAnsweredAsDone(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	before := f.host.Epoch(p)
	first, second, query, rejection, twin := f.dependentsOf(persistencetest.LostAnswer)
	require.Equal(t, aggregate.Receipt{
		Command: first.id, Version: 1, Events: 1, Partition: aggregate.Partition(p), Offset: 1,
	}, first.ok().Receipt)
	require.True(t, twin.ok().Receipt.Duplicate)
	require.Equal(t, aggregate.Offset(1), twin.ok().Receipt.Offset)
	require.Equal(t, aggregate.Offset(2), second.ok().Receipt.Offset)
	require.Equal(t, 3, query.ok().Answer.(lab).N)
	rejection.fails(aggregate.KindRejected, "negative")
	require.Equal(t, before+1, f.host.Epoch(p), "the partition was not fenced")
	require.Equal(t, uint64(1), f.host.Stats().Unknown)

	f.send(labs, "a", note(1), withID(first.id)).ok()
	f.send(labs, "a", note(4)).ok()
	require.Equal(t, 7, f.state(labs, "a").N)
	require.Equal(t, 3, f.version(labs, "a"))
	require.Empty(t, f.depositions())
}

func TestAmbiguousAppendThatDidNotHappenIsRepeated(t *testing.T) {
	f := start(t)
	before, loads := f.host.Epoch(partitionOf(labs, "a")), uint64(1)
	first, second, query, rejection, twin := f.dependentsOf(persistencetest.LostRequest)
	require.Equal(t, aggregate.Offset(1), first.ok().Receipt.Offset)
	require.True(t, twin.ok().Receipt.Duplicate)
	require.Equal(t, aggregate.Offset(2), second.ok().Receipt.Offset)
	require.Equal(t, 3, query.ok().Answer.(lab).N)
	rejection.fails(aggregate.KindRejected, "negative")
	require.Equal(t, before+1, f.host.Epoch(partitionOf(labs, "a")), "the partition was not fenced")

	require.True(t, f.send(labs, "a", note(1), withID(first.id)).ok().Receipt.Duplicate)
	require.Equal(t, 3, f.state(labs, "a").N)
	require.Equal(t, 2, f.version(labs, "a"))
	stats := f.host.Stats()
	require.Equal(t, loads, stats.Loads)
	require.EqualValues(t, 1, stats.Repeated)
	require.Zero(t, stats.StoreErrors)
}

// The first statement of an append that was repeated may still be on its way to
// the store; the node's own next epoch defeats it. // I1
func TestAppendThatArrivesAfterItWasRepeatedIsDefeated(t *testing.T) {
	f := start(t)
	arrives := make(chan struct{})
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Late, Arrives: arrives})
	f.send(labs, "a", note(1)).ok()
	f.send(labs, "a", note(2)).ok()
	close(arrives)
	require.NoError(t, f.store.Close()) // waits for the late append
	f.store = persistencetest.WithFaults(f.store.Unwrap().(*memory.Store).Reopen())
	state, version := f.replayed(labs, "a")
	require.Equal(t, 3, state.N)
	require.Equal(t, persistence.Version(2), version)
}

func TestManyAmbiguousCommitsOfOneBatchAreEachResolved(t *testing.T) {
	f := start(t)
	ids := []string{"a", "b", "c", "d", "e"}
	for _, id := range ids {
		f.state(labs, id)
	}
	stall := f.stallAppends()
	f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the first append")
	var calls []*pending
	for range 4 {
		for _, id := range ids {
			calls = append(calls, f.send(labs, id, note(1)))
		}
	}
	for _, id := range ids {
		f.turnEnded(labs, id)
	}
	f.failAppends(4, persistencetest.Fault{Outcome: persistencetest.LostAnswer})
	stall.Release()
	for _, c := range calls {
		require.NotZero(t, c.ok().Receipt.Offset)
	}
	for _, id := range ids {
		state, _ := f.replayed(labs, id)
		require.Equal(t, state, f.state(labs, id))
	}
	require.Empty(t, f.depositions())
}

// restored is a store whose log is shorter than it was, from the moment at which
// the next claim says so.
type restored struct {
	persistence.Store
	lost persistence.Offset
}

func (s *restored) Claim(ctx context.Context, p persistence.Partition, seen persistence.Epoch, n persistence.NodeID) (persistence.Tenure, error) {
	won, err := s.Store.Claim(ctx, p, seen, n)
	won.Head -= s.lost
	return won, err
}

// The epoch that an owner takes for itself after an unknown outcome must not make
// it the owner of a log that has lost what it has in memory.
func TestFencingClaimNoticesALogThatWasPutBack(t *testing.T) {
	var store *restored
	f := start(t, func(c *actor.Config) {
		store = &restored{Store: c.Store}
		c.Store = store
	})
	for range 3 {
		f.send(labs, "a", note(1)).ok()
	}
	store.lost = 2
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostRequest})
	f.send(labs, neighbour(labs, "a"), note(1)).fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	p := partitionOf(labs, "a")
	require.Equal(t, []persistence.Partition{p}, f.depositions())
	require.Zero(t, f.host.Epoch(p), "what is in memory is served no more")
}

// blurred is a store that keeps the outcome of some commits of a batch to itself.
type blurred struct {
	persistence.Store
	unknown func(b *persistence.Batch, i int) bool
}

func (s *blurred) Append(ctx context.Context, b *persistence.Batch) {
	s.Store.Append(ctx, b)
	for i, c := range b.Commits {
		if s.unknown(b, i) {
			c.Err = persistence.ErrUnknownOutcome
		}
	}
}

// The claim that resolves the first commit of a batch knows of the last one
// already; what is said of those between them must not set the head back.
func TestHeadStaysWhereTheFencingClaimFoundIt(t *testing.T) {
	var batches atomic.Int64
	f := start(t, func(c *actor.Config) {
		c.Store = &blurred{c.Store, func(b *persistence.Batch, i int) bool {
			if len(b.Commits) != 3 {
				return false
			}
			batches.Add(1)
			return i != 1
		}}
	})
	ids := []string{"a"}
	for range 3 {
		ids = append(ids, neighbour(labs, ids[len(ids)-1]))
	}
	for _, id := range ids {
		f.state(labs, id)
	}
	stall := f.stallAppends()
	first := f.send(labs, ids[3], note(1))
	await(t, stall.Reached(), "the first append")
	var calls []*pending
	for _, id := range ids[:3] {
		calls = append(calls, f.send(labs, id, note(1)))
		f.turnEnded(labs, id) // so that they stand in this order
	}
	stall.Release()
	first.ok()
	for i, c := range calls {
		require.Equal(t, first.ok().Receipt.Offset+aggregate.Offset(i)+1, c.ok().Receipt.Offset)
	}
	require.EqualValues(t, 3, batches.Load())
	f.send(labs, "a", note(1)).ok()
	require.Zero(t, f.host.Stats().Fenced)
	require.Empty(t, f.depositions())
}

// The answer to the claim that fences an ambiguous append is lost in its turn.
func TestLostAnswerOfTheFencingClaimIsUnderstood(t *testing.T) {
	f := start(t)
	var claims atomic.Int32
	f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Claim" && claims.Add(1) == 1 {
			return persistencetest.Fault{Outcome: persistencetest.LostAnswer}
		}
		return persistencetest.Fault{}
	})
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostAnswer})
	first := f.send(labs, "a", note(1))
	f.eventually(func() bool {
		f.clock.Advance(time.Millisecond) // the pause before the claim is repeated
		return first.answered()
	}, "the claim is repeated")
	require.Equal(t, aggregate.Version(1), first.ok().Receipt.Version)
	require.Equal(t, aggregate.Version(2), f.send(labs, "a", note(1)).ok().Receipt.Version)
	require.Empty(t, f.depositions())
}

// Somebody else took the partition while the outcome was unknown: his epoch
// fences as well as ours, and the log tells what happened.
func TestAmbiguousAppendIsResolvedAfterATakeOver(t *testing.T) {
	for name, outcome := range map[string]persistencetest.Outcome{
		"happened": persistencetest.LostAnswer, "did not happen": persistencetest.LostRequest,
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			p := partitionOf(labs, "a")
			stall := persistencetest.NewStall()
			f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
				if c.Method == "Claim" && c.Node == f.config.Node {
					return persistencetest.Fault{Before: stall.Hold}
				}
				return persistencetest.Fault{}
			})
			t.Cleanup(stall.Release)
			f.failAppends(1, persistencetest.Fault{Outcome: outcome})
			call := f.send(labs, "a", note(1))
			await(t, stall.Reached(), "the fencing claim")
			next := f.takeOver(p, 0)
			stall.Release()
			if outcome == persistencetest.LostAnswer {
				require.Equal(t, aggregate.Offset(1), call.ok().Receipt.Offset)
			} else {
				call.fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
			}
			require.Equal(t, []persistence.Partition{p}, f.depositions())
			again := next.send(labs, "a", note(1), withID(call.id)).ok().Receipt
			require.Equal(t, outcome == persistencetest.LostAnswer, again.Duplicate)
			require.Equal(t, 1, next.state(labs, "a").N)
		})
	}
}

// Somebody else took the partition and executed the same command, on another
// state: what he left in the log is no outcome of ours. I5
func TestAmbiguousAppendIsNotResolvedByAnothersCommit(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	stall := persistencetest.NewStall()
	f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Claim" && c.Node == f.config.Node {
			return persistencetest.Fault{Before: stall.Hold}
		}
		return persistencetest.Fault{}
	})
	t.Cleanup(stall.Release)
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostRequest})
	call := f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the fencing claim")
	next := f.takeOver(p, 0)
	next.send(labs, "a", note(5)).ok()
	require.EqualValues(t, 2, next.send(labs, "a", note(1), withID(call.id)).ok().Receipt.Version)
	stall.Release()
	call.fails(aggregate.KindUnknown, aggregate.ReasonOutcome)
}

// An old tenure that resolves an ambiguous append must leave alone a newer
// tenure of the same partition on the same node.
func TestResolvingForALostTenureDoesNotFenceItsSuccessor(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	stall := persistencetest.NewStall()
	var claims atomic.Int32
	f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Claim" && claims.Add(1) == 1 {
			return persistencetest.Fault{Before: stall.Hold}
		}
		return persistencetest.Fault{}
	})
	t.Cleanup(stall.Release)
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostAnswer})
	call := f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the fencing claim")
	f.claim(p, 0)
	epoch := f.host.Epoch(p)
	stall.Release()
	require.Equal(t, aggregate.Offset(1), call.ok().Receipt.Offset)
	require.Equal(t, aggregate.Version(2), f.send(labs, "a", note(1)).ok().Receipt.Version)
	require.Equal(t, epoch, f.host.Epoch(p))
	require.Empty(t, f.depositions())
}

func TestStoreThatIsBackIsUsedAgain(t *testing.T) {
	f := start(t)
	down := func(persistencetest.Call) persistencetest.Fault {
		return persistencetest.Fault{Outcome: persistencetest.Refused}
	}
	f.store.OnCall(down)
	f.send(labs, "a", look{}).fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	f.send(labs, "a", note(1)).fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	f.store.Heal()
	f.clock.Advance(time.Second)
	f.send(labs, "a", note(1)).ok()
	require.Equal(t, 1, f.state(labs, "a").N)
}

func TestStaleOwnerIsFencedAndRedirects(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.Lanes = 1 })
	p := partitionOf(labs, "a")
	f.send(labs, "a", note(1)).ok()
	other := f.otherPartition(p)
	f.send(labs, other, note(1)).ok()
	stall := f.stallAppends()
	f.send(labs, other, note(1))
	await(t, stall.Reached(), "the append before")
	first := f.send(labs, "a", note(10)) // and those behind it share a batch
	var late []*pending
	for range 20 {
		late = append(late, f.send(labs, "a", note(10)), f.send(labs, "a", look{}))
	}
	f.turnEnded(labs, "a")
	next := f.takeOver(p, 0)
	stall.Release()
	first.fails(aggregate.KindNotDone, aggregate.ReasonMoved)
	for _, c := range late {
		r := c.result()
		require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(r.Err))
	}
	r := f.send(labs, "a", look{}).result()
	require.True(t, r.NotOwner)
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(r.Err))
	require.True(t, f.send(labs, "a", note(10)).result().NotOwner)
	require.Zero(t, f.host.Epoch(p))
	require.Equal(t, []persistence.Partition{p}, f.depositions())
	require.NotZero(t, f.host.Stats().Fenced)

	f.send(labs, other, note(1)).ok() // the rest is still ours
	require.Equal(t, 1, next.state(labs, "a").N)
	next.send(labs, "a", note(1)).ok()
	require.Equal(t, 2, next.version(labs, "a"))
}

// otherPartition finds an id whose aggregate lives in another partition.
func (f *fixture) otherPartition(p persistence.Partition) string {
	for id := 'b'; ; id++ {
		if partitionOf(labs, string(id)) != p {
			return string(id)
		}
	}
}

// A loss that comes between two commits of one aggregate, while a batch is put
// together, must not tear them apart.
func TestPartitionsMayBeLostAtAnyMoment(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			f.host.Lose(p)
			f.claim(p, 0)
		}
	}()
	acknowledged := 0
	for range 150 {
		var calls []*pending
		for range 60 {
			calls = append(calls, f.send(labs, "a", note(1)))
		}
		for _, c := range calls {
			r := c.result()
			if r.Err == nil {
				acknowledged++
				continue
			}
			require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(r.Err))
		}
	}
	close(stop)
	await(t, done, "the last take-over")
	require.Equal(t, acknowledged, f.state(labs, "a").N)
	require.Equal(t, acknowledged, f.version(labs, "a"))
}

// The store's log is not the one this owner wrote: it was restored behind its
// back.
func TestForeignLogDeposes(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.send(labs, "a", note(1)).ok()
	b := &persistence.Batch{Owner: f.config.Node, Fences: []persistence.Fence{{Partition: p, Epoch: f.host.Epoch(p), Head: 1}}}
	b.Commits = []*persistence.Commit{{
		Stream: streamOf(labs, "a"), Partition: p, Epoch: f.host.Epoch(p), Expected: 1,
		Command: persistence.CommandID(aggregate.NewCommandID()), At: f.clock.Wall(),
		Events: []persistence.NewEvent{{Type: "noted", Payload: []byte(`{"N":5}`)}},
	}}
	f.store.Append(context.Background(), b)
	require.NoError(t, b.Commits[0].Err)
	f.send(labs, "a", note(1)).fails(aggregate.KindNotDone, aggregate.ReasonMoved)
	require.Equal(t, []persistence.Partition{p}, f.depositions())
}

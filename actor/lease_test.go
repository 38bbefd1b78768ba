package actor_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// unproven are the calls whose replies no append proves.
func (f *fixture) unproven(a aggregate.Any, id string) {
	f.t.Helper()
	f.send(a, id, look{}).ok()
	f.send(a, id, refuse()).fails(aggregate.KindRejected, "negative")
	f.send(a, id, idle()).ok()
}

// I7
func TestRepliesUnderTheLeaseCostNoRoundTrip(t *testing.T) {
	f := start(t)
	f.unproven(labs, "a")
	require.Zero(t, f.host.Stats().Barriers)
}

// I7
func TestRepliesAfterTheLeaseGoThroughTheStore(t *testing.T) {
	f := start(t)
	f.send(labs, "a", note(1)).ok()
	for name, end := range map[string]func(){
		"ran out": func() { f.clock.Advance(time.Hour) },
		"dropped": f.host.DropLease,
	} {
		t.Run(name, func(t *testing.T) {
			f.host.ExtendLease(f.clock.Now() + time.Hour)
			end()
			before := f.host.Stats().Barriers
			f.unproven(labs, "a")
			require.Equal(t, before+3, f.host.Stats().Barriers)
			f.send(labs, "a", note(1)).ok() // proved by its own append
			require.Equal(t, before+3, f.host.Stats().Barriers)
			f.host.ExtendLease(f.clock.Now() + time.Hour)
			f.unproven(labs, "a")
			require.Equal(t, before+3, f.host.Stats().Barriers)
		})
	}
}

// I7
func TestStaleOwnerWithoutLeaseAnswersNothing(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.send(labs, "a", note(1)).ok()
	first := f.send(labs, "a", note(1))
	first.ok()
	next := f.takeOver(p, 0)
	next.send(labs, "a", note(1)).ok()
	f.host.DropLease()
	call := f.send(labs, "a", look{})
	require.True(t, call.result().NotOwner, "%+v", call.result())
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(call.result().Err))
	require.Equal(t, []persistence.Partition{p}, f.depositions())
}

func TestStoreThatCannotBeAskedIsSaidSo(t *testing.T) {
	f := start(t)
	f.send(labs, "a", note(1)).ok()
	f.host.DropLease()
	f.store.OnCall(func(persistencetest.Call) persistencetest.Fault {
		return persistencetest.Fault{Outcome: persistencetest.Refused}
	})
	f.send(labs, "a", look{}).fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	f.store.Heal()
	f.send(labs, "a", look{}).ok()
	require.Empty(t, f.depositions())
}

func TestStrictTypeAlwaysAsksTheStore(t *testing.T) {
	f := start(t)
	f.unproven(strict, "a")
	require.Equal(t, uint64(3), f.host.Stats().Barriers)
}

func TestEventualTypeNeverAsksTheStore(t *testing.T) {
	f := start(t)
	f.send(eventual, "a", note(1)).ok()
	f.host.DropLease()
	f.takeOver(partitionOf(eventual, "a"), 0).send(eventual, "a", note(1)).ok()
	require.Equal(t, 1, f.state(eventual, "a").N) // and may be behind
	require.Zero(t, f.host.Stats().Barriers)
}

// The lease counts when the answer is ready, not when it was asked for. // I7
func TestLeaseThatEndsDuringTheComputationDoesNotCoverIt(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.send(labs, "a", note(1)).ok()
	computing, goOn := make(chan struct{}), make(chan struct{})
	slow := f.send(labs, "a", look{answer: func(s lab) (lab, error) { close(computing); <-goOn; return s, nil }})
	await(t, computing, "the query")
	f.clock.Advance(2 * time.Hour)
	f.takeOver(p, 0).send(labs, "a", note(1)).ok()
	close(goOn)
	require.True(t, slow.result().NotOwner, "%+v", slow.result())
}

// A node learns from a renewal that a partition is lost and that its lease on
// the others goes on, in this order. Whoever was about to look at the old lease
// must not see only the new one. // I7
func TestRenewalThatTakesAPartitionAwayCoversNoAnswerOfIt(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.send(labs, "a", note(1)).ok()
	query := f.send(labs, "a", look{answer: func(s lab) (lab, error) {
		f.clock.interrupt(func() {
			f.clock.Advance(2 * time.Hour)
			f.host.Lose(p)
			f.host.ExtendLease(f.clock.Now() + time.Hour)
		})
		return s, nil
	}})
	require.True(t, query.result().NotOwner, "%+v", query.result())
}

func TestOwnEpochMayChangeDuringTheBarrier(t *testing.T) {
	f := start(t)
	f.send(labs, "a", note(1)).ok()
	f.host.DropLease()
	stall := persistencetest.NewStall()
	f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Verify" {
			return persistencetest.Fault{Before: stall.Hold}
		}
		return persistencetest.Fault{}
	})
	t.Cleanup(stall.Release)
	query := f.send(labs, "a", look{})
	await(t, stall.Reached(), "the barrier")
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.LostAnswer})
	f.send(labs, "a", note(1)).ok()
	stall.Release()
	require.Equal(t, 1, query.ok().Answer.(lab).N)
	require.Empty(t, f.depositions())
}

// What was committed a while ago is not in a log that was set back since, and
// only the lease or the store can say that it was not. I7
func TestOldReceiptsNeedTheLeaseOrTheStore(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1))
	first.ok()
	again := func() *pending { return f.send(labs, "a", note(1), withID(first.id)) }
	require.True(t, again().ok().Receipt.Duplicate)
	require.Zero(t, f.host.Stats().Barriers)
	f.host.DropLease()
	require.True(t, again().ok().Receipt.Duplicate)
	require.EqualValues(t, 1, f.host.Stats().Barriers)

	require.NoError(t, f.store.Unwrap().(*memory.Store).SetBack(partitionOf(labs, "a"), 0))
	again().fails(aggregate.KindUnknown, aggregate.ReasonOutcome)
	require.Zero(t, f.host.Epoch(partitionOf(labs, "a")), "the partition is lost")
}

// Whoever finds events beyond the end of his own log has been deposed: he serves
// nothing from them, whatever the store says of him later. I7
func TestOwnerWhoReadsAnothersEventsIsDeposed(t *testing.T) {
	f := start(t)
	p := partitionOf(labs, "a")
	f.send(labs, "a", note(1)).ok()
	f.host.DropLease()
	next := f.takeOver(p, 0)
	other := ""
	for i := 0; other == "" || partitionOf(labs, other) != p; i++ {
		other = fmt.Sprint("other-", i)
	}
	next.send(labs, other, note(1)).ok()
	require.True(t, f.send(labs, other, look{}).result().NotOwner)
	require.Zero(t, f.host.Stats().Barriers, "the store was not asked")
	require.Zero(t, f.host.Epoch(p))
}

package actor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// held is a host that took a's partition by force a moment ago.
func held(t *testing.T) *fixture {
	f := start(t)
	f.send(labs, "a", note(1)).ok()
	next := f.takeOver(partitionOf(labs, "a"), time.Second)
	return next
}

// committed waits until an aggregate is at a version in the store.
func (f *fixture) committed(a aggregate.Any, id string, version int) {
	f.t.Helper()
	f.eventually(func() bool { return f.version(a, id) == version }, "the commit")
}

// I8
func TestRepliesThatRevealNewCommitsWaitForTheEndOfTheHold(t *testing.T) {
	f := held(t)
	require.Equal(t, 1, f.state(labs, "a").N) // reveals nothing new
	first := f.send(labs, "a", note(2))
	revealing := map[string]*pending{
		"first":     first,
		"query":     f.send(labs, "a", look{}),
		"rejection": f.send(labs, "a", refuse()),
		"no-op":     f.send(labs, "a", idle()),
		"twin":      f.send(labs, "a", note(2), withID(first.id)),
		"second":    f.send(labs, "a", note(4)),
	}
	f.committed(labs, "a", 3)
	f.turnEnded(labs, "a")
	revealing["duplicate"] = f.send(labs, "a", note(2), withID(first.id))
	revealing["repeated do"] = f.send(labs, "a", note(2), withID(first.id), asking)
	revealing["late query"] = f.send(labs, "a", look{})
	panicking := f.send(labs, "a", look{answer: func(lab) (lab, error) { panic("in Answer") }})
	panicking.fails(aggregate.KindNotDone, aggregate.ReasonPanic) // reveals nothing
	// the twin may be held together with the first
	f.eventually(func() bool { return f.host.Stats().Held >= uint64(len(revealing)-1) }, "all replies are held")

	f.clock.Advance(time.Second - 1)
	for name, p := range revealing {
		require.False(t, p.answered(), name)
	}
	f.clock.Advance(1)
	for name, p := range revealing {
		switch name {
		case "rejection":
			p.fails(aggregate.KindRejected, "negative")
		case "query":
			require.Equal(t, 3, p.ok().Answer.(lab).N)
		case "repeated do":
			require.Equal(t, 3, p.ok().Answer)
		default:
			p.ok()
		}
	}
	require.Equal(t, 7, f.state(labs, "a").N)
	f.send(labs, "a", note(1)).ok()
}

// I8
func TestHoldConcernsOnlyWhatWasChangedSince(t *testing.T) {
	f := held(t)
	f.send(labs, "a", note(1))
	f.committed(labs, "a", 2)
	p, untouched := partitionOf(labs, "a"), ""
	for id := 'b'; untouched == ""; id++ {
		if partitionOf(labs, string(id)) == p {
			untouched = string(id)
		}
	}
	f.unproven(labs, untouched)
}

// I8: an activation that knows nothing of the commits of the one before it.
func TestHoldOutlivesTheActivation(t *testing.T) {
	f := held(t)
	first := f.send(labs, "a", note(2))
	f.committed(labs, "a", 2)
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Refused})
	f.send(labs, "a", note(4)).fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
	query := f.send(labs, "a", look{})
	f.turnEnded(labs, "a")
	f.eventually(func() bool { return f.host.Stats().Held >= 2 }, "the query is held")
	require.Equal(t, uint64(2), f.host.Stats().Loads)
	require.False(t, query.answered())
	require.False(t, first.answered())
	f.clock.Advance(time.Second)
	require.Equal(t, 3, query.ok().Answer.(lab).N)
	first.ok()
}

// Every unproven reply of a strict type asks the store anyway.
func TestStrictTypeIsNotHeld(t *testing.T) {
	f := start(t)
	next := f.takeOver(partitionOf(strict, "a"), time.Second)
	next.send(strict, "a", note(1)).ok()
	next.unproven(strict, "a")
	require.Zero(t, next.host.Stats().Held)
}

// A held receipt belongs to its caller even if the partition is lost meanwhile;
// what else is held is not ours to tell any more.
func TestPartitionLostDuringTheHold(t *testing.T) {
	f := held(t)
	p := partitionOf(labs, "a")
	first := f.send(labs, "a", note(2))
	query := f.send(labs, "a", look{})
	f.eventually(func() bool { return f.host.Stats().Held == 2 }, "both are held")
	f.host.Lose(p)
	require.False(t, first.answered())
	f.clock.Advance(time.Second)
	first.fails(aggregate.KindUnknown, aggregate.ReasonOutcome) // who asks again learns what the log has
	require.True(t, query.result().NotOwner)
}

// I8: the owner before has committed under a hold of its own, and died. Whoever
// reads what it has left reveals it as much as whoever repeats its commands.
func TestHoldOfAnUnrevealedLogIsForWhatIsInItAlready(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1))
	first.ok()
	p := partitionOf(labs, "a")
	next := f.takeOver(p, 0)
	view, err := f.store.View(t.Context())
	require.NoError(t, err)
	tenure, err := f.store.Claim(t.Context(), p, view.Partitions[p].Epoch, next.config.Node)
	require.NoError(t, err)
	next.host.OwnUnrevealed(tenure, f.clock.Now()+time.Second)

	query := next.send(labs, "a", look{})
	repeated := next.send(labs, "a", note(1), withID(first.id))
	next.eventually(func() bool { return next.host.Stats().Held == 2 }, "both replies are held")
	require.False(t, query.answered() || repeated.answered())
	f.clock.Advance(time.Second)
	require.Equal(t, 1, query.ok().Answer.(lab).N)
	require.True(t, repeated.ok().Receipt.Duplicate)
}

package actor_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// I3
func TestNothingLeavesBeforeWhatItDependsOnIsDurable(t *testing.T) {
	f := start(t)
	f.state(labs, "a")
	f.state(labs, "b")
	stall := f.stallAppends()

	first := f.send(labs, "a", note(1))
	dependents := map[string]*pending{
		"command":    f.send(labs, "a", note(2)),
		"query":      f.send(labs, "a", look{}),
		"rejection":  f.send(labs, "a", refuse()),
		"no-op":      f.send(labs, "a", idle()),
		"duplicate":  f.send(labs, "a", note(1), withID(first.id)),
		"version":    f.send(labs, "a", note(1), expecting(77)),
		"bad event":  f.send(labs, "a", events(stray{})),
		"answer":     f.send(labs, "a", note(4), asking),
		"panic":      f.send(labs, "a", look{answer: func(lab) (lab, error) { panic("in Answer") }}),
		"after that": f.send(labs, "a", look{}),
	}
	await(t, stall.Reached(), "the append")
	for range 3 { // other aggregates, in the same partition or not, are not concerned
		f.state(labs, "b")
	}
	require.Equal(t, f.host.Stats().InFlight, 1+len(dependents))
	require.False(t, first.answered())
	for name, p := range dependents {
		require.False(t, p.answered(), name)
	}

	stall.Release()
	require.Equal(t, aggregate.Version(1), first.ok().Receipt.Version)
	require.Equal(t, aggregate.Version(2), dependents["command"].ok().Receipt.Version)
	require.Equal(t, 3, dependents["query"].ok().Answer.(lab).N)
	dependents["rejection"].fails(aggregate.KindRejected, "negative")
	require.Equal(t, aggregate.Version(2), dependents["no-op"].ok().Receipt.Version)
	again := dependents["duplicate"].ok().Receipt
	require.True(t, again.Duplicate)
	again.Duplicate = false
	require.Equal(t, first.ok().Receipt, again)
	dependents["version"].fails(aggregate.KindRejected, aggregate.ReasonVersion)
	dependents["bad event"].fails(aggregate.KindInvalid, aggregate.ReasonBadEvent)
	require.Equal(t, 7, dependents["answer"].ok().Answer)
	dependents["panic"].fails(aggregate.KindNotDone, aggregate.ReasonPanic)
	require.Equal(t, 7, dependents["after that"].ok().Answer.(lab).N)
}

func TestRepeatedCommandWaitsForNoLaterCommit(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1))
	receipt := first.ok().Receipt
	stall := f.stallAppends()
	later := f.send(labs, "a", note(2))
	await(t, stall.Reached(), "the append")
	again := f.send(labs, "a", note(1), withID(first.id), asking).ok()
	require.Equal(t, receipt.Offset, again.Receipt.Offset)
	require.Equal(t, 1, again.Answer)
	require.False(t, later.answered())
}

// A query that is being computed while the commit it saw fails must not leave,
// though nothing is in the queue any more when it is done. // I3
func TestAnswerOnAFailedCommitNeverLeaves(t *testing.T) {
	for name, compute := range map[string]func(computing chan<- struct{}, goOn <-chan struct{}) any{
		"query": func(computing chan<- struct{}, goOn <-chan struct{}) any {
			return look{answer: func(s lab) (lab, error) { close(computing); <-goOn; return s, nil }}
		},
		"rejection": func(computing chan<- struct{}, goOn <-chan struct{}) any {
			return try{decide: func(lab) ([]labEvent, error) { close(computing); <-goOn; return nil, errNegative }}
		},
		"no-op": func(computing chan<- struct{}, goOn <-chan struct{}) any {
			return try{decide: func(lab) ([]labEvent, error) { close(computing); <-goOn; return nil, nil }}
		},
		"command": func(computing chan<- struct{}, goOn <-chan struct{}) any {
			return try{decide: func(lab) ([]labEvent, error) { close(computing); <-goOn; return []labEvent{noted{N: 9}}, nil }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.state(labs, "a")
			stall := persistencetest.NewStall()
			f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Refused, Before: stall.Hold})
			computing, goOn := make(chan struct{}), make(chan struct{})
			failing := f.send(labs, "a", note(1))
			await(t, stall.Reached(), "the append")
			dependent := f.send(labs, "a", compute(computing, goOn))
			await(t, computing, "the computation")
			stall.Release()
			failing.fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
			close(goOn)
			r := dependent.result()
			require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(r.Err), "%+v", r)
			require.Equal(t, lab{}, f.state(labs, "a"))
		})
	}
}

// A command and its answer are one: a command whose answer fails has had no
// effect, since its caller is told so.
func TestCommandWhoseAnswerFailsHasNoEffect(t *testing.T) {
	f := start(t)
	f.send(labs, "a", note(1)).ok()
	bad := note(2)
	seen := make(chan int, 1)
	bad.answer = func(s lab) (int, error) { seen <- s.N; panic("in Answer") }
	panicking := f.send(labs, "a", bad, asking)
	panicking.fails(aggregate.KindNotDone, aggregate.ReasonPanic)
	require.Equal(t, 3, await(t, seen, "the answer"))
	bad.answer = func(lab) (int, error) { return 0, errNegative }
	f.send(labs, "a", bad, asking).fails(aggregate.KindRejected, "negative")
	require.Equal(t, 1, f.state(labs, "a").N)
	require.Equal(t, 1, f.version(labs, "a"))

	f.send(labs, "a", note(2), withID(panicking.id)).ok() // it may be sent again
	bad.answer = func(lab) (int, error) { panic("in Answer") }
	f.send(labs, "a", bad, withID(panicking.id), asking).fails(aggregate.KindUnknown, aggregate.ReasonPanic)
	require.Equal(t, 3, f.state(labs, "a").N)
}

func TestTwinThatAsksForTheAnswerGetsIt(t *testing.T) {
	f := start(t)
	f.send(labs, "a", note(1)).ok()
	stall := f.stallAppends()
	first := f.send(labs, "a", note(2))
	twin := f.send(labs, "a", note(2), withID(first.id), asking)
	plain := f.send(labs, "a", note(2), withID(first.id))
	f.send(labs, "a", note(4))
	await(t, stall.Reached(), "the append")
	stall.Release()
	require.Nil(t, first.ok().Answer)
	require.Equal(t, 3, twin.ok().Answer)
	require.True(t, twin.ok().Receipt.Duplicate)
	require.Nil(t, plain.ok().Answer)
}

var _ actor.Replier = (*pending)(nil)

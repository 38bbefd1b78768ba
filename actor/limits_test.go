package actor_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

func TestPanicHurtsOneCallOnly(t *testing.T) {
	panics := map[string]any{
		"Decide":      try{decide: func(lab) ([]labEvent, error) { panic("in Decide") }},
		"Evolve":      events(noted{N: 100}, noted{Bomb: true}),
		"MarshalJSON": events(noted{N: 100}, grenade{}),
		"Answer":      look{answer: func(lab) (lab, error) { panic("in Answer") }},
		"Error":       try{decide: func(lab) ([]labEvent, error) { return nil, (*explosive)(nil) }},
	}
	for name, message := range panics {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			cold := f.send(labs, "cold", message) // while others wait for the load
			behind := []*pending{f.send(labs, "cold", note(1)), f.send(labs, "cold", look{})}
			cold.fails(aggregate.KindNotDone, aggregate.ReasonPanic)
			for _, p := range behind {
				p.ok()
			}

			f.state(labs, "a")
			stall := f.stallAppends()
			before := []*pending{f.send(labs, "a", note(1)), f.send(labs, "a", note(2))}
			await(t, stall.Reached(), "the append")
			bad := f.send(labs, "a", message)
			after := []*pending{f.send(labs, "a", note(4)), f.send(labs, "a", look{})}
			stall.Release()
			for _, p := range before {
				p.ok()
			}
			bad.fails(aggregate.KindNotDone, aggregate.ReasonPanic)
			require.Equal(t, aggregate.Version(3), after[0].ok().Receipt.Version)
			require.Equal(t, 7, after[1].ok().Answer.(lab).N)
			require.Equal(t, uint64(2), f.host.Stats().Panics)
			state, _ := f.replayed(labs, "a")
			require.Equal(t, f.state(labs, "a"), state)
		})
	}
}

func TestPanicNamesTheAggregateAndTheCall(t *testing.T) {
	var log bytes.Buffer
	f := start(t, func(c *actor.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	bad := f.send(labs, "a", try{decide: func(lab) ([]labEvent, error) {
		byName := map[string]map[string]int{}
		byName["nobody"]["x"]++
		return nil, nil
	}})
	require.EqualError(t, bad.result().Err, `not done (panic): lab/a, command "try": assignment to entry in nil map`)
	line := log.String()
	for _, part := range []string{
		`level=ERROR msg="domain code panicked" stream=lab/a command=try id=` + bad.id.String(), `panic="assignment to entry in nil map"`,
		"TestPanicNamesTheAggregateAndTheCall",
	} {
		require.Contains(t, line, part)
	}
	asked := f.send(labs, "a", look{answer: func(lab) (lab, error) { panic("no") }})
	require.EqualError(t, asked.result().Err, `not done (panic): lab/a, query "look": no`)
}

// Whoever repeats a command whose answer panics is told that, and not that it
// had no effect.
func TestPanicInTheAnswerOfADuplicateLeavesItsOutcomeUnknown(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1))
	first.ok()
	bomb := f.send(labs, "a", try{answer: func(lab) (int, error) { panic("no") }}, withID(first.id), asking)
	bomb.fails(aggregate.KindUnknown, aggregate.ReasonPanic)
	require.EqualValues(t, 1, f.host.Stats().Panics)
	require.Equal(t, 1, f.state(labs, "a").N)
}

// explosive is an error whose own method panics.
type explosive struct{ text string }

func (e *explosive) Error() string { return e.text }

func TestEventThatIsNotRegisteredIsInvalid(t *testing.T) {
	f := start(t)
	f.send(labs, "a", events(noted{N: 1}, stray{})).fails(aggregate.KindInvalid, aggregate.ReasonBadEvent)
	f.send(labs, "a", events(nil)).fails(aggregate.KindInvalid, aggregate.ReasonBadEvent)
	require.Equal(t, lab{}, f.state(labs, "a"))
	require.Zero(t, f.version(labs, "a"))
}

func TestEventOverTheLimitIsInvalid(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.MaxPayload = 100 })
	f.send(labs, "a", events(noted{Text: strings.Repeat("x", 200)})).fails(aggregate.KindInvalid, aggregate.ReasonTooLarge)
	f.send(labs, "a", events(noted{Text: strings.Repeat("x", 50)})).ok()
	require.Equal(t, 1, f.version(labs, "a"))
}

func TestCommitTooLargeForTheStoreIsInvalid(t *testing.T) {
	f := start(t)
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Refused, Err: persistence.ErrTooLarge})
	f.send(labs, "a", note(1)).fails(aggregate.KindInvalid, aggregate.ReasonTooLarge)
	require.Equal(t, lab{}, f.state(labs, "a"))
}

func TestTakenClaimIsARejection(t *testing.T) {
	f := start(t)
	f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Refused, Err: &persistence.ClaimTakenError{
		Claim: persistence.Claim{Namespace: "name", Key: "bob"}, Holder: streamOf(labs, "z"),
	}})
	f.send(labs, "a", note(1)).fails(aggregate.KindRejected, "claim-taken")
	require.Equal(t, lab{}, f.state(labs, "a"))
}

func TestBadIDsAreInvalid(t *testing.T) {
	f := start(t)
	for _, id := range []string{"", "a\x00b", strings.Repeat("x", 513), "\xff"} {
		f.send(labs, id, note(1)).fails(aggregate.KindInvalid, aggregate.ReasonBadID)
	}
	f.send(labs, strings.Repeat("x", 512), note(1)).ok()
}

func TestTypeThatIsNotServedIsInvalid(t *testing.T) {
	f := start(t)
	f.send(defineLab("lab"), "a", note(1)).fails(aggregate.KindInvalid, aggregate.ReasonUnknownType)
	f.send(defineLab("unheard-of"), "a", note(1)).fails(aggregate.KindInvalid, aggregate.ReasonUnknownType)
}

func TestCallBegunAfterItsDeadlineIsNotDone(t *testing.T) {
	f := start(t)
	reached, goOn := make(chan struct{}), make(chan struct{})
	f.send(labs, "a", look{answer: func(s lab) (lab, error) { close(reached); <-goOn; return s, nil }})
	await(t, reached, "the query")
	call := f.send(labs, "a", note(1), func(c *actor.Call) { c.Deadline = f.clock.Now() + time.Second })
	inTime := f.send(labs, "a", note(2), func(c *actor.Call) { c.Deadline = f.clock.Now() + time.Minute })
	f.clock.Advance(2 * time.Second)
	close(goOn)
	call.fails(aggregate.KindNotDone, aggregate.ReasonDeadline)
	inTime.ok()
	require.Equal(t, 2, f.state(labs, "a").N)
}

func TestExpectedVersionIsChecked(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1), expecting(0))
	first.ok()
	f.send(labs, "a", note(1), expecting(0)).fails(aggregate.KindRejected, aggregate.ReasonVersion)
	ahead := f.send(labs, "a", note(1), expecting(2))
	ahead.fails(aggregate.KindRejected, aggregate.ReasonVersion)
	require.EqualError(t, ahead.result().Err, "the aggregate is not at the expected version: it is at version 1, expected was 2")
	require.Equal(t, "the aggregate is not at the expected version", aggregate.ErrVersion.Message, "the sentinel is as it was")
	f.send(labs, "a", note(1), expecting(1)).ok()
	f.send(labs, "a", note(1), expecting(0), withID(first.id)).ok() // the first receipt
	require.Equal(t, 2, f.version(labs, "a"))
}

// I11
func TestOverloadIsRefusedAndPasses(t *testing.T) {
	for name, limit := range map[string]func(*actor.Config){
		"per aggregate": func(c *actor.Config) { c.MaxPerGrain = 10 },
		"per host":      func(c *actor.Config) { c.MaxInFlight = 10 },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, limit)
			f.state(labs, "a")
			stall := f.stallAppends()
			var admitted, refused []*pending
			for range 10 {
				admitted = append(admitted, f.send(labs, "a", note(1)))
			}
			for range 25 {
				refused = append(refused, f.send(labs, "a", note(1)))
			}
			for _, p := range refused {
				require.True(t, p.answered())
				p.fails(aggregate.KindNotDone, aggregate.ReasonOverloaded)
			}
			elsewhere := f.send(labs, "b", look{})
			if name == "per host" {
				elsewhere.fails(aggregate.KindNotDone, aggregate.ReasonOverloaded)
			} else {
				elsewhere.ok()
			}
			stall.Release()
			for _, p := range admitted {
				p.ok()
			}
			f.eventually(func() bool { return f.host.Stats().InFlight == 0 }, "all admissions end")
			f.send(labs, "a", note(1)).ok()
			require.Equal(t, 11, f.state(labs, "a").N)
			require.GreaterOrEqual(t, f.host.Stats().Overloaded, uint64(25))
		})
	}
}

// seed writes events into a stream before a host owns it.
func seed(t *testing.T, store persistence.Store, s persistence.Stream, events ...persistence.NewEvent) {
	t.Helper()
	ctx, node := t.Context(), persistence.NodeID("seed-"+aggregate.NewCommandID().String())
	require.NoError(t, store.Join(ctx, persistence.Node{ID: node, Cluster: "test", State: persistence.Active}))
	view, err := store.View(ctx)
	require.NoError(t, err)
	p := persistence.PartitionOf(s, partitions)
	tenure, err := store.Claim(ctx, p, view.Partitions[p].Epoch, node)
	require.NoError(t, err)
	c := &persistence.Commit{
		Stream: s, Partition: p, Epoch: tenure.Epoch, Command: persistence.CommandID(aggregate.NewCommandID()), At: time.Now(), Events: events,
	}
	store.Append(ctx, &persistence.Batch{
		Owner: node, Fences: []persistence.Fence{{Partition: p, Epoch: tenure.Epoch, Head: tenure.Head}}, Commits: []*persistence.Commit{c},
	})
	require.NoError(t, c.Err)
	require.NoError(t, store.Leave(context.Background(), node))
}

func TestUnreadableEventConcernsItsAggregateOnly(t *testing.T) {
	for name, event := range map[string]persistence.NewEvent{
		"unknown name":   {Type: "unheard-of", Payload: []byte("{}")},
		"future version": {Type: "noted/2", Payload: []byte("{}")},
		"broken bytes":   {Type: "noted", Payload: []byte("{")},
		"panic":          {Type: "noted", Payload: []byte(`{"Bomb":true}`)},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := memory.Open(memory.Config{Partitions: partitions})
			require.NoError(t, err)
			seed(t, store, streamOf(labs, "a"), persistence.NewEvent{Type: "noted", Payload: []byte(`{"N":1}`)}, event)
			f := startOn(t, persistencetest.WithFaults(store))
			f.send(labs, "a", note(1)).fails(aggregate.KindNotDone, aggregate.ReasonUnreadable)
			f.send(labs, "a", look{}).fails(aggregate.KindNotDone, aggregate.ReasonUnreadable)
			f.send(labs, "b", note(1)).ok()
			f.eventually(func() bool { return f.host.Stats().Resident == 1 }, "the unreadable one leaves memory")
		})
	}
}

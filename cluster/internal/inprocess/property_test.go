package inprocess_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

func TestAggregateIsErasedFromAnyNode(t *testing.T) {
	h := build(t, 3, nil)
	for i, owner := range h.nodes {
		id := h.idOn(owner)
		other := h.nodes[(i+1)%3]
		ref := counters.Ref(other, id)
		for range 5 {
			_, err := ref.Send(within(t, patience), add{N: 2, Text: "secret"})
			require.NoError(t, err)
		}
		version, err := other.Erase(within(t, patience), "counter", id)
		require.NoError(t, err)
		require.EqualValues(t, 5, version)
		require.Zero(t, sum(t, owner, id))
		require.Zero(t, sum(t, other, id))
		version, err = owner.Erase(within(t, patience), "counter", id)
		require.NoError(t, err)
		require.Zero(t, version, "it has begun anew")
		receipt, err := ref.Send(within(t, patience), add{N: 3})
		require.NoError(t, err)
		require.EqualValues(t, 1, receipt.Version)
		require.Equal(t, 3, sum(t, h.nodes[(i+2)%3], id))
		stream := persistence.Stream{Type: "counter", ID: id}
		p := persistence.PartitionOf(stream, partitions)
		events, err := h.store.Tail(t.Context(), []persistence.Cursor{{Partition: p}}, 100)
		require.NoError(t, err)
		for _, e := range events {
			require.NotContains(t, string(e.Payload), "secret")
			require.True(t, e.Erased() || e.Stream != stream || e.Version == 1)
		}
	}
	_, err := h.nodes[0].Erase(within(t, patience), "unheard-of", "a")
	requireFailure(t, err, aggregate.KindInvalid, aggregate.ReasonUnknownType)
	_, err = h.nodes[0].Erase(within(t, patience), "counter", "")
	require.Error(t, err)
}

// TestCommandsLandBeforeOrAfterAnErasure sends from all nodes while the aggregate
// is erased again and again: what is acknowledged after the last erasure is there,
// each once, and versions count from 1.
func TestCommandsLandBeforeOrAfterAnErasure(t *testing.T) {
	h := build(t, 3, nil)
	id := h.idOn(h.nodes[0])
	ctx := within(t, patience)
	var all sync.WaitGroup
	stop := make(chan struct{})
	errs := make(chan error, 3)
	for _, n := range h.nodes {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := counters.Ref(n, id).Send(ctx, add{N: 1}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	erasedEvents := aggregate.Version(0)
	for i := range 30 {
		version, err := h.nodes[i%3].Erase(ctx, "counter", id)
		require.NoError(t, err)
		erasedEvents += version
	}
	close(stop)
	all.Wait()
	close(errs)
	require.NoError(t, <-errs)
	left, err := h.store.Read(ctx, persistence.Stream{Type: "counter", ID: id}, 0, 100_000)
	require.NoError(t, err)
	require.Equal(t, len(left), sum(t, h.nodes[1], id), "what is served is the fold of what is there")
	p := persistence.PartitionOf(persistence.Stream{Type: "counter", ID: id}, partitions)
	heads, err := h.store.Heads(ctx)
	require.NoError(t, err)
	require.EqualValues(t, int(heads[p].After), int(erasedEvents)+len(left), "every event is in one of the streams that were")
	require.Positive(t, int(erasedEvents))
}

func TestErasureOutlivesAStoreThatIsLost(t *testing.T) {
	h := build(t, 2, nil)
	id := h.idOn(h.nodes[0])
	_, err := counters.Ref(h.nodes[0], id).Send(within(t, patience), add{N: 2})
	require.NoError(t, err)
	var once sync.Once
	h.store.OnCall(func(c persistencetest.Call) (fault persistencetest.Fault) {
		if c.Method == "Erase" {
			once.Do(func() {
				fault = persistencetest.Fault{Outcome: persistencetest.LostAnswer, Err: persistence.ErrUnknownOutcome}
			})
		}
		return fault
	})
	_, err = h.nodes[1].Erase(within(t, patience), "counter", id)
	if err != nil { // an immediate store is not asked again by the lane
		require.Equal(t, aggregate.KindUnknown, aggregate.KindOf(err))
		_, err = h.nodes[1].Erase(within(t, patience), "counter", id)
		require.NoError(t, err)
	}
	require.Zero(t, sum(t, h.nodes[0], id))
}

type (
	patient   struct{ Notes []string }
	note      struct{ Text string }
	noted     struct{ Text string }
	notes     struct{}
	patiently = aggregate.Event[patient]
)

func (c note) Decide(patient) ([]patiently, error) { return []patiently{noted(c)}, nil }
func (e noted) Evolve(p *patient)                  { p.Notes = append(p.Notes, e.Text) }
func (notes) Answer(p patient) (string, error)     { return strings.Join(p.Notes, " "), nil }

var patients = aggregate.Define("patient",
	aggregate.Accepts[note]("note"), aggregate.Records[noted]("noted"), aggregate.Answers[notes]("notes"),
	aggregate.Snapshots[patient](aggregate.SnapshotPolicy{Every: 2}),
	aggregate.Sealed[patient](func(id string) string { return id }))

func TestForgottenSubjectIsReadByNobody(t *testing.T) {
	h := build(t, 3, func(_ int, c *cluster.Config) {
		c.Aggregates = append(c.Aggregates, patients)
		c.KeyFresh = 300 * time.Millisecond
	})
	for _, id := range []string{"alice", "bob"} {
		for range 5 {
			_, err := patients.Ref(h.nodes[0], id).Send(within(t, patience), note{Text: "secret"})
			require.NoError(t, err)
		}
	}
	for _, n := range h.nodes {
		got, err := aggregate.Ask(within(t, patience), patients.Ref(n, "alice"), notes{})
		require.NoError(t, err)
		require.Equal(t, "secret secret secret secret secret", got)
	}
	require.NoError(t, h.nodes[1].Forget(within(t, patience), "alice"))
	for _, n := range h.nodes {
		_, err := aggregate.Ask(within(t, patience), patients.Ref(n, "alice"), notes{})
		requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonForgotten)
		require.False(t, cluster.SafeToRetry(err))
		_, err = patients.Ref(n, "alice").Send(within(t, patience), note{Text: "again"})
		requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonForgotten)
		got, err := aggregate.Ask(within(t, patience), patients.Ref(n, "bob"), notes{})
		require.NoError(t, err)
		require.Contains(t, got, "secret")
	}
	proof, err := eventsourcing.VerifyForgotten(t.Context(), h.store, h.store, []aggregate.Any{patients}, "alice")
	require.NoError(t, err)
	require.True(t, proof.Forgotten, "%+v", proof)
	require.Equal(t, 5, proof.Events)
	reader := eventsourcing.NewReader(eventsourcing.ReaderConfig{
		Store: h.store, Aggregates: []aggregate.Any{patients}, Unknown: eventsourcing.Stop, Vault: h.nodes[2].Vault(),
	})
	for recorded, err := range reader.All(t.Context(), nil, eventsourcing.Filter{Aggregates: []string{"patient"}}) {
		require.NoError(t, err)
		require.Equal(t, "bob", recorded.ID)
		require.Equal(t, noted{Text: "secret"}, recorded.Value)
	}
	_, err = h.nodes[0].Erase(within(t, patience), "patient", "alice")
	require.NoError(t, err, "what is forgotten can be erased too")
	others := build(t, 1, nil)
	var failure *aggregate.Failure
	require.True(t, errors.As(others.nodes[0].Forget(t.Context(), "a"), &failure))
}

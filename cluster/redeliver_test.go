package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

type bell struct{ Rung int }

type ring struct{}

func (ring) Decide(bell) ([]aggregate.Event[bell], error) {
	return []aggregate.Event[bell]{rung{}}, nil
}

type rung struct{}

func (rung) Evolve(b *bell) { b.Rung++ }

var bells = aggregate.Define("bell", aggregate.Accepts[ring]("ring"), aggregate.Records[rung]("rung"))

type results chan actor.Result

func (r results) Reply(_ *actor.Call, result actor.Result) { r <- result }

// A call that was given up with its session while its aggregate left memory must
// not begin after its successor was answered. // I5
func TestCallThatMetTheEndOfAnActivationIsNotBegunForAnEndedSession(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	host, err := actor.Start(actor.Config{System: newSystem(), Store: store, Node: "a", Types: []aggregate.Any{bells}})
	require.NoError(t, err)
	require.NoError(t, store.Join(t.Context(), persistence.Node{ID: "a", Cluster: "c", Address: "a:1", State: persistence.Active, Lease: time.Second}))
	tenure, err := store.Claim(t.Context(), 0, 0, "a")
	require.NoError(t, err)
	host.Own(tenure, 0)
	answered := make(results, 2)
	from := &caller{session: 2}
	bounced := func(session uint64) *guest {
		d := bells.Definition()
		g := &guest{caller: from, session: session, life: &life{host: host}}
		g.request = aggregate.Request{
			Definition: d, ID: "x", Message: d.MessageOf(ring{}), Value: ring{}, Expect: -1, Command: aggregate.NewCommandID(),
		}
		g.call = actor.Call{Request: &g.request, Stream: persistence.Stream{Type: "bell", ID: "x"}, Reply: answered}
		return g
	}
	var _ actor.Redeliverer = (*guest)(nil)
	bounced(1).Redeliver(nil)
	bounced(2).Redeliver(nil)
	r := <-answered
	require.NoError(t, r.Err)
	require.NoError(t, host.Stop(t.Context()))
	require.Empty(t, answered)
	require.EqualValues(t, 1, host.Stats().Commits)
}

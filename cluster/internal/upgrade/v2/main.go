// Command v2 is the next version of v1: with a new form of its event, an event and
// a command that are new, and snapshots of another schema. What it stores, v1 reads.
package main

import (
	"context"
	"errors"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/upgrade"
)

// counter counts its events too, which the state of v1 did not.
type counter struct {
	Value, Events int
	Reasons       map[string]int `json:",omitempty"`
}

type event = aggregate.Event[counter]

type add struct{ N int }

func (c add) Decide(counter) ([]event, error) { return []event{added{Delta: c.N, Reason: "add"}}, nil }

// raise is a command that v1 does not know, with an event that it does not know.
type raise struct {
	N      int
	Reason string
}

func (c raise) Decide(counter) ([]event, error) { return []event{raised(c)}, nil }

// added was addedV1 in v1.
type added struct {
	Delta  int
	Reason string
}

type addedV1 struct{ N int }

func (e added) Evolve(s *counter) { s.count(e.Delta, e.Reason) }

func (v1 addedV1) up() added { return added{Delta: v1.N, Reason: "unknown"} }

func (e added) down() addedV1 { return addedV1{N: e.Delta} }

type raised struct {
	N      int
	Reason string
}

func (e raised) Evolve(s *counter) { s.count(e.N, e.Reason) }

// readAs is what v1 sees of it.
func (e raised) readAs() added { return added{Delta: e.N, Reason: e.Reason} }

func (s *counter) count(n int, reason string) {
	s.Value += n
	s.Events++
	if s.Reasons == nil {
		s.Reasons = map[string]int{}
	}
	s.Reasons[reason]++
}

type total struct{}

func (total) Answer(s counter) (int, error) { return s.Value, nil }

var counters = aggregate.Define("counter",
	aggregate.Accepts[add]("add"),
	aggregate.Accepts[raise]("raise"),
	aggregate.Records[added]("added", aggregate.From(1, addedV1.up, added.down)),
	aggregate.Records[raised]("raised", aggregate.ReadAs(raised.readAs)),
	aggregate.Answers[total]("total"),
	aggregate.Snapshots[counter](aggregate.SnapshotPolicy{Every: 5, Schema: 2}))

func main() {
	clustertest.Serve(clustertest.Program{
		Name: upgrade.Program, Aggregates: []aggregate.Any{counters},
		Ops: map[string]clustertest.Op{
			"add": clustertest.Do(change),
			"total": clustertest.Do(func(ctx context.Context, n *cluster.Node, id string) (int, error) {
				return aggregate.Ask(ctx, counters.Ref(n, id), total{})
			}),
		},
	})
}

// change uses the new command, and where the owner does not know it yet, or not any
// more, the one of before: that the owner does not know it is certain not to have
// had any effect.
func change(ctx context.Context, n *cluster.Node, a upgrade.Addition) (upgrade.Receipt, error) {
	ref := counters.Ref(n, a.ID)
	receipt, err := ref.Send(ctx, raise{N: a.N, Reason: "raise"}, aggregate.WithCommandID(a.Command))
	var f *aggregate.Failure
	if errors.As(err, &f) && f.Kind == aggregate.KindInvalid && f.Reason == aggregate.ReasonUnknownName {
		receipt, err = ref.Send(ctx, add{N: a.N}, aggregate.WithCommandID(a.Command))
		return upgrade.Receipt{Receipt: receipt}, err
	}
	return upgrade.Receipt{Receipt: receipt, Next: true}, err
}

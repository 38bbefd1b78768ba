// Command v1 is the first version of the program that the drill of a rolling
// upgrade replaces: it has never heard of what v2 stores.
package main

import (
	"context"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/upgrade"
)

// counter is also its own snapshot.
type counter struct{ Sum int }

type event = aggregate.Event[counter]

type add struct{ N int }

func (c add) Decide(counter) ([]event, error) { return []event{added(c)}, nil }

type added struct{ N int }

func (e added) Evolve(s *counter) { s.Sum += e.N }

type total struct{}

func (total) Answer(s counter) (int, error) { return s.Sum, nil }

var counters = aggregate.Define("counter",
	aggregate.Accepts[add]("add"),
	aggregate.Records[added]("added"),
	aggregate.Answers[total]("total"),
	aggregate.Snapshots[counter](aggregate.SnapshotPolicy{Every: 5}))

func main() {
	clustertest.Serve(clustertest.Program{
		Name: upgrade.Program, Aggregates: []aggregate.Any{counters},
		Ops: map[string]clustertest.Op{
			"add": clustertest.Do(func(ctx context.Context, n *cluster.Node, a upgrade.Addition) (upgrade.Receipt, error) {
				receipt, err := counters.Ref(n, a.ID).Send(ctx, add{N: a.N}, aggregate.WithCommandID(a.Command))
				return upgrade.Receipt{Receipt: receipt}, err
			}),
			"total": clustertest.Do(func(ctx context.Context, n *cluster.Node, id string) (int, error) {
				return aggregate.Ask(ctx, counters.Ref(n, id), total{})
			}),
		},
	})
}

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

type counter struct{ N int }
type event = aggregate.Event[counter]

type add struct{ N int }

func (c add) Decide(counter) ([]event, error) {
	if c.N < 0 {
		return nil, errNegative
	}
	return []event{added(c)}, nil
}

func (add) Answer(s counter) (int, error) { return s.N, nil }

type added struct{ N int }

func (e added) Evolve(s *counter) { s.N += e.N }

type total struct{}

func (total) Answer(s counter) (int, error) { return s.N, nil }

var errNegative = aggregate.Reject("negative", "cannot add a negative number")

var counters = aggregate.Define("counter",
	aggregate.Accepts[add]("add"), aggregate.Records[added]("added"), aggregate.Answers[total]("total"))

func startNode(t *testing.T, store persistence.Store) *cluster.Node {
	t.Helper()
	n, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, n.Stop(ctx))
	})
	return n
}

func TestCommandsReachTheOneOwnerFromEveryNode(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 16})
	require.NoError(t, err)
	nodes := []*cluster.Node{startNode(t, store), startNode(t, store), startNode(t, store)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, n := range nodes {
		require.NoError(t, n.Ready(ctx))
	}
	const aggregates, rounds = 20, 30
	var wait sync.WaitGroup
	for _, n := range nodes {
		for a := range aggregates {
			wait.Go(func() {
				ref := counters.Ref(n, fmt.Sprint("c", a))
				for range rounds {
					if _, err := ref.Send(ctx, add{N: 1}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wait.Wait()
	for i, n := range nodes {
		for a := range aggregates {
			got, err := aggregate.Ask(ctx, counters.Ref(n, fmt.Sprint("c", a)), total{})
			require.NoError(t, err)
			require.Equal(t, len(nodes)*rounds, got, "node %d aggregate %d", i, a)
		}
		_, err := counters.Ref(n, "c1").Send(ctx, add{N: -1})
		require.True(t, errors.Is(err, errNegative), "%v", err)
		sum, _, err := aggregate.Do(ctx, counters.Ref(n, "d"), add{N: 2})
		require.NoError(t, err)
		require.Equal(t, 2*(i+1), sum)
	}
	for _, n := range nodes {
		t.Logf("%s %+v", n.ID(), n.Stats())
	}
}

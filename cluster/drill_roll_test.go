package cluster_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

// All nodes are replaced by the next version of the program, one after the other.
// The load balancer takes a node out before it is stopped, and nobody has to ask
// twice.
func TestDrillRollingUpgrade(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		old := spec(t, store)
		next := old
		next.Program = nextProgram.Name
		nodes := clustertest.LaunchAll(t, 3, old)
		settled(t, nodes...)
		ctx := within(t, 2*patience)
		before := nodes[0].Partitions(ctx)
		all := balance(nodes...)
		c := startClients(t, false, all)
		var handovers, parked uint64
		for i, n := range nodes {
			c.progress(100)
			all.drain(n)
			parked += n.Stats(ctx).Parked
			handovers += uint64(len(holdings(n.Partitions(ctx), n.ID(ctx))))
			require.NoError(t, n.Terminate())
			nodes[i] = clustertest.Launch(t, fmt.Sprint(n.Name(), "-next"), next)
			settled(t, nodes...)
			all.add(nodes[i])
		}
		c.progress(100)
		after := nodes[0].Partitions(ctx)
		for i := range after {
			require.NotEqual(t, before[i].Owner, after[i].Owner, "partition %d has moved", i)
		}
		require.Zero(t, count(ctx, nodes, takeovers), "nothing was taken by force")
		require.Zero(t, count(ctx, nodes, evictions))
		requireLogged(t, "reason=left", nodes...)
		parked += count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Parked })
		c.end(store, nodes...)

		// What only the next version knows can be used now.
		for i, n := range nodes {
			require.NoError(t, n.Call(ctx, "add", addition{ID: "new", N: 3}, nil))
			require.NoError(t, n.Call(ctx, "subtract", addition{ID: "new", N: 2}, nil))
			var got int
			require.NoError(t, n.Call(ctx, "total", "new", &got))
			require.Equal(t, i+1, got)
		}
		t.Logf("3 nodes replaced, %d partitions handed over by those that were stopped, %d calls parked meanwhile", handovers, parked)
	})
}

// Five processes start at once, on a store that does not exist: one cluster.
func TestDrillStartedTogether(t *testing.T) {
	const processes, rounds = 5, 3
	together := func(t *testing.T, store clustertest.Store) {
		nodes := clustertest.LaunchAll(t, processes, spec(t, store))
		settled(t, nodes...)
		ctx := within(t, patience)
		c := startClients(t, false, balance(nodes...))
		c.progress(100)
		c.end(store, nodes...)

		opened, err := store.Open(ctx)
		require.NoError(t, err)
		defer func() { require.NoError(t, opened.Close()) }()
		view, err := opened.View(ctx)
		require.NoError(t, err)
		require.Len(t, view.Nodes, processes)
		require.Empty(t, view.Dead)
		var known []persistence.NodeID
		for _, n := range nodes {
			known = append(known, n.ID(ctx))
			require.Equal(t, len(nodes), len(n.Members(ctx)), "node %s sees one cluster", n.Name())
		}
		epochs := 0
		for _, row := range view.Partitions {
			require.Contains(t, known, row.Owner)
			epochs += int(row.Epoch)
		}
		var stats cluster.Stats
		for _, n := range nodes {
			s := n.Stats(ctx)
			stats.Claims, stats.Handovers = stats.Claims+s.Claims, stats.Handovers+s.Handovers
			require.Zero(t, s.Takeovers)
			require.Zero(t, s.Evictions)
		}
		require.GreaterOrEqual(t, stats.Claims, uint64(partitions))
		require.EqualValues(t, stats.Claims+stats.Handovers, epochs, "every epoch was claimed or given once: one line of them")
		t.Logf("%d nodes, %d claims, %d hand-overs", processes, stats.Claims, stats.Handovers)
	}
	for round := range rounds {
		t.Run(fmt.Sprint("sqlite-", round+1), func(t *testing.T) { together(t, clustertest.SQLite(t, partitions)) })
	}
	t.Run("postgres", func(t *testing.T) { together(t, clustertest.PostgreSQL(t, partitions)) })
}

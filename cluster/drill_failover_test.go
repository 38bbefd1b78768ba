package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// TestDrillDatabaseFailover kills the server of a cluster under load and promotes
// its synchronous standby. The nodes know both addresses.
func TestDrillDatabaseFailover(t *testing.T) {
	server, store := ownServer(t)
	ctx := within(t, 2*patience)
	standby, err := server.Standby(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Stop()) })
	store.DSN = strings.Replace(store.DSN, server.Addr(), server.Addr()+","+standby.Addr(), 1)
	nodes := clustertest.LaunchAll(t, 3, spec(t, store))
	settled(t, nodes...)
	for i := range idleCounters {
		require.NoError(t, nodes[i%3].Call(ctx, "add", addition{ID: fmt.Sprint("idle-", i), N: 1}, &aggregate.Receipt{}))
	}
	c := startClients(t, true, balance(nodes...))
	c.progress(200)
	before := nodes[0].Partitions(ctx)

	require.NoError(t, server.Kill9())
	for _, n := range nodes {
		require.Eventually(t, func() bool { return n.Stats(ctx).RenewalsFailed >= 5 }, patience, 5*time.Millisecond, "the renewals of %s fail", n.Name())
	}
	require.NoError(t, standby.Promote(ctx))
	accepts := time.Now()
	times := c.back(accepts, holdings(before, owners(before)...))
	c.progress(200)

	requireMoved(t, before, nodes[0].Partitions(ctx), nil)
	require.Zero(t, count(ctx, nodes, evictions), "nobody was evicted")
	require.Zero(t, count(ctx, nodes, takeovers))
	activations := func(s cluster.Stats) uint64 { return s.Host.Activations }
	activated := count(ctx, nodes, activations)
	for i := range idleCounters {
		var got int
		require.NoError(t, nodes[i%3].Call(ctx, "total", fmt.Sprint("idle-", i), &got))
		require.Equal(t, 1, got)
	}
	require.Equal(t, activated, count(ctx, nodes, activations), "what was idle has stayed in memory")
	requireLogged(t, "the store's log is on another line of history", nodes...)
	t.Logf("service back on %d partitions after p50 %s, max %s", len(times), at(times, 0.5), at(times, 1))
	require.Less(t, at(times, 1), databaseBack)
	c.end(store, nodes...)
}

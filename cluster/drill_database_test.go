package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// databaseClients are so many that some commands are on their way whenever the
// database ends, several of them to one aggregate.
const databaseClients = 64

// idleCounters are in memory when the database ends, and nobody writes to them.
const idleCounters = 200

// databaseBack bounds how long service takes to be back after the server accepts
// connections again. It is generous, because the machine that runs the tests may
// be busy: the log line has the figure, and docs/drills.md what it should be.
const databaseBack = 8 * time.Second

func TestDrillDatabaseRestart(t *testing.T) {
	t.Run("stopped", func(t *testing.T) { databaseRestart(t, (*postgrestest.Server).Shutdown) })
	t.Run("killed", func(t *testing.T) { databaseRestart(t, (*postgrestest.Server).Kill9) })
}

// databaseRestart ends the server of a cluster under load, leaves it away for
// longer than a lease, and starts it again.
func databaseRestart(t *testing.T, end func(*postgrestest.Server) error) {
	server, store := ownServer(t)
	nodes := clustertest.LaunchAll(t, 3, spec(t, store))
	settled(t, nodes...)
	ctx := within(t, 2*patience)
	for i := range idleCounters {
		var receipt aggregate.Receipt
		require.NoError(t, nodes[i%3].Call(ctx, "add", addition{ID: fmt.Sprint("idle-", i), N: 1}, &receipt))
	}
	c := startManyClients(t, databaseClients, true, balance(nodes...))
	before := nodes[0].Partitions(ctx)
	c.back(time.Now(), holdings(before, owners(before)...)) // all counters are in memory
	c.progress(200)
	loads := func(s cluster.Stats) uint64 { return s.Host.Loads }
	activations := func(s cluster.Stats) uint64 { return s.Host.Activations }
	loaded, activated := count(ctx, nodes, loads), count(ctx, nodes, activations)
	failed := func(s cluster.Stats) uint64 { return s.RenewalsFailed }

	require.NoError(t, end(server))
	for _, n := range nodes {
		require.Eventually(t, func() bool { return failed(n.Stats(ctx)) >= 5 }, patience, 5*time.Millisecond, "the renewals of %s fail", n.Name())
	}
	require.NoError(t, server.Restart(ctx))
	accepts := time.Now()
	times := c.back(accepts, holdings(before, owners(before)...))
	c.progress(200)

	requireMoved(t, before, nodes[0].Partitions(ctx), nil)
	require.Zero(t, count(ctx, nodes, evictions), "nobody was evicted")
	require.Zero(t, count(ctx, nodes, takeovers))
	for i := range idleCounters {
		var got int
		require.NoError(t, nodes[i%3].Call(ctx, "total", fmt.Sprint("idle-", i), &got))
		require.Equal(t, 1, got)
	}
	unsure := count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Host.Unknown })
	repeated := count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Host.Repeated })
	require.NotZero(t, unsure+repeated, "no command was on its way when the database ended")
	require.Zero(t, count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Host.Broken }))
	require.Equal(t, activated, count(ctx, nodes, activations), "what was in memory has stayed there")
	require.Equal(t, loaded, count(ctx, nodes, loads))
	requireLogged(t, "lease not renewed", nodes...)
	requireLogged(t, "lease renewed again", nodes...)
	t.Logf("service back on %d partitions after p50 %s, max %s; of %d commits nobody knew what had become, %d were appended again, 0 of %d aggregates loaded again",
		len(times), at(times, 0.5), at(times, 1), unsure, repeated, idleCounters+partitions)
	require.Less(t, at(times, 1), databaseBack)
	c.end(store, nodes...)
}

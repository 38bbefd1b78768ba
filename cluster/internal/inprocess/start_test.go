package inprocess_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

func TestWrongConfigurations(t *testing.T) {
	store := inMemory(t)
	broken := aggregate.Define("", aggregate.Accepts[add]("add"), aggregate.Accepts[idle]("add"))
	nameless := aggregate.Define("bad name\x00", aggregate.Answers[total](""))
	cases := map[string]struct {
		config *cluster.Config
		says   []string
	}{
		"none":           {nil, []string{"no Config"}},
		"no store":       {&cluster.Config{Aggregates: []aggregate.Any{counters}}, []string{"Config.Store"}},
		"no aggregates":  {&cluster.Config{Store: store}, []string{"Config.Aggregates"}},
		"definitions":    {&cluster.Config{Store: store, Aggregates: []aggregate.Any{broken, nameless}}, []string{`"add"`, "bad name", "name"}},
		"one twice":      {&cluster.Config{Store: store, Aggregates: []aggregate.Any{counters, counters}}, []string{"counter"}},
		"negative lease": {&cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}, Lease: -time.Second}, []string{"Config.Lease", "-1s", "100ms"}},
		"short lease":    {&cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}, Lease: 100*time.Millisecond - 1}, []string{"Config.Lease", "99.999999ms", "100ms"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.config != nil {
				c.config.Network = clustertest.NewFabric().Network()
			}
			n, err := cluster.Start(t.Context(), c.config)
			require.Nil(t, n)
			require.Error(t, err)
			for _, part := range c.says {
				require.ErrorContains(t, err, part)
			}
		})
	}
	view, err := store.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, view.Nodes)
}

func TestTwoClustersOnOneStore(t *testing.T) {
	h := build(t, 1, nil)
	n, err := cluster.Start(t.Context(), h.config(1, func(_ int, c *cluster.Config) { c.Name = "another" }))
	require.Nil(t, n)
	var setup *persistence.SetupError
	require.ErrorAs(t, err, &setup)
	require.ErrorContains(t, err, "another")
	require.ErrorContains(t, err, "ingrain")
	require.Len(t, h.nodes[0].Members(), 1)
	sum(t, h.nodes[0], "a")
}

// Whoever takes over by force waits for the end of its own lease. // I8
func TestNodesOfDifferentLeasesDoNotMix(t *testing.T) {
	h := build(t, 1, nil)
	for _, lease := range []time.Duration{100 * time.Millisecond, 3 * time.Second} {
		n, err := cluster.Start(t.Context(), h.config(1, func(_ int, c *cluster.Config) { c.Lease = lease }))
		require.Nil(t, n)
		var setup *persistence.SetupError
		require.ErrorAs(t, err, &setup)
		require.ErrorContains(t, err, "lease of 1s, this one "+lease.String())
	}
	require.Len(t, h.nodes[0].Members(), 1)
	require.Equal(t, time.Second, h.nodes[0].Members()[0].Lease)
	require.NoError(t, h.nodes[0].Stop(within(t, patience)))
	clustertest.Start(t, h.config(1, func(_ int, c *cluster.Config) { c.Lease = 100 * time.Millisecond }))
}

func TestStartOnAStoreThatIsDown(t *testing.T) {
	h := build(t, 1, nil)
	h.down()
	n, err := cluster.Start(t.Context(), h.config(1, nil))
	require.Nil(t, n)
	require.ErrorContains(t, err, "injected fault")
	h.heal()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n, err = cluster.Start(ctx, h.config(1, nil))
	require.Nil(t, n)
	require.True(t, errors.Is(err, context.Canceled), "%v", err)
}

func TestStopSaysWhatItCouldNotFinish(t *testing.T) {
	h := build(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, h.nodes[0].Ready(ctx), "it is ready")
	n, err := cluster.Start(t.Context(), h.config(1, nil))
	require.NoError(t, err)
	h.down()
	require.ErrorContains(t, n.Stop(within(t, patience)), "injected fault", "it could not tell the others")
	require.ErrorContains(t, n.Ready(t.Context()), "stopped")
}

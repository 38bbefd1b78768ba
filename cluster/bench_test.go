package cluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// BenchmarkRemoteCommand sends commands from one node to aggregates on another,
// both in this process, over the real network: the profile shows both sides.
func BenchmarkRemoteCommand(b *testing.B) {
	store, err := memory.Open(memory.Config{})
	require.NoError(b, err)
	start := func() *cluster.Node {
		n, err := cluster.Start(b.Context(), &cluster.Config{
			Store: store, Aggregates: []aggregate.Any{counters}, Sticky: true, Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, n.Stop(context.Background())) })
		return n
	}
	owner := start()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	require.NoError(b, owner.Ready(ctx))
	caller := start()
	require.NoError(b, caller.Ready(ctx))

	const callers = 256
	refs := make([]aggregate.Ref[counter], callers)
	for i := range refs {
		refs[i] = counters.Ref(caller, fmt.Sprint("a", i))
		_, err := refs[i].Send(ctx, add{N: 1})
		require.NoError(b, err)
	}
	var next atomic.Int64
	var wait sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for _, ref := range refs {
		wait.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := ref.Send(ctx, add{N: 1}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	stats := caller.Stats()
	b.ReportMetric(float64(stats.Remote)/float64(stats.Envelopes), "calls/envelope")
}

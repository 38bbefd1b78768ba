package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

func TestCommandSkewIsTheOwnersLimit(t *testing.T) {
	for skew, accepted := range map[time.Duration]bool{0: false, time.Hour: true} {
		store, err := memory.Open(memory.Config{Partitions: 4})
		require.NoError(t, err)
		n, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}, CommandSkew: skew})
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			require.NoError(t, n.Stop(ctx))
		})
		id := aggregate.CommandIDAt(time.Now().Add(30 * time.Minute))
		_, err = counters.Ref(n, "a").Send(t.Context(), add{N: 1}, aggregate.WithCommandID(id))
		if accepted {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "accepted: up to 1m ahead, 24h old")
		}
	}
}

package robots_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/examples/trader/figures"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/robots"
	"github.com/ingrain-go/ingrain/examples/trader/settlement"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

type receipts struct {
	mu  sync.Mutex
	ids map[aggregate.CommandID]bool
}

func (r *receipts) Add(receipt aggregate.Receipt) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[receipt.Command] = true
	return nil
}

func TestRobotsTradeAndEveryReceiptIsKept(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 4})
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	node, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: market.Aggregates(), Logger: quiet, LockDir: t.TempDir()})
	require.NoError(t, err)
	defer func() { require.NoError(t, node.Stop(context.Background())) }()
	require.NoError(t, node.Ready(t.Context()))
	require.NoError(t, market.Open(t.Context(), node))
	settler := settlement.Start(settlement.Config{
		Store: store, Name: "settlement", Gateway: node, Welcome: market.Welcome, Logger: quiet,
		Owned: func() []persistence.Partition { return []persistence.Partition{0, 1, 2, 3} },
	})
	defer func() { require.NoError(t, settler.Stop(context.Background())) }()
	recorder, kept := &figures.Recorder{}, &receipts{ids: map[aggregate.CommandID]bool{}}
	crew := robots.Start(robots.Config{
		Gateway: node, Desk: &figures.Desk{Recorder: recorder, Acks: kept}, Names: robots.Names(6, 0, 1), Logger: quiet,
	})
	require.Eventually(t, func() bool { return recorder.Snapshot().Acknowledged > 100 }, 20*time.Second, 10*time.Millisecond,
		"the robots do not trade")
	crew.Stop()
	f := recorder.Snapshot()
	require.Equal(t, f.Commands, f.Acknowledged+f.Rejected, "a command was left without its end")
	require.Len(t, kept.ids, int(f.Acknowledged))
	crew.Stop()
}

func TestRobotsAreSpreadOverTheNodes(t *testing.T) {
	seen := map[string]bool{}
	for node := range 3 {
		for _, name := range robots.Names(10, node, 3) {
			require.False(t, seen[name])
			seen[name] = true
		}
	}
	require.Len(t, seen, 10)
}

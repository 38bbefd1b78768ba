package inprocess_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// refuse makes the store refuse every call of a method, and counts them.
func (h *house) refuse(method string) *atomic.Int64 {
	var refused atomic.Int64
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method != method {
			return persistencetest.Fault{}
		}
		refused.Add(1)
		return persistencetest.Fault{Outcome: persistencetest.Refused}
	})
	return &refused
}

// requireUnready waits until a node says why it is not ready, heals the store,
// and requires that a caller who waits learns of the end.
func (h *house) requireUnready(n *cluster.Node, why string) {
	h.t.Helper()
	over, cancel := context.WithCancel(h.t.Context())
	cancel()
	var err error
	require.Eventually(h.t, func() bool { err = n.Ready(over); return err != nil }, patience, time.Millisecond, "it is not ready")
	require.ErrorContains(h.t, err, why)
	require.ErrorIs(h.t, err, context.Canceled)
	ctx := &noticing{Context: within(h.t, patience), waiting: make(chan struct{})}
	ready := make(chan error, 1)
	go func() { ready <- n.Ready(ctx) }()
	<-ctx.waiting
	h.store.Heal()
	require.NoError(h.t, <-ready)
}

func TestNodeBetweenTwoLivesIsNotReady(t *testing.T) {
	logs := make([]lines, 1)
	h := build(t, 1, logged(logs))
	n := h.nodes[0]
	refused := h.refuse("Join")
	h.expel(n.ID())
	require.Eventually(t, func() bool { return refused.Load() >= 9 }, patience, time.Millisecond, "it tries to come back")
	attempts := refused.Load()
	require.NotEmpty(t, logs[0].with("level=WARN", "not joined again", "failures=1", "injected fault"))
	require.LessOrEqual(t, len(logs[0].with("not joined again")), int(attempts)/4, "an outage does not flood the log")
	h.requireUnready(n, "evicted")
	require.EqualValues(t, 1, n.Stats().Rejoins)
}

func TestNodeIsNotReadyWhileAPartitionIsNobodys(t *testing.T) {
	h := build(t, 1, nil)
	require.NoError(t, h.nodes[0].Stop(within(t, patience)))
	logs := make([]lines, 1)
	refused := h.refuse("Claim")
	n := clustertest.Start(t, h.config(0, logged(logs)))
	require.Eventually(t, func() bool { return refused.Load() >= 4*partitions }, patience, time.Millisecond, "it tries again and again")
	require.NotEmpty(t, logs[0].with("level=WARN", "partition not claimed", "failures=1", "injected fault"))
	require.LessOrEqual(t, len(logs[0].with("partition not claimed")), 4, "an outage does not flood the log")
	h.requireUnready(n, "not every partition has an owner")
}

// The table may name a node that does not serve the partition.
func TestNodeIsNotReadyWhileItDoesNotServeWhatItOwns(t *testing.T) {
	h := build(t, 1, nil)
	n := h.nodes[0]
	h.refuse("Claim")
	row := n.Owner("counter", "a")
	_, err := h.store.Unwrap().Claim(within(t, patience), row.Partition, row.Epoch, n.ID())
	require.NoError(t, err)
	sent := make(chan error, 1)
	go func() {
		_, err := counters.Ref(n, "a").Send(within(t, patience), add{N: 1})
		sent <- err
	}()
	require.Eventually(t, func() bool { return n.Stats().Host.Fenced == 1 }, patience, time.Millisecond, "the store refuses the append")
	h.requireUnready(n, "not every partition of the node is served")
	require.NoError(t, <-sent)
}

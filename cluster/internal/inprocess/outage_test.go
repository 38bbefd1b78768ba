package inprocess_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// lines is a log in memory.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// with returns the lines that have all the parts in them.
func (l *lines) with(parts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.text.String()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// logged gives each of some nodes a log.
func logged(logs []lines) func(i int, c *cluster.Config) {
	return func(i int, c *cluster.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logs[i], nil))
	}
}

// noticing tells when somebody begins to wait for the end of a context.
type noticing struct {
	context.Context
	once    sync.Once
	waiting chan struct{}
}

func (n *noticing) Done() <-chan struct{} {
	n.once.Do(func() { close(n.waiting) })
	return n.Context.Done()
}

func TestNodeWithoutALeaseIsNotReady(t *testing.T) {
	h := build(t, 1, nil)
	n := h.nodes[0]
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, n.Ready(over))
	h.down()
	require.NoError(t, n.Ready(over), "the lease still runs")
	var err error
	require.Eventually(t, func() bool { err = n.Ready(over); return err != nil }, patience, time.Millisecond, "the lease runs out")
	require.ErrorContains(t, err, "lease")
	require.ErrorIs(t, err, context.Canceled)

	ctx := &noticing{Context: within(t, patience), waiting: make(chan struct{})}
	ready := make(chan error, 1)
	go func() { ready <- n.Ready(ctx) }()
	<-ctx.waiting
	h.store.Heal()
	require.NoError(t, <-ready, "who waits is told")
	require.NoError(t, n.Ready(over))
}

func TestAnOutageDoesNotFloodTheLog(t *testing.T) {
	logs := make([]lines, 1)
	h := build(t, 1, logged(logs))
	h.down()
	require.Eventually(t, func() bool { return h.nodes[0].Stats().RenewalsFailed >= 9 }, patience, time.Millisecond, "renewals fail")
	failed := h.nodes[0].Stats().RenewalsFailed
	h.store.Heal()
	require.Eventually(t, func() bool { return len(logs[0].with("lease renewed again")) == 1 }, patience, time.Millisecond, "the end is told")
	require.NotEmpty(t, logs[0].with("level=WARN", "lease not renewed", "failures=1", "injected fault"))
	require.LessOrEqual(t, len(logs[0].with("lease not renewed")), int(failed)/4)
	require.Len(t, logs[0].with("level=INFO", "lease renewed again", "after="), 1)
}

func TestComingAndGoingIsLogged(t *testing.T) {
	logs := make([]lines, 3)
	h := build(t, 2, logged(logs))
	stays, victim := h.nodes[0], h.nodes[1]
	id, counter := string(victim.ID()), h.idOn(victim)
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if string(c.Node) == id && c.Method != "Evict" { // it does not learn of its eviction yet
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		}
		return persistencetest.Fault{}
	})
	h.evict(victim, stays, counter)
	require.Eventually(t, func() bool { return len(logs[0].with("partitions taken over", "count=", "duration=")) > 0 },
		patience, time.Millisecond, "it is told")
	require.Len(t, logs[0].with("level=INFO", "node left", "node="+id), 1)
	h.store.Heal()
	clustertest.Settled(t, h.nodes...)
	require.Len(t, logs[0].with("node joined", "node="+string(victim.ID())), 1, "it came back")
	require.Empty(t, logs[1].with("node left"), "its own incarnation is no news to it")

	third := clustertest.Start(t, h.config(2, logged(logs)))
	clustertest.Settled(t, append(h.nodes, third)...)
	require.Empty(t, logs[2].with("node joined"), "whoever was there before it")
	require.NoError(t, third.Stop(within(t, patience)))
	for i := range 2 {
		require.Eventually(t, func() bool {
			return len(logs[i].with("node left", "address="+third.Address())) == 1
		}, patience, time.Millisecond, "node %d tells", i)
	}
}

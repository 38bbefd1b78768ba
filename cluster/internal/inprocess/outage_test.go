package inprocess_test

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
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

// deaf is a clock on which the long pauses never end.
type deaf struct{ actor.SystemClock }

func (c deaf) AfterFunc(d time.Duration, f func()) func() bool {
	if d >= 240*time.Millisecond && d <= 760*time.Millisecond {
		return func() bool { return true }
	}
	return c.SystemClock.AfterFunc(d, f)
}

// Whoever waits for the store hardly asks meanwhile, and is told when it is back,
// wherever his aggregate lives. What is in memory stays there.
func TestCallersAreToldThatTheStoreIsBack(t *testing.T) {
	h := build(t, 2, func(_ int, c *cluster.Config) { c.Clock = deaf{} })
	var ids []string
	for i := range 20 {
		ids = append(ids, strconv.Itoa(i))
		_, err := counters.Ref(h.nodes[i%2], ids[i]).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
	}
	counted := func() (loads, retries uint64) {
		for _, n := range h.nodes {
			s := n.Stats()
			loads, retries = loads+s.Host.Loads, retries+s.Retries
		}
		return loads, retries
	}
	loads, retries := counted()
	h.down()
	for _, n := range h.nodes {
		require.Eventually(t, func() bool { return n.Ready(ended(t)) != nil }, patience, time.Millisecond, "the leases run out")
	}
	failing := h.nodes[0].Stats().RenewalsFailed
	require.Eventually(t, func() bool { return h.nodes[0].Stats().RenewalsFailed > failing }, patience, time.Millisecond, "it is known")
	results := make(chan error, len(ids))
	for i, id := range ids {
		go func() {
			_, err := counters.Ref(h.nodes[i%2], id).Send(within(t, patience), add{N: 1})
			results <- err
		}()
	}
	failing = h.nodes[0].Stats().RenewalsFailed
	require.Eventually(t, func() bool { return h.nodes[0].Stats().RenewalsFailed >= failing+4 }, patience, time.Millisecond, "the outage lasts")
	_, waited := counted()
	require.Less(t, waited-retries, uint64(3*len(ids)), "they ask again and again")
	h.store.Heal()
	for range ids {
		require.NoError(t, <-results)
	}
	for i, id := range ids {
		require.Equal(t, 2, sum(t, h.nodes[i%2], id))
	}
	after, _ := counted()
	require.LessOrEqual(t, after-loads, uint64(8), "only what was on its way, or let through, is loaded again")
}

// An outage that is over before the lease is.
func TestCallersAreToldOfTheEndOfAShortOutage(t *testing.T) {
	h := build(t, 1, func(_ int, c *cluster.Config) { c.Clock, c.Lease = deaf{}, 5*time.Second })
	n := h.nodes[0]
	send := func(i int) error {
		_, err := counters.Ref(n, strconv.Itoa(i)).Send(within(t, patience), add{N: 1})
		return err
	}
	const calls = 20
	for i := range calls {
		require.NoError(t, send(i))
	}
	h.down()
	results := make(chan error, calls)
	for i := range calls {
		go func() { results <- send(i) }()
	}
	require.Eventually(t, func() bool {
		s := n.Stats().Host
		return s.StoreErrors+s.Refused >= calls
	}, patience, time.Millisecond, "all of them are refused")
	h.store.Heal()
	for range calls {
		require.NoError(t, <-results)
	}
	require.Less(t, n.Stats().Retries, uint64(5*calls))
	for i := range calls {
		require.Equal(t, 2, sum(t, n, strconv.Itoa(i)))
	}
}

// ended is a context that is over.
func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
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

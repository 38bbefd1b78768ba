package inprocess_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// relined is a store that can be on another line of history from one moment to
// the next, and whose partitions can have gone back.
type relined struct {
	persistence.Store
	turns  atomic.Int64
	behind atomic.Int64 // partitions below have lost the end of their log
	early  atomic.Int64 // partitions below have lost epochs
}

func (s *relined) see(v persistence.View, err error) (persistence.View, error) {
	v.Lineage += fmt.Sprint("/", s.turns.Load())
	for i := range v.Partitions {
		if int64(i) < s.early.Load() {
			v.Partitions[i].Epoch = 0
			v.Partitions[i].Owner = ""
		}
	}
	return v, err
}

func (s *relined) View(ctx context.Context) (persistence.View, error) {
	return s.see(s.Store.View(ctx))
}

func (s *relined) Renew(ctx context.Context, r persistence.Renewal) (persistence.View, error) {
	return s.see(s.Store.Renew(ctx, r))
}

func (s *relined) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	owned, err := s.Store.Verify(ctx, node, fences)
	for i, f := range fences {
		if int64(f.Partition) < s.behind.Load() && f.Head > 0 {
			owned[i] = false
		}
	}
	return owned, err
}

// onRelined is one node with a counter in every partition, each with the value 1.
func onRelined(t *testing.T, log *lines) (h *house, store *relined, ids []string) {
	t.Helper()
	store = &relined{Store: inMemory(t)}
	h = buildOn(t, store, 1, func(_ int, c *cluster.Config) {
		if log != nil {
			c.Logger = slog.New(slog.NewTextHandler(log, nil))
		}
	})
	return h, store, h.oneEach()
}

// oneEach makes a counter in every partition, with the value 1. They are in the
// order of the partitions.
func (h *house) oneEach() []string {
	h.t.Helper()
	ids := make([]string, partitions)
	for i, missing := 0, partitions; missing > 0; i++ {
		id := fmt.Sprint("each", i)
		p := persistence.PartitionOf(persistence.Stream{Type: "counter", ID: id}, partitions)
		if ids[p] != "" {
			continue
		}
		ids[p] = id
		missing--
		_, err := counters.Ref(h.nodes[0], id).Send(within(h.t, patience), add{N: 1})
		require.NoError(h.t, err)
	}
	return ids
}

func TestAnotherLineOfHistory(t *testing.T) {
	const moved = "the store's log is on another line of history"
	t.Run("that has everything costs no memory", func(t *testing.T) {
		var log lines
		h, store, ids := onRelined(t, &log)
		n := h.nodes[0]
		loads, verified := n.Stats().Host.Loads, h.counting("Verify")
		renewals(t, 3, n)
		require.Zero(t, verified.Load(), "there is nothing to doubt")
		store.turns.Add(1)
		renewals(t, 2, n)
		require.EqualValues(t, 1, verified.Load(), "once, for all partitions")
		require.Len(t, log.with("level=WARN", moved), 1)
		for _, id := range ids {
			require.Equal(t, 1, sum(t, n, id))
		}
		require.Equal(t, loads, n.Stats().Host.Loads)
		require.NoError(t, n.Ready(within(t, patience)))
		require.EqualValues(t, 1, verified.Load(), "the lease is back")
	})
	t.Run("that lacks something is read again", func(t *testing.T) {
		var log lines
		h, store, ids := onRelined(t, &log)
		n := h.nodes[0]
		loads := n.Stats().Host.Loads
		store.behind.Store(3)
		store.turns.Add(1)
		require.Eventually(t, func() bool { return len(log.with("level=ERROR", "not in the log any more", "partitions=3 of=16")) == 1 }, patience, time.Millisecond)
		store.behind.Store(0)
		for _, id := range ids {
			require.Equal(t, 1, sum(t, n, id))
		}
		require.Equal(t, loads+3, n.Stats().Host.Loads, "the others stay in memory")
	})
	t.Run("that nobody has told of is looked for after an outage", func(t *testing.T) {
		h, store, ids := onRelined(t, nil)
		n := h.nodes[0]
		loads, failed := n.Stats().Host.Loads, h.refuse("Renew")
		require.Eventually(t, func() bool { return failed.Load() > 0 }, patience, time.Millisecond, "a renewal fails")
		store.behind.Store(3)
		h.store.Heal()
		require.Eventually(t, func() bool { return len(n.Partitions()) == partitions && n.Stats().Claims >= partitions+3 }, patience, time.Millisecond,
			"what was lost is claimed again")
		store.behind.Store(0)
		for _, id := range ids {
			require.Equal(t, 1, sum(t, n, id))
		}
		require.Equal(t, loads+3, n.Stats().Host.Loads)
	})
	t.Run("ends the lease until all is proven", func(t *testing.T) {
		h, store, ids := onRelined(t, nil)
		n := h.nodes[0]
		loads := n.Stats().Host.Loads
		down := persistencetest.Fault{Outcome: persistencetest.Refused}
		h.store.OnCall(func(c persistencetest.Call) (fault persistencetest.Fault) {
			if c.Method == "Verify" {
				fault = down
			}
			return fault
		})
		require.Equal(t, 1, sum(t, n, ids[0]), "the lease needs no proof")
		store.turns.Add(1)
		renewals(t, 2, n)
		_, err := aggregate.Ask(within(t, 50*time.Millisecond), counters.Ref(n, ids[0]), total{})
		requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonDeadline)
		require.ErrorContains(t, err, aggregate.ReasonStoreDown)
		require.Positive(t, n.Stats().RenewalsFailed)
		h.store.Heal()
		require.Equal(t, 1, sum(t, n, ids[0]))
		require.NoError(t, n.Ready(within(t, patience)))
		require.Equal(t, loads, n.Stats().Host.Loads)
	})
}

// counting counts the calls of one method.
func (h *house) counting(method string) *atomic.Int64 {
	var calls atomic.Int64
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == method {
			calls.Add(1)
		}
		return persistencetest.Fault{}
	})
	return &calls
}

// A lost end of the log is found before a reply says what was in it, even on the
// same line of history and under the same epoch. // I7
func TestBarrierLooksForWhatWasAcknowledged(t *testing.T) {
	h, store, ids := onRelined(t, nil)
	n := h.nodes[0]
	renewing := persistencetest.NewStall()
	t.Cleanup(renewing.Release)
	h.store.OnCall(func(c persistencetest.Call) (fault persistencetest.Fault) {
		if c.Method == "Renew" {
			fault.Before = renewing.Hold
		}
		return fault
	})
	loads, barriers := n.Stats().Host.Loads, n.Stats().Host.Barriers
	store.behind.Store(partitions)
	require.Eventually(t, func() bool {
		_, err := aggregate.Ask(within(t, 20*time.Millisecond), counters.Ref(n, ids[0]), total{})
		return err != nil
	}, patience, time.Millisecond, "the lease runs out, and memory is not believed")
	require.Greater(t, n.Stats().Host.Barriers, barriers)
	store.behind.Store(0)
	renewing.Release()
	h.store.Heal()
	require.Equal(t, 1, sum(t, n, ids[0]))
	require.Greater(t, n.Stats().Host.Loads, loads)
}

// Epochs never fall. When they do, the store is an older one: whoever remembers
// more remembers what never was. The renewals go on all the while.
func TestLowerEpochsEndAnIncarnation(t *testing.T) {
	var log lines
	h, store, ids := onRelined(t, &log)
	n := h.nodes[0]
	first := n.ID()
	renewals(t, 6, n) // until its first lease is over, during which it holds in any case
	store.early.Store(4)
	require.Eventually(t, func() bool { return n.Stats().Rejoins >= 1 }, patience, time.Millisecond, "it comes back")
	require.NotEqual(t, first, n.ID())
	require.NotEmpty(t, log.with("level=ERROR", "the store has gone back to an older state", `"served here"=4`))
	store.early.Store(0)
	for _, id := range ids {
		require.Equal(t, 1, sum(t, n, id))
	}
	_, err := counters.Ref(n, ids[0]).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	require.Positive(t, n.Stats().Host.Held, "others may not have noticed, and answer from memory")
	view, err := h.store.View(within(t, patience))
	require.NoError(t, err)
	require.Len(t, view.Nodes, 1, "the incarnation before is out of the store")
}

// ownServer is a PostgreSQL server of the test, its data directory, and nodes on
// it that have no network but the fabric.
func ownServer(t *testing.T, nodes int, logs []lines) (h *house, server *postgrestest.Server, data string) {
	t.Helper()
	dir := filepath.Join(openDir(t), "server")
	server, err := postgrestest.Start(within(t, time.Minute), dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(within(t, patience))
	require.NoError(t, err)
	store, err := postgres.Open(within(t, patience), postgres.Config{DSN: dsn, Partitions: partitions})
	require.NoError(t, err)
	h = buildOn(t, store, nodes, logged(logs))
	return h, server, filepath.Join(dir, "data")
}

// openDir is a new directory that another user may enter: PostgreSQL does not run
// as root.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ingrain-lineage-") //nolint:usetesting // t.TempDir is closed to others
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

// A database that was away and is the same again costs nobody his memory.
func TestDatabaseRestartReloadsNothing(t *testing.T) {
	logs := make([]lines, 2)
	h, server, _ := ownServer(t, 2, logs)
	ids := h.oneEach()
	loads := func() uint64 { return h.nodes[0].Stats().Host.Loads + h.nodes[1].Stats().Host.Loads }
	before, lives := loads(), livesOf(h)
	require.NoError(t, server.Kill9())
	for i, n := range h.nodes { // for longer than a lease
		require.Eventually(t, func() bool { return n.Stats().RenewalsFailed >= 2 }, patience, time.Millisecond, "node %d", i)
		require.Eventually(t, func() bool {
			_, err := aggregate.Ask(within(t, 20*time.Millisecond), counters.Ref(n, ids[0]), total{})
			return err != nil
		}, patience, time.Millisecond, "node %d has no lease any more", i)
	}
	require.NoError(t, server.Restart(within(t, time.Minute)))
	accepted := time.Now()
	for _, id := range ids {
		require.Equal(t, 1, sum(t, h.nodes[0], id))
	}
	back := time.Since(accepted)
	t.Logf("every partition answers %s after the server does", back.Round(time.Millisecond))
	require.Equal(t, before, loads(), "nothing is read again")
	for _, id := range ids {
		_, err := counters.Ref(h.nodes[1], id).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
	}
	require.Equal(t, before, loads())
	require.Less(t, back, 5*time.Second)
	require.Equal(t, lives, livesOf(h), "nobody was evicted")
	for i := range logs {
		require.Empty(t, logs[i].with("level=ERROR"), "node %d", i)
	}
}

// A copy of an hour ago is put in the place of the database, under running nodes
// and on the same line of history. They answer what is in it, and nothing that is
// not.
func TestRestoredDatabaseUnderRunningNodes(t *testing.T) {
	logs := make([]lines, 4)
	h, server, data := ownServer(t, 2, logs)
	ids := h.oneEach()
	require.NoError(t, server.Kill9())
	copied := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "-a", data, copied)
	require.NoError(t, server.Restart(within(t, time.Minute)))
	for _, id := range ids {
		require.Equal(t, 1, sum(t, h.nodes[0], id))
	}

	h.nodes = append(h.nodes, clustertest.Start(t, h.config(2, logged(logs))))
	passing := clustertest.Start(t, h.config(3, logged(logs)))
	clustertest.Settled(t, append(h.nodes, passing)...)
	require.NoError(t, passing.Stop(within(t, patience))) // each gets something under an epoch that the copy does not have
	clustertest.Settled(t, h.nodes...)
	for _, id := range ids {
		_, err := counters.Ref(h.nodes[2], id).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
	}
	lives := livesOf(h)
	require.NoError(t, server.Kill9())
	run(t, "rm", "-r", data)
	run(t, "cp", "-a", copied, data)
	require.NoError(t, server.Restart(within(t, time.Minute)))

	require.Eventually(t, func() bool {
		for _, n := range h.nodes {
			if n.Stats().Rejoins == 0 {
				return false
			}
		}
		return true
	}, patience, time.Millisecond, "all come back as other incarnations: two remember epochs, the third was never a member")
	for i, n := range h.nodes {
		require.NotEqual(t, lives[i], n.ID())
	}
	clustertest.Settled(t, h.nodes...)
	for _, n := range h.nodes {
		for _, id := range ids {
			require.Equal(t, 1, sum(t, n, id), "what was acknowledged after the copy was made is gone")
		}
	}
	require.NotEmpty(t, append(logs[0].with("level=ERROR", "the store has gone back"), logs[1].with("level=ERROR", "the store has gone back")...))
	for _, id := range ids {
		receipt, err := counters.Ref(h.nodes[0], id).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
		require.EqualValues(t, 2, receipt.Version)
	}
	require.Len(t, h.log().Events, 2*partitions)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(within(t, patience), name, args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

func TestProcessesFindEachOtherAndAgreeOnOwners(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		children := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, children...)
		ctx := within(t, patience)
		const counts = 12
		for i := range counts {
			id := fmt.Sprint("c", i)
			for round, c := range children {
				var receipt aggregate.Receipt
				require.NoError(t, c.Call(ctx, "add", addition{ID: id, N: 1}, &receipt))
				require.EqualValues(t, round+1, receipt.Version)
				var sum int
				require.NoError(t, c.Call(ctx, "total", id, &sum))
				require.Equal(t, round+1, sum)
			}
		}
		var activations uint64
		for _, c := range children {
			activations += c.Stats(ctx).Host.Activations
		}
		require.EqualValues(t, counts, activations, "every counter was activated on one node only")
	})
}

// A kill is the reason for all of this: nothing acknowledged is lost, nothing
// takes effect twice, and nobody who asked another node sees an error.
func TestKilledOwnerIsReplaced(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		killUnderLoad(t, store, spec(t, store))
	})
}

func TestKilledOwnerWithoutLockFileIsReplaced(t *testing.T) {
	store := clustertest.SQLite(t, partitions)
	s := spec(t, store)
	s.Cluster.LockDir = "/dev/null/no-such-directory"
	killUnderLoad(t, store, s)
}

// Without the proof that its lock file gives, the dead node would be missed after
// five renewals, 12.5 s, and replies would be held for a lease after that.
func TestKilledOwnerIsReplacedBeforeItIsMissed(t *testing.T) {
	store := clustertest.PostgreSQL(t, partitions)
	s := spec(t, store)
	s.Cluster.Lease = 10 * time.Second
	first, others := killUnderLoad(t, store, s)
	require.Less(t, first, s.Cluster.Lease)
	for _, c := range others {
		require.Zero(t, c.Stats(within(t, patience)).Host.Held, "child %s held nothing back", c.Name())
	}
}

// killUnderLoad kills one of three nodes, and tells when the first command to a
// partition of its was acknowledged, and who is left. That nobody waits for longer
// than callPatience is all it says of time: on a busy machine a single commit of
// SQLite may take a second, and the one write lock makes all the others wait.
func killUnderLoad(t *testing.T, store clustertest.Store, s clustertest.Spec) (first time.Duration, others []*clustertest.Process) {
	children := clustertest.LaunchAll(t, 3, s)
	old := time.Now().Add(max(s.Cluster.Lease, time.Second) * 101 / 100) // before, they cannot tell who was evicted before they came
	settled(t, children...)
	victim := children[0]
	others = children[1:]
	ctx := within(t, 2*patience)
	dead := victim.ID(ctx)
	theirs := map[aggregate.Partition]bool{}
	for _, row := range others[0].Partitions(ctx) {
		theirs[aggregate.Partition(row.Partition)] = row.Owner == dead
	}
	l := startLoad(t, others...)
	l.progress(200)
	require.Eventually(t, func() bool { return time.Now().After(old) }, patience, 20*time.Millisecond, "a lease has passed")
	victim.Kill()
	killed := time.Now()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, a := range l.acked {
			if theirs[a.receipt.Partition] && a.from.After(killed) {
				return true
			}
		}
		return false
	}, patience, time.Millisecond, "a counter of the dead node is written again")
	settled(t, others...)
	l.progress(200)
	acked := l.end()
	first = -1
	for _, a := range acked {
		if theirs[a.receipt.Partition] && a.from.After(killed) && (first < 0 || a.to.Sub(killed) < first) {
			first = a.to.Sub(killed)
		}
	}
	t.Logf("first acknowledged write to a dead node's partition after %s, longest call %s, %d commands",
		first.Round(time.Millisecond), worst(acked).Round(time.Millisecond), len(acked))
	requireLog(t, store, acked, others...)
	for _, row := range others[0].Partitions(ctx) {
		require.NotEqual(t, dead, row.Owner, "partition %d", row.Partition)
	}
	return first, others
}

// oldEnough waits until the nodes have been members for longer than a lease:
// until then they cannot tell who was evicted before they came.
func oldEnough(t *testing.T, children ...*clustertest.Process) {
	t.Helper()
	ctx := within(t, patience)
	for _, c := range children {
		require.Eventually(t, func() bool { return c.Stats(ctx).Renewals >= 7 }, patience, 20*time.Millisecond, "child %s renews", c.Name())
	}
}

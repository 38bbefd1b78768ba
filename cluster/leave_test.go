package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

func TestNodesComeAndGoUnderLoad(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		s := spec(t, store)
		children := clustertest.LaunchAll(t, 3, s)
		settled(t, children...)
		leaver, stayers := children[0], children[1:]
		ctx := within(t, patience)
		left := leaver.ID(ctx)
		before := stayers[0].Partitions(ctx)

		l := startLoad(t, stayers...)
		l.progress(200)
		require.NoError(t, leaver.Terminate())
		settled(t, stayers...)
		after := stayers[0].Partitions(ctx)
		require.Equal(t, owned(before, left), moved(before, after), "only what the leaver held moves")
		l.progress(200)

		joiner := clustertest.Launch(t, "joiner", s)
		settled(t, append(stayers, joiner)...)
		joined := joiner.Partitions(ctx)
		require.Equal(t, owned(joined, joiner.ID(ctx)), moved(after, joined), "only what the joiner gets moves")
		l.progress(200)
		acked := l.end()
		t.Logf("longest call %s of %d", worst(acked).Round(time.Millisecond), len(acked))
		requireLog(t, store, acked, append(stayers, joiner)...)
		for _, c := range append(stayers, joiner) {
			require.Zero(t, c.Stats(ctx).Takeovers, "child %s took nothing by force", c.Name())
		}
	})
}

func owned(rows []persistence.Ownership, id persistence.NodeID) (n int) {
	for _, row := range rows {
		if row.Owner == id {
			n++
		}
	}
	return n
}

func moved(before, after []persistence.Ownership) (n int) {
	for p := range before {
		if before[p].Owner != after[p].Owner {
			n++
		}
	}
	return n
}

// The calls that a leaving node has admitted are answered, its own clients' too.
func TestLeavingNodeAnswersItsOwnClients(t *testing.T) {
	store := clustertest.SQLite(t, partitions)
	children := clustertest.LaunchAll(t, 2, spec(t, store))
	settled(t, children...)
	ctx := within(t, patience)
	id := "left-behind"
	require.NoError(t, children[0].Call(ctx, "add", addition{ID: id, N: 1}, nil))
	require.NoError(t, children[0].Terminate())
	require.NoError(t, children[1].Call(ctx, "add", addition{ID: id, N: 1}, nil))
	require.NoError(t, children[1].Terminate())

	opened, err := store.Open(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.Close()) }()
	view, err := opened.View(ctx)
	require.NoError(t, err)
	require.Empty(t, view.Nodes)
	for _, row := range view.Partitions {
		require.Empty(t, row.Owner, "partition %d is nobody's", row.Partition)
		require.True(t, row.Released, "partition %d was released", row.Partition)
	}
}

func TestCommandIDCountsOnceThroughAnyNode(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		children := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, children...)
		ctx := within(t, patience)
		id := aggregate.NewCommandID()
		a := addition{ID: "once", N: 5, Command: id}
		var first aggregate.Receipt
		require.NoError(t, children[0].Call(ctx, "add", a, &first))
		require.False(t, first.Duplicate)
		again := func(c *clustertest.Process) {
			t.Helper()
			var receipt aggregate.Receipt
			require.NoError(t, c.Call(ctx, "add", a, &receipt))
			require.True(t, receipt.Duplicate)
			receipt.Duplicate = false
			require.Equal(t, first, receipt)
		}
		for _, c := range children {
			again(c)
		}
		owner := children[0]
		for _, row := range children[0].Partitions(ctx) {
			for _, c := range children {
				if aggregate.Partition(row.Partition) == first.Partition && row.Owner == c.ID(ctx) {
					owner = c
				}
			}
		}
		owner.Kill()
		for _, c := range children {
			if c == owner {
				continue
			}
			again(c)
			var sum int
			require.NoError(t, c.Call(ctx, "total", "once", &sum))
			require.Equal(t, 5, sum)
		}
	})
}

package persistencetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var copyCases = []testCase{
	{"TestNodesOfTheOriginalAreDeadInACopy", testNodesOfTheOriginalAreDeadInACopy},
	{"TestCopyGoesItsOwnWay", testCopyGoesItsOwnWay},
}

// A copy is made while nodes run, and must not take the nodes of the original
// for its own: they would get commands that were meant for the copy.
func testNodesOfTheOriginalAreDeadInACopy(t *testing.T, h Harness) {
	const n = 3
	s, o := openOwned(t, h, n)
	idle := join(t, s, "idle")
	require.NoError(t, s.Release(t.Context(), 2, 1, o.node, ""))
	first := commit(streamIn(0, n, 0), 0, "x", "y")
	o.must(first)
	original, err := s.Renew(t.Context(), persistence.Renewal{Node: o.node, State: persistence.Active})
	require.NoError(t, err)

	c := h.Copy(t, s)
	meta := s.Meta()
	meta.Copied = true
	require.Equal(t, meta, c.Meta())
	copied, err := c.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, copied.Nodes)
	require.Len(t, copied.Dead, 1, "the owner of two partitions")
	owner := original.Nodes[1]
	require.Equal(t, o.node, owner.ID)
	owner.State = persistence.Dead
	require.Equal(t, owner, copied.Dead[0])
	require.Equal(t, original.Partitions, copied.Partitions)
	require.NotEqual(t, original.Lineage, copied.Lineage)
	requireEvents(t, eventsOf(first), tailAll(t, c))
	for _, id := range []persistence.NodeID{o.node, idle.node} {
		_, err := c.Renew(t.Context(), persistence.Renewal{Node: id, State: persistence.Active})
		require.ErrorIs(t, err, persistence.ErrNotMember)
	}

	for _, store := range []persistence.Store{s, h.Again(t, s)} {
		require.False(t, store.Meta().Copied)
		v, err := store.View(t.Context())
		require.NoError(t, err)
		require.Equal(t, original, v, "the original knows nothing of its copy")
	}
}

func testCopyGoesItsOwnWay(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	o.must(commit(x, 0, "common"))
	c := h.Copy(t, s)
	successor := join(t, c, "successor")
	tenure := successor.claim(0)
	require.Equal(t, persistence.Tenure{Partition: 0, Epoch: 2, Head: 1, Previous: o.node}, tenure)
	successor.must(commit(x, 1, "of the copy", "only"))
	o.must(commit(x, 1, "of the original"))

	again := h.Again(t, c)
	require.False(t, again.Meta().Copied, "it was noted")
	require.Equal(t, persistence.Active, member(t, again, successor.node).State)
	further := h.Copy(t, c)
	require.True(t, further.Meta().Copied, "a copy of a copy")
	v, err := further.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, v.Nodes)
	require.Len(t, readAll(t, further, x), 3)
	require.Len(t, readAll(t, c, x), 3)
	require.Len(t, readAll(t, s, x), 2)
	require.Equal(t, persistence.Active, member(t, c, successor.node).State)
	require.Equal(t, persistence.Active, member(t, s, o.node).State)
}

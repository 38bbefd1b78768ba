package persistencetest

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var viewCases = []testCase{
	{"TestSuspectsAreThoseOfTheLastRenewal", testSuspectsAreThoseOfTheLastRenewal},
	{"TestWeightIsThatOfTheJoin", testWeightIsThatOfTheJoin},
	{"TestEvictedOwnerIsInTheViewUntilItOwnsNothing", testEvictedOwnerIsInTheView},
	{"TestTheDeadAreInOrder", testTheDeadAreInOrder},
	{"TestEvictedHeirIsInTheView", testEvictedHeirIsInTheView},
	{"TestLineageIsThatOfTheStore", testLineageIsThatOfTheStore},
}

// views returns what every way to a view says: the one that a renewal returned,
// and those of two handles.
func views(t *testing.T, h Harness, s persistence.Store, renewed persistence.View) []persistence.View {
	t.Helper()
	all := []persistence.View{renewed}
	for _, store := range []persistence.Store{s, h.Again(t, s)} {
		v, err := store.View(t.Context())
		require.NoError(t, err)
		all = append(all, v)
	}
	return all
}

func testSuspectsAreThoseOfTheLastRenewal(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	eager := persistence.Node{ID: "a", Cluster: cluster, State: persistence.Joining, Suspects: []persistence.NodeID{"b"}}
	require.NoError(t, s.Join(t.Context(), eager))
	join(t, s, "b")
	require.Empty(t, member(t, s, "a").Suspects, "it has not renewed yet")
	for _, suspects := range [][]persistence.NodeID{
		{"b"}, {"b"}, {"z, \"1\"", "node-é/1", "b", `{a}`, `\`, "NULL", ""}, {"b", "unknown"}, nil, {"b"}, {},
	} {
		told := append([]persistence.NodeID(nil), suspects...)
		v, err := s.Renew(t.Context(), persistence.Renewal{Node: "a", State: persistence.Active, Suspects: told})
		require.NoError(t, err)
		for i := range told {
			told[i] = "changed afterwards"
		}
		for _, v := range views(t, h, s, v) {
			require.Equal(t, []persistence.NodeID{"a", "b"}, memberIDs(v), "votes evict nobody")
			require.Empty(t, v.Nodes[1].Suspects)
			require.Len(t, v.Nodes[0].Suspects, len(suspects))
			for i, want := range suspects {
				require.Equal(t, want, v.Nodes[0].Suspects[i])
				v.Nodes[0].Suspects[i] = "the view's owner may"
			}
		}
	}
	_, err := s.Renew(t.Context(), persistence.Renewal{Node: "a", State: persistence.Active, Suspects: []persistence.NodeID{"b"}})
	require.NoError(t, err)
	_, err = s.Renew(t.Context(), persistence.Renewal{Node: "a", State: persistence.Dead})
	require.Error(t, err)
	require.Equal(t, []persistence.NodeID{"b"}, member(t, s, "a").Suspects, "what is refused changes nothing")
}

func testWeightIsThatOfTheJoin(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	weights := map[persistence.NodeID]int{"none": -1, "plain": 0, "heavy": 1 << 40}
	for id, weight := range weights {
		require.NoError(t, s.Join(t.Context(), persistence.Node{ID: id, Cluster: cluster, State: persistence.Joining, Weight: weight}))
	}
	var renewed persistence.View
	for id := range weights {
		var err error
		renewed, err = s.Renew(t.Context(), persistence.Renewal{Node: id, State: persistence.Active})
		require.NoError(t, err)
	}
	for _, v := range views(t, h, s, renewed) {
		require.Len(t, v.Nodes, len(weights))
		for _, n := range v.Nodes {
			require.Equal(t, weights[n.ID], n.Weight, n.ID)
		}
	}
}

func testEvictedOwnerIsInTheView(t *testing.T, h Harness) {
	const lease = 1500 * time.Millisecond
	s := h.Open(t, 4)
	enter := func(id persistence.NodeID) *owner {
		t.Helper()
		require.NoError(t, s.Join(t.Context(), persistence.Node{
			ID: id, Cluster: cluster, Address: "127.0.0.1:1", Types: []string{"account"}, Weight: 3,
			State: persistence.Active, Lease: lease, Host: "host", Lock: "lock",
		}))
		return &owner{t: t, store: s, node: id, fences: map[persistence.Partition]*persistence.Fence{}}
	}
	successor := enter("successor")
	look := func() []persistence.View {
		t.Helper()
		renewed, err := s.Renew(t.Context(), persistence.Renewal{Node: successor.node, State: persistence.Active})
		require.NoError(t, err)
		all := views(t, h, s, renewed)
		for _, v := range all {
			require.Equal(t, []persistence.NodeID{"successor"}, memberIDs(v), "the dead are no members")
		}
		return all
	}
	var want []persistence.Node
	for p, id := range []persistence.NodeID{"é", "B", "idle", "b"} { // in no order
		victim := enter(id)
		if id != "idle" {
			victim.claim(persistence.Partition(p))
		}
		for range p + 1 {
			_, err := s.Renew(t.Context(), persistence.Renewal{Node: id, State: persistence.Draining, Suspects: []persistence.NodeID{"successor"}})
			require.NoError(t, err)
		}
		last := member(t, s, id)
		require.Equal(t, int64(p+1), last.Renewals)
		done, err := s.Evict(t.Context(), id, last.Renewals)
		require.NoError(t, err)
		require.True(t, done)
		last.State = persistence.Dead
		if id != "idle" {
			want = append(want, last)
		}
	}
	want = []persistence.Node{want[1], want[2], want[0]}
	for _, v := range look() {
		require.Equal(t, want, v.Dead)
	}
	successor.claim(1)
	for _, v := range look() {
		require.Equal(t, want[1:], v.Dead, "B owns nothing any more")
	}
	require.NoError(t, s.Leave(t.Context(), "b"), "it finds itself evicted and says that it is gone")
	for _, v := range look() {
		require.Equal(t, want[2:], v.Dead)
	}
	successor.claim(0)
	for _, v := range look() {
		require.Empty(t, v.Dead)
	}
}

func testTheDeadAreInOrder(t *testing.T, h Harness) {
	ids := []persistence.NodeID{"h", "b", "é", "B", "a", "a1", "A", "zz", "z", "c", "0", "node-9"}
	s := h.Open(t, len(ids))
	for p, id := range ids {
		join(t, s, id).claim(persistence.Partition(p))
		done, err := s.Evict(t.Context(), id, 0)
		require.NoError(t, err)
		require.True(t, done)
	}
	observer := join(t, s, "observer")
	renewed, err := s.Renew(t.Context(), persistence.Renewal{Node: observer.node, State: persistence.Active})
	require.NoError(t, err)
	slices.Sort(ids)
	for _, v := range views(t, h, s, renewed) {
		var dead []persistence.NodeID
		for _, n := range v.Dead {
			dead = append(dead, n.ID)
		}
		require.Equal(t, ids, dead)
	}
}

func testEvictedHeirIsInTheView(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	join(t, s, "heir")
	require.NoError(t, s.Release(t.Context(), 1, 1, o.node, "heir"))
	done, err := s.Evict(t.Context(), "heir", 0)
	require.NoError(t, err)
	require.True(t, done)
	renewed, err := s.Renew(t.Context(), persistence.Renewal{Node: o.node, State: persistence.Active})
	require.NoError(t, err)
	for _, v := range views(t, h, s, renewed) {
		require.Equal(t, []persistence.NodeID{o.node}, memberIDs(v))
		require.Len(t, v.Dead, 1)
		require.Equal(t, persistence.NodeID("heir"), v.Dead[0].ID)
		require.Equal(t, persistence.Ownership{Partition: 1, Epoch: 2, Owner: "heir", Released: true}, v.Partitions[1])
	}
	o.claim(1)
	for _, v := range views(t, h, s, persistence.View{}) {
		require.Empty(t, v.Dead)
	}
}

func testLineageIsThatOfTheStore(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	view, err := s.View(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, view.Lineage)
	for i := range 3 {
		o.must(commit(streamIn(0, 1, 0), persistence.Version(i), "x"))
		o.claim(0)
		renewed, err := s.Renew(t.Context(), persistence.Renewal{Node: o.node, State: persistence.Active})
		require.NoError(t, err)
		for _, v := range views(t, h, s, renewed) {
			require.Equal(t, view.Lineage, v.Lineage)
		}
		require.NoError(t, s.Close())
		s = h.Again(t, s)
		o.store = s
	}
	other, err := h.Open(t, 1).View(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, view.Lineage, other.Lineage, "another store has another history")
}

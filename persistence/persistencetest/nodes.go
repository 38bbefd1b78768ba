package persistencetest

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var nodeCases = []testCase{
	{"TestFreshTablesAreEmpty", testFreshTablesAreEmpty},
	{"TestJoinedNodeIsInTheView", testJoinedNodeIsInTheView},
	{"TestNodeThatIsNoneIsRefused", testNodeThatIsNone},
	{"TestViewIsInOrder", testViewIsInOrder},
	{"TestForeignClusterIsRefused", testForeignClusterIsRefused},
	{"TestAnotherLeaseIsRefusedWhileAMemberLives", testAnotherLeaseIsRefused},
	{"TestConcurrentJoinsAgreeOnTheLease", testConcurrentJoinsAgreeOnTheLease},
	{"TestNodeIDIsNeverReused", testNodeIDIsNeverReused},
	{"TestRenewCountsAndRecordsState", testRenewCountsAndRecordsState},
	{"TestEvictComparesRenewals", testEvictComparesRenewals},
	{"TestConcurrentEvictionsHaveOneWinner", testConcurrentEvictionsHaveOneWinner},
	{"TestEvictedNodeKeepsItsPartitionsUntilTheyAreClaimed", testEvictedNodeKeepsItsPartitions},
	{"TestLeaveReleasesEveryPartition", testLeaveReleasesEveryPartition},
}

// member returns a node of the view, which must be there.
func member(t *testing.T, s persistence.Store, id persistence.NodeID) persistence.Node {
	t.Helper()
	v, err := s.View(t.Context())
	require.NoError(t, err)
	i := slices.IndexFunc(v.Nodes, func(n persistence.Node) bool { return n.ID == id })
	require.GreaterOrEqual(t, i, 0, "%s is not in the view", id)
	return v.Nodes[i]
}

func memberIDs(v persistence.View) []persistence.NodeID {
	ids := []persistence.NodeID{}
	for _, n := range v.Nodes {
		ids = append(ids, n.ID)
	}
	return ids
}

func testFreshTablesAreEmpty(t *testing.T, h Harness) {
	s := h.Open(t, 5)
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, v.Nodes)
	require.Equal(t, []persistence.Ownership{
		{Partition: 0}, {Partition: 1}, {Partition: 2}, {Partition: 3}, {Partition: 4},
	}, v.Partitions)
	require.Empty(t, tailAll(t, s))
}

func testJoinedNodeIsInTheView(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	full := persistence.Node{
		ID: "node-é/1", Cluster: cluster, Address: "127.0.0.1:4000", Types: []string{"account", "order \"book\"", "a,b"},
		State: persistence.Joining, Host: "host-1", Lock: "/run/node 1.lock",
		Lease: 1500*time.Millisecond + 7*time.Microsecond,
		// What it says of renewals does not count.
		Renewals: 7,
	}
	bare := persistence.Node{ID: "node-2", Cluster: cluster, State: persistence.Active, Lease: full.Lease}
	require.NoError(t, s.Join(t.Context(), full))
	require.NoError(t, h.Again(t, s).Join(t.Context(), bare))
	full.Renewals = 0
	require.Equal(t, full, member(t, s, full.ID))
	renewed, err := s.Renew(t.Context(), persistence.Renewal{Node: full.ID, State: persistence.Active})
	require.NoError(t, err)
	for _, n := range renewed.Nodes {
		require.Equal(t, full.Lease, n.Lease, n.ID)
	}
	got := member(t, s, bare.ID)
	require.Empty(t, got.Types)
	got.Types = nil
	require.Equal(t, bare, got)
}

func testNodeThatIsNone(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	for _, node := range []persistence.Node{
		{State: persistence.Active}, {ID: "a"}, {ID: "a", State: persistence.Dead}, {ID: "a", State: "Active"},
	} {
		node.Cluster = "none"
		err := s.Join(t.Context(), node)
		require.Error(t, err)
		require.NotErrorIs(t, err, persistence.ErrNotMember, "the id is not used up")
	}
	join(t, s, "a") // nor is the cluster's name
	for _, state := range []persistence.NodeState{"", "Active", persistence.Dead} {
		_, err := s.Renew(t.Context(), persistence.Renewal{Node: "a", State: state})
		require.Error(t, err)
		require.NotErrorIs(t, err, persistence.ErrNotMember)
		require.Equal(t, persistence.Node{ID: "a", Cluster: cluster, State: persistence.Active}, member(t, s, "a"))
	}
	for _, id := range []persistence.NodeID{"", "unknown"} {
		require.ErrorIs(t, s.Leave(t.Context(), id), persistence.ErrNotMember)
	}
}

func testViewIsInOrder(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	for _, id := range []persistence.NodeID{"b", "é", "B", "a", "a1"} {
		join(t, s, id)
	}
	renewed, err := s.Renew(t.Context(), persistence.Renewal{Node: "b", State: persistence.Active})
	require.NoError(t, err)
	view, err := h.Again(t, s).View(t.Context())
	require.NoError(t, err)
	for _, v := range []persistence.View{renewed, view} {
		require.Equal(t, []persistence.NodeID{"B", "a", "a1", "b", "é"}, memberIDs(v))
	}
}

func testForeignClusterIsRefused(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	join(t, s, "owner-1")
	refused := func(s persistence.Store, id persistence.NodeID) {
		t.Helper()
		err := s.Join(t.Context(), persistence.Node{ID: id, Cluster: "another", State: persistence.Active})
		require.ErrorAs(t, err, new(*persistence.SetupError))
	}
	refused(s, "stranger-1")
	refused(h.Again(t, s), "stranger-2")
	require.NoError(t, s.Leave(t.Context(), "owner-1"))
	refused(s, "stranger-3") // the name outlives the nodes
	join(t, s, "owner-2")
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Equal(t, []persistence.NodeID{"owner-2"}, memberIDs(v))
}

// Whoever takes over by force waits for the end of the victim's lease, which it
// takes for its own. // I8
func testAnotherLeaseIsRefused(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	stores := []persistence.Store{s, h.Again(t, s)}
	try := func(on int, id persistence.NodeID, lease time.Duration) error {
		return stores[on].Join(t.Context(), persistence.Node{ID: id, Cluster: cluster, State: persistence.Joining, Lease: lease})
	}
	refused := func(id persistence.NodeID, lease, theirs time.Duration) {
		t.Helper()
		for on := range stores {
			err := try(on, id, lease)
			require.ErrorAs(t, err, new(*persistence.SetupError))
			require.ErrorContains(t, err, lease.String())
			require.ErrorContains(t, err, theirs.String())
		}
	}
	require.NoError(t, try(0, "a", 3*time.Second))
	refused("b", time.Second, 3*time.Second)
	refused("b", 3*time.Second+time.Microsecond, 3*time.Second)
	refused("b", 0, 3*time.Second)
	require.NoError(t, try(1, "b", 3*time.Second), "the id was not used up")
	require.NoError(t, s.Leave(t.Context(), "a"))
	refused("c", time.Second, 3*time.Second)
	for _, state := range []persistence.NodeState{persistence.Active, persistence.Draining} {
		_, err := s.Renew(t.Context(), persistence.Renewal{Node: "b", State: state})
		require.NoError(t, err)
		refused("c", time.Second, 3*time.Second)
	}
	done, err := s.Evict(t.Context(), "b", 2)
	require.NoError(t, err)
	require.True(t, done)
	require.NoError(t, try(0, "c", time.Second), "nobody lives")
	require.Equal(t, time.Second, member(t, s, "c").Lease)
	refused("d", 3*time.Second, time.Second)
}

func testConcurrentJoinsAgreeOnTheLease(t *testing.T, h Harness) {
	const joiners, rounds = 4, 5
	s := h.Open(t, 1)
	stores := []persistence.Store{s, h.Again(t, s)}
	for round := range rounds {
		errs := make([]error, joiners)
		start := make(chan struct{})
		var group sync.WaitGroup
		for i := range joiners {
			node := persistence.Node{
				ID: persistence.NodeID([]rune{rune('a' + round), rune('a' + i)}), Cluster: cluster,
				State: persistence.Active, Lease: time.Duration(i+1) * time.Second,
			}
			group.Go(func() { <-start; errs[i] = stores[i%2].Join(t.Context(), node) })
		}
		close(start)
		group.Wait()
		for _, err := range errs {
			if err != nil {
				require.ErrorAs(t, err, new(*persistence.SetupError))
			}
		}
		v, err := s.View(t.Context())
		require.NoError(t, err)
		require.Len(t, v.Nodes, 1, "each wants a lease of its own")
		require.NoError(t, s.Leave(t.Context(), v.Nodes[0].ID))
	}
}

func testNodeIDIsNeverReused(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	join(t, s, "alive")
	join(t, s, "left")
	join(t, s, "evicted")
	require.NoError(t, s.Leave(t.Context(), "left"))
	done, err := s.Evict(t.Context(), "evicted", 0)
	require.NoError(t, err)
	require.True(t, done)
	for _, store := range []persistence.Store{s, h.Again(t, s)} {
		for _, id := range []persistence.NodeID{"alive", "left", "evicted"} {
			err := store.Join(t.Context(), persistence.Node{ID: id, Cluster: cluster, State: persistence.Active})
			require.ErrorIs(t, err, persistence.ErrNotMember, id)
		}
	}
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Equal(t, []persistence.NodeID{"alive"}, memberIDs(v))
}

func testRenewCountsAndRecordsState(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	join(t, s, "owner-2")
	before := ownership(t, s, 0)
	for i, state := range []persistence.NodeState{persistence.Active, persistence.Joining, persistence.Draining, persistence.Active} {
		v, err := s.Renew(t.Context(), persistence.Renewal{Node: o.node, State: state})
		require.NoError(t, err)
		require.ElementsMatch(t, []persistence.NodeID{o.node, "owner-2"}, memberIDs(v))
		require.Len(t, v.Partitions, 2)
		require.Equal(t, before, v.Partitions[0], "a renewal touches no partition row")
		i64 := int64(i + 1)
		for _, n := range v.Nodes {
			if n.ID == o.node {
				require.Equal(t, i64, n.Renewals, "the view is of after the renewal")
				require.Equal(t, state, n.State)
			}
		}
		require.Equal(t, i64, member(t, h.Again(t, s), o.node).Renewals)
	}
	require.Zero(t, member(t, s, "owner-2").Renewals)

	_, err := s.Renew(t.Context(), persistence.Renewal{Node: "unknown", State: persistence.Active})
	require.ErrorIs(t, err, persistence.ErrNotMember)
	require.NoError(t, s.Leave(t.Context(), o.node))
	_, err = s.Renew(t.Context(), persistence.Renewal{Node: o.node, State: persistence.Active})
	require.ErrorIs(t, err, persistence.ErrNotMember)
}

func testEvictComparesRenewals(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	join(t, s, "victim")
	join(t, s, "bystander")
	evict := func(id persistence.NodeID, renewals int64) bool {
		t.Helper()
		done, err := s.Evict(t.Context(), id, renewals)
		require.NoError(t, err)
		return done
	}
	_, err := s.Renew(t.Context(), persistence.Renewal{Node: "victim", State: persistence.Active})
	require.NoError(t, err)
	require.False(t, evict("victim", 0), "it has renewed since")
	require.False(t, evict("victim", 2))
	require.False(t, evict("unknown", 0))
	_, err = s.Renew(t.Context(), persistence.Renewal{Node: "victim", State: persistence.Active})
	require.NoError(t, err)
	require.True(t, evict("victim", 2))
	require.False(t, evict("victim", 2), "it is dead already")
	_, err = s.Renew(t.Context(), persistence.Renewal{Node: "victim", State: persistence.Active})
	require.ErrorIs(t, err, persistence.ErrNotMember)
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Equal(t, []persistence.NodeID{"bystander"}, memberIDs(v))
}

// testConcurrentEvictionsHaveOneWinner races evictions against the renewal of
// the victim: either one eviction happens and the renewal is refused, or the
// renewal happens and no eviction does.
func testConcurrentEvictionsHaveOneWinner(t *testing.T, h Harness) {
	const evictors = 4
	s := h.Open(t, 1)
	stores := []persistence.Store{s, h.Again(t, s)}
	for round := range 10 {
		victim := join(t, s, persistence.NodeID(rune('a'+round)))
		done, errs := make([]bool, evictors), make([]error, evictors)
		var renewErr error
		start := make(chan struct{})
		var group sync.WaitGroup
		for i := range evictors {
			group.Go(func() { <-start; done[i], errs[i] = stores[i%2].Evict(t.Context(), victim.node, 0) })
		}
		group.Go(func() {
			<-start
			_, renewErr = stores[round%2].Renew(t.Context(), persistence.Renewal{Node: victim.node, State: persistence.Active})
		})
		close(start)
		group.Wait()
		evicted := 0
		for i := range evictors {
			require.NoError(t, errs[i])
			if done[i] {
				evicted++
			}
		}
		if renewErr == nil {
			require.Zero(t, evicted, "evicted although it renewed")
		} else {
			require.ErrorIs(t, renewErr, persistence.ErrNotMember)
			require.Equal(t, 1, evicted)
		}
	}
}

func testEvictedNodeKeepsItsPartitions(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	successor := join(t, s, "owner-2")
	x, y := streamIn(0, 2, 0), streamIn(1, 2, 0)
	done, err := s.Evict(t.Context(), o.node, 0)
	require.NoError(t, err)
	require.True(t, done)
	for p := range persistence.Partition(2) {
		require.Equal(t, persistence.Ownership{Partition: p, Epoch: 1, Owner: o.node}, ownership(t, s, p))
	}
	o.must(commit(x, 0, "nobody has claimed it yet"))
	_, err = s.Claim(t.Context(), 0, 1, o.node)
	require.ErrorIs(t, err, persistence.ErrNotMember)

	tenure := successor.claim(0)
	require.Equal(t, persistence.Tenure{Partition: 0, Epoch: 2, Head: 1, Previous: o.node}, tenure, "taken by force")
	late, still := commit(x, 1, "late"), commit(y, 0, "still")
	o.append(late, still)
	requireFenced(t, late, 2, "owner-2")
	require.NoError(t, still.Err)

	// A node that finds itself evicted may still say that it is gone.
	require.NoError(t, s.Leave(t.Context(), o.node))
	require.Equal(t, persistence.Ownership{Partition: 0, Epoch: 2, Owner: "owner-2"}, ownership(t, s, 0))
	require.Equal(t, persistence.Ownership{Partition: 1, Epoch: 2, Released: true}, ownership(t, s, 1))
}

func testLeaveReleasesEveryPartition(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 4)
	other := join(t, s, "owner-2")
	other.claim(3)
	x := streamIn(1, 4, 0)
	o.must(commit(x, 0, "x"))
	for range 2 { // leaving twice is harmless
		require.NoError(t, s.Leave(t.Context(), o.node))
		v, err := s.View(t.Context())
		require.NoError(t, err)
		require.Equal(t, []persistence.NodeID{"owner-2"}, memberIDs(v))
		require.Equal(t, []persistence.Ownership{
			{Partition: 0, Epoch: 2, Released: true},
			{Partition: 1, Epoch: 2, Released: true},
			{Partition: 2, Epoch: 2, Released: true},
			{Partition: 3, Epoch: 2, Owner: "owner-2"},
		}, v.Partitions)
	}
	late := commit(x, 1, "late")
	o.append(late)
	requireFenced(t, late, 2, "")
	tenure := other.claim(1)
	require.Equal(t, persistence.Tenure{Partition: 1, Epoch: 3, Head: 1, Released: true}, tenure)
	require.Equal(t, persistence.Ownership{Partition: 1, Epoch: 3, Owner: "owner-2"}, ownership(t, s, 1))
}

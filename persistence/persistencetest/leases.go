package persistencetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var leaseCases = []testCase{
	{"TestClaimComparesTheEpoch", testClaimComparesTheEpoch},
	{"TestClaimByANonMemberIsRefused", testClaimByANonMemberIsRefused},
	{"TestConcurrentClaimersHaveOneWinner", testConcurrentClaimersHaveOneWinner},
	{"TestNodeThatLeavesKeepsNothingItClaimsMeanwhile", testNodeThatLeavesKeepsNothing},
	{"TestReleaseGivesUp", testReleaseGivesUp},
	{"TestReleaseHandsOver", testReleaseHandsOver},
	{"TestReleaseToANonMemberIsRefused", testReleaseToANonMemberIsRefused},
	{"TestVerifyKnowsWhatANodeOwns", testVerifyKnowsWhatANodeOwns},
	{"TestVerifyKnowsHowFarTheLogReaches", testVerifyKnowsHowFarTheLogReaches},
	{"TestUnknownPartitionIsRefused", testUnknownPartitionIsRefused},
}

func requireClaimLost(t *testing.T, err error, want persistence.ClaimLostError) {
	t.Helper()
	var lost *persistence.ClaimLostError
	require.ErrorAs(t, err, &lost)
	require.Equal(t, want, *lost)
}

func testClaimComparesTheEpoch(t *testing.T, h Harness) {
	s := h.Open(t, 3)
	a, b := join(t, s, "a"), join(t, h.Again(t, s), "b")
	tenure, err := a.store.Claim(t.Context(), 1, 0, "a")
	require.NoError(t, err)
	require.Equal(t, persistence.Tenure{Partition: 1, Epoch: 1}, tenure)
	require.Equal(t, persistence.Ownership{Partition: 1, Epoch: 1, Owner: "a"}, ownership(t, s, 1))
	require.Equal(t, persistence.Ownership{Partition: 0}, ownership(t, s, 0))

	for _, seen := range []persistence.Epoch{0, 2, -1} {
		_, err = b.store.Claim(t.Context(), 1, seen, "b")
		requireClaimLost(t, err, persistence.ClaimLostError{Partition: 1, Seen: seen, Current: 1, Owner: "a"})
	}
	require.Equal(t, persistence.Ownership{Partition: 1, Epoch: 1, Owner: "a"}, ownership(t, s, 1))
	a.fences[1] = &persistence.Fence{Partition: 1, Epoch: 1}
	a.must(commit(streamIn(1, 3, 0), 0, "x", "y"))
	tenure, err = b.store.Claim(t.Context(), 1, 1, "b")
	require.NoError(t, err)
	require.Equal(t, persistence.Tenure{Partition: 1, Epoch: 2, Head: 2, Previous: "a"}, tenure)
	_, err = a.store.Claim(t.Context(), 1, 1, "a")
	requireClaimLost(t, err, persistence.ClaimLostError{Partition: 1, Seen: 1, Current: 2, Owner: "b"})
}

func testClaimByANonMemberIsRefused(t *testing.T, h Harness) {
	s := h.Open(t, 1)
	join(t, s, "left")
	require.NoError(t, s.Leave(t.Context(), "left"))
	for _, id := range []persistence.NodeID{"left", "unknown", ""} {
		_, err := s.Claim(t.Context(), 0, 0, id)
		require.ErrorIs(t, err, persistence.ErrNotMember, "%q", id)
	}
	require.Equal(t, persistence.Ownership{}, ownership(t, s, 0))
}

// testNodeThatLeavesKeepsNothing has a node leave while claims of its own are
// under way: each is refused, or comes first and is released with the rest, so
// that no successor has to wait for the lease of a node that is gone. // I8
func testNodeThatLeavesKeepsNothing(t *testing.T, h Harness) {
	const claimers, each, rounds = 4, 8, 10
	const n = claimers * each
	s := h.Open(t, n)
	other := h.Again(t, s)
	seen := make([]persistence.Epoch, n)
	for round := range rounds {
		node := join(t, s, persistence.NodeID(fmt.Sprint(round))).node
		errs := make([]error, n)
		claimed := make(chan struct{}, n)
		var group sync.WaitGroup
		for i := range claimers {
			group.Go(func() {
				for p := i; p < n; p += claimers {
					_, errs[p] = s.Claim(t.Context(), persistence.Partition(p), seen[p], node)
					claimed <- struct{}{}
				}
			})
		}
		for range 2 * round { // so that the claims are at different places
			<-claimed
		}
		leaving := other.Leave(t.Context(), node)
		group.Wait()
		require.NoError(t, leaving)
		v, err := s.View(t.Context())
		require.NoError(t, err)
		require.Empty(t, v.Dead, "round %d", round)
		for p, err := range errs {
			if err == nil {
				seen[p] += 2
			} else {
				require.ErrorIs(t, err, persistence.ErrNotMember)
			}
			want := persistence.Ownership{Partition: persistence.Partition(p), Epoch: seen[p], Released: seen[p] > 0}
			require.Equal(t, want, v.Partitions[p], "round %d", round)
		}
	}
}

func testConcurrentClaimersHaveOneWinner(t *testing.T, h Harness) {
	const claimers, rounds = 16, 6
	s := h.Open(t, 2)
	stores := []persistence.Store{s, h.Again(t, s)}
	for i := range claimers {
		join(t, s, persistence.NodeID(fmt.Sprint(i)))
	}
	for round := range persistence.Epoch(rounds) {
		tenures, errs := make([]persistence.Tenure, claimers), make([]error, claimers)
		start := make(chan struct{})
		var group sync.WaitGroup
		for i := range claimers {
			group.Go(func() {
				<-start
				tenures[i], errs[i] = stores[i%2].Claim(t.Context(), 1, round, persistence.NodeID(fmt.Sprint(i)))
			})
		}
		close(start)
		group.Wait()
		row := ownership(t, s, 1)
		require.Equal(t, round+1, row.Epoch)
		winners := 0
		for i := range claimers {
			if errs[i] == nil {
				winners++
				require.Equal(t, row.Owner, persistence.NodeID(fmt.Sprint(i)))
				require.Equal(t, row.Epoch, tenures[i].Epoch)
				continue
			}
			requireClaimLost(t, errs[i], persistence.ClaimLostError{Partition: 1, Seen: round, Current: round + 1, Owner: row.Owner})
		}
		require.Equal(t, 1, winners)
	}
}

func testReleaseGivesUp(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x := streamIn(0, 2, 0)
	o.must(commit(x, 0, "x"))
	for _, wrong := range []struct {
		epoch persistence.Epoch
		node  persistence.NodeID
	}{{0, o.node}, {2, o.node}, {1, "another"}, {1, ""}} {
		err := s.Release(t.Context(), 0, wrong.epoch, wrong.node, "")
		requireClaimLost(t, err, persistence.ClaimLostError{Partition: 0, Seen: wrong.epoch, Current: 1, Owner: o.node})
	}
	require.Equal(t, persistence.Ownership{Partition: 0, Epoch: 1, Owner: o.node}, ownership(t, s, 0))

	require.NoError(t, s.Release(t.Context(), 0, 1, o.node, ""))
	require.Equal(t, persistence.Ownership{Partition: 0, Epoch: 2, Released: true}, ownership(t, s, 0))
	require.Equal(t, persistence.Ownership{Partition: 1, Epoch: 1, Owner: o.node}, ownership(t, s, 1))
	late := commit(x, 1, "late")
	o.append(late)
	requireFenced(t, late, 2, "")
	err := s.Release(t.Context(), 0, 1, o.node, "")
	requireClaimLost(t, err, persistence.ClaimLostError{Partition: 0, Seen: 1, Current: 2})
	err = s.Release(t.Context(), 0, 2, "", o.node)
	requireClaimLost(t, err, persistence.ClaimLostError{Partition: 0, Seen: 2, Current: 2}) // nobody cannot hand over

	tenure := o.claim(0)
	require.Equal(t, persistence.Tenure{Partition: 0, Epoch: 3, Head: 1, Released: true}, tenure)
	require.Equal(t, persistence.Ownership{Partition: 0, Epoch: 3, Owner: o.node}, ownership(t, s, 0), "a claim clears the flag")
	o.must(commit(x, 1, "y"))
}

func testReleaseHandsOver(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	successor := join(t, h.Again(t, s), "owner-2")
	o.must(commit(x, 0, "x"))
	require.NoError(t, s.Release(t.Context(), 0, 1, o.node, "owner-2"))
	require.Equal(t, persistence.Ownership{Partition: 0, Epoch: 2, Owner: "owner-2", Released: true}, ownership(t, successor.store, 0))
	late := commit(x, 1, "late")
	o.append(late)
	requireFenced(t, late, 2, "owner-2")

	tenure := successor.claim(0)
	require.Equal(t, persistence.Tenure{Partition: 0, Epoch: 3, Head: 1, Previous: "owner-2", Released: true}, tenure)
	require.Equal(t, persistence.Ownership{Partition: 0, Epoch: 3, Owner: "owner-2"}, ownership(t, s, 0))
	successor.must(commit(x, 1, "y"))
}

func testReleaseToANonMemberIsRefused(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	join(t, s, "left")
	require.NoError(t, s.Leave(t.Context(), "left"))
	for _, to := range []persistence.NodeID{"left", "unknown"} {
		err := s.Release(t.Context(), 0, 1, o.node, to)
		require.ErrorIs(t, err, persistence.ErrNotMember)
	}
	require.Equal(t, persistence.Ownership{Epoch: 1, Owner: o.node}, ownership(t, s, 0))
	o.must(commit(streamIn(0, 1, 0), 0, "still the owner"))
}

func testVerifyKnowsWhatANodeOwns(t *testing.T, h Harness) {
	const n = 5
	s, o := openOwned(t, h, n)
	other := join(t, h.Again(t, s), "owner-2")
	other.claim(1)
	require.NoError(t, s.Release(t.Context(), 2, 1, o.node, ""))
	o.claim(3)
	verify := func(node persistence.NodeID, fences ...persistence.Fence) []bool {
		t.Helper()
		owned, err := s.Verify(t.Context(), node, fences)
		require.NoError(t, err)
		require.Len(t, owned, len(fences))
		return owned
	}
	at := func(p persistence.Partition, e persistence.Epoch) persistence.Fence {
		return persistence.Fence{Partition: p, Epoch: e}
	}
	require.Equal(t, []bool{false, true, false, true, false, false, true},
		verify(o.node, at(3, 1), at(3, 2), at(1, 2), at(0, 1), at(2, 1), at(2, 2), at(4, 1)))
	require.Equal(t, []bool{true, false, false}, verify("owner-2", at(1, 2), at(1, 1), at(0, 1)))
	require.Equal(t, []bool{false, false}, verify("unknown", at(0, 1), at(2, 2)))
	require.Equal(t, []bool{false}, verify("", at(2, 2)), "nobody owns nothing")
	require.Empty(t, verify(o.node))
}

func testVerifyKnowsHowFarTheLogReaches(t *testing.T, h Harness) {
	const n = 3
	s, o := openOwned(t, h, n)
	o.must(commit(streamIn(0, n, 0), 0, "x", "y"), commit(streamIn(1, n, 0), 0, "x", "y", "z"))
	other := h.Again(t, s)
	verify := func(fences ...persistence.Fence) []bool {
		t.Helper()
		owned, err := other.Verify(t.Context(), o.node, fences)
		require.NoError(t, err)
		return owned
	}
	at := func(p persistence.Partition, e persistence.Epoch, head persistence.Offset) persistence.Fence {
		return persistence.Fence{Partition: p, Epoch: e, Head: head}
	}
	require.Equal(t, []bool{true, true, true, false, false}, verify(at(0, 1, 0), at(0, 1, 1), at(0, 1, 2), at(0, 1, 3), at(0, 1, 1<<40)))
	require.Equal(t, []bool{false, true, true, false}, verify(at(0, 1, 3), at(1, 1, 3), at(2, 1, 0), at(2, 1, 1)), "each log by itself")
	require.Equal(t, []bool{false}, verify(at(0, 2, 1)), "a head makes no owner")
	o.must(commit(streamIn(0, n, 0), 2, "z"))
	require.Equal(t, []bool{true}, verify(at(0, 1, 3)))
	o.claim(0)
	require.Equal(t, []bool{false, true, false}, verify(at(0, 1, 3), at(0, 2, 3), at(0, 2, 4)))
}

func testUnknownPartitionIsRefused(t *testing.T, h Harness) {
	const n = 2
	s, o := openOwned(t, h, n)
	for _, p := range []persistence.Partition{-1, n, 65_000} {
		_, err := s.Claim(t.Context(), p, 0, o.node)
		require.Error(t, err)
		var lost *persistence.ClaimLostError
		require.False(t, errors.As(err, &lost), "partition %d was not lost, it does not exist", p)
		require.Error(t, s.Release(t.Context(), p, 0, o.node, ""))
		_, err = s.Verify(t.Context(), o.node, []persistence.Fence{{Partition: 0, Epoch: 1}, {Partition: p}})
		require.Error(t, err)
		_, err = s.Tail(t.Context(), []persistence.Cursor{{Partition: 0}, {Partition: p}}, 10)
		require.Error(t, err)
		_, err = s.DueTimers(t.Context(), []persistence.Partition{0, p}, noon, 10)
		require.Error(t, err)
		require.Error(t, s.SaveCheckpoints(t.Context(), "p", []persistence.Cursor{{Partition: 0, After: 1}, {Partition: p, After: 1}}))
		requireCheckpoints(t, s, "p")
	}
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, v.Partitions, n)
}

package cluster

import (
	"slices"

	"github.com/ingrain-go/ingrain/persistence"
)

// Whoever cannot reach a member says so in the store, when it renews. What
// follows from the votes is decided by everybody for himself, from the same
// view:
//
//	no answer for a lease ....... evicted when more than half of all members,
//	                              the victim included, say so
//	nobody listens there ........ evicted when two say so, or the only other one
//
// A vote counts if its voter reaches at least half of the others. One who
// reaches fewer is himself what is cut off, so that a part of a split cluster
// evicts the rest only if it is the larger one, and after a cut between all
// nobody evicts anybody.
//
// Being wrong costs the victim its incarnation and its callers time; it breaks
// nothing (I1), since its last lease is waited for (I8).

// condemned reports whether one of the members is to be evicted because it
// cannot be reached. Refused says that its machine has told this node, one of the
// members too, that nobody listens at its address.
func condemned(members []persistence.Node, victim persistence.NodeID, refused bool) bool {
	isVictim := func(m persistence.Node) bool { return m.ID == victim }
	if !slices.ContainsFunc(members, isVictim) {
		return false
	}
	if refused && len(members) == 2 {
		return true
	}
	votes := 0
	for i := range members {
		voter := &members[i]
		if voter.ID != victim && slices.Contains(voter.Suspects, victim) && credible(members, voter) {
			votes++
		}
	}
	return 2*votes > len(members) || refused && votes >= 2
}

// credible reports whether a voter reaches at least half of the others.
func credible(members []persistence.Node, voter *persistence.Node) bool {
	against := 0
	for i := range members {
		if m := &members[i]; m.ID != voter.ID && slices.Contains(voter.Suspects, m.ID) {
			against++
		}
	}
	return 2*against <= len(members)-1
}

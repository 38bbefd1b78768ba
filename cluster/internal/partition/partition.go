// Package partition decides where partitions should be. It is pure: values in,
// values out; no clock, no randomness, no goroutine, no socket. Every node runs
// it over the same view of the store and comes to the same result, so that
// placement needs no leader. A node with an older view only wastes a claim:
// whether a claim or a hand-over counts is decided by the store, by
// compare-and-set on the epoch (I1).
//
// # The algorithm
//
// Placement is rendezvous hashing (Thaler and Ravishankar, 1998) with bounded
// loads (the idea of Mirrokni, Thorup and Zadimoghaddam, 2016), started from
// the assignment there is:
//
//  1. Every member has a share: partitions x weight / sum of weights. Its bound
//     is the share rounded down, and as many members may have one more as it
//     takes to place everything; those that have it already come first. So no
//     member ever holds more than its share rounded up, and members of one
//     weight differ by at most one.
//  2. A member keeps what it has, up to its bound. What is nobody's, what dead
//     nodes held and what members hold beyond their bound is to be placed.
//  3. All pairs of such a partition and a member below its bound are sorted by
//     a 64-bit hash of the two, and taken from the highest downwards while the
//     member has room and the giver has something to give.
//
// Step 2 is what makes it move the minimum: a join moves only partitions to the
// joiner, as many as its share; a leave moves only what the leaver held. Bounded
// rendezvous computed from nothing at every change reshuffles partitions among
// the members that stay, because a full member pushes its neighbours' choices
// along (measured: 1.6 times the minimum when one of 16 leaves).
package partition

import (
	"cmp"
	"slices"

	"github.com/ingrain-go/ingrain/persistence"
)

// Mode says when a member gives up partitions that it could keep.
type Mode int

const (
	// Balanced moves partitions until every member has its share. It is the
	// zero value.
	Balanced Mode = iota
	// Sticky moves nothing away from a member that has a share: a join takes
	// only what is nobody's. The load becomes even as nodes come and go.
	Sticky
)

// NoShare is the weight of a member that is to hold nothing: it takes no
// partition, and gives those it has to the others, in either mode.
const NoShare = -1

// Member is a live node.
type Member struct {
	ID persistence.NodeID // a member without one does not count
	// Weight is the member's part of the load, relative to the other weights.
	// Zero means 1. [NoShare], or anything negative, means none.
	Weight int
}

func (m Member) weight() int64 {
	switch {
	case m.Weight < 0:
		return 0
	case m.Weight == 0:
		return 1
	default:
		return int64(m.Weight)
	}
}

// Members is the members that a view of the store knows: an active node has the
// share that its weight says, a joining or draining one has none.
func Members(nodes []persistence.Node) []Member {
	members := make([]Member, 0, len(nodes))
	for _, n := range nodes {
		switch n.State {
		case persistence.Active:
			members = append(members, Member{ID: n.ID, Weight: n.Weight})
		case persistence.Joining, persistence.Draining:
			members = append(members, Member{ID: n.ID, Weight: NoShare})
		case persistence.Dead:
		}
	}
	return members
}

// Move is one step towards the even distribution: From, under Epoch, to To.
type Move struct {
	Partition persistence.Partition
	// Epoch is what the partition table says now: what a claim or a release
	// has to carry.
	Epoch persistence.Epoch
	// From holds the partition now: empty when nobody does, and no member when
	// the holder is dead.
	From persistence.NodeID
	// To is to hold it.
	To persistence.NodeID
}

// Plan is the owner of every partition if nothing were owned yet: where a
// cluster that starts with these members ends. The order of the members does
// not matter. Without a member that has a share, every owner is empty.
func Plan(members []Member, partitions int) []persistence.NodeID {
	current := make([]persistence.Ownership, partitions)
	for i := range current {
		current[i].Partition = persistence.Partition(i)
	}
	return target(current, members, Balanced)
}

// Moves is what member me has to do now. A move to me is a claim: the partition
// is nobody's, or its holder is not among the members. A move from me is a
// hand-over to a live member. What live members owe each other is not in it,
// because only the holder can give a partition away without a hold (I8). One
// who is not among the members has nothing to do.
//
// Current is the partition table, members everybody who is alive, me included.
// The order of both does not matter. The result is ascending by partition and
// empty when there is nothing to do. A caller may carry out any part of it and
// ask again: no partition is moved twice on the way to the end, and the number
// of moves in total stays the same.
func Moves(current []persistence.Ownership, members []Member, mode Mode, me persistence.NodeID) []Move {
	current = slices.Clone(current)
	slices.SortFunc(current, func(a, b persistence.Ownership) int { return cmp.Compare(a.Partition, b.Partition) })
	alive := make(map[persistence.NodeID]bool, len(members))
	for _, m := range members {
		alive[m.ID] = m.ID != ""
	}
	if !alive[me] {
		return nil
	}
	var moves []Move
	for i, to := range target(current, members, mode) {
		row := current[i]
		claim := to == me && !alive[row.Owner]
		handOver := row.Owner == me && to != me
		if to != "" && (claim || handOver) {
			moves = append(moves, Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Owner, To: to})
		}
	}
	return moves
}

// load is what one member holds and may hold while a target is computed.
type load struct {
	id          persistence.NodeID
	seed        uint64 // hash of id
	weight      int64
	held        int
	floor, ceil int // its share, rounded down and up
	extra       bool
}

func (l *load) bound() int {
	if l.extra {
		return l.ceil
	}
	return l.floor
}

// target is the owner each row of current should have, in the order of current.
func target(current []persistence.Ownership, members []Member, mode Mode) []persistence.NodeID {
	loads, byID := shares(members, len(current))
	owners := make([]persistence.NodeID, len(current))
	for i, row := range current {
		if l := byID[row.Owner]; l != nil {
			l.held++
			owners[i] = row.Owner
		}
	}
	spare := len(current) // how many more members may go beyond their floor
	for _, l := range loads {
		spare -= l.floor
	}
	spare = keepExtras(loads, spare)

	moved := make([]bool, len(current))
	for _, c := range candidates(current, loads, byID, mode) {
		if moved[c.row] || c.from != nil && !c.from.gives(mode) {
			continue
		}
		if c.to.held == c.to.floor && !c.to.extra && c.to.ceil > c.to.floor && spare > 0 {
			c.to.extra = true
			spare--
		}
		if c.to.held >= c.to.bound() {
			continue
		}
		if c.from != nil {
			c.from.held--
		}
		c.to.held++
		moved[c.row] = true
		owners[c.row] = c.to.id
	}
	return owners
}

// candidate is a way to place a partition.
type candidate struct {
	score    uint64
	row      int
	from, to *load // from is nil when no member holds it
}

// candidates pairs what is to be placed with who may have room, best first.
func candidates(current []persistence.Ownership, loads []*load, byID map[persistence.NodeID]*load, mode Mode) []candidate {
	var pairs []candidate
	for i, row := range current {
		from := byID[row.Owner]
		if from != nil && !from.gives(mode) {
			continue
		}
		for _, to := range loads {
			if to.held < to.ceil {
				score := mix(to.seed ^ mix(uint64(row.Partition)+1))
				pairs = append(pairs, candidate{score: score, row: i, from: from, to: to})
			}
		}
	}
	slices.SortFunc(pairs, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.row, b.row), cmp.Compare(a.to.id, b.to.id))
	})
	return pairs
}

// gives reports whether a member has a partition to give away.
func (l *load) gives(mode Mode) bool {
	if mode == Sticky && l.ceil > 0 {
		return false
	}
	return l.held > l.bound()
}

// shares is the load of every member, those with the greatest share first. The
// first of equal ids counts.
func shares(members []Member, partitions int) ([]*load, map[persistence.NodeID]*load) {
	byID := make(map[persistence.NodeID]*load, len(members))
	loads := make([]*load, 0, len(members))
	var sum int64
	for _, m := range members {
		if m.ID != "" && byID[m.ID] == nil {
			l := &load{id: m.ID, seed: hash(string(m.ID)), weight: m.weight()}
			byID[m.ID] = l
			loads = append(loads, l)
			sum += l.weight
		}
	}
	for _, l := range loads {
		if share := int64(partitions) * l.weight; share > 0 {
			l.floor, l.ceil = int(share/sum), int((share+sum-1)/sum)
		}
	}
	slices.SortFunc(loads, func(a, b *load) int {
		return cmp.Or(cmp.Compare(b.ceil, a.ceil), cmp.Compare(a.id, b.id))
	})
	return loads, byID
}

// keepExtras lets members that hold more than their floor keep one partition
// beyond it, and returns how many may still go there.
func keepExtras(loads []*load, spare int) int {
	for _, l := range loads {
		if spare > 0 && l.held > l.floor && l.ceil > l.floor {
			l.extra = true
			spare--
		}
	}
	return spare
}

// hash is FNV-1a with a finaliser: node ids differ in few characters, and FNV
// alone would leave their scores alike.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(h uint64) uint64 {
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb
	return h ^ (h >> 31)
}

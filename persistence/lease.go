package persistence

import (
	"context"
	"time"
)

// Membership is the table of nodes and the table of partitions. It is the only
// place where ownership is decided, by compare-and-set.
type Membership interface {
	// Join adds a node incarnation with no renewals and no suspects, whatever
	// those fields say. It refuses what [Node.Validate] refuses. The node's Cluster must equal the
	// name the store was first joined under; otherwise a *[SetupError] says that
	// two clusters were pointed at one store. Its Lease must equal that of every
	// node that is not dead; otherwise a *[SetupError] names both. Concurrent
	// joins see each other. An ID that was ever used is refused with
	// [ErrNotMember].
	Join(ctx context.Context, node Node) error

	// Renew counts the node's renewal up by one, records its state and its
	// suspects in place of those before, and returns the view in the same round
	// trip. It returns [ErrNotMember] when the node has been evicted, and another
	// error for what [Renewal.Validate] refuses. It touches no partition row.
	Renew(ctx context.Context, renewal Renewal) (View, error)

	// View returns the tables without renewing anything.
	View(ctx context.Context) (View, error)

	// Leave marks the node dead and releases every partition it still owns, each
	// under the next epoch. Claims of the node that are on their way are either
	// among those or refused. Leaving twice is harmless, and so is leaving after
	// an eviction. A node that never joined is [ErrNotMember].
	Leave(ctx context.Context, node NodeID) error

	// Evict marks a node dead if its renewal counter still is what the caller
	// saw. It reports whether it did. The node's partitions stay as they are,
	// to be claimed one by one.
	Evict(ctx context.Context, victim NodeID, renewals int64) (bool, error)

	// Claim takes a partition over: epoch becomes seen+1, owner becomes node,
	// if the epoch is still the one seen; otherwise *[ClaimLostError]. It waits
	// for the append in flight under the old epoch, and after it returns no
	// append under an older epoch can commit (I1). It returns [ErrNotMember]
	// when node is not a live member. Claiming one's own partition again is how
	// an owner fences its own appends of unknown outcome.
	Claim(ctx context.Context, partition Partition, seen Epoch, node NodeID) (Tenure, error)

	// Release gives a partition up, or over to another member: epoch becomes
	// epoch+1, owner becomes to (empty for nobody), if node still owns it under
	// epoch; otherwise *[ClaimLostError]. The caller has drained its appends.
	Release(ctx context.Context, partition Partition, epoch Epoch, node, to NodeID) error

	// Verify reports for each fence whether, at one moment between call and
	// return, node owned the partition under that epoch and the log reached at
	// least Fence.Head, so that what was acknowledged up to there is still in it:
	// the barrier of I7. A head of 0 is reached by every log. One round trip for
	// any number of partitions.
	Verify(ctx context.Context, node NodeID, fences []Fence) ([]bool, error)
}

// Renewal is what a node tells of itself when it renews.
type Renewal struct {
	Node  NodeID
	State NodeState
	// Suspects are the node's votes: the members that it cannot reach. Stores
	// keep them as they are and draw no conclusion.
	Suspects []NodeID
}

// NodeState is where a node is in its life.
//
//	joining ──▶ active ──▶ draining ──▶ dead
//	   └───────────┴───────────────────▶ dead
type NodeState string

// The states of a node.
const (
	Joining  NodeState = "joining"
	Active   NodeState = "active"
	Draining NodeState = "draining"
	Dead     NodeState = "dead"
)

// Alive reports whether a node in the state is a member: it is joining, active
// or draining.
func (s NodeState) Alive() bool { return s == Joining || s == Active || s == Draining }

// Node is one incarnation of a process in the cluster.
type Node struct {
	ID      NodeID
	Cluster string
	// Address is where peers reach it, host:port.
	Address string
	// Types are the aggregate types it serves.
	Types []string
	// Weight is its share of the partitions relative to the weights of others.
	// 0 means 1; a node of negative weight takes none.
	Weight int
	State  NodeState
	// Renewals counts its renewals: others compare it with what they saw
	// before, by their own clock, and never with a time.
	Renewals int64
	// Lease is how long the node may answer from memory after a renewal, without
	// asking the store. Whoever takes a partition from it by force waits that
	// long (I8), and can know it only because it is the same for all nodes.
	// Stores keep microseconds. In a View it is 0 for a node that joined before
	// stores kept it; such a node is compared with nobody.
	Lease time.Duration
	// Suspects are the votes of its last renewal; see [Renewal].
	Suspects []NodeID
	// Host and Lock prove its death to nodes on the same machine: a file that
	// the process holds locked for as long as it lives. Empty when unused.
	Host, Lock string
}

// Ownership is a row of the partition table.
type Ownership struct {
	Partition Partition
	Epoch     Epoch
	Owner     NodeID // empty when nobody's
	// Released says that the last holder gave the partition away itself, so
	// that it certainly answers nothing for it any more (I8).
	Released bool
}

// View is the two tables at one moment.
type View struct {
	// Nodes are the members, ascending by id, bytewise.
	Nodes []Node
	// Dead are the nodes that are dead and still named as the owner of a
	// partition: they were evicted, and nobody has claimed it yet. Ascending by
	// id. Their Renewals are the last ones and their Lease is what it was, so
	// that whoever watched them knows when their leases ran out (I8). Their
	// Suspects count for nothing.
	Dead []Node
	// Partitions are all the partitions, ascending.
	Partitions []Ownership
	// Lineage is an opaque name of the line of history that the store's log is
	// on. Views of one lineage are of one log that only ever grew, as far as the
	// store can tell; when it changes, what was acknowledged before may be gone,
	// or never have been here, and Verify tells which. It does not change while
	// nothing happens to the store, and is never empty.
	Lineage string
}

// Tenure is what a claimer gets.
type Tenure struct {
	Partition Partition
	Epoch     Epoch
	// Head is the partition's last offset, read after the claim.
	Head Offset
	// Previous is who owned it before, under the epoch that was seen.
	Previous NodeID
	// Released is the row's flag before the claim.
	Released bool
}

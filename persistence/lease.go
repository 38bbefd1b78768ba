package persistence

import (
	"context"
	"time"
)

// Membership is the table of nodes and the table of partitions. It is the only
// place where ownership is decided, by compare-and-set.
type Membership interface {
	// Join adds a node incarnation. The node's Cluster must equal the name the
	// store was first joined under; otherwise a *[SetupError] says that two
	// clusters were pointed at one store. Its Lease must equal that of every
	// node that is not dead; otherwise a *[SetupError] names both. Concurrent
	// joins see each other. An ID that was ever used is refused with
	// [ErrNotMember].
	Join(ctx context.Context, node Node) error

	// Renew counts the node's renewal up by one, records its state, and returns
	// the view in the same round trip. It returns [ErrNotMember] when the node
	// has been evicted. It touches no partition row.
	Renew(ctx context.Context, node NodeID, state NodeState) (View, error)

	// View returns the tables without renewing anything.
	View(ctx context.Context) (View, error)

	// Leave marks the node dead and releases every partition it still owns, each
	// under the next epoch. Leaving twice is harmless.
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

	// Verify reports for each partition whether node owns it under the given
	// epoch at a moment between call and return: the barrier of I7. One round
	// trip for any number of partitions. Fence.Head is ignored.
	Verify(ctx context.Context, node NodeID, fences []Fence) ([]bool, error)
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

// Node is one incarnation of a process in the cluster.
type Node struct {
	ID      NodeID
	Cluster string
	// Address is where peers reach it, host:port.
	Address string
	// Types are the aggregate types it serves.
	Types []string
	State NodeState
	// Renewals counts its renewals: others compare it with what they saw
	// before, by their own clock, and never with a time.
	Renewals int64
	// Lease is how long the node may answer from memory after a renewal, without
	// asking the store. Whoever takes a partition from it by force waits that
	// long (I8), and can know it only because it is the same for all nodes.
	// Stores keep microseconds. In a View it is 0 for a node that joined before
	// stores kept it; such a node is compared with nobody.
	Lease time.Duration
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

// View is the two tables at one moment. Dead nodes are left out.
type View struct {
	Nodes      []Node
	Partitions []Ownership // ascending by partition, all of them
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

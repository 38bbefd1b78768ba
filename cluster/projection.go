package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// Projections run where the partitions are:
//
//	claimed, or given to us ──▶ Own      before the first commit
//	lane: durable ──────────▶ Publish    before the replies, see feed.go
//	to be handed over ──────▶ Suspend    tables and reactions, while it is served
//	drained ────────────────▶ Release    the rest, before the store's row changes
//
// What runs on after a partition was lost is fenced by the store (I1). A node
// whose views have not caught up is joining: the placement gives it nothing.

// errNoProjections says that Config.Projections is empty.
var errNoProjections = errors.New("the node has no projections")

// startProjections starts the node's projector, if there is anything to project.
func (n *Node) startProjections() (err error) {
	if len(n.config.Projections) == 0 {
		return nil
	}
	n.hasViews = views(n.config.Projections)
	n.projector, err = eventsourcing.StartProjector(eventsourcing.ProjectorConfig{
		Store: n.store, Projections: n.config.Projections, Clock: n.clock, Logger: n.log,
		Owned: n.owned, Vault: n.vault,
		OnCaughtUp: func() {
			n.log.Info("views have caught up", "node", n.ID())
			n.renewal.poke() // the others learn that it is active
			n.news.Announce()
		},
	})
	if err != nil {
		return err
	}
	stop, err := n.publishProjections()
	if err == nil {
		n.unpublish = unpublishing(n.unpublish, stop)
	}
	return err
}

// owned tells the projector under which epoch this node serves a partition, or has
// served it until a moment ago and not yet released it in the store.
func (n *Node) owned(p persistence.Partition) (persistence.NodeID, persistence.Epoch) {
	life := n.life.Load()
	if life == nil {
		return "", 0
	}
	epoch := life.host.Epoch(p)
	if given, ok := n.giving.Load(p); ok && epoch == 0 {
		epoch, _ = given.(persistence.Epoch)
	}
	return life.id, epoch
}

// beginProjecting takes the projections of a partition on. It comes before the
// partition is served, so that no commit goes unseen.
func (n *Node) beginProjecting(p persistence.Partition, head persistence.Offset) {
	if n.projector != nil {
		n.projector.Own(p, head)
	}
	for _, c := range n.couriers {
		c.Own(p)
	}
}

// suspendProjecting returns when no table and no reaction works on a partition any
// more, or there is no time left.
func (n *Node) suspendProjecting(ctx context.Context, p persistence.Partition) {
	if n.projector == nil {
		return
	}
	ctx, cancel := n.seams.Timeout(ctx, drainTimeout)
	defer cancel()
	n.projector.Suspend(ctx, p)
}

// endProjecting returns when the projections of a partition stand still here, or
// there is no time left.
func (n *Node) endProjecting(ctx context.Context, p persistence.Partition) {
	n.releaseProcesses(ctx, p)
	if n.projector == nil {
		return
	}
	ctx, cancel := n.seams.Timeout(ctx, drainTimeout)
	defer cancel()
	n.projector.Release(ctx, p)
}

// projecting reports whether the node's views have caught up with the log.
func (n *Node) projecting() bool { return n.projector == nil || n.projector.CaughtUp() }

// Projections tells how the node's projections fare: position, lag and rate.
func (n *Node) Projections() []eventsourcing.Progress {
	if n.projector == nil {
		return nil
	}
	return n.projector.Progress()
}

// WaitFor returns when a projection has seen the last event of a command: then a
// query of the read model shows what the command did. A table may be waited for
// on any node; a view or a local projection is that of the node itself. A receipt
// without events is waited for by nobody. The error is ctx's, or that the node
// has no such projection.
func WaitFor(ctx context.Context, node *Node, projection string, receipt aggregate.Receipt) error {
	if node.projector == nil {
		return fmt.Errorf("wait for projection %q: %w", projection, errNoProjections)
	}
	return node.projector.Wait(ctx, projection, persistence.Partition(receipt.Partition), persistence.Offset(receipt.Offset))
}

// Rebuild makes a view or a table anew from the log, beside the one that is read,
// and puts it in its place: see eventsourcing.Projector. A table is rebuilt by
// the whole cluster, a view on this node.
func (n *Node) Rebuild(ctx context.Context, projection string, progress func(eventsourcing.RebuildProgress)) error {
	if n.projector == nil {
		return fmt.Errorf("rebuild projection %q: %w", projection, errNoProjections)
	}
	return n.projector.Rebuild(ctx, projection, progress)
}

// DeadLetters lists up to limit events that a projection could not handle, or
// that stand behind such an event in their sequence; those behind after, by
// partition and offset. Those of a view are this node's.
func (n *Node) DeadLetters(ctx context.Context, projection string, after persistence.DeadLetterKey, limit int) ([]persistence.DeadLetter, error) {
	if n.projector == nil {
		return nil, errNoProjections
	}
	return n.projector.DeadLetters(ctx, projection, after, limit)
}

// RetryDeadLetters lets a parked sequence be handled again, by the node that
// handles its partition, and returns what becomes of its first letter. Those
// behind it follow by themselves.
func (n *Node) RetryDeadLetters(ctx context.Context, projection, sequence string) error {
	if n.projector == nil {
		return errNoProjections
	}
	return n.projector.Retry(ctx, projection, sequence)
}

// SkipDeadLetter drops the first letter of a parked sequence for good. Those
// behind it follow by themselves.
func (n *Node) SkipDeadLetter(ctx context.Context, projection, sequence string) error {
	if n.projector == nil {
		return errNoProjections
	}
	return n.projector.Skip(ctx, projection, sequence)
}

package cluster

import (
	"context"

	"github.com/ingrain-go/ingrain/persistence"
)

// The store is the truth, and the truth may be replaced: by a standby that is
// behind, or by a copy of last night. Two things tell:
//
//	its lineage is another, or it was away ... what we have acknowledged is looked
//	                                           for before a lease is extended again:
//	                                           what is there stays in memory
//	an epoch is lower than one we knew, or ... it is older than we are, or was, and
//	somebody else's                            has gone another way since. We keep
//	                                           nothing, and come back as another
//	                                           incarnation

// belief is what a node knows before it reads a view: none of it is newer.
type belief struct {
	life  persistence.NodeID
	rows  []persistence.Ownership
	owned []persistence.Fence
}

func (n *Node) belief(life *life) belief {
	b := belief{rows: n.table.Rows()}
	if life != nil {
		b.life, b.owned = life.id, life.host.Owned()
	}
	return b
}

// outlived corrects the table where a view contradicts what was known when it was
// asked for, and reports whether that is so of a partition that is served here.
func (r *renewal) outlived(b belief, view persistence.View) bool {
	n := r.node
	contradicts := func(epoch persistence.Epoch, owner persistence.NodeID, now persistence.Ownership) bool {
		return now.Epoch < epoch || now.Epoch == epoch && now.Owner != owner
	}
	back, ours := 0, 0
	for _, was := range b.rows {
		now := view.Partitions[was.Partition]
		if contradicts(was.Epoch, was.Owner, now) && n.table.SetBack(was, now) {
			back++
		}
	}
	for _, f := range b.owned {
		if contradicts(f.Epoch, b.life, view.Partitions[f.Partition]) {
			ours++
		}
	}
	if back == 0 && ours == 0 {
		return false
	}
	// who has not noticed yet answers from memory until its lease is over
	n.deaths.assume(n.clock.Now() + n.leaseElsewhere())
	if failures, log := r.setbacks.failed(n.clock.Now()); log || ours > 0 {
		n.log.Error("the store has gone back to an older state", "partitions", back, "served here", ours, "times", failures)
	}
	return ours > 0
}

// bow takes an incarnation that is over out of the store, where it may be a
// member. When that fails, the others see its silence.
func (r *renewal) bow(ctx context.Context, life *life, view persistence.View) {
	for i := range view.Nodes {
		if me := &view.Nodes[i]; me.ID == life.id {
			_, _ = r.node.store.Evict(ctx, me.ID, me.Renewals)
		}
	}
}

// notice looks at the lineage of a view. When it is another, the lease is over.
func (r *renewal) notice(life *life, lineage string) {
	if lineage == r.lineage {
		return
	}
	if r.lineage != "" {
		r.node.log.Warn("the store's log is on another line of history", "was", r.lineage, "is", lineage)
		r.unproven = true
		life.host.DropLease()
		life.leased.Store(0)
		if r.node.projector != nil {
			r.node.projector.Reread()
		}
	}
	r.lineage = lineage
}

// prove looks whether all that this node has acknowledged is still in the log,
// when there is reason to doubt it, and drops the partitions of which it is not.
// It reports whether the rest is proven, so that a lease may cover it.
//
// A partition is dropped at the second look: at the first, it may have fenced
// itself off (an append has had no answer) and not know yet under which epoch.
func (r *renewal) prove(ctx context.Context, life *life) (bool, error) {
	r.unproven = r.unproven || r.outage.failures > 0
	if !r.unproven {
		return true, nil
	}
	n := r.node
	if fences := life.host.Owned(); len(fences) > 0 {
		owned, err := n.store.Verify(ctx, life.id, fences)
		if err != nil {
			return false, err
		}
		lost, moved := 0, false
		doubted := r.doubted
		r.doubted = nil
		for i, f := range fences {
			switch held := life.host.Epoch(f.Partition); {
			case owned[i] || held == 0:
			case held != f.Epoch: // it has fenced itself meanwhile: look again
				moved = true
			case doubted[f.Partition] == f.Epoch:
				life.host.Lose(f.Partition)
				lost++
			default:
				if r.doubted == nil {
					r.doubted = map[persistence.Partition]persistence.Epoch{}
				}
				r.doubted[f.Partition] = f.Epoch
			}
		}
		if lost > 0 {
			n.log.Error("acknowledged commands are not in the log any more, or the partition is in other hands", "partitions", lost, "of", len(fences))
		}
		if moved {
			r.poke()
		}
		if moved || r.doubted != nil {
			return false, nil
		}
	}
	r.unproven = false
	return true, nil
}

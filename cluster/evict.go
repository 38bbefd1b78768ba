package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// fate is why a node was evicted.
type fate string

const (
	provenDead  fate = "proven dead" // the kernel released its lock
	silent      fate = "silent"      // it has not renewed for as long as we did
	unreachable fate = "unreachable" // it renews, and its peers cannot reach it
)

// watched is what the loop remembers of another node.
type watched struct {
	renewals  int64
	seenAt    time.Duration // when this many renewals were first seen
	unchanged int           // of our renewals since, at their usual distance
	lookedAt  time.Duration // when unchanged was last counted
	fate      fate          // by our own hand
}

// look takes in a node's counter.
func (w *watched) look(renewals int64, now time.Duration) {
	if renewals != w.renewals {
		*w = watched{renewals: renewals, seenAt: now, lookedAt: now}
	}
}

// miss counts a renewal of ours that showed nothing new of a node. Renewals that
// follow each other faster than usual, after hints, say nothing about others and
// count once.
func (w *watched) miss(now, every time.Duration) {
	if now-w.lookedAt >= every*3/4 {
		w.unchanged++
		w.lookedAt = now
	}
}

// watch takes in the counters of a view; counting says that the view came with a
// renewal.
func (r *renewal) watch(view persistence.View, counting bool) {
	now := r.node.clock.Now()
	for i := range view.Nodes {
		other := &view.Nodes[i]
		w := r.watched[other.ID]
		if w == nil {
			w = &watched{renewals: other.Renewals, seenAt: now, lookedAt: now}
			r.watched[other.ID] = w
		}
		w.look(other.Renewals, now)
		if counting {
			w.miss(now, r.node.renewEvery())
		}
	}
}

// due tells why a member is to be evicted; empty when it is not.
func (r *renewal) due(members []persistence.Node, member *persistence.Node) fate {
	n := r.node
	switch {
	case n.deaths.prove(member):
		return provenDead
	case r.watched[member.ID].unchanged >= suspicion:
		return silent
	case condemned(members, member.ID, n.contacts.refused(member.ID)):
		return unreachable
	}
	return ""
}

// bury evicts the members whose time has come.
func (r *renewal) bury(ctx context.Context, life *life, view persistence.View) {
	n := r.node
	for i := range view.Nodes {
		victim := &view.Nodes[i]
		if victim.ID == life.id {
			continue
		}
		why := r.due(view.Nodes, victim)
		if why == "" {
			continue
		}
		evicted, err := n.store.Evict(ctx, victim.ID, victim.Renewals)
		if err != nil {
			if failures, log := r.burials.failed(n.clock.Now()); log {
				n.log.Warn("node not evicted", "victim", victim.ID, "failures", failures, "error", err)
			}
			continue
		}
		r.burials.over(n.clock.Now())
		if evicted {
			r.watched[victim.ID].fate = why
			n.stats.evictions.Add(1)
			n.log.Info("node evicted", "victim", victim.ID, "address", victim.Address, "reason", string(why))
		}
		r.poke() // read the view without it
	}
}

// mourn takes note of the nodes that are members no more, before they are
// forgotten. Unless they are proven dead they may still answer from memory. When
// that ends is known of those whose last renewal was seen here: it was sent
// before (I8). Of the others it is assumed to have been sent just now.
func (r *renewal) mourn(before *membershipView, view persistence.View) {
	n := r.node
	now := n.clock.Now()
	dead := make(map[persistence.NodeID]bool, len(view.Dead))
	for i := range view.Dead {
		gone := &view.Dead[i]
		dead[gone.ID] = true
		if n.deaths.prove(gone) {
			continue
		}
		last := now
		if w := r.watched[gone.ID]; w != nil && w.renewals == gone.Renewals {
			last = w.seenAt
		}
		n.deaths.lapse(gone.ID, last+n.leaseElsewhere())
	}
	if before == nil {
		return
	}
	present := make(map[persistence.NodeID]bool, len(view.Nodes))
	for i := range view.Nodes {
		present[view.Nodes[i].ID] = true
	}
	for i := range before.list {
		gone := &before.list[i]
		if present[gone.ID] {
			continue
		}
		if !n.deaths.prove(gone) {
			n.deaths.lapse(gone.ID, now+n.leaseElsewhere())
		}
		if gone.Address != n.address { // else it was this node itself
			n.log.Info("node left", "node", gone.ID, "address", gone.Address, "reason", r.reason(before.list, gone, dead[gone.ID]))
		}
		delete(r.watched, gone.ID)
	}
}

// reason says why a node is a member no more, as far as can be told from here:
// the store keeps who is dead, and not why.
func (r *renewal) reason(members []persistence.Node, gone *persistence.Node, owner bool) string {
	n, w := r.node, r.watched[gone.ID]
	why := fate("")
	switch {
	case n.deaths.proven(gone.ID):
		why = provenDead
	case w != nil && w.fate != "":
		why = w.fate
	case !owner && (gone.State == persistence.Draining || n.heardLeaving(gone.ID)):
		return "left"
	case condemned(members, gone.ID, n.contacts.refused(gone.ID)) || slices.Contains(n.contacts.suspects(), gone.ID):
		why = unreachable
	case owner || w != nil && w.unchanged > 1:
		why = silent
	default:
		return "left"
	}
	return "evicted: " + string(why)
}

// heardLeaving reports whether a node has said that it leaves.
func (n *Node) heardLeaving(id persistence.NodeID) bool {
	p := n.knownPeer(id)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaving
}

package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// driftBound is how much faster or slower another machine's clock may run,
// relative to ours: generous by a factor of ten for any clock that works.
const driftBound = 1e-3

// renewals in one lease, so that a lost one or two cost nothing
const renewalsPerLease = 4

// suspicion is how many of our own renewals in a row must show a node's counter
// unmoved before it is taken for dead. It counts our renewals, not time: when
// the store stalls, it stalls for all, and nobody is suspected.
const suspicion = renewalsPerLease + 1

// renewal is the membership loop: it renews the lease, reads the view, and acts
// on what it says.
//
//	every lease/4, or at a hint:
//	  renew ─▶ lose what the view no longer gives us ─▶ extend the lease
//	        ─▶ learn table and members ─▶ evict the dead ─▶ claim, hand over
//
// Losing comes before extending: the lease covers only what the renewal
// confirmed (I7).
type renewal struct {
	node  *Node
	hints chan struct{} // capacity 1: look at once

	mu      sync.Mutex // one round at a time: Stop does the last one
	watched map[persistence.NodeID]*watched
	outage  outage
}

// watched is what the loop remembers of another node.
type watched struct {
	renewals  int64
	seenAt    time.Duration // when this many renewals were first seen
	unchanged int           // of our renewals since, at their usual distance
	lookedAt  time.Duration // when unchanged was last counted
}

func newRenewal(n *Node) *renewal {
	return &renewal{node: n, hints: make(chan struct{}, 1), watched: map[persistence.NodeID]*watched{}}
}

// look takes in a node's counter. Renewals that follow each other faster than
// usual, after hints, say nothing about others and count once.
func (w *watched) look(renewals int64, now, every time.Duration) {
	switch {
	case renewals != w.renewals:
		*w = watched{renewals: renewals, seenAt: now, lookedAt: now}
	case now-w.lookedAt >= every*3/4:
		w.unchanged++
		w.lookedAt = now
	}
}

// poke asks for a look at the view before its time.
func (r *renewal) poke() {
	select {
	case r.hints <- struct{}{}:
	default:
	}
}

// deathWatch is how often a node looks for proof that a member on the same
// machine is dead. A look costs a few microseconds.
const deathWatch = 50 * time.Millisecond

func (r *renewal) run() {
	n := r.node
	every := n.renewEvery()
	next := n.clock.Now() + every
	for {
		due := make(chan struct{})
		stop := n.clock.AfterFunc(min(deathWatch, max(next-n.clock.Now(), 0)), func() { close(due) })
		select {
		case <-due:
			if n.clock.Now() < next && !r.deathSeen() {
				if r.orphans() {
					r.look(n.ctx)
				}
				continue
			}
		case <-r.hints:
			stop()
		case <-n.done:
			stop()
			return
		}
		r.renew(n.ctx)
		next = n.clock.Now() + every
	}
}

// deathSeen reports whether a member of the last view has since provably died.
func (r *renewal) deathSeen() bool {
	view := r.node.view.Load()
	if view == nil {
		return false
	}
	for i := range view.list {
		if r.node.deaths.prove(&view.list[i]) {
			return true
		}
	}
	return false
}

// orphans reports whether a partition is in the hands of nobody who lives: then
// its new owner is awaited.
func (r *renewal) orphans() bool {
	n := r.node
	for p := range n.partitions {
		if _, ok := n.member(n.table.Owner(persistence.Partition(p)).Owner); !ok {
			return true
		}
	}
	return false
}

// look reads the view without renewing anything.
func (r *renewal) look(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.node
	life := n.life.Load()
	if life == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Lease)
	defer cancel()
	if view, err := n.store.View(ctx); err == nil { // the next renewal reports what is wrong
		r.confirm(life, view)
		n.observe(view)
		n.claims.poke()
	}
}

func (n *Node) renewEvery() time.Duration { return n.config.Lease / renewalsPerLease }

// renew does one round.
func (r *renewal) renew(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.node
	life := n.life.Load()
	ctx, cancel := context.WithTimeout(ctx, n.config.Lease)
	defer cancel()
	if life == nil {
		r.rejoin(ctx)
		return
	}
	sent := n.clock.Now()
	n.stats.renewals.Add(1)
	view, err := n.store.Renew(ctx, life.id, n.state())
	switch {
	case errors.Is(err, persistence.ErrNotMember):
		n.log.Warn("evicted from the cluster, coming back as another incarnation", "node", life.id)
		n.abandonLife(life)
		r.rejoin(ctx)
		return
	case n.stopped():
		return
	case err != nil:
		n.stats.renewalsFailed.Add(1)
		if failures, log := r.outage.failed(n.clock.Now()); log {
			n.log.Warn("lease not renewed", "node", life.id, "failures", failures, "error", err)
		}
		return
	}
	r.confirm(life, view)
	until := sent + time.Duration(float64(n.config.Lease)*(1-driftBound))
	life.host.ExtendLease(until)
	before := life.leased.Swap(int64(until))
	lapsed := int64(n.clock.Now()) >= before // looked at after the swap: whoever saw the lapse is told
	if failures, lasted := r.outage.over(n.clock.Now()); failures > 0 {
		n.log.Info("lease renewed again", "node", life.id, "failures", failures, "after", lasted)
	}
	n.observe(view)
	if lapsed {
		n.news.announce()
	}
	r.bury(ctx, life, view)
	n.claims.poke()
}

// rejoin comes back as a new incarnation after an eviction.
func (r *renewal) rejoin(ctx context.Context) {
	n := r.node
	if n.draining.Load() {
		return
	}
	if err := n.join(ctx); err != nil {
		if failures, log := r.outage.failed(n.clock.Now()); log {
			n.log.Warn("not joined again", "failures", failures, "error", err)
		}
		return
	}
	n.stats.rejoins.Add(1)
	r.poke()
}

// confirm drops the partitions that are in other hands.
func (r *renewal) confirm(life *life, view persistence.View) {
	for _, row := range view.Partitions {
		held := life.host.Epoch(row.Partition)
		if held != 0 && (row.Epoch > held || row.Epoch == held && row.Owner != life.id) && !r.ours(life, row) {
			life.host.Lose(row.Partition)
		}
	}
}

// ours reports whether a row that is ahead of the host is this node's own doing:
// it has fenced itself and not yet noted it.
func (r *renewal) ours(life *life, row persistence.Ownership) bool {
	return row.Owner == life.id && !row.Released
}

// bury evicts the nodes that are dead: those that provably are, and those that
// have not renewed for as long as we did.
func (r *renewal) bury(ctx context.Context, life *life, view persistence.View) {
	n := r.node
	now := n.clock.Now()
	present := map[persistence.NodeID]bool{}
	for _, other := range view.Nodes {
		present[other.ID] = true
		if other.ID == life.id {
			continue
		}
		w := r.watched[other.ID]
		if w == nil {
			w = &watched{renewals: other.Renewals, seenAt: now, lookedAt: now}
			r.watched[other.ID] = w
		}
		w.look(other.Renewals, now, n.renewEvery())
		proven := n.deaths.prove(&other)
		if !proven && w.unchanged < suspicion {
			continue
		}
		evicted, err := n.store.Evict(ctx, other.ID, other.Renewals)
		if err != nil {
			n.log.Warn("node not evicted", "victim", other.ID, "error", err)
			continue
		}
		if evicted {
			if !proven { // it renewed for the last time before we first saw that it had
				n.deaths.lapse(other.ID, w.seenAt+n.leaseElsewhere())
			}
			n.stats.evictions.Add(1)
			n.log.Info("node evicted", "victim", other.ID, "proven dead", proven)
		}
		r.poke() // read the view without it
	}
	for id := range r.watched {
		if !present[id] {
			delete(r.watched, id)
		}
	}
}

// observe takes in a view: members and table.
func (n *Node) observe(view persistence.View) {
	nodes := make(map[persistence.NodeID]persistence.Node, len(view.Nodes))
	for _, node := range view.Nodes {
		nodes[node.ID] = node
	}
	for _, node := range view.Nodes {
		n.longestLease.Store(max(n.longestLease.Load(), int64(node.Lease)))
	}
	previous := n.view.Swap(&membershipView{nodes: nodes, list: view.Nodes, rows: view.Partitions})
	if previous != nil {
		n.mourn(previous.list, nodes)
		n.logChanges(previous, nodes)
	}
	changed := len(n.table.Update(view)) > 0
	if previous == nil || !previous.sameMembers(view.Nodes) {
		changed = true
		if n.provider != nil {
			n.provider.feed(view.Nodes)
		}
	}
	n.dropPeers(func(id persistence.NodeID) bool { _, ok := nodes[id]; return ok })
	if changed {
		n.news.announce()
	}
}

// mourn takes note of the members that a view does not have any more. What they
// may still answer from memory is over one lease from now, if it is not already.
func (n *Node) mourn(before []persistence.Node, now map[persistence.NodeID]persistence.Node) {
	for _, gone := range before {
		if _, ok := now[gone.ID]; !ok && !n.deaths.prove(&gone) {
			n.deaths.lapse(gone.ID, n.clock.Now()+n.leaseElsewhere())
		}
	}
}

// logChanges tells who has come and gone since the view before. This node's own
// incarnations share its address.
func (n *Node) logChanges(before *membershipView, now map[persistence.NodeID]persistence.Node) {
	for _, gone := range before.list {
		if _, ok := now[gone.ID]; !ok && gone.Address != n.address {
			n.log.Info("node left", "node", gone.ID, "address", gone.Address)
		}
	}
	for id, come := range now {
		if _, ok := before.nodes[id]; !ok && come.Address != n.address {
			n.log.Info("node joined", "node", id, "address", come.Address)
		}
	}
}

// leaseElsewhere is how long, by our clock, a lease of another node can last.
// The store refuses nodes of different leases; what was seen counts all the same.
func (n *Node) leaseElsewhere() time.Duration {
	longest := max(n.config.Lease, time.Duration(n.longestLease.Load()))
	return time.Duration(float64(longest) * (1 + driftBound))
}

// learn takes in one row of the table, from a peer or from our own doing.
func (n *Node) learn(row persistence.Ownership) {
	if n.table.Learn(row) {
		n.news.announce()
	}
}

// membershipView is one view of the store. It is immutable.
type membershipView struct {
	nodes map[persistence.NodeID]persistence.Node
	list  []persistence.Node
	rows  []persistence.Ownership
}

func (v *membershipView) sameMembers(list []persistence.Node) bool {
	if len(list) != len(v.list) {
		return false
	}
	for _, n := range list {
		if old, ok := v.nodes[n.ID]; !ok || old.State != n.State {
			return false
		}
	}
	return true
}

func (n *Node) member(id persistence.NodeID) (persistence.Node, bool) {
	view := n.view.Load()
	if view == nil {
		return persistence.Node{}, false
	}
	m, ok := view.nodes[id]
	return m, ok
}

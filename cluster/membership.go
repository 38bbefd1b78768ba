package cluster

import (
	"context"
	"errors"
	"fmt"
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
//	  ping ─▶ renew, and say who does not answer
//	       ─▶ lose what the view no longer gives us ─▶ extend the lease
//	       ─▶ learn table and members ─▶ evict who is dead, or cannot be reached
//	       ─▶ claim, hand over
//
// Losing comes before extending: the lease covers only what the renewal
// confirmed (I7).
type renewal struct {
	node  *Node
	hints chan struct{} // capacity 1: look at once

	mu       turn // one round at a time: Stop does the last one
	watched  map[persistence.NodeID]*watched
	lineage  string                                      // of the last view
	unproven bool                                        // what we have acknowledged may be gone from the log
	doubted  map[persistence.Partition]persistence.Epoch // what was not proven at the last look
	outage   outage
	burials  outage // of evictions
	setbacks outage // of the store, to an older state
}

func newRenewal(n *Node) *renewal {
	return &renewal{node: n, hints: make(chan struct{}, 1), mu: newTurn(), watched: map[persistence.NodeID]*watched{}}
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
	for !n.stopped() {
		due := make(chan struct{})
		stop := n.clock.AfterFunc(min(deathWatch, max(next-n.clock.Now(), 0)), func() { close(due) })
		select {
		case <-due:
			if n.clock.Now() < next && !r.deathSeen() {
				if r.orphans() || n.contacts.urgent() {
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
	ctx, cancel := n.seams.Timeout(ctx, n.config.Lease)
	defer cancel()
	known := n.belief(life)
	view, err := n.store.View(ctx)
	if err != nil {
		return // the next renewal reports what is wrong
	}
	if !r.read(ctx, life, known, view) {
		return
	}
	if r.unproven {
		r.poke() // there is no lease until a renewal
	}
	n.observe(view, false)
	r.bury(ctx, life, view)
	n.claims.poke()
}

// read loses what a view no longer gives to an incarnation. It reports false
// when the incarnation is over.
func (r *renewal) read(ctx context.Context, life *life, known belief, view persistence.View) bool {
	n := r.node
	if r.outlived(known, view) {
		n.abandonLife(life)
		r.bow(ctx, life, view)
		n.observe(view, false)
		r.poke() // come back
		return false
	}
	r.confirm(life, view)
	r.notice(life, view.Lineage)
	return true
}

func (n *Node) renewEvery() time.Duration { return n.config.Lease / renewalsPerLease }

// renew does one round.
func (r *renewal) renew(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.node
	life := n.life.Load()
	ctx, cancel := n.seams.Timeout(ctx, n.config.Lease)
	defer cancel()
	if life == nil {
		r.rejoin(ctx)
		return
	}
	if last := n.view.Load(); last != nil && r.outage.failures == 0 {
		n.contacts.ping(last.list, life.id)
	}
	known := n.belief(life)
	sent := n.clock.Now()
	n.stats.renewals.Add(1)
	view, err := n.store.Renew(ctx, persistence.Renewal{Node: life.id, State: n.state(), Suspects: n.contacts.suspects()})
	switch {
	case errors.Is(err, persistence.ErrNotMember):
		n.log.Warn("evicted from the cluster, coming back as another incarnation", "node", life.id)
		n.abandonLife(life)
		r.rejoin(ctx)
		return
	case n.stopped():
		return
	case err != nil:
		r.failed(life, err)
		return
	}
	if !r.read(ctx, life, known, view) {
		return
	}
	switch proven, err := r.prove(ctx, life); {
	case err != nil:
		r.failed(life, err)
	case proven:
		r.extend(life, sent)
	}
	n.observe(view, true)
	n.contacts.report(view.Nodes)
	r.bury(ctx, life, view)
	n.claims.poke()
}

// failed takes note of a renewal that came to nothing.
func (r *renewal) failed(life *life, err error) {
	n := r.node
	n.stats.renewalsFailed.Add(1)
	if int64(n.clock.Now()) >= life.leased.Load() {
		life.host.LoseStore(err)
	}
	if failures, log := r.outage.failed(n.clock.Now()); log {
		n.log.Warn("lease not renewed", "node", life.id, "failures", failures, "error", err)
	}
}

// extend begins a lease with a renewal that was sent at a moment.
func (r *renewal) extend(life *life, sent time.Duration) {
	n := r.node
	until := sent + time.Duration(float64(n.config.Lease)*(1-driftBound))
	life.host.ExtendLease(until)
	before := life.leased.Swap(int64(until))
	lapsed := int64(n.clock.Now()) >= before // looked at after the swap: whoever saw the lapse is told
	if failures, lasted := r.outage.over(n.clock.Now()); failures > 0 {
		n.log.Info("lease renewed again", "node", life.id, "failures", failures, "after", lasted)
	}
	if lapsed {
		n.news.Announce()
	}
}

// rejoin comes back as a new incarnation after an eviction, if the others can be
// reached: else they would evict it again.
func (r *renewal) rejoin(ctx context.Context) {
	n := r.node
	if n.draining.Load() {
		return
	}
	known := n.belief(nil)
	view, err := n.store.View(ctx)
	if err == nil {
		r.outlived(known, view)
		n.observe(view, true)
		var answer bool
		if answer, err = r.others(view); err == nil && !answer {
			return // a pong will wake us
		}
	}
	if err == nil {
		err = n.join(ctx)
	}
	if err != nil {
		if failures, log := r.outage.failed(n.clock.Now()); log {
			n.log.Warn("not joined again", "failures", failures, "error", err)
		}
		return
	}
	n.endSessions() // replies to what was asked meanwhile, under the former name, were dropped
	n.stats.rejoins.Add(1)
	r.poke()
}

// others pings the members of a view, and reports whether more than half of them
// have answered, or there is none. Members that are dead and not evicted yet do
// not count. When they had time to answer and did not, that is an error.
func (r *renewal) others(view persistence.View) (answer bool, err error) {
	n := r.node
	var members []persistence.Node
	for i := range view.Nodes {
		if m := &view.Nodes[i]; !n.deaths.prove(m) && r.watched[m.ID].unchanged < suspicion {
			members = append(members, *m)
		}
	}
	me, _ := n.name.Load().(persistence.NodeID)
	n.contacts.ping(members, me)
	reached, rounds := n.contacts.reach(members)
	switch {
	case 2*reached > len(members) || len(members) == 0:
		return true, nil
	case rounds > 1:
		return false, fmt.Errorf("of %d members %d answer", len(members), reached)
	}
	return false, nil
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

// observe takes in a view: members and table. It is the membership loop's, whose
// lock is held; renewed says that the view came with a renewal.
func (n *Node) observe(view persistence.View, renewed bool) {
	nodes := make(map[persistence.NodeID]persistence.Node, len(view.Nodes))
	for _, node := range view.Nodes {
		nodes[node.ID] = node
	}
	for _, list := range [][]persistence.Node{view.Nodes, view.Dead} {
		for i := range list {
			n.longestLease.Store(max(n.longestLease.Load(), int64(list[i].Lease)))
		}
	}
	n.renewal.watch(view, renewed)
	previous := n.view.Load()
	n.renewal.mourn(previous, view) // before anybody sees that they are gone, and claims what was theirs
	n.view.Store(&membershipView{nodes: nodes, list: view.Nodes, rows: view.Partitions})
	if previous != nil {
		n.logArrivals(previous, view.Nodes)
	}
	rows := n.table.Update(view)
	n.claims.notice(rows...)
	changed := len(rows) > 0
	if previous == nil || !previous.sameMembers(view.Nodes) {
		changed = true
		if n.provider != nil {
			n.provider.feed(view.Nodes)
		}
	}
	n.dropPeers(func(id persistence.NodeID) bool { _, ok := nodes[id]; return ok })
	if changed {
		n.news.Announce()
		n.parking.reviewAll()
	}
}

// logArrivals tells who has come since the view before. This node's own
// incarnations share its address.
func (n *Node) logArrivals(before *membershipView, now []persistence.Node) {
	for i := range now {
		come := &now[i]
		if _, ok := before.nodes[come.ID]; !ok && come.Address != n.address {
			n.log.Info("node joined", "node", come.ID, "address", come.Address)
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
	if !n.table.Learn(row) {
		return
	}
	n.claims.notice(row)
	n.news.Announce()
	n.parking.review(row.Partition)
	if row.Owner != "" && row.Owner == n.ID() {
		n.claims.poke()
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

package cluster

import (
	"context"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// A node that leaves has given its partitions away, but peers may still wait for
// its replies, and its own callers for theirs. So it does not just hang up:
//
//	leaver ── leaving ──▶ peer    asks the leaver nothing more
//	       ◀─ replies ──▶
//	       ◀─ farewell ──         when it waits for no reply of the leaver any more
//	       ── farewell ──▶        its last word: whoever leaves next need not wait for it
//
// farewellTimeout bounds the wait. Members that are gone from the view are not
// waited for.
const farewellTimeout = time.Second

// goodbye returns when no other member waits for a reply of this node, and no
// caller here for one of theirs, or when there is no time left.
func (n *Node) goodbye(ctx context.Context) {
	n.closing.Store(true)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := n.clock.AfterFunc(farewellTimeout, cancel)
	defer stop()
	for _, p := range n.others() {
		p.mu.Lock()
		p.say.leaving = true
		p.mu.Unlock()
		p.signal()
	}
	for {
		parting := n.partings.Listen()
		if n.parted() {
			return
		}
		select {
		case <-parting:
		case <-ctx.Done():
			return
		}
	}
}

// parted reports whether nobody waits for anybody.
func (n *Node) parted() bool {
	for _, p := range n.others() {
		p.mu.Lock()
		farewell := p.farewell
		p.mu.Unlock()
		if !farewell || p.inflight.Load() > 0 {
			return false
		}
	}
	return true
}

// others are the other members, as peers.
func (n *Node) others() []*peer {
	var list []*peer
	for _, m := range n.Members() {
		if p := n.peerOf(m.ID); p != nil {
			list = append(list, p)
		}
	}
	return list
}

// hangUp says the last word to everybody: what this node has asked and nobody
// has answered is given up.
func (n *Node) hangUp() {
	for _, p := range n.others() {
		p.sayFarewell()
	}
}

// leavesUs takes note that a peer is leaving.
func (n *Node) leavesUs(id persistence.NodeID, address string) {
	p := n.peerAt(id, address)
	if p == nil {
		return
	}
	p.mu.Lock()
	p.leaving = true
	p.mu.Unlock()
	n.contacts.leaves(id)
	if p.inflight.Load() == 0 {
		p.sayFarewell()
	}
}

// partWith takes note that a peer waits for nothing of ours.
func (p *peer) partWith() {
	p.mu.Lock()
	p.farewell = true
	p.mu.Unlock()
	p.node.partings.Announce()
}

// answered notes that one call of ours is not in flight any more.
func (p *peer) answered() {
	if p.inflight.Add(-1) > 0 {
		return
	}
	p.mu.Lock()
	leaving := p.leaving
	p.mu.Unlock()
	if leaving {
		p.sayFarewell()
	}
	if p.node.closing.Load() {
		p.node.partings.Announce()
	}
}

func (p *peer) sayFarewell() {
	p.mu.Lock()
	p.say.farewell = true
	p.mu.Unlock()
	p.signal()
}

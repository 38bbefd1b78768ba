package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
)

// contacts is what this node knows about reaching the other members. It pings
// each of them with its renewals. An answer proves both directions, and so does
// a reply to a call; whatever else arrives proves only one, and does not count.
//
//	reached ── no answer to so many pings as make a suspicion ──▶ suspected
//	   │  ▲                                                         │  ▲
//	   │  └────────────── an answer to a later ping ────────────────┘  │
//	   └── the connection broke, and its machine says that nobody ─────┘
//	       listens there
//
// Pings are counted, not timed, and only while our own renewals succeed: a node
// that was frozen, or has lost the store, suspects nobody.
type contacts struct {
	node *Node
	byID atomic.Pointer[map[persistence.NodeID]*contact] // replaced as a whole

	mu       sync.Mutex
	list     []*contact // in the order of the view
	number   uint64     // of the last pings
	rounds   int        // of pings since there was nobody in the list
	pingedAt time.Duration
}

// contact is one other member.
type contact struct {
	id      persistence.NodeID
	address string

	since  uint64        // the number of the last ping before it was known
	heard  atomic.Uint64 // the highest number it has answered
	silent atomic.Int32  // pings since the last answer

	// under the lock of the contacts
	suspected bool
	refused   bool          // nobody listens there
	refusedAt time.Duration // when that was first said
	refusedBy uint64        // the number of the last ping before
	probing   bool
	eager     int   // so many probes more, unless one is refused
	cause     error // what the last probe said
	trouble   outage
	detour
}

func newContacts(n *Node) *contacts {
	c := &contacts{node: n}
	c.byID.Store(&map[persistence.NodeID]*contact{})
	return c
}

// ping asks all other members whether they are there, unless that was done a
// moment ago, and sees who has not answered before.
func (c *contacts) ping(members []persistence.Node, from persistence.NodeID) {
	n := c.node
	now := n.clock.Now()
	c.mu.Lock()
	if len(c.list) > 0 && now-c.pingedAt < n.renewEvery()*3/4 {
		c.mu.Unlock()
		return
	}
	c.pingedAt = now
	c.meet(members, from)
	c.number++
	c.rounds++
	number, list := c.number, c.list
	var look, lost []*contact
	for _, k := range list {
		if k.suspected = k.silent.Load() >= suspicion; k.suspected || k.refused {
			look = append(look, k)
		}
		before := k.lost
		if k.lost = k.silent.Load() >= lostAfter; k.lost && !before {
			lost = append(lost, k)
		}
		k.silent.Add(1)
	}
	given := c.steer()
	c.mu.Unlock()
	c.giveUp(given)
	for _, k := range lost {
		c.dropped(k.id, false)
	}
	for _, k := range list {
		n.network.Send(k.address, &wire.Envelope{From: string(from), To: string(k.id), Address: n.address, Ping: number})
	}
	for _, k := range look {
		c.probe(k, 0) // to tell the operator more than that it is silent
	}
}

// meet takes in who is a member. The contacts are locked.
func (c *contacts) meet(members []persistence.Node, me persistence.NodeID) {
	known, byID := *c.byID.Load(), make(map[persistence.NodeID]*contact, len(members))
	c.list = make([]*contact, 0, len(members))
	for i := range members {
		m := &members[i]
		if m.ID == me {
			continue
		}
		k := known[m.ID]
		if k == nil {
			k = &contact{id: m.ID, address: m.Address, since: c.number}
			c.node.warnOfLoopback(m)
		}
		k.suspects, k.leaving = m.Suspects, k.leaving || m.State == persistence.Draining
		c.list = append(c.list, k)
		byID[m.ID] = k
	}
	c.byID.Store(&byID)
}

// forget begins anew, for another incarnation of this node.
func (c *contacts) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.rounds = nil, 0
	c.byID.Store(&map[persistence.NodeID]*contact{})
}

// answered takes note that a member has answered a ping.
func (c *contacts) answered(id persistence.NodeID, number uint64) {
	k := (*c.byID.Load())[id]
	if k == nil {
		return
	}
	c.mu.Lock()
	var given []*contact
	first := k.heard.Load() == 0
	fresh := number > max(k.since, k.heard.Load()) && number <= c.number
	if fresh {
		k.heard.Store(number)
		k.silent.Store(0)
		k.suspected = false
		k.refused = k.refused && number <= k.refusedBy
		if k.lost || first || k.via.Load() != nil {
			k.lost = false
			given = c.steer()
		}
	}
	c.mu.Unlock()
	c.giveUp(given)
	if fresh && first && c.node.life.Load() == nil {
		c.node.renewal.poke() // it may be the one that was missing
	}
}

// replied takes note that a member has replied to calls. What was asked through
// another proves nothing about the way there.
func (c *contacts) replied(id persistence.NodeID) {
	if k := (*c.byID.Load())[id]; k != nil && k.silent.Load() > 1 && k.via.Load() == nil {
		k.silent.Store(1) // the ping under way
	}
}

// pong answers a ping.
func (n *Node) pong(e *wire.Envelope, me persistence.NodeID) {
	n.network.Send(e.Address, &wire.Envelope{From: string(me), To: e.From, Address: n.address, Pong: e.Ping})
}

// suspects are the members that this node cannot reach, in the order of the view.
func (c *contacts) suspects() []persistence.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []persistence.NodeID
	for _, k := range c.list {
		if k.suspected || k.refused {
			list = append(list, k.id)
		}
	}
	return list
}

// refused reports whether nobody listens at a member's address, as its machine
// says.
func (c *contacts) refused(id persistence.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := (*c.byID.Load())[id]
	return k != nil && k.refused
}

// urgent reports whether somebody has begun to refuse less than a lease ago: the
// votes of others may come at any moment.
func (c *contacts) urgent() bool {
	now := c.node.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.list, func(k *contact) bool { return k.refused && now-k.refusedAt < c.node.config.Lease })
}

// reach tells how many of some members have answered, and how many rounds of
// pings there were.
func (c *contacts) reach(members []persistence.Node) (reached, rounds int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byID := *c.byID.Load()
	for i := range members {
		if k := byID[members[i].ID]; k != nil && k.heard.Load() > 0 {
			reached++
		}
	}
	return reached, c.rounds
}

// broke looks at once who is still there, when the connection to an address
// broke.
func (c *contacts) broke(address string) {
	c.mu.Lock()
	list := c.list
	c.mu.Unlock()
	for _, k := range list {
		if via := k.via.Load(); via != nil && via.address == address {
			c.giveUp([]*contact{k})
		}
		if k.address == address {
			c.probe(k, eagerProbes)
		}
	}
}

// A process that is killed loses its connections one after the other, and may
// listen for a moment longer: after a broken connection there are so many probes
// more, the first after a pause that doubles each time.
const (
	eagerProbes = 6
	eagerPause  = 5 * time.Millisecond
)

// probe asks the machine of a member whether anybody listens there, and does not
// wait for the answer.
func (c *contacts) probe(k *contact, eager int) {
	n := c.node
	prober, ok := n.network.(Prober)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k.eager = max(k.eager, eager)
	if k.probing {
		return
	}
	k.probing = n.spawn(func() {
		pause := eagerPause
		for {
			ctx, cancel := n.seams.Timeout(n.ctx, n.config.Lease)
			err := prober.Probe(ctx, k.address)
			cancel()
			if !c.probed(k, err) || !n.pause(pause) {
				return
			}
			pause *= 2
		}
	})
}

// probed takes in what a probe has found, and reports whether to probe again.
func (c *contacts) probed(k *contact, err error) (again bool) {
	refused := errors.Is(err, syscall.ECONNREFUSED)
	var given []*contact
	defer func() { c.giveUp(given) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	if refused && !k.refused {
		k.refusedAt, k.refusedBy = c.node.clock.Now(), c.number
		defer c.node.renewal.poke() // the others are told
	}
	if k.cause = err; k.refused != refused {
		k.refused = refused
		given = c.steer()
	}
	k.probing = !refused && k.eager > 0 && c.node.ctx.Err() == nil
	k.eager = max(k.eager-1, 0)
	return k.probing
}

// pause waits; false when the node stops meanwhile.
func (n *Node) pause(d time.Duration) bool {
	over := make(chan struct{})
	stop := n.clock.AfterFunc(d, func() { close(over) })
	select {
	case <-over:
		return true
	case <-n.done:
		stop()
		return false
	}
}

// report tells the operator which of the members cannot be reached. The view is
// newer than the suspicions: who has left meanwhile is no trouble.
func (c *contacts) report(members []persistence.Node) {
	n := c.node
	now := n.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.list {
		if !slices.ContainsFunc(members, func(m persistence.Node) bool { return m.ID == k.id }) {
			continue
		}
		if !k.suspected && !k.refused {
			if failures, lasted := k.trouble.over(now); failures > 0 {
				n.log.Info("peer reached again", "node", k.id, "address", k.address, "after", lasted)
			}
			continue
		}
		failures, log := k.trouble.failed(now)
		if failures == 1 {
			n.stats.unreached.Add(1)
		}
		if log {
			n.log.Warn("peer not reached", "node", k.id, "address", k.address, "failures", failures, "error", k.failure())
		}
	}
}

// failure says why a contact is suspected. The contacts are locked.
func (k *contact) failure() error {
	if k.cause != nil {
		return k.cause
	}
	return fmt.Errorf("no answer to %d pings", k.silent.Load())
}

// warnOfLoopback tells of addresses that only their own machine can reach.
func (n *Node) warnOfLoopback(m *persistence.Node) {
	host := n.deaths.locks.Host()
	if host == "" || m.Host == "" || m.Host == host {
		return
	}
	if loopback(m.Address) {
		n.log.Warn("a member on another machine advertises a loopback address", "node", m.ID, "address", m.Address)
	}
	if loopback(n.address) {
		n.log.Warn("this node advertises a loopback address, and there is a member on another machine",
			"address", n.address, "member", m.ID, "theirs", m.Address)
	}
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// spawn runs f on a goroutine that Stop waits for; false when it is too late.
func (n *Node) spawn(f func()) bool {
	n.peers.mu.RLock()
	defer n.peers.mu.RUnlock()
	if n.peers.closed {
		return false
	}
	n.background.Go(f)
	return true
}

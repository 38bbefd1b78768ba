package cluster

import (
	"hash/fnv"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
)

// detour is what a node knows about the way round to another member.
//
// The link between two members may be broken while both reach a third. Nobody is
// evicted for that (vote.go). Until it is mended, what the one has to say to the
// other goes through the third, which passes it on unopened:
//
//	A ── pass: to B ──▶ R ── passed ──▶ B   opens it, and passes nothing on
//	A ◀── unpassed ──── R                   it has lost contact with B as well
//
// Pings, pongs and probes go no such way, so contact, votes and evictions are as
// if there were none. A reply goes round if its call did, since whoever asks that
// way has had no answer to its pings.
//
// Sessions, epochs and command ids are those of the two ends, and a network owes
// them no order: it does not matter whether what was sent on one way overtakes
// what was sent on another. What the one end has given up for lost belongs to an
// ended session, whichever way it arrives. It never sends one envelope both ways.
type detour struct {
	via atomic.Pointer[contact] // nil while there is none

	// under the lock of the contacts
	lost     bool                          // no answer to lostAfter pings
	trusted  bool                          // the link was, or there was no way round, when it was last looked at
	asked    uint64                        // until it has answered this ping it is believed to have lost us
	suspects []persistence.NodeID          // by its last word in the store
	leaving  bool                          // it passes on nothing any more
	failed   map[persistence.NodeID]uint64 // who could not pass on, and until which ping that counts
	told     bool                          // the log has the beginning
	wentAt   time.Duration                 // when that was
}

// lostAfter is how many pings without an answer are a loss of contact: less than
// a suspicion, since being wrong costs a detour and not an incarnation.
const lostAfter = 3

// Bounds of what waits to be passed on to one peer.
const (
	passingMost  = 1024
	passingBytes = 16 << 20
)

// dispatch sends an envelope to the peer, directly or round.
func (p *peer) dispatch(e *wire.Envelope) {
	n := p.node
	via := n.contacts.detourTo(p.id)
	if via == nil {
		n.network.Send(p.address, e)
		return
	}
	e.Passed = nil // they have had their hop
	inner, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return // as on any network: what cannot be encoded does not arrive
	}
	n.stats.relayed.Add(1)
	n.network.Send(via.address, &wire.Envelope{
		From: e.From, To: string(via.id), Address: n.address, Pass: &wire.Pass{To: string(p.id), Envelope: inner},
	})
}

// pass passes on what a member wants passed on.
func (n *Node) pass(e *wire.Envelope) {
	life, to := n.life.Load(), persistence.NodeID(e.Pass.To)
	if life == nil || e.To != string(life.id) {
		return
	}
	if n.contacts.reaches(to) {
		if p := n.peerOf(to); p != nil && p.carry(e.Pass.Envelope) {
			n.stats.passed.Add(1)
			return
		}
	}
	n.network.Send(e.Address, &wire.Envelope{From: e.To, To: e.From, Address: n.address, Unpassed: &wire.Unpassed{To: e.Pass.To}})
}

// carry queues an envelope of another member; false when there is no room.
func (p *peer) carry(envelope []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left || len(p.passing) >= passingMost || p.weight+len(envelope) > passingBytes {
		return false
	}
	p.passing = append(p.passing, envelope)
	p.weight += len(envelope)
	p.carried.Store(true)
	p.signal()
	return true
}

// unwrap opens an envelope that another member has passed on.
func (n *Node) unwrap(passed []byte) {
	e := &wire.Envelope{}
	if proto.Unmarshal(passed, e) != nil {
		return
	}
	n.contacts.cameRound(persistence.NodeID(e.From))
	n.open(e, false)
}

// detourTo is whom to send through what is for a member; nil for a direct way.
func (c *contacts) detourTo(id persistence.NodeID) *contact {
	k := (*c.byID.Load())[id]
	if k == nil {
		return nil
	}
	return k.via.Load()
}

// avoided reports whether the link to a member was given up: all that is awaited
// from it was asked through others.
func (c *contacts) avoided(id persistence.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := (*c.byID.Load())[id]
	return k != nil && k.lost && k.via.Load() != nil
}

// reaches reports whether there is contact with a member.
func (c *contacts) reaches(id persistence.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := (*c.byID.Load())[id]
	return k != nil && k.inReach()
}

// inReach reports whether there is contact. The contacts are locked.
func (k *contact) inReach() bool {
	return k.heard.Load() > 0 && !k.lost && !k.refused && k.via.Load() == nil
}

// cameRound takes note that a member asks through another.
func (c *contacts) cameRound(id persistence.NodeID) {
	c.mu.Lock()
	var given []*contact
	if k := (*c.byID.Load())[id]; k != nil {
		k.asked = c.number + 1
		if k.via.Load() == nil {
			given = c.steer()
		}
	}
	c.mu.Unlock()
	c.giveUp(given)
}

// leaves takes note that a member is leaving.
func (c *contacts) leaves(id persistence.NodeID) {
	c.mu.Lock()
	var given []*contact
	if k := (*c.byID.Load())[id]; k != nil && !k.leaving {
		k.leaving = true
		given = c.steer()
	}
	c.mu.Unlock()
	c.giveUp(given)
}

// unpassed takes note that a member may have lost what it was to pass on to
// another. If it cannot pass on at all, it is not asked to for a lease.
func (c *contacts) unpassed(relay persistence.NodeID, u *wire.Unpassed) {
	c.mu.Lock()
	var given []*contact
	k := (*c.byID.Load())[persistence.NodeID(u.To)]
	switch {
	case k == nil || k.via.Load() == nil || k.via.Load().id != relay:
	case u.Again:
		given = []*contact{k}
	default:
		if k.failed == nil {
			k.failed = map[persistence.NodeID]uint64{}
		}
		k.failed[relay] = c.number + renewalsPerLease
		given = c.steer()
	}
	c.mu.Unlock()
	c.giveUp(given)
}

// dropped tells the others, if anything was passed on to a member, that it may
// be lost.
func (c *contacts) dropped(id persistence.NodeID, again bool) {
	n := c.node
	p, life := n.knownPeer(id), n.life.Load()
	if p == nil || life == nil || !p.carried.Swap(false) {
		return
	}
	c.mu.Lock()
	list := c.list
	c.mu.Unlock()
	for _, k := range list {
		if k.id != id {
			n.network.Send(k.address, &wire.Envelope{
				From: string(life.id), To: string(k.id), Address: n.address, Unpassed: &wire.Unpassed{To: string(id), Again: again},
			})
		}
	}
}

// giveUp takes for lost what was sent to some members: whoever waits for them asks
// again, another way, and so do those among them who wait for this node.
func (c *contacts) giveUp(of []*contact) {
	for _, k := range of {
		if p := c.node.knownPeer(k.id); p != nil {
			p.endSession()
			p.mu.Lock()
			p.say.detoured = true
			p.mu.Unlock()
			p.signal()
		}
	}
}

// steer chooses the way to every member anew, and returns those of whom what was
// asked before may be lost: the link or the relay was given up, be it for the
// link. The contacts are locked.
func (c *contacts) steer() (given []*contact) {
	for _, k := range c.list {
		was, round := k.via.Load(), k.lost || k.heard.Load() < k.asked
		var via *contact
		if round {
			via = c.relayTo(k, was)
		} else {
			clear(k.failed)
		}
		k.via.Store(via)
		if was != nil && via != was || k.lost && k.trusted && via != nil { // the relay may be dead, and nobody have said so
			given = append(given, k)
		}
		k.trusted = !k.lost || via == nil
		c.tell(k, via, round)
	}
	return given
}

// relayTo chooses through whom to send to a member: whoever does it already, or
// the first of those with whom there is contact, and who have not said that they
// cannot. Both ends see them in the same order. The contacts are locked.
func (c *contacts) relayTo(k, present *contact) (best *contact) {
	for _, r := range c.list {
		switch {
		case r == k || !r.inReach() || r.leaving || slices.Contains(r.suspects, k.id) || k.failed[r.id] > c.number:
		case r == present:
			return r
		case best == nil || c.rank(k, r) > c.rank(k, best):
			best = r
		}
	}
	return best
}

// rank is the place of a relay between this node and a member, by rendezvous
// hashing: the same at both ends.
func (c *contacts) rank(k, relay *contact) uint64 {
	a, b := c.node.address, k.address
	h := fnv.New64a()
	for _, s := range []string{min(a, b), "\n", max(a, b), "\n", string(relay.id)} {
		_, _ = io.WriteString(h, s)
	}
	return h.Sum64()
}

// tell logs that a detour begins, or has ended. The contacts are locked.
func (c *contacts) tell(k, via *contact, round bool) {
	n := c.node
	now := n.clock.Now()
	switch {
	case via != nil && !k.told && k.lost:
		if k.wentAt != 0 && now-k.wentAt < quietFor {
			return
		}
		k.told, k.wentAt = true, now
		n.log.Warn("peer reached through another", "node", k.id, "address", k.address, "relay", via.id)
	case !round && k.told:
		k.told = false
		n.log.Info("peer reached directly again", "node", k.id, "address", k.address, "after", now-k.wentAt)
	}
}

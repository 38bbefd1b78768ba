package cluster

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
)

// An envelope is filled with what waits, up to these bounds.
const (
	packMessages = 512
	packBytes    = 256 << 10
)

// peer is another node, as this one talks to it: a queue of messages, and a
// goroutine that packs what waits into one envelope after the other. The queue
// is bounded by MaxPerPeer calls of ours and, for the replies, by what the
// peer's own MaxPerPeer lets it ask.
type peer struct {
	node     *Node
	id       persistence.NodeID
	address  string
	inflight atomic.Int64 // our calls that are not answered
	wake     chan struct{}
	gone     chan struct{} // closed when it is no member any more
	goneOnce sync.Once
	// under peers.mu: whether it was ever seen in a view, and in how many it was
	// not since
	known  bool
	missed int

	process atomic.Uint64 // that it is an incarnation of; 0 before its first call
	carried atomic.Bool   // something was passed on to it since the connection last broke

	mu         sync.Mutex
	left       bool   // it is no member any more
	leaving    bool   // it has said so: it is asked nothing more
	farewell   bool   // it waits for no reply of ours, and asks nothing more
	session    uint64 // ours
	calls      []outgoing
	replies    []*wire.Reply
	moved      []*wire.Moved
	rows       []*wire.Ownership // at most rowsMost
	events     []*wire.Event     // at most eventsMost, and eventBytesMost
	eventBytes int
	passing    [][]byte // envelopes of others; at most passingMost, and passingBytes
	weight     int      // bytes of passing
	say        struct{ leaving, farewell, detoured bool }
}

// rowsMost bounds the rows that wait for a peer. They are hints: those beyond
// are left to its next view.
const rowsMost = 4096

// outgoing is a call in the queue.
type outgoing struct {
	kind *wire.Kind
	call *wire.Call
}

// call queues a call under the present session and gives it its number; nil when
// the peer is asked nothing any more.
func (p *peer) call(kind *wire.Kind, c *wire.Call) *remoteCall {
	p.mu.Lock()
	if p.left || p.leaving {
		p.mu.Unlock()
		return nil
	}
	number, pending := p.node.calls.add(p, p.session)
	c.Number = number
	p.calls = append(p.calls, outgoing{kind, c})
	p.mu.Unlock()
	p.signal()
	return pending
}

func (p *peer) reply(r *wire.Reply) {
	p.mu.Lock()
	p.replies = append(p.replies, r)
	p.mu.Unlock()
	p.signal()
}

func (p *peer) tellMoved(m *wire.Moved) {
	p.mu.Lock()
	p.moved = append(p.moved, m)
	p.mu.Unlock()
	p.signal()
}

func (p *peer) tellRow(r *wire.Ownership) {
	p.mu.Lock()
	if len(p.rows) < rowsMost {
		p.rows = append(p.rows, r)
	}
	p.mu.Unlock()
	p.signal()
}

// endSession gives up what was asked of the peer and is not answered. The peer
// drops what it has not received yet: whoever waited may ask again, and if the
// first call could arrive after the second was answered, it could take effect
// after a rejection that was final.
func (p *peer) endSession() {
	p.mu.Lock()
	p.session++
	ended := p.session
	p.calls = nil
	p.mu.Unlock()
	p.node.calls.abandon(func(c *remoteCall) bool { return c.peer == p && c.session < ended })
}

// caller is a process that asks this one, over all its incarnations: what it asked
// as the one before must not come after what it asks as the next.
type caller struct {
	// serving is held for reading while its calls are begun, and for writing when
	// it starts another session: those begun under the old one are in their
	// aggregates' queues before any of the new one.
	serving sync.RWMutex
	session uint64 // the highest

	ended uint64 // under peers.mu: its place among those of which there is no peer any more; 0 while there is one
}

// endedCallers is how many processes that are members no more are remembered: an
// envelope of an earlier session may still be on its way, delayed by whatever it
// was that cost them their membership.
const endedCallers = 1024

// admits reports whether calls of a session may be served.
func (c *caller) admits(session uint64) bool {
	c.serving.RLock()
	known := c.session
	c.serving.RUnlock()
	if session > known {
		c.serving.Lock()
		c.session = max(c.session, session)
		known = c.session
		c.serving.Unlock()
	}
	return session == known
}

// callerKey tells callers apart: a process counts its sessions with each of our
// incarnations. One that does not name its process has but the one incarnation.
type callerKey struct {
	process  uint64
	from, to persistence.NodeID // from is empty when the process is named
}

// callerOf finds whose sessions the calls of an envelope belong to.
func (n *Node) callerOf(p *peer, e *wire.Envelope) *caller {
	key := callerKey{process: e.Process, to: persistence.NodeID(e.To)}
	if e.Process == 0 {
		key.from = p.id
	}
	n.peers.mu.RLock()
	c := n.peers.callers[key]
	n.peers.mu.RUnlock()
	if c != nil && p.process.Load() == e.Process {
		return c
	}
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	p.process.Store(e.Process)
	if c = n.peers.callers[key]; c == nil {
		c = &caller{}
		n.peers.callers[key] = c
	}
	return c
}

func (p *peer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *peer) run() {
	for {
		select {
		case <-p.gone: // what still waits is dropped
			return
		default:
		}
		select {
		case <-p.wake:
		case <-p.gone:
			return
		case <-p.node.done:
			p.flush()
			return
		}
		p.gather()
		p.flush()
	}
}

// gather lets those who are about to send something do so, for as long as that
// makes the envelope fuller.
func (p *peer) gather() {
	for before := -1; ; {
		p.mu.Lock()
		waiting := len(p.calls) + len(p.replies) + len(p.rows)
		p.mu.Unlock()
		if waiting == before || waiting >= packMessages {
			return
		}
		before = waiting
		p.node.seams.Yield()
	}
}

func (p *peer) flush() {
	for e := p.pack(); e != nil; e = p.pack() {
		p.node.stats.envelopes.Add(1)
		p.dispatch(e)
	}
}

// pack takes what waits; nil when nothing does.
func (p *peer) pack() *wire.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting() == 0 && !p.say.leaving && !p.say.farewell && !p.say.detoured {
		return nil
	}
	name, _ := p.node.name.Load().(persistence.NodeID)
	e := &wire.Envelope{From: string(name), To: string(p.id), Address: p.node.address, Session: p.session, Process: p.node.process}
	bytes := 0
	fits := func(size int) bool {
		ok := bytes == 0 || bytes+size <= packBytes
		if ok {
			bytes += size
		}
		return ok
	}
	e.Rows, p.rows = takeWhile(p.rows, func(*wire.Ownership) bool { return fits(64) })
	e.Moved, p.moved = takeWhile(p.moved, func(m *wire.Moved) bool { return fits(64 + hotBytesOf(m)) })
	e.Replies, p.replies = takeWhile(p.replies, func(r *wire.Reply) bool { return fits(64 + len(r.Result)) })
	e.Passed, p.passing = takeWhile(p.passing, func(b []byte) bool { return fits(len(b)) })
	e.Events = p.takeEvents(fits)
	for _, b := range e.Passed {
		p.weight -= len(b)
	}
	var calls []outgoing
	calls, p.calls = takeWhile(p.calls, func(o outgoing) bool { return fits(64 + len(o.call.Id) + len(o.call.Payload)) })
	e.Calls = make([]*wire.Call, len(calls))
	for i, o := range calls {
		at := slices.Index(e.Kinds, o.kind) // an envelope has few
		if at < 0 {
			at = len(e.Kinds)
			e.Kinds = append(e.Kinds, o.kind)
		}
		o.call.Kind = uint32(at)
		e.Calls[i] = o.call
	}
	if p.waiting() == 0 { // said last
		e.Leaving, e.Farewell, e.Detoured = p.say.leaving, p.say.farewell, p.say.detoured
		p.say.leaving, p.say.farewell, p.say.detoured = false, false, false
	}
	return e
}

// waiting is how many messages wait. The peer is locked.
func (p *peer) waiting() int {
	return len(p.calls) + len(p.replies) + len(p.moved) + len(p.rows) + len(p.passing) + len(p.events)
}

// takeWhile splits the messages that fit off a queue.
func takeWhile[T any](queue []T, fits func(T) bool) (taken, rest []T) {
	n := 0
	for n < len(queue) && n < packMessages && fits(queue[n]) {
		n++
	}
	if n == len(queue) {
		return queue, nil
	}
	return queue[:n:n], queue[n:]
}

// leave ends the peer's goroutine; what still waits is dropped.
func (p *peer) leave() {
	p.goneOnce.Do(func() { close(p.gone) })
	p.shut()
}

// shut gives up what was asked of the peer, and whatever will be.
func (p *peer) shut() {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	p.endSession()
}

// peers are the nodes this one talks to, by incarnation.
type peers struct {
	mu      sync.RWMutex
	byID    map[persistence.NodeID]*peer
	callers map[callerKey]*caller
	ended   uint64 // counts the callers that have ended
	closed  bool
}

// forgetCallers drops callers of which there is no peer any more, but for the
// latest. The peers are locked.
func (p *peers) forgetCallers() {
	used := map[uint64]bool{}
	for _, peer := range p.byID {
		used[peer.process.Load()] = true
	}
	for key, c := range p.callers {
		switch {
		case used[key.process] && (key.process != 0 || p.byID[key.from] != nil):
			c.ended = 0
		case c.ended == 0:
			p.ended++
			c.ended = p.ended
		}
	}
	maps.DeleteFunc(p.callers, func(_ callerKey, c *caller) bool { return c.ended != 0 && c.ended+endedCallers <= p.ended })
}

// sorted lists the peers in an order that is always the same. They are locked.
func (p *peers) sorted() []*peer {
	return slices.SortedFunc(maps.Values(p.byID), func(a, b *peer) int { return strings.Compare(string(a.id), string(b.id)) })
}

// peerOf finds a member to send to; nil when there is no such member, or it is
// this node itself.
func (n *Node) peerOf(id persistence.NodeID) *peer {
	if id == "" {
		return nil
	}
	if p := n.knownPeer(id); p != nil {
		return p
	}
	member, ok := n.member(id)
	if !ok || id == n.ID() {
		return nil
	}
	return n.makePeer(id, member.Address, true)
}

// knownPeer finds the peer of a name, and makes none.
func (n *Node) knownPeer(id persistence.NodeID) *peer {
	n.peers.mu.RLock()
	defer n.peers.mu.RUnlock()
	return n.peers.byID[id]
}

// peerAt finds or makes the peer under an address, member or not: a node may ask
// before this one has read of it in the store.
func (n *Node) peerAt(id persistence.NodeID, address string) *peer {
	return n.makePeer(id, address, false)
}

func (n *Node) makePeer(id persistence.NodeID, address string, known bool) *peer {
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	if p := n.peers.byID[id]; p != nil || n.peers.closed {
		return p
	}
	p := &peer{node: n, id: id, address: address, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	p.known = known
	p.session = uint64(n.clock.Now()) // above that of an earlier peer of this name
	n.peers.byID[id] = p
	n.background.Go(p.run)
	return p
}

// strangerViews is how many views a peer that asked before it was seen in one may
// be missing from.
const strangerViews = 8

// peersAt lists the peers with an address: incarnations of one process.
func (n *Node) peersAt(address string) []*peer {
	n.peers.mu.RLock()
	defer n.peers.mu.RUnlock()
	var list []*peer
	for _, p := range n.peers.sorted() {
		if p.address == address {
			list = append(list, p)
		}
	}
	return list
}

// endSessions gives up all calls to other nodes that are not answered.
func (n *Node) endSessions() {
	n.peers.mu.RLock()
	defer n.peers.mu.RUnlock()
	for _, p := range n.peers.sorted() {
		p.endSession()
	}
}

// dropPeers forgets nodes that are no members any more. Calls to them are lost:
// their outcome is unknown, and they are asked again elsewhere.
func (n *Node) dropPeers(isMember func(persistence.NodeID) bool) {
	var gone []*peer
	n.peers.mu.Lock()
	for _, p := range n.peers.sorted() {
		id := p.id
		if isMember(id) {
			p.known, p.missed = true, 0
			continue
		}
		p.missed++
		if p.known || p.missed > strangerViews {
			gone = append(gone, p)
			delete(n.peers.byID, id)
		}
	}
	if len(gone) > 0 {
		n.peers.forgetCallers()
	}
	n.peers.mu.Unlock()
	for _, p := range gone {
		p.leave()
	}
}

package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// remoteCall is a call to another node that is not yet answered.
type remoteCall struct {
	peer    *peer
	session uint64           // of the peer, in which it was sent
	done    chan *wire.Reply // capacity 1; nil means that the connection is gone
	timer   *time.Timer
}

// remoteCalls are all calls of this node to others, by number. The numbers begin
// anywhere: a late reply to a process that had our address before us must not
// fit a call of ours.
type remoteCalls struct {
	mu    sync.Mutex
	next  uint64
	calls map[uint64]*remoteCall
	pool  sync.Pool // of *remoteCall
}

// stoppedTimer is a timer to be reset: resetting costs less than making one.
func stoppedTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

func newRemoteCall() any {
	return &remoteCall{done: make(chan *wire.Reply, 1), timer: stoppedTimer()}
}

func (r *remoteCalls) add(p *peer, session uint64) (uint64, *remoteCall) {
	c := r.pool.Get().(*remoteCall)
	c.peer, c.session = p, session
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	r.calls[r.next] = c
	return r.next, c
}

// remove takes a call out; nil when it was answered already.
func (r *remoteCalls) remove(number uint64) *remoteCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.calls[number]
	delete(r.calls, number)
	return c
}

// answer completes the calls that the replies are for.
func (r *remoteCalls) answer(replies []*wire.Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, reply := range replies {
		if c := r.calls[reply.Number]; c != nil {
			delete(r.calls, reply.Number)
			c.done <- reply
		}
	}
}

// abandon completes the calls that match as lost, the oldest first.
func (r *remoteCalls) abandon(match func(*remoteCall) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lost []uint64
	for number, c := range r.calls {
		if match(c) {
			lost = append(lost, number)
		}
	}
	slices.Sort(lost)
	for _, number := range lost {
		r.calls[number].done <- nil
		delete(r.calls, number)
	}
}

// remote asks another node.
func (d *delivery) remote(p *peer, seen persistence.Epoch) actor.Result {
	if err := d.encode(); err != nil {
		return actor.Result{Err: err}
	}
	r := d.request
	call := &wire.Call{
		Id: r.ID, Answer: r.Answer, Payload: d.payload, Metadata: d.metadata, Epoch: int64(seen),
		CommandHigh: binary.BigEndian.Uint64(r.Command[:8]), CommandLow: binary.BigEndian.Uint64(r.Command[8:]),
	}
	if r.Expect >= 0 {
		call.Expect = int64(r.Expect) + 1
	}
	if call.Caused = r.Caused; r.Refusal != nil {
		call.Refusal = encodeError(r.Refusal)
	}
	reply, err := d.node.ask(d.ctx, p, d.node.kinds[r.Message], call)
	if err != nil {
		return actor.Result{Err: err}
	}
	return d.decode(reply)
}

// kindsOf is the wire form of every command and query of the types.
func kindsOf(types map[string]*aggregate.Definition) map[*aggregate.Message]*wire.Kind {
	kinds := map[*aggregate.Message]*wire.Kind{}
	for name, d := range types {
		for _, m := range d.Messages() {
			kinds[m] = &wire.Kind{Type: name, Name: m.Name(), Query: m.Kind() == aggregate.KindQuery}
		}
	}
	return kinds
}

// ask sends one call to a peer and waits for its reply.
func (n *Node) ask(ctx context.Context, p *peer, kind *wire.Kind, call *wire.Call) (*wire.Reply, error) {
	if p.inflight.Add(1) > int64(n.config.MaxPerPeer) {
		p.answered()
		n.stats.overloaded.Add(1)
		return nil, aggregate.NotDone(aggregate.ReasonOverloaded, fmt.Errorf("%d calls to node %s at %s are in flight", n.config.MaxPerPeer, p.id, p.address))
	}
	defer p.answered()
	patience := n.config.CallTimeout
	deadline, limited := ctx.Deadline()
	if limited {
		if patience = time.Until(deadline); patience <= 0 {
			return nil, aggregate.NotDone(aggregate.ReasonDeadline, context.DeadlineExceeded)
		}
	}
	call.Patience = patience.Microseconds()
	n.stats.remote.Add(1)
	pending := p.call(kind, call)
	if pending == nil {
		return nil, errNoOwner
	}
	var timeout <-chan time.Time
	if !limited {
		pending.timer.Reset(patience)
		timeout = pending.timer.C
	}
	select {
	case reply := <-pending.done:
		pending.timer.Stop()
		n.calls.pool.Put(pending)
		if reply == nil {
			return nil, aggregate.UnknownOutcome(aggregate.ReasonConnection, fmt.Errorf("node %s at %s was lost with the request", p.id, p.address))
		}
		return reply, nil
	case <-ctx.Done():
	case <-timeout:
	}
	n.calls.remove(call.Number)
	return nil, aggregate.UnknownOutcome(aggregate.ReasonDeadline, fmt.Errorf("no reply from node %s at %s in time", p.id, p.address))
}

// decode turns a reply into a result.
func (d *delivery) decode(reply *wire.Reply) actor.Result {
	if no := reply.NotOwner; no != nil {
		d.node.learn(persistence.Ownership{
			Partition: persistence.Partition(no.Partition), Epoch: persistence.Epoch(no.Epoch), Owner: persistence.NodeID(no.Owner),
		})
		return actor.Result{NotOwner: true, Err: aggregate.NotDone(aggregate.ReasonMoved, nil)}
	}
	var result actor.Result
	result.Response.Receipt = aggregate.Receipt{
		Command: d.request.Command, Version: aggregate.Version(reply.Version), Events: int(reply.Events),
		Partition: aggregate.Partition(reply.Partition), Offset: aggregate.Offset(reply.Offset), Duplicate: reply.Duplicate,
	}
	if e := reply.Error; e != nil {
		if result.Err = decodeError(e); reply.Offset == 0 {
			result.Response.Receipt = aggregate.Receipt{} // nothing happened
		}
		return result
	}
	if d.request.Answer {
		m := d.request.Message
		answer, err := m.DecodeAnswer(eventsourcing.AnswerCodec(m), reply.Result)
		if err != nil {
			result.Err = aggregate.Invalid(aggregate.ReasonBadPayload, fmt.Errorf("decode the answer of %q: %w", m.Name(), err))
		}
		result.Response.Answer = answer
	}
	return result
}

// Receive implements Receiver.
func (n *Node) Receive(e *wire.Envelope) {
	if e.Pass != nil {
		n.pass(e)
	}
	if e.Unpassed != nil {
		n.contacts.unpassed(persistence.NodeID(e.From), e.Unpassed)
	}
	for _, passed := range e.Passed {
		n.unwrap(passed)
	}
	n.open(e, true)
}

// open handles an envelope. One that came through another member says nothing
// about contact with its sender.
func (n *Node) open(e *wire.Envelope, direct bool) {
	life := n.life.Load()
	if life == nil || e.To != string(life.id) {
		life = nil // for another incarnation: it certainly executes nothing
	}
	// News first: whoever is answered, or asks, may find that it concerns him.
	for _, r := range e.Rows {
		n.learn(persistence.Ownership{
			Partition: persistence.Partition(r.Partition), Epoch: persistence.Epoch(r.Epoch), Owner: persistence.NodeID(r.Owner),
			Released: r.Released,
		})
	}
	n.receiveEvents(e.Events)
	if life != nil {
		for _, m := range e.Moved {
			n.claims.accept(life, n.giftOf(m))
		}
	}
	if e.Ping != 0 && life != nil && direct {
		n.pong(e, life.id)
	}
	if e.Pong != 0 && direct {
		n.contacts.answered(persistence.NodeID(e.From), e.Pong)
	}
	if len(e.Replies) > 0 {
		if direct {
			n.contacts.replied(persistence.NodeID(e.From))
		}
		n.calls.answer(e.Replies)
	}
	if len(e.Calls) > 0 {
		from := n.peerAt(persistence.NodeID(e.From), e.Address)
		if from == nil {
			return // stopping; the caller will notice
		}
		caller := n.callerOf(from, e)
		if !caller.admits(e.Session) {
			return
		}
		kinds := n.resolve(e.Kinds)
		if life == nil {
			n.serveAll(nil, from, caller, e.Session, kinds, e.Calls)
		} else {
			for calls := range slices.Chunk(e.Calls, serveChunk) {
				life.host.Run(func() { n.serveAll(life, from, caller, e.Session, kinds, calls) })
			}
		}
	}
	if e.Detoured {
		if p := n.knownPeer(persistence.NodeID(e.From)); p != nil {
			p.endSession()
		}
	}
	if e.Leaving {
		n.leavesUs(persistence.NodeID(e.From), e.Address)
	}
	if e.Farewell {
		if p := n.peerAt(persistence.NodeID(e.From), e.Address); p != nil {
			p.partWith()
		}
	}
}

// serveChunk is how many calls of one envelope are decoded and begun on one
// goroutine: enough to make up for handing them over, few enough to keep all
// cores busy.
const serveChunk = 16

// kind is a command or query that a peer asks for, as this node knows it.
type kind struct {
	named              *wire.Kind
	typ                *aggregate.Definition // nil when the type is not served here
	*aggregate.Message                       // nil when the type has no such message
}

func (n *Node) resolve(named []*wire.Kind) []kind {
	kinds := make([]kind, len(named))
	for i, k := range named {
		kinds[i] = kind{named: k, typ: n.types[k.Type]}
		if kinds[i].typ != nil {
			kinds[i].Message = kinds[i].typ.Message(messageKind(k), k.Name)
		}
	}
	return kinds
}

// serveAll begins calls from a peer, unless the peer has given them up.
func (n *Node) serveAll(life *life, from *peer, caller *caller, session uint64, kinds []kind, calls []*wire.Call) {
	caller.serving.RLock()
	defer caller.serving.RUnlock()
	if caller.session != session {
		return
	}
	for _, c := range calls {
		g := &guest{node: n, from: from, caller: caller, session: session, life: life}
		g.reply.Number = c.Number
		if int(c.Kind) >= len(kinds) {
			g.refuse(aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("the call names kind %d of %d", c.Kind, len(kinds))))
			continue
		}
		g.serve(life, &kinds[c.Kind], c)
	}
}

// guest is a call from another node.
type guest struct {
	call    actor.Call
	request aggregate.Request
	node    *Node
	from    *peer
	caller  *caller
	session uint64 // of the caller, in which it came
	life    *life  // that it was meant for; nil when that is over
	reply   wire.Reply

	again bool          // it was sent in a second time: see parking
	until time.Duration // while it is parked
}

// serve hands the call to the host.
func (g *guest) serve(life *life, k *kind, c *wire.Call) {
	n := g.node
	stream := persistence.Stream{Type: k.named.Type, ID: c.Id}
	g.call = actor.Call{Request: &g.request, Stream: stream, Partition: persistence.PartitionOf(stream, n.partitions), Epoch: persistence.Epoch(c.Epoch), Reply: g}
	switch {
	case life == nil:
		g.redirect()
		return
	case k.typ == nil:
		g.refuse(aggregate.Invalid(aggregate.ReasonUnknownType, fmt.Errorf("node %s knows no aggregate type %q", life.id, k.named.Type)))
		return
	case c.Activate:
		n.activate(life, g.from, c, k.typ, stream)
		return
	case c.Erase:
		n.background.Go(func() { n.eraseFor(life, g.from, c, k.typ, stream) })
		return
	}
	if err := g.decode(k, c); err != nil {
		g.refuse(err)
		return
	}
	if c.Patience > 0 {
		g.call.Deadline = n.clock.Coarse() + time.Duration(c.Patience)*time.Microsecond
	}
	life.host.DeliverInline(&g.call)
}

// decode makes the request from its wire form.
func (g *guest) decode(k *kind, c *wire.Call) error {
	name, limit := k.named.Name, g.node.config.MaxPayload
	if k.Message == nil {
		return aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("aggregate %q has no %s %q", k.named.Type, messageKind(k.named), name))
	}
	if len(c.Payload) > limit {
		return aggregate.Invalid(aggregate.ReasonTooLarge, fmt.Errorf("%s %q has %d bytes, the limit is %d", k.Kind(), name, len(c.Payload), limit))
	}
	value, err := k.Decode(eventsourcing.CodecFor(k.Message), c.Payload)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, fmt.Errorf("decode %s %q: %w", k.Kind(), name, err))
	}
	answer := c.Answer || k.named.Query
	if answer && !k.Answers() {
		return aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("%s %q has no answer", k.Kind(), name))
	}
	g.request = aggregate.Request{
		Definition: k.typ, ID: c.Id, Message: k.Message, Value: value, Answer: answer, Expect: aggregate.Version(c.Expect - 1),
		Caused: c.Caused && k.Kind() == aggregate.KindCommand,
	}
	if g.request.Caused && c.Refusal != nil {
		g.request.Refusal = aggregate.AsRejection(decodeError(c.Refusal))
	}
	binary.BigEndian.PutUint64(g.request.Command[:8], c.CommandHigh)
	binary.BigEndian.PutUint64(g.request.Command[8:], c.CommandLow)
	g.request.Metadata, err = eventsourcing.DecodeMetadata(c.Metadata)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, err)
	}
	return nil
}

func messageKind(k *wire.Kind) aggregate.MessageKind {
	if k.Query {
		return aggregate.KindQuery
	}
	return aggregate.KindCommand
}

func (g *guest) refuse(err error) { g.Reply(&g.call, actor.Result{Err: err}) }

// Reply implements actor.Replier.
func (g *guest) Reply(_ *actor.Call, r actor.Result) {
	switch {
	case r.NotOwner && g.node.parking.take(g):
		return
	case r.NotOwner:
		known := g.node.table.Owner(g.call.Partition)
		g.reply.NotOwner = &wire.NotOwner{Partition: int32(known.Partition), Epoch: int64(known.Epoch), Owner: string(known.Owner)}
	case r.Err != nil:
		g.reply.Error = encodeError(r.Err)
	default:
		g.succeed(&r.Response)
	}
	g.from.reply(&g.reply)
}

func (g *guest) succeed(r *aggregate.Response) {
	if g.request.Answer {
		g.answer(r.Answer)
	}
	receipt := &r.Receipt
	g.reply.Version, g.reply.Events = int64(receipt.Version), int64(receipt.Events)
	g.reply.Partition, g.reply.Offset = int32(receipt.Partition), int64(receipt.Offset)
	g.reply.Duplicate = receipt.Duplicate
}

// answer encodes what was asked for, within the limit. Whatever is wrong with the
// answer of a command, the command has taken effect.
func (g *guest) answer(answer any) {
	m, limit := g.request.Message, g.node.config.MaxPayload
	result, err := eventsourcing.AnswerCodec(m).Marshal(answer)
	reason := aggregate.ReasonBadPayload
	if err == nil && len(result) > limit {
		reason, err = aggregate.ReasonTooLarge, fmt.Errorf("it has %d bytes, the limit is %d", len(result), limit)
	}
	if err == nil {
		g.reply.Result = result
		return
	}
	if m.Kind() == aggregate.KindCommand {
		reason = aggregate.ReasonNoAnswer
	}
	g.reply.Error = encodeError(aggregate.Invalid(reason, fmt.Errorf("the answer of %q: %w", m.Name(), err)))
}

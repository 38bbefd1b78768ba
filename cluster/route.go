package cluster

import (
	"context"
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
}

// stoppedTimer is a timer to be reset: resetting costs less than making one.
func stoppedTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

var remoteCallPool = sync.Pool{New: func() any {
	return &remoteCall{done: make(chan *wire.Reply, 1), timer: stoppedTimer()}
}}

func (r *remoteCalls) add(p *peer, session uint64) (uint64, *remoteCall) {
	c := remoteCallPool.Get().(*remoteCall)
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

// abandon completes the calls that match as lost.
func (r *remoteCalls) abandon(match func(*remoteCall) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for number, c := range r.calls {
		if match(c) {
			delete(r.calls, number)
			c.done <- nil
		}
	}
}

// remote asks another node.
func (d *delivery) remote(p *peer, seen persistence.Epoch) actor.Result {
	if err := d.encode(); err != nil {
		return actor.Result{Err: err}
	}
	r := d.request
	call := &wire.Call{
		Type: r.Definition.Name(), Id: r.ID, Name: r.Message.Name(), Query: r.Message.Kind() == aggregate.KindQuery,
		Answer: r.Answer, Payload: d.payload, Metadata: d.metadata, Epoch: int64(seen),
	}
	if !r.Command.IsZero() {
		call.Command = r.Command[:]
	}
	if r.Expect >= 0 {
		call.Expect = int64(r.Expect) + 1
	}
	reply, err := d.node.ask(d.ctx, p, call)
	if err != nil {
		return actor.Result{Err: err}
	}
	return d.decode(reply)
}

// ask sends one call to a peer and waits for its reply.
func (n *Node) ask(ctx context.Context, p *peer, call *wire.Call) (*wire.Reply, error) {
	if p.inflight.Add(1) > int64(n.config.MaxPerPeer) {
		p.inflight.Add(-1)
		n.stats.overloaded.Add(1)
		return nil, aggregate.NotDone(aggregate.ReasonOverloaded, fmt.Errorf("%d calls to node %s are in flight", n.config.MaxPerPeer, p.id))
	}
	defer p.inflight.Add(-1)
	patience := n.config.CallTimeout
	deadline, limited := ctx.Deadline()
	if limited {
		if patience = time.Until(deadline); patience <= 0 {
			return nil, aggregate.NotDone(aggregate.ReasonDeadline, context.DeadlineExceeded)
		}
	}
	call.Patience = patience.Microseconds()
	n.stats.remote.Add(1)
	pending := p.call(call)
	var timeout <-chan time.Time
	if !limited {
		pending.timer.Reset(patience)
		timeout = pending.timer.C
	}
	select {
	case reply := <-pending.done:
		pending.timer.Stop()
		remoteCallPool.Put(pending)
		if reply == nil {
			return nil, aggregate.UnknownOutcome(aggregate.ReasonConnection, fmt.Errorf("node %s was lost with the request", p.id))
		}
		return reply, nil
	case <-ctx.Done():
	case <-timeout:
	}
	n.calls.remove(call.Number)
	return nil, aggregate.UnknownOutcome(aggregate.ReasonDeadline, fmt.Errorf("no reply from node %s in time", p.id))
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
	if r := reply.Receipt; r != nil {
		result.Response.Receipt = aggregate.Receipt{
			Version: aggregate.Version(r.Version), Events: int(r.Events),
			Partition: aggregate.Partition(r.Partition), Offset: aggregate.Offset(r.Offset), Duplicate: r.Duplicate,
		}
		copy(result.Response.Receipt.Command[:], r.Command)
	}
	if e := reply.Error; e != nil {
		result.Err = decodeError(e)
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
	if len(e.Replies) > 0 {
		n.calls.answer(e.Replies)
	}
	life := n.life.Load()
	if life == nil || e.To != string(life.id) {
		life = nil // for another incarnation: it certainly executes nothing
	}
	if len(e.Calls) > 0 {
		from := n.peerAt(persistence.NodeID(e.From), e.Address)
		if from == nil {
			return // stopping; the caller will notice
		}
		if !from.admits(e.Session) {
			return
		}
		if life == nil {
			n.serveAll(nil, from, e.Session, e.Calls)
		} else {
			for calls := range slices.Chunk(e.Calls, serveChunk) {
				life.host.Run(func() { n.serveAll(life, from, e.Session, calls) })
			}
		}
	}
	if life != nil && len(e.Moved) > 0 {
		for _, m := range e.Moved {
			n.table.Learn(persistence.Ownership{
				Partition: persistence.Partition(m.Partition), Epoch: persistence.Epoch(m.Epoch), Owner: life.id, Released: true,
			})
		}
		n.claims.poke()
	}
}

// serveChunk is how many calls of one envelope are decoded and begun on one
// goroutine: enough to make up for handing them over, few enough to keep all
// cores busy.
const serveChunk = 16

// serveAll begins calls from a peer, unless the peer has given them up.
func (n *Node) serveAll(life *life, from *peer, session uint64, calls []*wire.Call) {
	from.serving.RLock()
	defer from.serving.RUnlock()
	if from.theirs != session {
		return
	}
	for _, c := range calls {
		n.serve(life, from, c)
	}
}

// guest is a call from another node.
type guest struct {
	call    actor.Call
	request aggregate.Request
	node    *Node
	from    *peer
	reply   wire.Reply // made with the guest, for most are answered with a receipt
	receipt wire.Receipt
}

// serve hands a call from a peer to the host.
func (n *Node) serve(life *life, from *peer, c *wire.Call) {
	g := &guest{node: n, from: from}
	g.reply.Number = c.Number
	stream := persistence.Stream{Type: c.Type, ID: c.Id}
	g.call = actor.Call{Request: &g.request, Stream: stream, Partition: persistence.PartitionOf(stream, n.partitions), Epoch: persistence.Epoch(c.Epoch), Reply: g}
	if life == nil {
		g.Reply(&g.call, actor.Result{NotOwner: true})
		return
	}
	d := n.types[c.Type]
	if d == nil {
		g.refuse(aggregate.Invalid(aggregate.ReasonUnknownType, fmt.Errorf("node %s knows no aggregate type %q", life.id, c.Type)))
		return
	}
	if c.Activate {
		n.activate(life, from, c, d, stream)
		return
	}
	if err := g.decode(d, c, n.config.MaxPayload); err != nil {
		g.refuse(err)
		return
	}
	if c.Patience > 0 {
		g.call.Deadline = n.clock.Coarse() + time.Duration(c.Patience)*time.Microsecond
	}
	life.host.DeliverInline(&g.call)
}

// decode makes the request from its wire form.
func (g *guest) decode(d *aggregate.Definition, c *wire.Call, limit int) error {
	kind := aggregate.KindCommand
	if c.Query {
		kind = aggregate.KindQuery
	}
	m := d.Message(kind, c.Name)
	if m == nil {
		return aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("aggregate %q has no %s %q", d.Name(), kind, c.Name))
	}
	if len(c.Payload) > limit {
		return aggregate.Invalid(aggregate.ReasonTooLarge, fmt.Errorf("%s %q has %d bytes, the limit is %d", kind, c.Name, len(c.Payload), limit))
	}
	value, err := m.Decode(eventsourcing.CodecFor(m), c.Payload)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, fmt.Errorf("decode %s %q: %w", kind, c.Name, err))
	}
	if (c.Answer || c.Query) && !m.Answers() {
		return aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("%s %q has no answer", kind, c.Name))
	}
	g.request = aggregate.Request{
		Definition: d, ID: c.Id, Message: m, Value: value, Answer: c.Answer || c.Query, Expect: aggregate.Version(c.Expect - 1),
	}
	if !c.Query {
		if len(c.Command) != len(g.request.Command) {
			return aggregate.Invalid(aggregate.ReasonBadPayload, fmt.Errorf("the command id has %d bytes, not 16", len(c.Command)))
		}
		copy(g.request.Command[:], c.Command)
	}
	g.request.Metadata, err = eventsourcing.DecodeMetadata(c.Metadata)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, err)
	}
	return nil
}

func (g *guest) refuse(err error) { g.Reply(&g.call, actor.Result{Err: err}) }

// Reply implements actor.Replier.
func (g *guest) Reply(_ *actor.Call, r actor.Result) {
	switch {
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
	g.receipt.Version, g.receipt.Events = int64(r.Receipt.Version), int64(r.Receipt.Events)
	g.receipt.Partition, g.receipt.Offset = int32(r.Receipt.Partition), int64(r.Receipt.Offset)
	g.receipt.Duplicate = r.Receipt.Duplicate
	if !r.Receipt.Command.IsZero() {
		g.receipt.Command = g.request.Command[:]
	}
	g.reply.Receipt = &g.receipt
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

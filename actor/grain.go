package actor

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// grain is the one activation of an aggregate: a protoactor actor whose turn
// runs commands one after the other on the newest state.
//
//	loading ──▶ running ──▶ leaving ──▶ stopped
//	   └──────────┴────────────┘
//
// loading stashes calls until the state is there; leaving stashes them until
// the commits in flight are settled, so that the next activation cannot load a
// state without them. The stash is bounded by the host's admission.
//
// A grain runs ahead of its commits: it decides the next command on a state
// whose events are still on their way. Every reply therefore stands in a queue
// behind the commits its state depends on (I3).
type grain struct {
	host    *Host
	tenure  *tenure
	def     *aggregate.Definition
	stream  persistence.Stream
	pid     *proto.PID
	mailbox mailbox

	stopped  atomic.Bool  // set by the turn, read by the mailbox and the host
	inflight atomic.Int32 // admitted and not answered
	lastUsed atomic.Int64 // host clock
	touched  atomic.Int64 // when the resident list was told
	tidied   atomic.Int64 // lastUsed when it was last told to tidy up

	// owned by the turn
	phase     phase
	stash     []*Call
	instance  aggregate.Instance
	version   persistence.Version
	window    eventsourcing.Window
	sinceSnap snapshotDebt

	mu       sync.Mutex
	queue    *item // oldest unsettled commit, and what waits behind it
	last     *item
	commits  int       // commits in the queue
	settled  []settled // for the window, taken by the next turn
	broken   bool      // a commit failed: the state is not the log's any more
	notify   bool      // the turn wants to know when no commit is in flight
	revealed bool      // a commit of this activation is durable, or in flight
}

type phase uint8

const (
	loading phase = iota
	running
	leaving
)

type settled struct {
	id     aggregate.CommandID
	offset persistence.Offset
}

// item is a reply on its way out, with the commit that it waits for, if any.
type item struct {
	next   *item
	grain  *grain
	call   *Call
	result Result
	// hasCommit says that commit is to be appended. Otherwise the reply only
	// waits for the commits before it.
	hasCommit bool
	commit    persistence.Commit
	events    [1]persistence.NewEvent // backing of commit.Events in the usual case
	bytes     int
	twins     []*Call // the same command, delivered again meanwhile
	snapshot  *persistence.Snapshot
	reveals   bool // depends on a commit of this activation (I8)
}

// messages to a grain besides calls
type (
	loadedMessage  struct{ eventsourcing.Loaded }
	settledMessage struct{}
	leaveMessage   struct{} // stop when nothing is in flight
	passivate      struct{} // stop if nobody uses it
	tidy           struct{} // give back what a burst needed
)

// Receive implements proto.Actor.
func (g *grain) Receive(ctx proto.Context) {
	switch m := ctx.Message().(type) {
	case *Call:
		g.receive(m)
	case *loadedMessage:
		g.loaded(&m.Loaded)
	case *foundMessage:
		g.found(m)
	case settledMessage:
		g.leaveIfQuiet()
	case leaveMessage:
		g.leave()
	case passivate:
		g.passivate()
	case tidy:
		g.tidy()
	case *proto.Stopping:
		if !g.stopped.Load() { // somebody else stopped the actor
			g.stop()
		}
	case proto.SystemMessage, proto.AutoReceiveMessage:
	default:
		g.foreign(ctx, m)
	}
}

func (g *grain) receive(c *Call) {
	switch {
	case g.stopped.Load(): // by a call that was stashed before this one
		g.bounce(c)
	case g.phase == running:
		g.execute(c)
	default:
		g.stash = append(g.stash, c)
	}
}

func (g *grain) loaded(l *eventsourcing.Loaded) {
	if g.phase != loading {
		return
	}
	stash := g.stash
	g.stash = nil
	if l.Err != nil {
		err := loadFailure(l.Err)
		g.phase = leaving
		for _, c := range stash {
			g.finish(c, failed(err))
		}
		g.stop()
		return
	}
	g.instance, g.version, g.window = l.Instance, l.Version, l.Window
	g.sinceSnap = snapshotDebt{events: int(l.Version - l.Snapshot), bytes: l.Bytes}
	g.revealed = g.tenure.marked(g.stream)
	g.phase = running
	for _, c := range stash {
		g.receive(c)
	}
}

func loadFailure(err error) error {
	var unreadable *eventsourcing.UnreadableError
	if errors.As(err, &unreadable) {
		return aggregate.NotDone(aggregate.ReasonUnreadable, err)
	}
	return aggregate.NotDone(aggregate.ReasonStoreDown, err)
}

// execute runs one call on the newest state.
func (g *grain) execute(c *Call) {
	g.host.touch(g)
	if !g.catchUp() {
		g.stash = append(g.stash, c)
		g.leave()
		return
	}
	if c.expired(g.host.clock) {
		g.finish(c, failed(aggregate.NotDone(aggregate.ReasonDeadline, errors.New("the deadline passed before the call was begun"))))
		return
	}
	r := c.Request
	isCommand := r.Message.Kind() == aggregate.KindCommand
	if isCommand && !g.fresh(c) {
		return
	}
	if r.Expect >= 0 && r.Expect != aggregate.Version(g.version) {
		g.reply(&item{grain: g, call: c, result: failed(aggregate.ErrVersion.
			With("expected", fmt.Sprint(r.Expect)).With("actual", fmt.Sprint(g.version)))})
		return
	}
	if isCommand {
		g.command(c)
	} else {
		g.query(c)
	}
}

// catchUp takes over what the lane has settled since the last turn. It reports
// whether the state is still a prefix of the log plus what is on its way.
func (g *grain) catchUp() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.settled {
		g.window.Settle(s.id, s.offset)
	}
	g.settled = g.settled[:0]
	return !g.broken
}

// fresh reports whether a command was never executed. If it was, or if only the
// log can tell, the call is taken care of (I5).
func (g *grain) fresh(c *Call) bool {
	handled, verdict := g.window.Find(c.id())
	if verdict != eventsourcing.New && handled.Offset == 0 {
		if g.joinTwin(c) { // also when it fell out of the window while in flight
			return false
		}
		g.catchUp() // it may have settled between the two looks
		handled, verdict = g.window.Find(c.id())
	}
	switch {
	case verdict == eventsourcing.New:
		return true
	case handled.Offset == 0 && c.looked && g.window.Reaches(c.asked):
		return true
	case handled.Offset == 0: // fell out of the window, or its place was not yet known when the snapshot was taken
		c.asked = g.version
		g.host.lookup(g, c)
	default:
		g.duplicate(c, handled)
	}
	return false
}

// found goes on with a command that the log knows. An activation that is on its
// way out can still tell: what the log says of a command never changes.
func (g *grain) found(m *foundMessage) {
	if g.phase != running && m.call.Request.Answer {
		g.receive(m.call)
		return
	}
	g.duplicate(m.call, m.handled)
}

// joinTwin lets a repeated command wait for the commit of the first.
func (g *grain) joinTwin(c *Call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for it := g.queue; it != nil; it = it.next {
		if it.hasCommit && it.commit.Command == persistence.CommandID(c.id()) {
			it.twins = append(it.twins, c)
			return true
		}
	}
	return false
}

// duplicate answers a repeated command with the first receipt, and, if asked,
// the answer on the state that the command left. Both are facts of the log, and
// wait for no commit that is still in flight.
func (g *grain) duplicate(c *Call, h eventsourcing.Handled) {
	g.host.stats.duplicates.Add(1)
	it := &item{grain: g, call: c, result: Result{Response: aggregate.Response{Receipt: aggregate.Receipt{
		Command: c.id(), Version: aggregate.Version(h.Version), Events: h.Events, Duplicate: true,
		Partition: aggregate.Partition(g.tenure.partition), Offset: aggregate.Offset(h.Offset),
	}}}}
	g.mu.Lock()
	it.reveals = g.revealed
	g.mu.Unlock()
	if c.Request.Answer {
		if h.Version != g.version {
			g.host.answerAt(g, it, h.Version)
			return
		}
		g.answerAgain(it, g.instance)
	}
	g.host.release(it)
}

// answerAgain computes a repeated command's answer on the state it left. Domain
// code that panics now cannot undo what the command has done.
func (g *grain) answerAgain(it *item, instance aggregate.Instance) {
	answer, err := g.answer(it.call.Request, instance)
	var p *panicError
	if errors.As(err, &p) {
		err = aggregate.UnknownOutcome(aggregate.ReasonPanic, g.report(it.call.Request, p))
	} else {
		err = g.refusal(it.call, err)
	}
	it.result.Response.Answer, it.result.Err = answer, err
}

func (g *grain) answer(r *aggregate.Request, instance aggregate.Instance) (any, error) {
	return safely(func() (any, error) { return instance.Answer(r.Message, r.Value) })
}

// command decides, evolves, and hands the commit to the lane.
func (g *grain) command(c *Call) {
	r := c.Request
	events, err := safely(func() ([]any, error) { return g.instance.Decide(r.Value) })
	if err != nil || len(events) == 0 {
		it := &item{grain: g, call: c, result: failed(g.refusal(c, err))}
		if err == nil {
			it.result = Result{Response: aggregate.Response{Receipt: aggregate.Receipt{
				Command: c.id(), Version: aggregate.Version(g.version), Partition: aggregate.Partition(g.tenure.partition),
			}}}
			if r.Answer {
				it.result.Response.Answer, err = g.answer(r, g.instance)
				it.result.Err = g.refusal(c, err)
			}
		}
		g.reply(it)
		if panicked(err) {
			g.leave()
		}
		return
	}
	it := &item{grain: g, call: c, hasCommit: true}
	if _, err = safely(func() (any, error) { return nil, g.encode(it, events) }); err != nil {
		if panicked(err) {
			err = g.refusal(c, err)
		}
		g.reply(&item{grain: g, call: c, result: failed(err)})
		return
	}
	_, err = safely(func() (any, error) { return nil, g.evolve(events) })
	if err == nil && r.Answer {
		it.result.Response.Answer, err = g.answer(r, g.instance)
	}
	if err != nil { // nothing has happened yet, but the state has moved on
		g.reply(&item{grain: g, call: c, result: failed(g.refusal(c, err))})
		g.leave()
		return
	}
	g.version += persistence.Version(len(events))
	g.window.Add(eventsourcing.Handled{Command: c.id(), Version: g.version, Events: len(events)})
	it.result.Response.Receipt = aggregate.Receipt{
		Command: c.id(), Version: aggregate.Version(g.version), Events: len(events),
		Partition: aggregate.Partition(g.tenure.partition),
	}
	g.sinceSnap.add(len(events), it.bytes)
	if g.sinceSnap.due(g.def.Snapshots(), g.mailbox.empty()) {
		it.snapshot = g.snapshot()
	}
	g.tenure.mark(g.stream)
	g.mu.Lock()
	g.revealed, it.reveals = true, true
	g.push(it)
	g.mu.Unlock()
	g.tenure.lane.submit(it)
}

// encode gives the command's events their stored form.
func (g *grain) encode(it *item, events []any) error {
	c, limit := it.call, g.host.config.MaxPayload
	encoded := it.events[:0]
	for _, e := range events {
		m := g.def.MessageOf(e)
		if e == nil || m == nil || m.Kind() != aggregate.KindEvent {
			return aggregate.Invalid(aggregate.ReasonBadEvent, fmt.Errorf("%q decided a %T, which aggregate %q does not record",
				c.Request.Message.Name(), e, g.def.Name()))
		}
		stored, err := eventsourcing.EncodeEvent(m, e)
		if err != nil {
			return aggregate.Invalid(aggregate.ReasonBadPayload, err)
		}
		if len(stored.Payload) > limit {
			return aggregate.Invalid(aggregate.ReasonTooLarge, fmt.Errorf("event %q has %d bytes, the limit is %d", m.Name(), len(stored.Payload), limit))
		}
		it.bytes += len(stored.Payload) + len(stored.Type)
		encoded = append(encoded, stored)
	}
	metadata, err := eventsourcing.EncodeMetadata(&c.Request.Metadata)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, err)
	}
	it.bytes += len(metadata)
	it.commit = persistence.Commit{
		Stream: g.stream, Partition: g.tenure.partition, Expected: g.version,
		Command: persistence.CommandID(c.id()), At: g.host.clock.Wall(), Metadata: metadata, Events: encoded,
	}
	return nil
}

func (g *grain) evolve(events []any) error {
	for _, e := range events {
		g.instance.Evolve(e)
	}
	return nil
}

func (g *grain) query(c *Call) {
	answer, err := g.answer(c.Request, g.instance)
	g.reply(&item{grain: g, call: c, result: Result{
		Response: aggregate.Response{Answer: answer, Receipt: aggregate.Receipt{
			Version: aggregate.Version(g.version), Partition: aggregate.Partition(g.tenure.partition),
		}},
		Err: g.refusal(c, err),
	}})
	if panicked(err) {
		g.leave()
	}
}

// refusal sorts what domain code returned: a rejection, or a panic that
// certainly had no effect.
func (g *grain) refusal(c *Call, err error) error {
	if err == nil {
		return nil
	}
	var p *panicError
	if errors.As(err, &p) {
		return aggregate.NotDone(aggregate.ReasonPanic, g.report(c.Request, p))
	}
	rejection, failure := safely(func() (*aggregate.Rejection, error) { return aggregate.AsRejection(err), nil })
	if failure != nil { // the error's own methods panic
		return g.refusal(c, failure)
	}
	return rejection
}

// reply queues a reply behind the commits that it depends on. One of them may
// have failed since the turn began. // I3
func (g *grain) reply(it *item) {
	g.mu.Lock()
	it.reveals = g.revealed
	if g.broken {
		it.result = failed(errMoved)
	}
	if g.queue != nil {
		g.push(it)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.host.release(it)
}

func (g *grain) push(it *item) {
	if g.last == nil {
		g.queue = it
	} else {
		g.last.next = it
	}
	g.last = it
	if it.hasCommit {
		g.commits++
	}
}

// settle is called by the lane, in order, when the fate of a commit is known.
// It appends to free the replies that may now leave.
func (g *grain) settle(it *item, err error, free []*item) []*item {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue != it {
		panic("actor: commits of one grain settled out of order")
	}
	if err == nil {
		last := it.commit.Offset + persistence.Offset(len(it.commit.Events)) - 1
		it.result.Response.Receipt.Offset = aggregate.Offset(last)
		g.settled = append(g.settled, settled{it.call.id(), last})
		if it.snapshot != nil {
			g.host.save(it.snapshot)
		}
	} else {
		g.broken = true
		it.result = failed(err)
	}
	g.commits--
	free = append(free, it)
	g.queue = it.next
	for g.queue != nil && !g.queue.hasCommit {
		if g.broken { // it was computed on a state that is not the log's
			g.queue.result = failed(errMoved)
		}
		free = append(free, g.queue)
		g.queue = g.queue.next
	}
	if g.queue == nil {
		g.last = nil
		if g.notify {
			g.notify = false
			g.mailbox.PostUserMessage(settledMessage{})
		}
	}
	if err != nil && !g.notify {
		g.mailbox.PostUserMessage(leaveMessage{})
	}
	return free
}

// leave gives the activation up once nothing of it is in flight.
func (g *grain) leave() {
	g.phase = leaving
	g.leaveIfQuiet()
}

func (g *grain) leaveIfQuiet() {
	if g.phase != leaving || g.stopped.Load() {
		return
	}
	g.mu.Lock()
	quiet := g.queue == nil
	g.notify = !quiet
	g.mu.Unlock()
	if quiet {
		g.stop()
	}
}

// stop ends the activation. What it has not begun goes back to the host, which
// finds the aggregate's next activation, here or elsewhere.
func (g *grain) stop() {
	g.stopped.Store(true)
	g.tenure.forget(g)
	g.host.resident.remove(g)
	stash := g.stash
	g.stash = nil
	for _, c := range stash {
		g.bounce(c)
	}
	g.host.system.Root.Stop(g.pid)
}

// bounce takes a message that arrived after the stop.
func (g *grain) bounce(message any) {
	switch m := proto.UnwrapEnvelopeMessage(message).(type) {
	case *Call:
		g.release(m).leave()
		g.host.Deliver(m)
	case *foundMessage:
		g.bounce(m.call)
	case *loadedMessage, settledMessage, leaveMessage, passivate, tidy, proto.SystemMessage, proto.AutoReceiveMessage:
	default:
		if sender := proto.UnwrapEnvelopeSender(message); sender != nil {
			g.host.system.Root.Send(sender, &proto.DeadLetterResponse{Target: g.pid})
		}
	}
}

// passivate leaves memory if nobody uses the aggregate.
func (g *grain) passivate() {
	if g.phase != running || g.inflight.Load() > 0 || !g.catchUp() {
		return
	}
	if p := g.def.Snapshots(); !p.Off && g.sinceSnap.events >= p.OnPassivation {
		if s := g.snapshot(); s != nil {
			g.host.save(s)
		}
	}
	g.host.stats.passivations.Add(1)
	g.leave()
}

// tidy gives back the memory of a burst, once nobody has used the aggregate for
// a while.
func (g *grain) tidy() {
	if g.phase != running || g.inflight.Load() > 0 || !g.catchUp() {
		return
	}
	g.window.Trim()
	g.stash = nil
	g.mu.Lock()
	g.settled = nil
	g.mu.Unlock()
	g.mailbox.tidy()
}

// snapshot encodes the state as it is now.
func (g *grain) snapshot() *persistence.Snapshot {
	g.catchUp()
	s, err := safely(func() (persistence.Snapshot, error) {
		return eventsourcing.EncodeSnapshot(g.def, g.stream, g.version, g.instance, &g.window, g.host.clock.Wall())
	})
	g.sinceSnap = snapshotDebt{}
	if err != nil {
		g.host.log.Error("snapshot not taken", "stream", g.stream.String(), "error", err)
		return nil
	}
	return &s
}

// finish answers a call that waits for nothing.
func (g *grain) finish(c *Call, r Result) {
	t := g.release(c)
	c.Reply.Reply(c, r)
	t.leave() // a partition is drained when its replies are on their way
}

// release makes room for another call. The partition counts this one until the
// caller of release says that it has left.
func (g *grain) release(c *Call) *tenure {
	t := c.tenure
	g.inflight.Add(-1)
	g.host.inflight.Add(-1)
	c.grain, c.tenure, c.looked = nil, nil, false
	return t
}

func (g *grain) idleSince() time.Duration { return time.Duration(g.lastUsed.Load()) }

package actor

import (
	"errors"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// execute runs one call on the newest state.
func (g *grain) execute(c *Call) {
	g.host.touch(g)
	if !g.catchUp() || g.key != nil && g.key.Usable() != nil { // or it is to be asked for again
		g.stash = append(g.stash, c)
		g.leave()
		return
	}
	if c.expired(g.host.clock) {
		g.finish(c, tooLate())
		return
	}
	r := c.Request
	isCommand := r.Message.Kind() == aggregate.KindCommand
	switch {
	case c.timer != nil:
		if !g.host.timers.stands(c.timer) {
			g.finish(c, failed(errGone))
			return
		}
	case isCommand && !g.host.seams.Without.Dedup && !g.fresh(c):
		return
	}
	if r.Expect >= 0 && r.Expect != aggregate.Version(g.version) {
		g.reply(&item{grain: g, call: c, result: failed(atAnotherVersion(g.version, r.Expect))})
		return
	}
	if isCommand {
		g.command(c)
	} else {
		g.query(c)
	}
}

func atAnotherVersion(actual persistence.Version, expected aggregate.Version) error {
	rejection := aggregate.ErrVersion.With("expected", fmt.Sprint(expected)).With("actual", fmt.Sprint(actual))
	rejection.Message = fmt.Sprintf("%s: it is at version %d, expected was %d", rejection.Message, actual, expected)
	return rejection
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
	events, err := g.decide(c)
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
		if c.timer != nil && !panicked(err) {
			g.consume(it)
			return
		}
		if c.Request.Caused && !panicked(err) && !errors.Is(it.result.Err, aggregate.ErrEnded) && !g.host.seams.Without.Outcomes {
			g.keep(it)
			return
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
	if err := g.tenure.lane.admit(); err != nil { // before the state moves on: it stays the log's
		g.finish(c, failed(err))
		return
	}
	_, err = safely(func() (any, error) { return nil, g.evolve(events) })
	if err == nil {
		err = g.open(it)
	}
	if err == nil && r.Answer {
		it.result.Response.Answer, err = g.answer(r, g.instance)
	}
	if err != nil { // nothing has happened yet, but the state has moved on
		g.reply(&item{grain: g, call: c, result: failed(g.refusal(c, err))})
		g.leave()
		return
	}
	g.commitTo(it, len(events))
}

// commitTo hands the lane a commit of so many events, which the state has already.
func (g *grain) commitTo(it *item, events int) {
	c := it.call
	g.version += persistence.Version(events)
	g.last = stampOf(persistence.Cause{Command: it.commit.Command, At: it.commit.At})
	g.window.Add(eventsourcing.Handled{Command: c.id(), Version: g.version, Events: events})
	it.result.Response.Receipt = aggregate.Receipt{
		Command: c.id(), Version: aggregate.Version(g.version), Events: events,
		Partition: aggregate.Partition(g.tenure.partition),
	}
	g.sinceSnap.add(events, it.bytes)
	if g.sinceSnap.due(g.def.Snapshots(), g.mailbox.empty()) {
		it.snapshot = g.snapshot()
	}
	g.tenure.mark(g.stream)
	g.host.timers.changed(g.tenure, &it.commit)
	g.mu.Lock()
	g.revealed, it.reveals = true, true
	g.push(it)
	g.mu.Unlock()
	g.tenure.lane.submit(it)
}

func (g *grain) decide(c *Call) ([]any, error) {
	if c.timer != nil && c.timer.refused != nil {
		return nil, c.timer.refused
	}
	if r := c.Request.Refusal; r != nil {
		return nil, r
	}
	if ended, err := g.ended(); ended || err != nil {
		return nil, err
	}
	return safely(func() ([]any, error) { return g.instance.Decide(c.Request.Value) })
}

// consume commits that a timer has done its duty, though nothing has happened: so
// that it does not fire again (I10).
func (g *grain) consume(it *item) {
	if err := g.tenure.lane.admit(); err != nil {
		g.finish(it.call, failed(err))
		return
	}
	it.hasCommit, it.commit = true, g.commit(it.call)
	g.host.timers.spend(it.call.timer, &it.commit)
	g.host.timers.changed(g.tenure, &it.commit)
	g.mu.Lock()
	g.push(it)
	g.mu.Unlock()
	g.tenure.lane.submit(it)
}

// commit is what a command commits, but for its events.
func (g *grain) commit(c *Call) persistence.Commit {
	return persistence.Commit{
		Stream: g.stream, Partition: g.tenure.partition, Expected: g.version,
		Command: persistence.CommandID(c.id()), At: g.host.clock.Wall(),
	}
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
	if err := g.seal(encoded); err != nil {
		return err
	}
	metadata, err := eventsourcing.EncodeMetadata(&c.Request.Metadata)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, err)
	}
	it.bytes += len(metadata)
	it.commit = g.commit(c)
	it.commit.Metadata, it.commit.Events = metadata, encoded
	if err := eventsourcing.EncodeEffects(g.def, events, &c.Request.Metadata, &it.commit); err != nil {
		return err
	}
	for i := range it.commit.Timers {
		if n := len(it.commit.Timers[i].Payload); n > limit {
			return aggregate.Invalid(aggregate.ReasonTooLarge, fmt.Errorf("timer %q has %d bytes, the limit is %d", it.commit.Timers[i].Name, n, limit))
		}
		it.bytes += len(it.commit.Timers[i].Payload)
	}
	if c.timer != nil {
		g.host.timers.spend(c.timer, &it.commit)
	}
	if inline := g.host.config.Inline; inline != nil {
		inline(&it.commit, events)
	}
	return nil
}

// seal encrypts events of an aggregate that is sealed.
func (g *grain) seal(encoded []persistence.NewEvent) error {
	if g.key == nil {
		return nil
	}
	err := g.key.SealEvents(g.stream, g.version, encoded)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, eventsourcing.ErrForgotten):
		return aggregate.NotDone(aggregate.ReasonForgotten, err)
	}
	return aggregate.NotDone(aggregate.ReasonStoreDown, err) // which has not confirmed the key
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

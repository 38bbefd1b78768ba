package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// task is one command that an event causes.
type task struct {
	request aggregate.Request // whose Metadata are the event's
	send    *aggregate.Send   // nil for an input
	index   int               // among what the event sends
}

// finalError is a failure that time does not cure.
type finalError struct {
	err error
	at1 bool // nor does another attempt
}

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// ErrSkipped is the rejection of a command that an operator has skipped.
var ErrSkipped = aggregate.Reject("skipped", "an operator has skipped the command")

var errNewer = errors.New("the event was written by a newer program")

// read brings events from where they are into their errands. It reports whether
// there may be more at once.
func (c *Courier) read(tick bool) (more bool, err error) {
	type place struct {
		post   *post
		events []persistence.Event
	}
	var heard []place
	var behind []*post
	var cursors []persistence.Cursor
	c.mu.Lock()
	for _, p := range c.posts {
		if !p.loaded {
			continue
		}
		if p.watermark(); p.full() {
			c.putAside(p)
		}
		p.behind = p.behind || tick
		switch {
		case p.full():
		case len(p.live) > 0:
			heard = append(heard, place{p, p.live})
			p.live = nil
		case p.behind:
			p.behind = false
			behind = append(behind, p)
			cursors = append(cursors, persistence.Cursor{Partition: p.partition, After: p.cursor})
		}
	}
	c.mu.Unlock()
	for _, h := range heard {
		if taken, err := c.take(h.post, h.events); err != nil {
			c.lag(h.post)
			return false, err
		} else if taken < len(h.events) {
			c.lag(h.post)
		}
	}
	if len(cursors) == 0 {
		return len(heard) > 0, nil
	}
	limit := max(16, min(c.config.Window, 4096/len(cursors)))
	ctx, cancel := c.storeCall()
	events, err := c.config.Store.Tail(ctx, cursors, limit)
	cancel()
	if err != nil {
		for _, p := range behind {
			c.lag(p)
		}
		return false, err
	}
	of := map[persistence.Partition][]persistence.Event{}
	for _, part := range byPartition(events) {
		of[part[0].Partition] = part
	}
	for _, p := range behind {
		part := of[p.partition]
		taken, err := c.take(p, part)
		if err != nil {
			c.lag(p)
			return false, err
		}
		if taken < len(part) || len(part) == limit {
			c.lag(p)
			more = more || taken > 0
		}
	}
	return more || len(heard) > 0, nil
}

// lag notes that the log has more than was taken.
func (c *Courier) lag(p *post) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.behind, p.live = true, nil
}

// take makes jobs of events that follow on a post's cursor, as long as there is
// room, and tells how many it has taken.
func (c *Courier) take(p *post, events []persistence.Event) (taken int, err error) {
	for i := range events {
		e := &events[i]
		j, err := c.prepare(e)
		if err != nil {
			return taken, err
		}
		c.mu.Lock()
		if p.closed || p.full() {
			c.mu.Unlock()
			return taken, nil
		}
		if next := p.cursor + 1; e.Offset != next { // I9
			c.mu.Unlock()
			if e.Offset < next {
				taken++
				continue
			}
			return taken, fmt.Errorf("partition %d has a gap: event %d comes after %d", p.partition, e.Offset, next-1)
		}
		p.cursor = e.Offset
		if j != nil {
			p.add(j)
		}
		c.mu.Unlock()
		taken++
	}
	return taken, nil
}

// prepare makes a job of an event; nil when it causes nothing. The error is that
// the store gave no answer.
func (c *Courier) prepare(e *persistence.Event) (*job, error) {
	if !c.wants(e.Stream.Type) || e.Erased() || IsOutcome(e.Type) {
		return nil, nil
	}
	own := e.Stream.Type == c.process.Name()
	d := c.process
	if !own {
		d = c.sources[e.Stream.Type]
		if since := c.process.Since(); !since.IsZero() && e.At.Before(since) {
			return nil, nil
		}
	}
	j := &job{event: e, sequence: "events of " + e.Stream.String()}
	if own {
		j.sequence = "sends of " + e.Stream.String()
	}
	known, err := d.Find(e.Type)
	switch {
	case err != nil && own:
		j.err = fmt.Errorf("%w: %w", errNewer, err)
		return j, nil
	case err != nil, known.Nothing():
		return nil, nil //nolint:nilerr // what this program does not know it does not react to
	case known.Type() != nil && !c.senders[known.Type()] && c.inputOf(d.Name(), known.Type()) == nil:
		return nil, nil
	}
	opened, err := c.config.Vault.opened(c.ctx, d, e)
	switch {
	case errors.Is(err, ErrForgotten):
		return nil, nil
	case errors.Is(err, errKeys):
		return nil, err
	}
	var events []any
	if err == nil {
		events, err = decode(nil, known, &opened)
	}
	for i := 0; i < len(events) && err == nil; i++ {
		err = c.cause(j, i, events[i])
	}
	if err != nil {
		j.tasks, j.err = nil, &finalError{err: err, at1: true}
		return j, nil //nolint:nilerr // the job has it
	}
	if len(j.tasks) == 0 {
		return nil, nil
	}
	return j, nil
}

// cause finds out what an event causes. It is one of those that are stored as one.
func (c *Courier) cause(j *job, part int, value any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if j.event.Stream.Type == c.process.Name() {
		return c.causeSends(j, value)
	}
	input := c.inputOf(j.event.Stream.Type, reflect.TypeOf(value))
	if input == nil {
		return nil
	}
	e := j.event
	id, command := input(value, aggregate.Origin{
		ID: e.Stream.ID, Version: aggregate.Version(e.Version), At: e.At, Command: aggregate.CommandID(e.Command),
	})
	if id == "" {
		return nil
	}
	if len(j.tasks) == 0 {
		j.sequence = "inputs of " + persistence.Stream{Type: c.process.Name(), ID: id}.String()
	}
	message, err := c.accepted(command)
	if err != nil {
		return err
	}
	r := c.request(c.process, id, message, command, e)
	r.Command = causedCommand(causedInput, c.process.Name(), e, part)
	j.tasks = append(j.tasks, task{request: r})
	return aggregate.CheckID(id)
}

func (c *Courier) causeSends(j *job, value any) error {
	sends, err := c.process.SendsOf(c.process.MessageOf(value), value)
	if err != nil {
		return err
	}
	for i := range sends {
		s := &sends[i]
		index := len(j.tasks)
		r := c.request(s.Definition, s.ID, s.Message, s.Command, j.event)
		r.Command = causedCommand(causedSend, c.process.Name(), j.event, index)
		j.tasks = append(j.tasks, task{request: r, send: s, index: index})
	}
	return nil
}

// accepted finds the schema entry of a command to the process.
func (c *Courier) accepted(input any) (*aggregate.Message, error) {
	m := c.process.MessageOf(input)
	if m == nil || m.Kind() != aggregate.KindCommand {
		return nil, fmt.Errorf("process %q does not accept %T", c.process.Name(), input)
	}
	return m, nil
}

func (c *Courier) request(d *aggregate.Definition, id string, m *aggregate.Message, command any, e *persistence.Event) aggregate.Request {
	return aggregate.Request{
		Definition: d, ID: id, Message: m, Value: command, Expect: -1, Metadata: onward(e), Caused: true,
	}
}

// perform does what is left of a job. An operator skips what fails for good.
func (c *Courier) perform(ctx context.Context, j *job, skip bool) error {
	switch {
	case j.err != nil && skip:
		return nil
	case j.err != nil:
		return j.err
	}
	for ; j.next < len(j.tasks); j.next++ {
		if err := c.do(ctx, j.event, &j.tasks[j.next], skip); err != nil {
			return err
		}
	}
	return nil
}

// do delivers one command, and what became of it.
func (c *Courier) do(ctx context.Context, e *persistence.Event, t *task, skip bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.Patience)
	defer cancel()
	r := t.request
	if skip {
		r.Refusal = ErrSkipped
	}
	rejection, err := c.outcome(ctx, &r)
	if err = sorted(err); err != nil {
		var final *finalError
		if !skip || !errors.As(err, &final) {
			return err
		}
		rejection = ErrSkipped // it could not be carried out, and will not be sent again
	}
	if t.send == nil {
		c.carriedInputs.Add(1)
		return nil
	}
	c.carriedSends.Add(1)
	if rejection != nil {
		c.rejected.Add(1)
	}
	input, err := c.reply(t.send, rejection)
	if err != nil {
		if skip {
			return nil
		}
		return &finalError{err: err, at1: true}
	}
	if input == nil {
		return nil
	}
	m, err := c.accepted(input)
	if err != nil {
		return &finalError{err: err, at1: true}
	}
	answer := c.request(c.process, e.Stream.ID, m, input, e)
	answer.Command = causedCommand(causedReply, c.process.Name(), e, t.index)
	answer.Metadata.Causation = r.Command.String()
	_, err = c.outcome(ctx, &answer)
	if err = sorted(err); err != nil && skip {
		var final *finalError
		if errors.As(err, &final) {
			return nil
		}
	}
	return err
}

// reply is what the process is told of a send; nil for nothing.
func (c *Courier) reply(s *aggregate.Send, rejection *aggregate.Rejection) (input any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	switch {
	case rejection == nil:
		return s.Done, nil
	case s.Rejected == nil:
		return nil, fmt.Errorf("%q was rejected by %s/%s, which its process does not expect: %w", s.Message.Name(), s.Definition.Name(), s.ID, rejection)
	}
	return s.Rejected(rejection), nil
}

// outcome delivers a command and returns what became of it, for ever: it was
// executed, or rejected.
func (c *Courier) outcome(ctx context.Context, r *aggregate.Request) (*aggregate.Rejection, error) {
	request := *r
	response, err := c.config.Deliver(ctx, &request)
	var rejection *aggregate.Rejection
	switch {
	case err == nil && response.Receipt.Duplicate && response.Receipt.Events == 1:
		return c.kept(ctx, r, response.Receipt.Version)
	case err == nil:
		return nil, nil
	case aggregate.KindOf(err) != aggregate.KindRejected || !errors.As(err, &rejection):
		return nil, err
	case r.Refusal == nil && !errors.Is(err, aggregate.ErrEnded) && c.unkept(rejection):
		again := *r
		again.Refusal = rejection
		return c.outcome(ctx, &again)
	}
	return rejection, nil
}

// unkept reports whether a rejection is one by the store, when the command was to
// be committed: nothing is kept of it.
func (c *Courier) unkept(r *aggregate.Rejection) bool {
	return r.Code == aggregate.ErrClaimTaken.Code || r.Code == codeStatement
}

// codeStatement is the code of a rejection by an inline statement.
const codeStatement = "statement-failed"

// kept reads what the log keeps of a command that was delivered before.
func (c *Courier) kept(ctx context.Context, r *aggregate.Request, version aggregate.Version) (*aggregate.Rejection, error) {
	stream := persistence.Stream{Type: r.Definition.Name(), ID: r.ID}
	events, err := c.config.Store.Read(ctx, stream, persistence.Version(version)-1, 1)
	if err != nil {
		return nil, fmt.Errorf("read event %d of %s: %w", version, stream, err)
	}
	if len(events) == 0 || !IsOutcome(events[0].Type) || events[0].Command != persistence.CommandID(r.Command) {
		return nil, nil
	}
	opened, err := c.config.Vault.opened(ctx, r.Definition, &events[0])
	if err != nil {
		return nil, err
	}
	return DecodeOutcome(opened.Payload)
}

// sorted tells failures that time does not cure from others.
func sorted(err error) error {
	var failure *aggregate.Failure
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &failure):
		return err
	case failure.Kind == aggregate.KindInvalid:
		return &finalError{err: err}
	}
	switch failure.Reason {
	case aggregate.ReasonPanic, aggregate.ReasonUnreadable, aggregate.ReasonForgotten:
		return &finalError{err: err}
	}
	return err
}

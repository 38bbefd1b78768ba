package aggregate

import (
	"fmt"
	"reflect"
	"time"
)

// A process manager is an aggregate that lets others act. It is defined, sent to
// and tested like any other; three things make it a process:
//
//   - reactions turn events of other aggregates into commands to an instance of
//     it: see [Reacts];
//   - its events may send commands to other aggregates, by a method Sends, and be
//     told what became of them: see [Sender];
//   - it may have an end: see [Ended].
//
// All of it is pure, and made again from the log after a crash. What an event
// causes carries an id that is made from the event's place in the log, and what
// becomes of it is kept, also when the answer is no: so it has one outcome for
// ever, however often it is delivered (I5, I10).
//
//	func (e Begun) Sends() []aggregate.Outgoing[Transfer] {
//		return []aggregate.Outgoing[Transfer]{
//			aggregate.To[Transfer](bank.Accounts, e.From, bank.Withdraw{Cents: e.Cents}).
//				OnDone(Debit{}).
//				OnRejected(func(r *aggregate.Rejection) aggregate.Command[Transfer] { return Fail{Code: r.Code} }),
//		}
//	}

// Sender is an event of a process manager that sends commands to other
// aggregates. It is pure: the same event sends the same, in the same order, from
// every node and program version. What one instance sends is sent in the order of
// its events, each after what became of the one before it is known.
//
// A command is sent until it was executed or rejected, for days if need be. A send
// that is refused as invalid, or whose target panics again and again, is parked,
// and with it what the instance sends afterwards: an operator resumes or skips it.
type Sender[S any] interface{ Sends() []Outgoing[S] }

// Outgoing is a command to another aggregate, and what the process S wants to hear
// of it. Make it with [To].
type Outgoing[S any] struct {
	target   *Definition
	id       string
	command  any
	done     Command[S]
	rejected func(*Rejection) Command[S]
}

// To makes an outgoing command; the state of the process must be named:
// aggregate.To[Transfer](bank.Accounts, "alice", bank.Withdraw{Cents: 500}).
func To[S, T any](t *Type[T], id string, command Command[T]) Outgoing[S] {
	o := Outgoing[S]{id: id, command: command}
	if t != nil {
		o.target = t.def
	}
	return o
}

// OnDone asks for a command to the process itself when the outgoing command has
// been executed. Without it nobody is told.
func (o Outgoing[S]) OnDone(input Command[S]) Outgoing[S] {
	o.done = input
	return o
}

// OnRejected makes a command to the process itself from the target's rejection.
// The function is pure; nil from it ignores the rejection. Without it a rejection
// is not expected, and parks the instance's sends.
func (o Outgoing[S]) OnRejected(input func(*Rejection) Command[S]) Outgoing[S] {
	o.rejected = input
	return o
}

// Target is the stored name of the target's type and its id.
func (o Outgoing[S]) Target() (aggregateType, id string) {
	if o.target != nil {
		aggregateType = o.target.name
	}
	return aggregateType, o.id
}

// Command is what is sent.
func (o Outgoing[S]) Command() any { return o.command }

// Done is the command that follows when the outgoing one was executed; nil for
// none.
func (o Outgoing[S]) Done() Command[S] { return o.done }

// Rejected is the command that follows when the outgoing one was rejected; nil
// for none, false when a rejection is not expected.
func (o Outgoing[S]) Rejected(r *Rejection) (Command[S], bool) {
	if o.rejected == nil {
		return nil, false
	}
	return o.rejected(r), true
}

// Origin is what a reaction is told of an event besides the event itself.
type Origin struct {
	// ID names the aggregate, Version is the event's place in it.
	ID      string
	Version Version
	// At is when its command was executed, by the owner's clock.
	At time.Time
	// Command caused the event.
	Command CommandID
}

// Reacts makes an event of another aggregate an input of this process: input
// chooses the instance, by its id, and the command to it, purely. An empty id
// says that the event is none of the process's business. The input is delivered
// once in its effect. Inputs from one aggregate to one instance arrive in the
// order of their events.
//
// A process sees the log from its first event on; [ReactsSince] sets a moment.
func Reacts[E Event[T], T, S any](source *Type[T], input func(event E, origin Origin) (id string, command Command[S])) Part[S] {
	return part[S](func(d *Definition) {
		r := Reaction{Event: reflect.TypeFor[E]()}
		switch {
		case source == nil:
			d.problem("Reacts to %s of no aggregate type", r.Event)
			return
		case input == nil:
			d.problem("Reacts to %s without a function", r.Event)
			return
		case source.def.messageOf(r.Event, KindEvent) == nil:
			d.problem("Reacts to %s, which aggregate %q does not record", r.Event, source.def.name)
			return
		case source.def.name == d.name:
			d.problem("Reacts to its own event %s: let the event send", r.Event)
			return
		}
		for i := range d.reactions {
			if d.reactions[i].Source == source.def && d.reactions[i].Event == r.Event {
				d.problem("Reacts to %s of aggregate %q twice", r.Event, source.def.name)
				return
			}
		}
		r.Source = source.def
		r.Input = func(event any, o Origin) (string, any) {
			id, command := input(event.(E), o)
			if command == nil {
				return "", nil
			}
			return id, command
		}
		d.reactions = append(d.reactions, r)
	})
}

// ReactsSince lets a process that joins an old log pass over what others recorded
// before a moment. It is never changed afterwards. The state type must be named:
// aggregate.ReactsSince[Transfer](time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)).
func ReactsSince[S any](moment time.Time) Part[S] {
	return part[S](func(d *Definition) { d.since = moment })
}

// Ended says in which states a process is finished, for good. A finished one
// rejects every command with [ErrEnded]: late inputs, acknowledgements and timers
// have no effect on it. It may still send what its last event sends. Processes
// that have an end are listed as open from their first event until it.
func Ended[S any](finished func(state S) bool) Part[S] {
	return part[S](func(d *Definition) {
		if finished == nil {
			d.problem("Ended without a function")
			return
		}
		d.ended = func(state any) bool { return finished(*state.(*S)) }
	})
}

// ErrEnded rejects a command to a process that is finished.
var ErrEnded = Reject("ended", "the process has ended")

// Reaction is a part [Reacts] as the runtime reads it.
type Reaction struct {
	Source *Definition
	Event  reflect.Type
	// Input returns the instance's id and a command to it; the id is empty when
	// there is none.
	Input func(event any, origin Origin) (id string, command any)
}

// Send is an [Outgoing] as the runtime reads it.
type Send struct {
	Definition *Definition
	ID         string
	Message    *Message
	Command    any
	// Done is the command to the process when this was executed; nil for none.
	Done any
	// Rejected makes the command to the process when it was rejected, nil for
	// none; a nil function says that a rejection is not expected.
	Rejected func(*Rejection) any
}

// Reactions lists the parts [Reacts].
func (d *Definition) Reactions() []Reaction { return d.reactions }

// Since is the moment of [ReactsSince].
func (d *Definition) Since() time.Time { return d.since }

// IsProcess reports whether the definition reacts to others or sends to them.
func (d *Definition) IsProcess() bool { return len(d.reactions) > 0 || d.Sends() }

// Sends reports whether an event of the definition may send.
func (d *Definition) Sends() bool {
	for _, m := range d.all {
		if m.sends != nil {
			return true
		}
	}
	return false
}

// Ends reports whether the definition has a part [Ended].
func (d *Definition) Ends() bool { return d.ended != nil }

// Ended reports whether a process is finished. state points to its state.
func (d *Definition) Ended(state any) bool { return d.ended != nil && d.ended(state) }

// SendsOf lists what an event sends. It fails, with an invalid failure, for what
// could never be sent, or answered to the process.
func (d *Definition) SendsOf(m *Message, event any) ([]Send, error) {
	if m == nil || m.sends == nil {
		return nil, nil
	}
	sends := m.sends(event)
	for i := range sends {
		if err := d.checkSend(&sends[i]); err != nil {
			return nil, Invalid(ReasonBadEffect, fmt.Errorf("event %q of aggregate %q, send %d: %w", m.name, d.name, i+1, err))
		}
	}
	return sends, nil
}

func (d *Definition) checkSend(s *Send) error {
	if s.Definition == nil {
		return fmt.Errorf("%T goes to no aggregate type", s.Command)
	}
	s.Message = s.Definition.messageOf(reflect.TypeOf(s.Command), KindCommand)
	switch {
	case s.Message == nil:
		return fmt.Errorf("aggregate %q does not accept %T", s.Definition.name, s.Command)
	case s.Message.pointer && reflect.ValueOf(s.Command).IsNil():
		return fmt.Errorf("the command is a nil %T", s.Command)
	case s.Done != nil && d.messageOf(reflect.TypeOf(s.Done), KindCommand) == nil:
		return fmt.Errorf("what follows when it is done is %T, which is not accepted", s.Done)
	}
	return CheckID(s.ID)
}

// MaySend reports whether an event has a method Sends.
func (m *Message) MaySend() bool { return m.sends != nil }

// sendsOf finds the method Sends of an event type.
func sendsOf[E, S any](m *Message) {
	typ := reflect.TypeFor[E]()
	var zero E
	if _, ok := any(zero).(Sender[S]); !ok {
		method, there := typ.MethodByName("Sends")
		switch {
		case there:
			m.problem("its method Sends is %s, not func() []aggregate.Outgoing of its aggregate: an effect has this name", signature(method.Type))
		case typ.Kind() != reflect.Pointer && typ.Kind() != reflect.Interface:
			if _, lost := reflect.PointerTo(typ).MethodByName("Sends"); lost {
				m.problem("its method Sends has a pointer receiver, but the event is recorded as a value: the effect would be lost")
			}
		}
		return
	}
	m.sends = func(event any) []Send {
		outgoing := event.(Sender[S]).Sends()
		sends := make([]Send, len(outgoing))
		for i, o := range outgoing {
			sends[i] = Send{Definition: o.target, ID: o.id, Command: o.command}
			if o.done != nil {
				sends[i].Done = o.done
			}
			if o.rejected != nil {
				sends[i].Rejected = func(r *Rejection) any {
					if input := o.rejected(r); input != nil {
						return input
					}
					return nil
				}
			}
		}
		return sends
	}
}

// Package aggregatetest tests a domain in sentences: given these events, when
// this command, then those events. There is no node and no store.
//
//	aggregatetest.For(t, Accounts).
//		Given(Deposited{700}).
//		When(Withdraw{500}).Then(Withdrawn{500}).
//		When(Withdraw{500}).ThenRejected(ErrInsufficientFunds)
//
// Every step also checks, unasked, what the runtime takes for granted:
//
//   - Decide and Answer change neither state nor message, Evolve no event;
//   - Decide is deterministic: the same on equal states;
//   - an answer shares no memory with the state;
//   - every message and answer is the same after its codec;
//   - every form in which an event is stored for older programs can be read;
//   - the state is the same after a replay of the stored events, after its
//     snapshot codec, and after a snapshot and the events behind it;
//   - a rejected command leaves no trace;
//   - an event has the same effects (claims, timers) whenever it is asked, and is
//     not changed by it.
//
// Two values are the same when they differ at most in nil and empty slices and
// maps. Opaque values such as [time.Time] are asked by their Equal method.
package aggregatetest

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
)

// Scenario is one aggregate and what has happened to it. Each step ends the
// test when an expectation or a check fails. It is not safe for concurrent use.
type Scenario[S any] struct {
	t    testing.TB
	def  *aggregate.Definition
	live aggregate.Instance
	log  []recorded
	// snapshots[n] is the encoded state at version n; empty when the type takes
	// no snapshots.
	snapshots [][]byte
	held      aggregate.Effects // claims and timers that the events lead to
	sends     []aggregate.Send  // what was sent and not answered
}

// recorded is an event in its stored form, and as Evolve received it: as one, or
// as the several that it was split into.
type recorded struct {
	name    string
	payload []byte
	live    []any
}

// For begins a scenario with an aggregate before its first event.
func For[S any](t testing.TB, typ *aggregate.Type[S]) *Scenario[S] {
	t.Helper()
	if err := aggregate.Validate(typ); err != nil {
		t.Fatalf("the definition is wrong:\n%v", err)
	}
	s := &Scenario[S]{t: t, def: typ.Definition(), live: typ.Definition().NewInstance()}
	s.snapshot("before its first event")
	s.verify("before its first event")
	return s
}

// Given lets events happen.
func (s *Scenario[S]) Given(events ...aggregate.Event[S]) *Scenario[S] {
	s.t.Helper()
	for _, e := range events {
		s.record(s.admit("Given", e), e)
	}
	s.verify("after the given events")
	return s
}

// GivenStored lets an event happen that was stored in form version under its
// name, as bytes of that time. Version 1 is the first form. The name may be one of
// today, or one that is retired or dropped. Keep such bytes in testdata for every
// form that was ever in use.
func (s *Scenario[S]) GivenStored(name string, version int, payload []byte) *Scenario[S] {
	s.t.Helper()
	stored := name
	if version != 1 {
		stored = fmt.Sprintf("%s/%d", name, version)
	}
	events, err := eventsourcing.DecodeEvents(nil, s.def, stored, payload)
	if err != nil {
		s.t.Fatalf("GivenStored(%q): %v", stored, err)
	}
	s.evolve(recorded{name: stored, payload: payload, live: events})
	s.verify("after the stored event " + stored)
	return s
}

// When runs a command. What should follow is said by the [Outcome]; a command
// of which nothing is said fails the test at its end.
func (s *Scenario[S]) When(command aggregate.Command[S]) *Outcome[S] {
	s.t.Helper()
	o := s.run(command)
	s.expectWord(o)
	return o
}

// State lets a function inspect the state. It gets a replayed copy.
func (s *Scenario[S]) State(inspect func(state S)) *Scenario[S] {
	s.t.Helper()
	inspect(*s.replay(0).State().(*S))
	return s
}

// Version is how many events the aggregate has had.
func (s *Scenario[S]) Version() aggregate.Version { return aggregate.Version(len(s.log)) }

// run decides, checks, and records the events.
func (s *Scenario[S]) run(command aggregate.Command[S]) *Outcome[S] {
	s.t.Helper()
	message := s.message(aggregate.KindCommand, command)
	o := &Outcome[S]{scenario: s, command: show(command)}
	decoded := s.codecKeeps(message, command)
	var events []aggregate.Event[S]
	if s.ended() {
		o.err = aggregate.ErrEnded
	} else {
		events, o.err = s.decide(command, decoded)
	}
	for _, e := range events {
		s.record(s.def.MessageOf(e), e)
		s.add(&o.effects, s.def.MessageOf(e), e)
		o.sends = append(o.sends, s.sendsOf(s.def.MessageOf(e), e)...)
		o.events = append(o.events, e)
	}
	if diff := difference(command, decoded); diff != "" {
		s.t.Fatalf("Evolve changed the command %s, whose memory came into the state with an event: %s", o.command, diff)
	}
	s.verify("after " + o.command)
	if o.err == nil && message.Answers() {
		if o.answer, o.answerErr = s.answer(message, command); o.answerErr != nil && len(events) > 0 {
			s.t.Fatalf("Answer of %s refuses with %q after the command's events have happened: let Decide refuse",
				o.command, o.answerErr)
		}
	}
	return o
}

// admit finds the schema entry of an event that was decided or given.
func (s *Scenario[S]) admit(origin string, event any) *aggregate.Message {
	s.t.Helper()
	if v := reflect.ValueOf(event); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		s.t.Fatalf("%s: an event is a nil %T", origin, event)
	}
	message := s.message(aggregate.KindEvent, event)
	s.codecKeeps(message, event)
	return message
}

// record stores an event and evolves the state.
func (s *Scenario[S]) record(message *aggregate.Message, event any) {
	s.t.Helper()
	stored, err := eventsourcing.EncodeEvent(message, event)
	if err != nil {
		s.t.Fatalf("event %s: %v", show(event), err)
	}
	s.evolve(recorded{name: stored.Type, payload: stored.Payload, live: []any{event}})
	s.formsKeep(message, stored.Payload)
}

// evolve moves the live state on.
func (s *Scenario[S]) evolve(r recorded) {
	s.t.Helper()
	for _, event := range r.live {
		s.guard("Evolve of "+show(event), func() { s.live.Evolve(event) })
	}
	s.log = append(s.log, r)
	s.affect(r)
	for _, event := range r.live {
		s.sends = append(s.sends, s.sendsOf(s.def.MessageOf(event), event)...)
	}
	s.snapshot("after " + r.String())
}

func (s *Scenario[S]) snapshot(when string) {
	s.t.Helper()
	if s.def.Snapshots().Off {
		return
	}
	b, err := eventsourcing.StateCodec(s.def).Marshal(s.live.State())
	if err != nil {
		s.t.Fatalf("the state %s cannot be encoded for a snapshot: %v", when, err)
	}
	s.snapshots = append(s.snapshots, b)
}

// String names the event as the domain knows it.
func (r recorded) String() string {
	if len(r.live) == 1 {
		return show(r.live[0])
	}
	return "the stored event " + r.name
}

// message finds the schema entry of a value, or says why there is none.
func (s *Scenario[S]) message(kind aggregate.MessageKind, value any) *aggregate.Message {
	s.t.Helper()
	m := s.def.MessageOf(value)
	switch {
	case m != nil && m.Kind() == kind:
		return m
	case m != nil:
		s.t.Fatalf("%T is the %s %q of aggregate %q, and no %s", value, m.Kind(), m.Name(), s.def.Name(), kind)
	}
	for _, m := range s.def.Messages() {
		if typ := reflect.TypeOf(value); typ == reflect.PointerTo(m.GoType()) || reflect.PointerTo(typ) == m.GoType() {
			s.t.Fatalf("%T is no %s of aggregate %q, but %s is: use that", value, kind, s.def.Name(), m.GoType())
		}
	}
	s.t.Fatalf("%T is no %s of aggregate %q", value, kind, s.def.Name())
	return nil
}

// guard ends the test when f panics. It fails at the line of the test, and names
// the line of the domain.
func (s *Scenario[S]) guard(what string, f func()) {
	s.t.Helper()
	if p, place := recovered(f); p != nil {
		s.t.Fatalf("%s panicked: %v%s", what, p, place)
	}
}

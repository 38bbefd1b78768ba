package aggregatetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
)

// repeats is how often Decide must agree with itself. A range over a small map
// begins at a random one of eight slots, so that two entries change places once
// in eight times, and pass all repeats once in 26 million.
const repeats = 128

// tails is how many of the latest snapshots are restored after each step.
const tails = 16

// decide runs a command as the runtime does, and then again on an equal state.
func (s *Scenario[S]) decide(command, decoded any) ([]aggregate.Event[S], error) {
	s.t.Helper()
	name, twin := show(command), s.replay(0)
	events, err := s.decideOnce(name, s.live, command)
	if diff := difference(s.live.State(), twin.State()); diff != "" {
		s.t.Fatalf("Decide of %s changed the state, which only Evolve may: %s", name, diff)
	}
	if diff := difference(command, decoded); diff != "" {
		s.t.Fatalf("Decide of %s changed the command: %s", name, diff)
	}
	for _, e := range events {
		s.admit("Decide of "+name, e)
	}
	for range repeats {
		again, errAgain := s.decideOnce(name, twin, decoded)
		if diff := differentOutcome(again, events, errAgain, err); diff != "" {
			s.t.Fatalf("Decide of %s is not deterministic, it gave two outcomes on equal states "+
				"(time and new ids come in the command; the order of a map is random): %s", name, diff)
		}
	}
	return events, err
}

func (s *Scenario[S]) decideOnce(name string, on aggregate.Instance, command any) (events []aggregate.Event[S], err error) {
	s.t.Helper()
	s.guard("Decide of "+name, func() {
		events, err = command.(aggregate.Command[S]).Decide(*on.State().(*S))
	})
	var r *aggregate.Rejection
	if errors.As(err, &r) && r == nil {
		s.t.Fatalf("Decide of %s returned a nil *aggregate.Rejection, which is an error that is not nil: return nil", name)
	}
	if err != nil && len(events) > 0 {
		s.t.Fatalf("Decide of %s returned an error and events: a rejected command leaves no trace", name)
	}
	return events, err
}

func differentOutcome[E any](got, want []E, gotErr, wantErr error) string {
	if (gotErr == nil) != (wantErr == nil) {
		return fmt.Sprintf("error %v, not error %v", gotErr, wantErr)
	}
	if gotErr != nil {
		return difference(aggregate.AsRejection(gotErr), aggregate.AsRejection(wantErr))
	}
	return difference(got, want)
}

// answer runs a query, or a command that answers, on the state.
func (s *Scenario[S]) answer(m *aggregate.Message, value any) (result any, err error) {
	s.t.Helper()
	name, twin, decoded := show(value), s.replay(0), s.codecKeeps(m, value)
	s.guard("Answer of "+name, func() { result, err = s.live.Answer(m, value) })
	if diff := difference(s.live.State(), twin.State()); diff != "" {
		s.t.Fatalf("Answer of %s changed the state: %s", name, diff)
	}
	if diff := difference(value, decoded); diff != "" {
		s.t.Fatalf("Answer of %s changed the message: %s", name, diff)
	}
	if err != nil {
		return nil, err
	}
	if path, in, shared := sharedMemory(result, s.live.State()); shared {
		s.t.Fatalf("Answer of %s shares memory with the state: answer%s is in state%s; return a copy", name, path, in)
	}
	s.answerCodecKeeps(m, name, result)
	return result, nil
}

// codecKeeps sends a message through its codec.
func (s *Scenario[S]) codecKeeps(m *aggregate.Message, value any) any {
	s.t.Helper()
	codec := eventsourcing.CodecFor(m)
	b, err := codec.Marshal(value)
	if err != nil {
		s.t.Fatalf("%s %s cannot be encoded as %s: %v", m.Kind(), show(value), codec.Name(), err)
	}
	decoded, err := m.Decode(codec, b)
	if err != nil {
		s.t.Fatalf("%s %s cannot be decoded from its %s: %v", m.Kind(), show(value), codec.Name(), err)
	}
	if diff := difference(decoded, value); diff != "" {
		s.t.Fatalf("%s %s is another after its codec, %s (fields must be exported): %s",
			m.Kind(), show(value), codec.Name(), diff)
	}
	return decoded
}

func (s *Scenario[S]) answerCodecKeeps(m *aggregate.Message, name string, result any) {
	s.t.Helper()
	codec := eventsourcing.AnswerCodec(m)
	b, err := codec.Marshal(result)
	if err != nil {
		s.t.Fatalf("the answer of %s cannot be encoded as %s: %v", name, codec.Name(), err)
	}
	decoded, err := m.DecodeAnswer(codec, b)
	if err != nil {
		s.t.Fatalf("the answer of %s cannot be decoded from its %s: %v", name, codec.Name(), err)
	}
	if diff := difference(decoded, result); diff != "" {
		s.t.Fatalf("the answer of %s is another after its codec, %s (fields must be exported): %s", name, codec.Name(), diff)
	}
}

// verify compares the live state with those that the stored form leads to (I2).
func (s *Scenario[S]) verify(when string) {
	s.t.Helper()
	for _, r := range s.log {
		for i, decoded := range s.decode(r) {
			if diff := difference(r.live[i], decoded); diff != "" {
				s.t.Fatalf("Evolve changed the event %s, whose memory the state keeps: copy what is changed in place: %s",
					show(r.live[i]), diff)
			}
		}
	}
	if diff := difference(s.replay(0).State(), s.live.State()); diff != "" {
		s.t.Fatalf("the replayed state is not the live one %s; Evolve may depend on state and event only: %s", when, diff)
	}
	if s.def.Snapshots().Off {
		return
	}
	codec := eventsourcing.StateCodec(s.def)
	last := len(s.snapshots) - 1
	for n := last; n >= max(0, last-tails); n-- {
		restored := s.restore(n)
		diff := difference(restored.State(), s.live.State())
		switch {
		case diff != "" && n == last:
			s.t.Fatalf("the state %s is another after its snapshot codec, %s (fields must be exported): %s",
				when, codec.Name(), diff)
		case diff != "":
			s.t.Fatalf("the state %s is another from the snapshot at version %d and the events behind it: %s", when, n, diff)
		}
	}
}

// replay folds the stored events, from version after, over a new aggregate.
func (s *Scenario[S]) replay(after int) aggregate.Instance {
	s.t.Helper()
	instance := s.def.NewInstance()
	s.fold(instance, after, "a replay")
	return instance
}

// restore makes the aggregate from the snapshot at a version and the events
// behind it.
func (s *Scenario[S]) restore(version int) aggregate.Instance {
	s.t.Helper()
	instance := s.def.NewInstance()
	if err := instance.Restore(eventsourcing.StateCodec(s.def), s.snapshots[version]); err != nil {
		s.t.Fatalf("the state at version %d cannot be decoded from its snapshot: %v", version, err)
	}
	s.fold(instance, version, fmt.Sprintf("a restart from the snapshot at version %d", version))
	return instance
}

func (s *Scenario[S]) fold(instance aggregate.Instance, after int, during string) {
	s.t.Helper()
	for _, r := range s.log[after:] {
		for _, event := range s.decode(r) {
			s.guard("Evolve of "+show(event)+" in "+during, func() { instance.Evolve(event) })
		}
	}
}

// decode reads a stored event again: as many events as it was at first.
func (s *Scenario[S]) decode(r recorded) []any {
	s.t.Helper()
	events, err := eventsourcing.DecodeEvents(nil, s.def, r.name, r.payload)
	if err != nil {
		s.t.Fatalf("event %s cannot be read: %v", r.name, err)
	}
	if len(events) != len(r.live) {
		s.t.Fatalf("event %s is not always split into the same: it was %d events, and then %d", r.name, len(r.live), len(events))
	}
	return events
}

// formsKeep reads each form in which an event is stored for older programs, as
// those will. What such a form leaves out is not told.
func (s *Scenario[S]) formsKeep(m *aggregate.Message, payload []byte) {
	s.t.Helper()
	names := strings.Split(m.StoredName(), "+")
	for i, f := range m.Forms() {
		if i == 0 || f.Message == nil {
			continue
		}
		// an older program knows none of the forms before: they have names that nobody has
		unknown := slices.Clone(names)
		for n := range i {
			unknown[n] = "unknown-form"
		}
		s.guard("the upcast from "+f.Name, func() {
			if _, err := eventsourcing.DecodeEvents(nil, s.def, strings.Join(unknown, "+"), payload); err != nil {
				s.t.Fatalf("event %q cannot be read in the form %q, which it is stored in for older programs: %v", m.Name(), f.Name, err)
			}
		})
	}
}

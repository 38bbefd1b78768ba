package aggregatetest

import (
	"reflect"
	"slices"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Claims expects that the command's events claim these values, in this order, and
// no others. Say it before Then:
//
//	aggregatetest.For(t, Users).
//		When(Register{"ada"}).Claims(aggregate.Claim{Namespace: "username", Key: "ada"}).Then(Registered{"ada"})
//
// What an event claims and a later one of the same command releases counts as
// released, and the other way round, as for the store. The same goes for timers.
func (o *Outcome[S]) Claims(want ...aggregate.Claim) *Outcome[S] {
	o.scenario.t.Helper()
	return o.expectEffects("claims", o.effects.Claims, want)
}

// Releases expects that the command's events release these values and no others.
func (o *Outcome[S]) Releases(want ...aggregate.Claim) *Outcome[S] {
	o.scenario.t.Helper()
	return o.expectEffects("releases", o.effects.Releases, want)
}

// SetsTimers expects that the command's events set these timers and no others.
func (o *Outcome[S]) SetsTimers(want ...aggregate.Timer[S]) *Outcome[S] {
	o.scenario.t.Helper()
	return o.expectEffects("timers", timersOf[S](o.effects.Timers), want)
}

// CancelsTimers expects that the command's events cancel these timers, by name,
// and no others.
func (o *Outcome[S]) CancelsTimers(want ...string) *Outcome[S] {
	o.scenario.t.Helper()
	return o.expectEffects("cancelled timers", o.effects.Cancels, want)
}

func (o *Outcome[S]) expectEffects(what string, got, want any) *Outcome[S] {
	s := o.scenario
	s.t.Helper()
	if diff := differentEffects(got, want); diff != "" {
		s.t.Fatalf("%s has other %s\n got: %s\nwant: %s\ndiff: %s", o.command, what, show(got), show(want), diff)
	}
	return o
}

// differentEffects compares lists of which the empty one may be nil.
func differentEffects(got, want any) string {
	if reflect.ValueOf(got).Len() == 0 && reflect.ValueOf(want).Len() == 0 {
		return ""
	}
	return difference(got, want)
}

// Holds expects which values the aggregate holds after all that has happened, in
// the order in which it claimed them.
func (s *Scenario[S]) Holds(want ...aggregate.Claim) *Scenario[S] {
	s.t.Helper()
	if diff := differentEffects(s.held.Claims, want); diff != "" {
		s.t.Fatalf("the aggregate holds other values\n got: %s\nwant: %s\ndiff: %s", show(s.held.Claims), show(want), diff)
	}
	return s
}

// Pending expects which timers the aggregate has after all that has happened, in
// the order in which they were set. Time does not pass in a scenario: none fires.
func (s *Scenario[S]) Pending(want ...aggregate.Timer[S]) *Scenario[S] {
	s.t.Helper()
	got := timersOf[S](s.held.Timers)
	if diff := differentEffects(got, want); diff != "" {
		s.t.Fatalf("the aggregate has other timers\n got: %s\nwant: %s\ndiff: %s", show(got), show(want), diff)
	}
	return s
}

func timersOf[S any](sets []aggregate.TimerSet) []aggregate.Timer[S] {
	var timers []aggregate.Timer[S]
	for _, t := range sets {
		command, _ := t.Command.(aggregate.Command[S])
		timers = append(timers, aggregate.Timer[S]{Name: t.Name, Due: t.Due, Command: command})
	}
	return timers
}

// affect adds an event's effects to those of the aggregate, and checks what they
// promise: the same event has the same effects, also after its codec, and is not
// changed by being asked.
func (s *Scenario[S]) affect(r recorded) {
	s.t.Helper()
	for i, event := range r.live {
		if message := s.def.MessageOf(event); message != nil && message.HasEffects() {
			s.affectBy(r, i, message)
		}
	}
}

// affectBy is affect for one of the events that the stored one is.
func (s *Scenario[S]) affectBy(r recorded, part int, message *aggregate.Message) {
	s.t.Helper()
	event := r.live[part]
	first := s.effectsOf(message, event)
	for range repeats {
		if diff := difference(s.effectsOf(message, event), first); diff != "" {
			s.t.Fatalf("the effects of %s are not always the same (they may depend on the event only; the order of a map is random): %s",
				show(event), diff)
		}
	}
	decoded := s.decode(r)[part]
	if diff := difference(s.effectsOf(message, decoded), first); diff != "" {
		s.t.Fatalf("the effects of %s are others after its codec: %s", show(event), diff)
	}
	if diff := difference(event, s.decode(r)[part]); diff != "" {
		s.t.Fatalf("to ask %s for its effects has changed it: %s", show(event), diff)
	}
	for i := range first.Timers {
		s.codecKeeps(first.Timers[i].Message, first.Timers[i].Command)
	}
	s.add(&s.held, message, event)
	s.held.Releases, s.held.Cancels = nil, nil
}

func (s *Scenario[S]) effectsOf(m *aggregate.Message, event any) aggregate.Effects {
	s.t.Helper()
	var e aggregate.Effects
	s.add(&e, m, event)
	return e
}

func (s *Scenario[S]) add(to *aggregate.Effects, m *aggregate.Message, event any) {
	s.t.Helper()
	s.guard("an effect of "+show(event), func() {
		if err := s.def.AddEffects(to, m, event); err != nil {
			s.t.Fatalf("%v", strings.TrimPrefix(err.Error(), "invalid (bad-effect): "))
		}
	})
	to.Claims, to.Timers = slices.Clone(to.Claims), slices.Clone(to.Timers)
}

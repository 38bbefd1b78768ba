package aggregatetest

import (
	"errors"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Outcome is what a command led to. Exactly one of its Then methods says what
// was expected, and goes on with the scenario.
type Outcome[S any] struct {
	scenario  *Scenario[S]
	command   string
	events    []any
	effects   aggregate.Effects // of its events together
	sends     []aggregate.Send
	instance  string // that a reaction chose
	err       error
	answer    any
	answerErr error
	said      bool
}

// Then expects these events and no others, in this order.
func (o *Outcome[S]) Then(want ...aggregate.Event[S]) *Scenario[S] {
	s := o.scenario
	s.t.Helper()
	o.said = true
	expected := make([]any, len(want))
	for i, e := range want {
		expected[i] = e
	}
	if o.err != nil {
		s.t.Fatalf("%s was rejected: %v\nwant: %s", o.command, o.err, list(expected))
	}
	diff := ""
	if len(expected) != len(o.events) {
		diff = "the number of events"
	}
	for i := 0; i < len(expected) && diff == ""; i++ {
		if d := difference(o.events[i], expected[i]); d != "" {
			diff = "event " + show(expected[i]) + ": " + d
		}
	}
	if diff != "" {
		s.t.Fatalf("%s led to other events\n got: %s\nwant: %s\ndiff: %s", o.command, list(o.events), list(expected), diff)
	}
	return s
}

// ThenNothing expects that the command was accepted, and that there was
// nothing to do.
func (o *Outcome[S]) ThenNothing() *Scenario[S] {
	o.scenario.t.Helper()
	return o.Then()
}

// ThenRejected expects the rejection that callers can recognise with errors.Is.
// If want has details, the rejection must have them, too.
func (o *Outcome[S]) ThenRejected(want error) *Scenario[S] {
	s := o.scenario
	s.t.Helper()
	o.said = true
	if o.err == nil {
		s.t.Fatalf("%s was accepted\n got: %s\nwant: rejected with %q", o.command, list(o.events), want)
	}
	s.rejects(o.command, o.err, want)
	return s
}

// Done is the outcome of a command that answers.
type Done[S, R any] struct {
	*Outcome[S]
}

// Do runs a command that answers:
//
//	aggregatetest.Do(scenario, Withdraw{500}).Answers(200).Then(Withdrawn{500})
func Do[S, R any](s *Scenario[S], command aggregate.CommandQuery[S, R]) Done[S, R] {
	s.t.Helper()
	o := s.run(command)
	s.expectWord(o)
	return Done[S, R]{o}
}

// Answers expects an answer.
func (d Done[S, R]) Answers(want R) *Outcome[S] {
	d.scenario.t.Helper()
	return d.AnswersWith(func(got R) {
		d.scenario.t.Helper()
		d.scenario.same(d.command, got, want)
	})
}

// AnswersWith lets a function inspect the answer.
func (d Done[S, R]) AnswersWith(inspect func(answer R)) *Outcome[S] {
	d.scenario.t.Helper()
	err := d.err
	if err == nil {
		err = d.answerErr
	}
	if err != nil {
		d.scenario.t.Fatalf("%s has no answer, it was rejected: %v", d.command, err)
	}
	answer, _ := d.answer.(R)
	inspect(answer)
	return d.Outcome
}

// ThenRejected expects the rejection that the caller of Do sees: that of Decide,
// or that of Answer when there was nothing to do. See [Outcome.ThenRejected].
func (d Done[S, R]) ThenRejected(want error) *Scenario[S] {
	s := d.scenario
	s.t.Helper()
	if d.err != nil || d.answerErr == nil {
		return d.Outcome.ThenRejected(want)
	}
	d.said = true
	s.rejects(d.command, d.answerErr, want)
	return s
}

// Answer is the answer to a query.
type Answer[S, R any] struct {
	scenario *Scenario[S]
	query    string
	value    R
	err      error
}

// Ask runs a query:
//
//	aggregatetest.Ask(scenario, Balance{}).Answers(200)
func Ask[S, R any](s *Scenario[S], query aggregate.Query[S, R]) Answer[S, R] {
	s.t.Helper()
	result, err := s.answer(s.message(aggregate.KindQuery, query), query)
	value, _ := result.(R)
	return Answer[S, R]{scenario: s, query: show(query), value: value, err: err}
}

// Answers expects an answer, and goes on with the scenario.
func (a Answer[S, R]) Answers(want R) *Scenario[S] {
	a.scenario.t.Helper()
	return a.AnswersWith(func(got R) {
		a.scenario.t.Helper()
		a.scenario.same(a.query, got, want)
	})
}

// AnswersWith lets a function inspect the answer.
func (a Answer[S, R]) AnswersWith(inspect func(answer R)) *Scenario[S] {
	a.scenario.t.Helper()
	if a.err != nil {
		a.scenario.t.Fatalf("%s was rejected: %v", a.query, a.err)
	}
	inspect(a.value)
	return a.scenario
}

// Rejected expects that the query is refused; see [Outcome.ThenRejected].
func (a Answer[S, R]) Rejected(want error) *Scenario[S] {
	a.scenario.t.Helper()
	if a.err == nil {
		a.scenario.t.Fatalf("%s was answered with %s\nwant: rejected with %q", a.query, show(a.value), want)
	}
	a.scenario.rejects(a.query, a.err, want)
	return a.scenario
}

func (s *Scenario[S]) same(what string, got, want any) {
	s.t.Helper()
	if diff := difference(got, want); diff != "" {
		s.t.Fatalf("%s has another answer\n got: %s\nwant: %s\ndiff: %s", what, show(got), show(want), diff)
	}
}

// rejects compares as a caller does, who sees a rejection and nothing behind it.
func (s *Scenario[S]) rejects(what string, err, want error) {
	s.t.Helper()
	got := aggregate.AsRejection(err)
	if !errors.Is(got, want) {
		if errors.Is(err, want) {
			s.t.Fatalf("%s was rejected with %q, as expected, but callers see the code %q only: make the error with aggregate.Reject",
				what, want, got.Code)
		}
		s.t.Fatalf("%s was rejected for another reason\n got: %v (%s)\nwant: %v", what, got, got.Code, want)
	}
	var wanted *aggregate.Rejection
	if errors.As(want, &wanted) {
		for key, value := range wanted.Details {
			if got.Details[key] != value {
				s.t.Fatalf("%s was rejected with detail %s = %q, want %q", what, key, got.Details[key], value)
			}
		}
	}
}

// expectWord fails a test that ends before it said what the command should do.
func (s *Scenario[S]) expectWord(o *Outcome[S]) {
	s.t.Helper()
	s.t.Cleanup(func() {
		s.t.Helper() // testing then looks for the line from which When was called
		if !o.said && !s.t.Failed() {
			s.t.Errorf("nothing was expected of %s: say Then, ThenNothing or ThenRejected", o.command)
		}
	})
}

func list(values []any) string {
	if len(values) == 0 {
		return "no event"
	}
	shown := make([]string, len(values))
	for i, v := range values {
		shown[i] = show(v)
	}
	return strings.Join(shown, ", ")
}

package aggregatetest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

// box is an aggregate whose events have effects.
type box struct{ Owner string }

type boxEvent = aggregate.Event[box]

type take struct{ Owner, Mode string }

func (c take) Decide(b box) ([]boxEvent, error) {
	if b.Owner != "" {
		return []boxEvent{left(b), taken(c)}, nil
	}
	return []boxEvent{taken(c)}, nil
}

type open struct{}

func (open) Decide(box) ([]boxEvent, error) { return nil, nil }

type taken struct{ Owner, Mode string }

func (e taken) Evolve(b *box) { b.Owner = e.Owner }

func (e taken) Claims() []aggregate.Claim {
	if e.Mode == "random" {
		calls++
		if calls%2 == 0 {
			return nil
		}
	}
	if e.Mode == "bad" {
		return []aggregate.Claim{{Key: e.Owner}}
	}
	if e.Mode == "panic" {
		panic("claims")
	}
	return []aggregate.Claim{{Namespace: "owner", Key: e.Owner}}
}

var tomorrow = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func (e taken) Timers() []aggregate.Timer[box] {
	return []aggregate.Timer[box]{{Name: "open", Due: tomorrow, Command: open{}}}
}

type left struct{ Owner string }

func (left) Evolve(b *box) { b.Owner = "" }

func (e left) Releases() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "owner", Key: e.Owner}}
}
func (left) Cancels() []string { return []string{"open", "other"} }

// shared changes itself when it is asked.
type shared struct{ Names []string }

func (shared) Evolve(*box) {}

func (e shared) Cancels() []string {
	e.Names[0] = "other"
	return []string{"other"}
}

var boxes = aggregate.Define("box",
	aggregate.Accepts[take]("take"), aggregate.Accepts[open]("open"),
	aggregate.Records[taken]("taken"), aggregate.Records[left]("left"), aggregate.Records[shared]("shared"))

func owner(name string) aggregate.Claim { return aggregate.Claim{Namespace: "owner", Key: name} }

var opening = aggregate.Timer[box]{Name: "open", Due: tomorrow, Command: open{}}

func TestEffectsOfACommandAreShown(t *testing.T) {
	aggregatetest.For(t, boxes).
		Holds().Pending().
		When(take{Owner: "ada"}).Claims(owner("ada")).Releases().SetsTimers(opening).CancelsTimers().Then(taken{Owner: "ada"}).
		When(take{Owner: "eve"}).Claims(owner("eve")).Releases(owner("ada")).SetsTimers(opening).CancelsTimers("other").
		Then(left{"ada"}, taken{Owner: "eve"}).
		Holds(owner("eve")).Pending(opening).
		Given(left{"eve"}).
		Holds().Pending().
		When(open{}).Claims().SetsTimers().ThenNothing()
}

func TestBrokenEffectsAreCaught(t *testing.T) {
	given := func(events ...boxEvent) func(s *aggregatetest.Scenario[box]) {
		return func(s *aggregatetest.Scenario[box]) { s.Given(events...) }
	}
	for want, step := range map[string]func(s *aggregatetest.Scenario[box]){
		"not always the same":                     given(taken{"ada", "random"}),
		`claims or releases "ada" without a name`: given(taken{"ada", "bad"}),
		"panicked: claims":                        given(taken{"ada", "panic"}),
		"has changed it":                          given(shared{[]string{"mine"}}),
		"has other claims":                        func(s *aggregatetest.Scenario[box]) { s.When(take{Owner: "ada"}).Claims(owner("eve")) },
		"has other timers":                        func(s *aggregatetest.Scenario[box]) { s.When(take{Owner: "ada"}).SetsTimers() },
		"holds other values":                      func(s *aggregatetest.Scenario[box]) { s.Given(taken{Owner: "ada"}).Holds() },
		"the aggregate has other timers":          func(s *aggregatetest.Scenario[box]) { s.Pending(opening) },
	} {
		failure := failureOf(t, func(t testing.TB) { step(aggregatetest.For(t, boxes)) })
		require.Contains(t, failure, want)
	}
}

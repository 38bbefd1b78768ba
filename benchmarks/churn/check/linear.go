package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verb is what a call to a key did.
type Verb uint8

// The verbs. Take is rejected when the balance does not suffice.
const (
	Read Verb = iota
	Write
	Give
	Take
)

func (v Verb) String() string { return [...]string{"read", "write", "give", "take"}[v] }

// Step is one call to a key, and what came of it.
type Step struct {
	Client       int
	Verb         Verb
	Value        int64 // written, given or taken; what was read
	Outcome      Outcome
	Call, Return int64
}

// Forever is the return of a call whose outcome nobody knows: it may take effect
// at any later time, or never.
const Forever = math.MaxInt64

// model is a number that is read, overwritten, given to and taken from.
var model = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, _ any) (bool, any) {
		balance, s := state.(int64), input.(Step)
		switch s.Verb {
		case Read:
			return s.Value == balance, balance
		case Write:
			return true, s.Value
		case Give:
			return true, balance + s.Value
		}
		enough := balance >= s.Value
		switch {
		case s.Outcome == OK && !enough, s.Outcome == Rejected && enough:
			return false, balance
		case enough:
			return true, balance - s.Value
		}
		return true, balance
	},
	DescribeOperation: func(input, _ any) string { s := input.(Step); return s.String() },
}

func (s *Step) String() string {
	until := "..."
	if s.Return != Forever {
		until = time.Duration(s.Return).String()
	}
	return fmt.Sprintf("%s to %s, client %d: %s %d %s", time.Duration(s.Call), until, s.Client, s.Verb, s.Value, s.Outcome)
}

// Linear looks for an order of one key's calls that explains all answers, and
// returns nil when there is one. Calls that certainly had no effect, and reads
// without an answer, must not be among them. When it finds none before the time
// is up, that is a violation, too: of kind Unchecked.
func Linear(key string, steps []Step, patience time.Duration) *Violation {
	var latest int64
	for i := range steps {
		latest = max(latest, steps[i].Call)
	}
	switch verdict(steps, patience) {
	case porcupine.Ok:
		return nil
	case porcupine.Illegal:
		at, bad := breach(steps, patience)
		return &Violation{Nonlinear, at, describe(key, steps, bad)}
	default:
		return &Violation{Unchecked, latest, fmt.Sprintf("%s: no verdict on %d calls within %s", key, len(steps), patience)}
	}
}

func verdict(steps []Step, patience time.Duration) porcupine.CheckResult {
	operations := make([]porcupine.Operation, len(steps))
	for i := range steps {
		operations[i] = porcupine.Operation{ClientId: steps[i].Client, Input: steps[i], Call: steps[i].Call, Return: steps[i].Return}
	}
	return porcupine.CheckOperationsTimeout(model, operations, patience)
}

// breach finds the answer that first made a history impossible, by halving: what
// was explicable up to a moment was so at all moments before.
func breach(steps []Step, patience time.Duration) (at int64, bad Step) {
	var answers []Step
	for i := range steps {
		if steps[i].Return != Forever {
			answers = append(answers, steps[i])
		}
	}
	slices.SortFunc(answers, func(a, b Step) int { return cmp.Compare(a.Return, b.Return) })
	first := sort.Search(len(answers)-1, func(i int) bool {
		return verdict(until(steps, answers[i].Return), patience) != porcupine.Ok
	})
	return answers[first].Return, answers[first]
}

// until is a history as it was known at a moment: who had no answer yet may
// still be about to have an effect.
func until(steps []Step, at int64) []Step {
	var known []Step
	for _, s := range steps {
		switch {
		case s.Return <= at:
			known = append(known, s)
		case s.Call <= at && s.Verb != Read:
			s.Return, s.Outcome = Forever, Unknown
			known = append(known, s)
		}
	}
	return known
}

func describe(key string, steps []Step, bad Step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: no order explains these calls, times since the clients began:", key)
	for i := range steps {
		fmt.Fprintf(&b, "\n    %s", steps[i].String())
		if steps[i] == bad {
			b.WriteString("   <- impossible from here on")
		}
	}
	return b.String()
}

package check_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

const patience = 10 * time.Second

func step(verb check.Verb, value int64, outcome check.Outcome, call, end int64) check.Step {
	return check.Step{Verb: verb, Value: value, Outcome: outcome, Call: call, Return: end}
}

func TestHistoriesThatAnOrderExplains(t *testing.T) {
	for what, steps := range map[string][]check.Step{
		"nothing": nil,
		"one after the other": {
			step(check.Write, 1, check.OK, 0, 1), step(check.Read, 1, check.OK, 2, 3), step(check.Write, 2, check.OK, 4, 5), step(check.Read, 2, check.OK, 6, 7),
		},
		"a read during a write sees either": {
			step(check.Write, 1, check.OK, 0, 9), step(check.Read, 0, check.OK, 1, 2), step(check.Read, 1, check.OK, 3, 4),
		},
		"an unknown write that took effect late": {
			step(check.Write, 1, check.Unknown, 0, check.Forever), step(check.Read, 0, check.OK, 10, 11), step(check.Read, 1, check.OK, 20, 21),
		},
		"an unknown write that never did": {
			step(check.Write, 1, check.Unknown, 0, check.Forever), step(check.Read, 0, check.OK, 10, 11),
		},
		"an account": {
			step(check.Take, 5, check.Rejected, 0, 1), step(check.Give, 7, check.OK, 2, 3), step(check.Take, 5, check.OK, 4, 5),
			step(check.Take, 5, check.Rejected, 6, 7), step(check.Read, 2, check.OK, 8, 9),
		},
		"an unknown withdrawal that explains a rejection": {
			step(check.Give, 7, check.OK, 0, 1), step(check.Take, 5, check.Unknown, 2, check.Forever), step(check.Take, 5, check.Rejected, 10, 11),
		},
	} {
		require.Nil(t, check.Linear("k", steps, patience), what)
	}
}

func TestHistoriesThatNoOrderExplains(t *testing.T) {
	for what, c := range map[string]struct {
		steps []check.Step
		at    int64 // of the answer that is impossible
	}{
		"a stale read": {[]check.Step{
			step(check.Write, 1, check.OK, 0, 1), step(check.Read, 0, check.OK, 2, 3), step(check.Write, 2, check.OK, 4, 5),
		}, 3},
		"a lost write": {[]check.Step{
			step(check.Write, 1, check.OK, 0, 1), step(check.Write, 2, check.OK, 2, 3), step(check.Read, 1, check.OK, 4, 5),
		}, 5},
		"a write that took effect twice": {[]check.Step{
			step(check.Write, 1, check.OK, 0, 1), step(check.Write, 2, check.OK, 2, 3), step(check.Read, 2, check.OK, 4, 5),
			step(check.Read, 1, check.OK, 6, 7), step(check.Read, 1, check.OK, 8, 9),
		}, 7},
		"an overdraft": {[]check.Step{
			step(check.Give, 7, check.OK, 0, 1), step(check.Take, 5, check.OK, 2, 3), step(check.Take, 5, check.OK, 4, 5),
		}, 5},
		"a rejection from memory": {[]check.Step{
			step(check.Give, 7, check.OK, 0, 1), step(check.Take, 5, check.Rejected, 2, 3), step(check.Read, 7, check.OK, 4, 5),
		}, 3},
		"a deposit that took effect twice": {[]check.Step{
			step(check.Give, 7, check.OK, 0, 1), step(check.Read, 14, check.OK, 2, 3),
		}, 3},
		"two readers who disagree about an unknown write": {[]check.Step{
			step(check.Write, 1, check.Unknown, 0, check.Forever), step(check.Read, 1, check.OK, 10, 11), step(check.Read, 0, check.OK, 20, 21),
		}, 21},
	} {
		v := check.Linear("k", c.steps, patience)
		require.NotNil(t, v, what)
		require.Equal(t, check.Nonlinear, v.Kind, what)
		require.Equal(t, c.at, v.At, "%s: %s", what, v.Detail)
		require.Contains(t, v.Detail, "impossible from here on")
	}
}

// A verdict that does not come is a violation, never a success.
func TestACheckThatDoesNotEndIsNotTakenForASuccess(t *testing.T) {
	var steps []check.Step
	for i := range int64(26) { // all at once, and a read that none of them explains
		steps = append(steps, step(check.Give, 1<<i, check.Unknown, 0, check.Forever))
	}
	steps = append(steps, step(check.Read, 1<<40, check.OK, 1, 2))
	v := check.Linear("k", steps, time.Millisecond)
	require.NotNil(t, v)
	require.Equal(t, check.Unchecked, v.Kind)
}

// The histories that the workloads make are checked in no time, whatever is
// unknown in them.
func TestHistoriesOfAWorkloadAreCheckedQuickly(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var steps []check.Step
		value, now, unknown := int64(0), int64(0), 0
		for range 48 {
			now += 10
			call, end := now-random.Int64N(30), now+random.Int64N(30)
			switch {
			case random.IntN(10) == 0 && unknown < 5:
				unknown++
				steps = append(steps, step(check.Write, 1000+now, check.Unknown, call, check.Forever))
			case random.IntN(2) == 0:
				value = now
				steps = append(steps, step(check.Write, value, check.OK, now, now+1))
			default:
				steps = append(steps, step(check.Read, value, check.OK, now, max(end, now)))
			}
		}
		v := check.Linear("k", steps, patience)
		require.True(t, v == nil || v.Kind != check.Unchecked, "%v", v)
	}
}

package actor_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// TestErasureThatMayHaveHappenedIsNotToldAsNotDone loses the first answer of the
// store, and lets something else come of the second attempt.
func TestErasureThatMayHaveHappenedIsNotToldAsNotDone(t *testing.T) {
	for name, second := range map[string]error{
		"refused": errors.New("a reason of its own"),
		"fenced":  &persistence.FencedError{},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.send(labs, "a", note(1)).ok()
			calls := make(chan struct{}, 8)
			f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
				if c.Method != "Erase" {
					return persistencetest.Fault{}
				}
				calls <- struct{}{}
				if len(calls) == 1 {
					return persistencetest.Fault{Outcome: persistencetest.LostAnswer, Err: persistence.ErrUnknownOutcome}
				}
				return persistencetest.Fault{Outcome: persistencetest.Refused, Err: second}
			})
			done := make(chan error, 1)
			go func() {
				_, err := f.host.Erase(t.Context(), labs.Definition(), streamOf(labs, "a"), partitionOf(labs, "a"))
				done <- err
			}()
			f.eventually(func() bool {
				f.clock.Advance(time.Millisecond) // a pause before it asks again
				return len(done) > 0
			}, "an answer")
			require.Equal(t, aggregate.KindUnknown, aggregate.KindOf(<-done))
			require.Len(t, calls, 2)
		})
	}
}

func TestTimerOfAnAggregateThatMayBeErasedIsLookedUp(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	f.send(alarms, "a", f.after(10*time.Second, ring{N: 1})).ok()
	lost := false
	f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		switch {
		case c.Method != "Erase":
			return persistencetest.Fault{}
		case !lost:
			lost = true
			return persistencetest.Fault{Outcome: persistencetest.LostAnswer, Err: persistence.ErrUnknownOutcome}
		}
		return persistencetest.Fault{Outcome: persistencetest.Refused}
	})
	done := make(chan error, 1)
	go func() {
		_, err := f.host.Erase(t.Context(), alarms.Definition(), streamOf(alarms, "a"), partitionOf(alarms, "a"))
		done <- err
	}()
	f.eventually(func() bool {
		f.clock.Advance(time.Millisecond)
		return len(done) > 0
	}, "an answer")
	require.Equal(t, aggregate.KindUnknown, aggregate.KindOf(<-done))
	f.store.OnCall(nil)
	require.Empty(t, f.stored())
	f.quiet(time.Minute)
	require.Zero(t, f.host.Stats().TimersFired)
}

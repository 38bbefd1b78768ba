package actor_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
)

func TestUnusedAggregateLeavesMemoryAfterItsIdleTime(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.IdleAfter = time.Minute })
	f.send(labs, "slow", note(1)).ok()
	f.send(hasty, "quick", note(2)).ok() // leaves after a second
	f.eventually(func() bool {
		f.clock.Advance(250 * time.Millisecond)
		return f.host.Stats().Resident == 1
	}, "the quick one leaves")
	loads := f.host.Stats().Loads
	require.Equal(t, 1, f.state(labs, "slow").N) // and is used, at that
	require.Equal(t, loads, f.host.Stats().Loads, "the slow one has left too")
	used := f.clock.Now()
	f.eventually(func() bool {
		f.clock.Advance(250 * time.Millisecond)
		return f.host.Stats().Resident == 0
	}, "the slow one leaves")
	require.GreaterOrEqual(t, f.clock.Now()-used, time.Minute)
	require.Equal(t, uint64(2), f.host.Stats().Passivations)
	require.Equal(t, 1, f.state(labs, "slow").N)
	require.Equal(t, 2, f.state(hasty, "quick").N)
}

func TestAggregateWithCallsInFlightStaysInMemory(t *testing.T) {
	f := start(t)
	f.state(labs, "a")
	stall := f.stallAppends()
	call := f.send(labs, "a", note(1))
	await(t, stall.Reached(), "the append")
	for range 20 {
		f.clock.Advance(10 * time.Minute)
		f.turnEnded(labs, "a")
	}
	require.Equal(t, 1, f.host.Stats().Resident)
	stall.Release()
	call.ok()
}

// I11
func TestResidentAggregatesAreBounded(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.MaxResident = 10 })
	highest := 0
	for i := range 1000 {
		f.send(labs, fmt.Sprint("a", i), note(i)).ok()
		highest = max(highest, f.host.Stats().Resident)
	}
	require.LessOrEqual(t, highest, 20)
	f.eventually(func() bool { return f.host.Stats().Resident <= 11 }, "the last ones too many leave")

	var group sync.WaitGroup
	for caller := range 8 {
		group.Go(func() {
			for i := range 100 {
				f.send(labs, fmt.Sprint("b", caller, "-", i), note(1)).ok()
			}
		})
	}
	group.Wait()
	for i := range 20 { // what was too many because it was busy leaves in time
		f.send(labs, fmt.Sprint("c", i), note(1)).ok()
	}
	f.eventually(func() bool { return f.host.Stats().Resident <= 12 }, "memory shrinks after a burst")
	for i := 0; i < 1000; i += 100 {
		require.Equal(t, i, f.state(labs, fmt.Sprint("a", i)).N)
	}
}

func TestLeastRecentlyUsedAggregateLeavesFirst(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.MaxResident = 5 })
	f.state(labs, "favourite")
	for i := range 50 {
		f.clock.Advance(2 * time.Second)
		f.state(labs, "favourite")
		f.state(labs, fmt.Sprint(i))
	}
	require.Equal(t, uint64(51), f.host.Stats().Loads, "the favourite was loaded again")
}

// Calls that arrive while an aggregate leaves find its next activation.
func TestCallsRacingWithPassivationAreNeverLost(t *testing.T) {
	f := start(t, func(c *actor.Config) {
		c.Clock, c.IdleAfter, c.MaxResident = actor.SystemClock{}, time.Nanosecond, 2
	})
	f.host.ExtendLease(f.host.Clock().Now() + time.Hour)
	const callers, each = 8, 150
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for i := range each {
				f.send(frequent, fmt.Sprint(i%5), note(1)).ok()
			}
		})
	}
	group.Wait()
	sum := 0
	for id := range 5 {
		sum += f.state(frequent, fmt.Sprint(id)).N
	}
	require.Equal(t, callers*each, sum)
	require.NotZero(t, f.host.Stats().Passivations)
}

package persistencetest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var timerCases = []testCase{
	{"TestDueTimersComeEarliestFirst", testDueTimersComeEarliestFirst},
	{"TestTimersOfOtherPartitionsStayOut", testTimersOfOtherPartitionsStayOut},
	{"TestCancelledTimerIsGone", testCancelledTimerIsGone},
	{"TestCancelsComeBeforeTimersInACommit", testCancelsComeBeforeTimers},
	{"TestTimerSetTwiceIsOneTimer", testTimerSetTwiceIsOneTimer},
	{"TestTimerSetAnewReplacesTheOld", testTimerSetAnew},
	{"TestTimersOfOneNameAreApartByStream", testTimersOfOneName},
	{"TestManyPendingTimersDoNotSlowTheDueOnes", testManyPendingTimers},
}

// timerOf is a timer whose payload is its name.
func timerOf(x persistence.Stream, name string, due time.Time) persistence.Timer {
	return persistence.Timer{
		TimerKey: persistence.TimerKey{Stream: x, Name: name}, Due: due, ID: newCommand(), Payload: []byte(name),
	}
}

// setting is a commit of one event that sets a timer for each due time, named by
// their order.
func setting(x persistence.Stream, expected persistence.Version, due ...time.Time) *persistence.Commit {
	c := commit(x, expected, "set")
	for i, at := range due {
		c.Timers = append(c.Timers, timerOf(x, fmt.Sprintf("timer-%d", i), at))
	}
	return c
}

// dueTimers returns all timers of a store that are due.
func dueTimers(t *testing.T, s persistence.Store, until time.Time, limit int) []persistence.Timer {
	t.Helper()
	var partitions []persistence.Partition
	for p := range s.Meta().Partitions {
		partitions = append(partitions, persistence.Partition(p))
	}
	timers, err := s.DueTimers(t.Context(), partitions, until, limit)
	require.NoError(t, err)
	return timers
}

// requireTimers checks which timers are due at or before until, and in what
// order; timers due at the same moment may come in any.
func requireTimers(t *testing.T, s persistence.Store, want []persistence.Timer, until time.Time) {
	t.Helper()
	requireSameTimers(t, want, dueTimers(t, s, until, 1000))
}

func requireSameTimers(t *testing.T, want, got []persistence.Timer) {
	t.Helper()
	require.Len(t, got, len(want))
	order := func(a, b persistence.Timer) int {
		return cmp.Or(a.Due.Compare(b.Due), bytes.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Stream.ID, b.Stream.ID), cmp.Compare(a.Name, b.Name))
	}
	require.True(t, slices.IsSortedFunc(got, func(a, b persistence.Timer) int { return a.Due.Compare(b.Due) }), "not earliest first")
	want, got = slices.Clone(want), slices.Clone(got)
	slices.SortFunc(want, order)
	slices.SortFunc(got, order)
	for i := range want {
		w, g := want[i], got[i]
		require.True(t, w.Due.Equal(g.Due), "timer %d: due %s, want %s", i, g.Due, w.Due)
		require.True(t, bytes.Equal(w.Payload, g.Payload), "timer %d: payload %q, want %q", i, g.Payload, w.Payload)
		w.Due, g.Due, w.Payload, g.Payload = time.Time{}, time.Time{}, nil, nil
		require.Equal(t, w, g, "timer %d", i)
	}
}

func testDueTimersComeEarliestFirst(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	a := setting(streamIn(0, n, 0), 0, noon.Add(5*time.Second), noon, noon.Add(time.Microsecond), noon.Add(time.Hour))
	b := setting(streamIn(3, n, 0), 0, noon.Add(4*time.Second), noon.Add(-time.Hour), noon.Add(6*time.Second))
	a.Timers[0].Payload = nil
	o.must(a, b)
	due := []persistence.Timer{b.Timers[1], a.Timers[1], a.Timers[2], b.Timers[0], a.Timers[0], b.Timers[2], a.Timers[3]}

	requireSameTimers(t, due, dueTimers(t, s, noon.Add(time.Hour), 100))
	for limit := 1; limit <= len(due); limit++ {
		requireSameTimers(t, due[:limit], dueTimers(t, s, noon.Add(time.Hour), limit))
	}
	for until, count := range map[time.Duration]int{
		-2 * time.Hour: 0, -time.Microsecond: 1, 0: 2, time.Microsecond: 3, 4 * time.Second: 4, 59 * time.Minute: 6,
	} {
		requireSameTimers(t, due[:count], dueTimers(t, s, noon.Add(until), 100))
	}
	requireTimers(t, h.Again(t, s), due, noon.Add(time.Hour)) // asking does not consume
}

func testTimersOfOtherPartitionsStayOut(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	var commits []*persistence.Commit
	for p := range persistence.Partition(n) {
		commits = append(commits, setting(streamIn(p, n, 0), 0, noon))
	}
	o.must(commits...)
	timers, err := s.DueTimers(t.Context(), []persistence.Partition{3, 1}, noon, 100)
	require.NoError(t, err)
	requireSameTimers(t, []persistence.Timer{commits[1].Timers[0], commits[3].Timers[0]}, timers)
	timers, err = s.DueTimers(t.Context(), []persistence.Partition{1, 3, 1}, noon, 100)
	require.NoError(t, err)
	requireSameTimers(t, []persistence.Timer{commits[1].Timers[0], commits[3].Timers[0]}, timers)
	timers, err = s.DueTimers(t.Context(), nil, noon, 100)
	require.NoError(t, err)
	require.Empty(t, timers)
}

func testCancelledTimerIsGone(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	set := setting(x, 0, noon, noon, noon.Add(time.Second))
	o.must(set)

	fired := commit(x, 1, "fired")
	fired.Cancels = []persistence.TimerKey{set.Timers[1].TimerKey, {Stream: x, Name: "never set"}}
	o.must(fired)
	requireTimers(t, s, []persistence.Timer{set.Timers[0], set.Timers[2]}, noon.Add(time.Hour))

	// The key that DueTimers returned cancels what it returned.
	key := dueTimers(t, s, noon, 1)[0].TimerKey
	twice, again := commit(x, 2), commit(x, 2)
	twice.Cancels, again.Cancels = []persistence.TimerKey{key}, []persistence.TimerKey{key}
	o.must(twice, again)
	requireTimers(t, s, set.Timers[2:], noon.Add(time.Hour))

	// A later commit of the same batch sees what an earlier one set.
	fresh, cancel := commit(x, 2, "set"), commit(x, 3, "cancelled")
	fresh.Timers = []persistence.Timer{timerOf(x, "fresh", noon)}
	cancel.Cancels = []persistence.TimerKey{fresh.Timers[0].TimerKey}
	o.must(fresh, cancel)
	requireTimers(t, s, set.Timers[2:], noon.Add(time.Hour))
}

func testCancelsComeBeforeTimers(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	first := setting(x, 0, noon)
	o.must(first)
	moved := setting(x, 1, noon.Add(time.Second))
	moved.Cancels = []persistence.TimerKey{moved.Timers[0].TimerKey}
	o.must(moved)
	requireTimers(t, s, moved.Timers, noon.Add(time.Hour))
}

func testTimerSetTwiceIsOneTimer(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	first := setting(x, 0, noon)
	second := commit(x, 1, "set again")
	second.Timers = slices.Clone(first.Timers)
	third := commit(x, 2, "set again")
	third.Timers = slices.Clone(first.Timers)
	o.must(first, second)
	o.must(third)
	requireTimers(t, s, first.Timers, noon)
}

func testTimerSetAnew(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	first := setting(x, 0, noon, noon.Add(time.Minute))
	o.must(first)
	later, earlier := commit(x, 1), commit(x, 1, "moved")
	later.Timers = []persistence.Timer{timerOf(x, "timer-0", noon.Add(time.Hour))}
	o.must(later)
	requireTimers(t, s, []persistence.Timer{first.Timers[1], later.Timers[0]}, noon.Add(2*time.Hour))
	earlier.Timers = []persistence.Timer{timerOf(x, "timer-1", noon.Add(-time.Hour))}
	o.must(earlier)
	requireTimers(t, s, []persistence.Timer{earlier.Timers[0], later.Timers[0]}, noon.Add(2*time.Hour))

	// within one batch, the last one stands
	one, two := commit(x, 2, "one"), commit(x, 3, "two")
	one.Timers = []persistence.Timer{timerOf(x, "timer-0", noon)}
	two.Timers = []persistence.Timer{timerOf(x, "timer-0", noon.Add(time.Second))}
	o.must(one, two)
	requireTimers(t, h.Again(t, s), []persistence.Timer{earlier.Timers[0], two.Timers[0]}, noon.Add(2*time.Hour))
}

func testTimersOfOneName(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y := setting(streamIn(0, 1, 0), 0, noon), setting(streamIn(0, 1, 1), 0, noon.Add(time.Second))
	o.must(x, y)
	requireTimers(t, s, []persistence.Timer{x.Timers[0], y.Timers[0]}, noon.Add(time.Hour))
	cancel := commit(x.Stream, 1, "cancelled")
	cancel.Cancels = []persistence.TimerKey{x.Timers[0].TimerKey}
	o.must(cancel)
	requireTimers(t, s, y.Timers, noon.Add(time.Hour))
}

// testManyPendingTimers compares what it costs to ask for the timers that are due
// with few and with many others. A store that walks through the others takes
// hundreds of times longer.
func testManyPendingTimers(t *testing.T, h Harness) {
	const many, perCommit = 60_000, 1000
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	o.must(setting(x, 0, noon, noon.Add(time.Second)))
	cost := func() time.Duration {
		best := time.Hour
		for range 20 {
			start := time.Now()
			require.Len(t, dueTimers(t, s, noon.Add(time.Minute), 100), 2)
			best = min(best, time.Since(start))
		}
		return best
	}
	few := cost()
	for i := range many / perCommit {
		c := commit(streamIn(0, 1, i+1), 0, "set")
		for n := range perCommit {
			c.Timers = append(c.Timers, timerOf(c.Stream, fmt.Sprint(n), noon.Add(time.Hour+time.Duration(i*7919+n*104729)*time.Millisecond)))
		}
		o.must(c)
	}
	require.Less(t, cost(), 20*few+5*time.Millisecond)
	later := dueTimers(t, s, noon.Add(1000*time.Hour), 3)
	require.Len(t, later, 3)
	require.Equal(t, []string{"timer-0", "timer-1"}, []string{later[0].Name, later[1].Name})
}

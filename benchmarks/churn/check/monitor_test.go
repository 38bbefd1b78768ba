package check_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

func TestMonitorFindsStaleAnswers(t *testing.T) {
	m := check.NewMonitor()
	early := m.Ask("s")
	require.Nil(t, m.Answer("s", m.Ask("s"), check.Answer{Version: 1, Wrote: true}, 1))
	require.Nil(t, m.Answer("s", m.Ask("s"), check.Answer{Version: 2, Wrote: true}, 2))
	require.Nil(t, m.Answer("s", early, check.Answer{Version: 1}, 3), "it began before anything was acknowledged")
	require.Nil(t, m.Answer("s", m.Ask("s"), check.Answer{Version: 2}, 4))
	require.Nil(t, m.Answer("other", m.Ask("other"), check.Answer{Version: 1}, 5))

	v := m.Answer("s", m.Ask("s"), check.Answer{Version: 1}, 6)
	require.NotNil(t, v)
	require.Equal(t, check.Stale, v.Kind)
	require.EqualValues(t, 6, v.At)
	require.Contains(t, v.Detail, "after version 2 was acknowledged is of version 1")

	v = m.Answer("s", m.Ask("s"), check.Answer{Version: 2, Wrote: true}, 7)
	require.NotNil(t, v, "two commands made the same version")
	require.Equal(t, check.Stale, v.Kind)

	m.Forget("s")
	require.Nil(t, m.Answer("s", m.Ask("s"), check.Answer{Version: 1}, 8))
}

func TestMonitorFindsTwoActivationsInOneProcess(t *testing.T) {
	m := check.NewMonitor()
	answer := func(process, activation uint64, version int64) *check.Violation {
		return m.Answer("s", m.Ask("s"), check.Answer{Version: version, Process: process, Activation: activation}, 1)
	}
	require.Nil(t, answer(1, 10, 1))
	both := m.Ask("s")
	require.Nil(t, answer(1, 12, 1), "it was loaded again")
	require.Nil(t, m.Answer("s", both, check.Answer{Version: 1, Process: 1, Activation: 10}, 2), "it began before the other answered")
	v := answer(1, 10, 1)
	require.NotNil(t, v)
	require.Equal(t, check.Dual, v.Kind)
	require.Nil(t, answer(2, 3, 1), "another process counts for itself")
	require.Nil(t, answer(2, 0, 1), "an answer that does not say")
}

func TestMonitorIsSafeForConcurrentUse(t *testing.T) {
	m := check.NewMonitor()
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for v := range int64(1000) {
				m.Answer("s", m.Ask("s"), check.Answer{Version: v}, v)
			}
		})
	}
	wait.Wait()
}

func TestGapsAreTimesInWhichSomebodyWaited(t *testing.T) {
	g := check.NewGaps(3)
	g.Call(0, 0)
	g.Answer(0, 90) // before the window
	g.Begin()
	require.Empty(t, g.End(100), "nobody asked")
	g.Call(0, 110)
	g.Answer(0, 115)
	g.Call(0, 500) // nobody waited between
	g.Call(0, 505)
	g.Answer(0, 510)
	g.Answer(0, 530)
	require.Equal(t, map[int]time.Duration{0: 20}, g.End(600))

	g.Begin()
	g.Call(1, 700)
	g.GiveUp(1, 760)
	g.Call(2, 700)
	require.Equal(t, map[int]time.Duration{1: 60, 2: 100}, g.End(800), "who gave up had waited, and who waits still does")
	g.Begin()
	g.Answer(2, 900)
	require.Equal(t, map[int]time.Duration{2: 200}, g.End(900), "a gap that ends in a window belongs to it")
}

func TestReportCountsAllAndKeepsSome(t *testing.T) {
	var r, other check.Report
	for i := range int64(100) {
		r.Add(check.Violation{Kind: check.Lost, At: i, Detail: "lost"})
	}
	other.Add(check.Violation{Kind: check.Stale, At: 50})
	r.Merge(&other)
	require.Equal(t, 101, r.Total())
	require.Len(t, r.Kept, 11)
	require.Equal(t, []check.Kind{check.Lost, check.Stale}, r.Kinds())
	require.Equal(t, 11, r.Between(40, 50, check.Lost))
	require.Equal(t, 12, r.Between(40, 50, r.Kinds()...))
	require.Zero(t, r.Between(200, 300, check.Lost))
}

package eventsourcing

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARebuiltViewShowsAllThatTheOldOneHasShown(t *testing.T) {
	l := newLedger(t, memoryStore(t, 1))
	view := sumView(Settings{Name: "sums"})
	p := l.project("a", nil, view)
	for range 10 {
		l.deposit("x", 1)
	}
	l.wait(p, "sums")
	late := false
	require.NoError(t, p.Rebuild(t.Context(), "sums", func(at RebuildProgress) {
		if at.Done < at.Total || late {
			return
		}
		late = true // the new one is level, and the old one is told of an event first
		all := p.runners.Load()
		old := []*runner{p.groups[0].runners[0]}
		p.runners.Store(&old)
		l.deposit("x", 1)
		p.runners.Store(all)
		l.wait(p, "sums")
		view.Read(func(s *sums) { require.Equal(t, int64(11), s.cents["x"]) })
	}))
	require.True(t, late)
	view.Read(func(s *sums) { require.Equal(t, int64(11), s.cents["x"], "what was seen stays seen") })
}

func TestARebuiltTableThatBeganLateMissesNothing(t *testing.T) {
	l := newLedger(t, memoryStore(t, 1))
	l.deposit("x", 1)
	var mu sync.Mutex
	sums := map[string]int64{}
	table := NewTable(Settings{Name: "rows", FromNow: true}, Schema{}, On(accounts, func(_ context.Context, tx *Tx, e deposited, _ Fact) error {
		mu.Lock()
		defer mu.Unlock()
		sums[tx.Name("t")] += e.Cents
		return nil
	}))
	p := l.project("a", nil, table)
	l.wait(p, "rows")
	l.deposit("x", 2)
	l.wait(p, "rows")
	l.claim(0, "a") // it is owned anew, so that the end of the log is another
	p.Own(0, l.fences[0].Head)
	l.deposit("x", 4)
	l.wait(p, "rows")
	require.NoError(t, p.Rebuild(t.Context(), "rows", nil))
	l.wait(p, "rows")
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, map[string]int64{"t_1": 6, "t_2": 7}, sums)
}

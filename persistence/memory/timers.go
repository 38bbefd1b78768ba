package memory

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// timers is a partition's timers, by due time and id.
type timers []*persistence.Timer

// exchange makes the commit's cancels and then sets its timers; setting a
// timer that is there replaces it.
func (t *timers) exchange(c *persistence.Commit) {
	for i := range c.Cancels {
		key := c.Cancels[i]
		key.Due = microseconds(key.Due)
		if at, found := t.find(key); found {
			*t = slices.Delete(*t, at, at+1)
		}
	}
	for i := range c.Timers {
		timer := c.Timers[i]
		timer.Due = microseconds(timer.Due)
		timer.Payload = bytes.Clone(timer.Payload)
		timer.Stream = persistence.Stream{Type: strings.Clone(timer.Stream.Type), ID: strings.Clone(timer.Stream.ID)}
		if at, found := t.find(timer.TimerKey); found {
			(*t)[at] = &timer
		} else {
			*t = slices.Insert(*t, at, &timer)
		}
	}
}

func (t *timers) find(key persistence.TimerKey) (int, bool) {
	return slices.BinarySearchFunc(*t, key, func(have *persistence.Timer, want persistence.TimerKey) int {
		return compareKeys(have.TimerKey, want)
	})
}

func compareKeys(a, b persistence.TimerKey) int {
	return cmp.Or(
		a.Due.Compare(b.Due),
		cmp.Compare(a.Partition, b.Partition),
		bytes.Compare(a.ID[:], b.ID[:]),
	)
}

// DueTimers returns the timers that are due, earliest first.
func (s *Store) DueTimers(ctx context.Context, partitions []persistence.Partition, until time.Time, limit int) ([]persistence.Timer, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	limit = max(limit, 0)
	var due []persistence.Timer
	for _, id := range slices.Compact(slices.Sorted(slices.Values(partitions))) {
		p, err := s.data.partition(id)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		for _, timer := range p.timers[:min(limit, len(p.timers))] {
			if timer.Due.After(until) {
				break
			}
			due = append(due, *timer)
		}
		p.mu.Unlock()
	}
	slices.SortFunc(due, func(a, b persistence.Timer) int { return compareKeys(a.TimerKey, b.TimerKey) })
	due = due[:min(limit, len(due))]
	for i := range due {
		due[i].Payload = bytes.Clone(due[i].Payload)
	}
	return due, nil
}

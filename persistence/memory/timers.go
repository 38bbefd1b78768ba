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

// timers is a partition's timers: by key, and in the order in which they are due.
type timers struct {
	byKey map[persistence.TimerKey]*persistence.Timer
	// pages are in order and none is empty, so that to set one among a million
	// moves a few hundred.
	pages [][]*persistence.Timer
}

const timerPage = 512

// exchange makes the commit's cancels and then sets its timers; setting a
// timer that is there replaces it.
func (t *timers) exchange(c *persistence.Commit) {
	for i := range c.Cancels {
		t.remove(c.Cancels[i])
	}
	for i := range c.Timers {
		t.remove(c.Timers[i].TimerKey)
		timer := c.Timers[i]
		timer.Due = microseconds(timer.Due)
		timer.Payload = bytes.Clone(timer.Payload)
		timer.TimerKey = persistence.TimerKey{Stream: persistence.Stream{
			Type: strings.Clone(timer.Stream.Type), ID: strings.Clone(timer.Stream.ID),
		}, Name: strings.Clone(timer.Name)}
		t.add(&timer)
	}
}

func (t *timers) add(timer *persistence.Timer) {
	if t.byKey == nil {
		t.byKey = map[persistence.TimerKey]*persistence.Timer{}
	}
	t.byKey[timer.TimerKey] = timer
	p, at := t.place(timer)
	if p == len(t.pages) {
		if p == 0 || len(t.pages[p-1]) == timerPage {
			t.pages = append(t.pages, []*persistence.Timer{timer})
			return
		}
		p, at = p-1, len(t.pages[p-1])
	}
	t.pages[p] = slices.Insert(t.pages[p], at, timer)
	if page := t.pages[p]; len(page) > timerPage {
		half := len(page) / 2
		t.pages = slices.Insert(t.pages, p+1, slices.Clone(page[half:]))
		t.pages[p] = slices.Clone(page[:half])
	}
}

func (t *timers) remove(key persistence.TimerKey) {
	timer := t.byKey[key]
	if timer == nil {
		return
	}
	delete(t.byKey, key)
	p, at := t.place(timer)
	if t.pages[p] = slices.Delete(t.pages[p], at, at+1); len(t.pages[p]) == 0 {
		t.pages = slices.Delete(t.pages, p, p+1)
	}
}

// place finds where a timer stands, or belongs: its page, which may be one behind
// the last, and its place there.
func (t *timers) place(timer *persistence.Timer) (page, at int) {
	page, _ = slices.BinarySearchFunc(t.pages, timer, func(have []*persistence.Timer, want *persistence.Timer) int {
		return compareTimers(have[len(have)-1], want)
	})
	if page < len(t.pages) {
		at, _ = slices.BinarySearchFunc(t.pages[page], timer, compareTimers)
	}
	return page, at
}

func compareTimers(a, b *persistence.Timer) int {
	return cmp.Or(
		a.Due.Compare(b.Due),
		cmp.Compare(a.Partition, b.Partition),
		cmp.Compare(a.Stream.Type, b.Stream.Type),
		cmp.Compare(a.Stream.ID, b.Stream.ID),
		cmp.Compare(a.Name, b.Name),
	)
}

// due appends the first timers that are due.
func (t *timers) due(until time.Time, limit int, due []persistence.Timer) []persistence.Timer {
	for _, page := range t.pages {
		for _, timer := range page {
			if limit == 0 || timer.Due.After(until) {
				return due
			}
			due = append(due, *timer)
			limit--
		}
	}
	return due
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
		due = p.timers.due(until, limit, due)
		p.mu.Unlock()
	}
	slices.SortFunc(due, func(a, b persistence.Timer) int { return compareTimers(&a, &b) })
	due = due[:min(limit, len(due))]
	for i := range due {
		due[i].Payload = bytes.Clone(due[i].Payload)
	}
	return due, nil
}

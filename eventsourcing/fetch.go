package eventsourcing

import (
	"context"
	"fmt"
	"slices"

	"github.com/ingrain-go/ingrain/persistence"
)

// takeOn asks the store where the new tracks begin. It reports false when the
// store gave no answer.
func (r *runner) takeOn() bool {
	var fresh []*track
	r.mu.Lock()
	r.order = slices.DeleteFunc(r.order, func(t *track) bool { return r.tracks[t.partition] != t })
	for _, t := range r.tracks {
		if !t.loaded {
			fresh = append(fresh, t)
		}
	}
	r.mu.Unlock()
	if len(fresh) == 0 {
		return true
	}
	ctx, cancel := r.projector.storeCall(r.ctx)
	defer cancel()
	if err := r.beginAt(ctx, fresh); err != nil {
		if r.ctx.Err() == nil {
			r.wait(err)
			r.nudge()
		}
		return false
	}
	r.answered()
	r.checkpoint(r.ctx, slices.DeleteFunc(fresh, func(t *track) bool { return t.stored == t.cursor })) // from now on
	slices.SortFunc(r.order, func(a, b *track) int { return int(a.partition) - int(b.partition) })
	return true
}

// beginAt reads the checkpoints and dead letters of new tracks.
func (r *runner) beginAt(ctx context.Context, fresh []*track) error {
	if !r.created && r.create != nil {
		if err := r.ledger.Advance(ctx, persistence.Step{Projection: r.stored}, func(ctx context.Context, tx persistence.Tx) error {
			return r.create(ctx, &Tx{tx, r.generation})
		}); err != nil {
			return fmt.Errorf("create the tables of generation %d: %w", r.generation, err)
		}
	}
	r.created = true
	cursors, err := r.ledger.LoadCheckpoints(ctx, r.stored)
	if err != nil {
		return err
	}
	at := make(map[persistence.Partition]persistence.Offset, len(cursors))
	for _, c := range cursors {
		at[c.Partition] = c.After
	}
	parked := map[persistence.Partition]map[string]int{}
	var after persistence.DeadLetterKey
	for {
		letters, err := r.ledger.DeadLetters(ctx, r.stored, after, letterPage)
		if err != nil {
			return err
		}
		for i := range letters {
			l := &letters[i]
			if parked[l.Partition] == nil {
				parked[l.Partition] = map[string]int{}
			}
			parked[l.Partition][l.Sequence]++
			after = l.DeadLetterKey
		}
		if len(letters) < letterPage {
			break
		}
	}
	for _, t := range fresh {
		cursor, known := at[t.partition]
		t.cursor, t.stored, t.parked, t.loaded = cursor, cursor, parked[t.partition], true
		if !known && r.settings.FromNow && r.kind != KindView && r.generation == 1 {
			t.cursor = t.head // the first checkpoint makes it so
		}
		if t.ready = nil; t.done < t.cursor {
			t.done = t.cursor
		}
		if t.suspect <= t.cursor { // the store has it after all
			t.suspect, t.attempts, t.retryAt = 0, 0, 0
		}
		t.parking = slices.DeleteFunc(t.parking, func(l persistence.DeadLetter) bool { return l.Offset <= cursor }) // likewise
		t.park(t.parking)
		t.tail, t.review = true, len(t.parked) > 0
		r.mu.Lock()
		t.position, t.letters = t.cursor, sum(t.parked)
		r.mu.Unlock()
		if !slices.Contains(r.order, t) {
			r.order = append(r.order, t)
		}
	}
	return nil
}

// fetched is the answer of the store to a fetch.
type fetched struct {
	after  map[*track]persistence.Offset
	limit  int
	events map[persistence.Partition][]persistence.Event
	err    error
	broken map[persistence.Partition]error
}

// fetchMost is about how many events a fetch brings, from all partitions that
// are behind.
const fetchMost = 4

// fetch asks the store, on a goroutine, for what comes behind that which is
// ready. It reports whether the store is being asked.
func (r *runner) fetch() bool {
	if r.fetching != nil {
		return true
	}
	var cursors []persistence.Cursor
	f := fetched{after: map[*track]persistence.Offset{}}
	for _, t := range r.order {
		clear := t.suspect == 0 || t.suspect > t.nextOffset() // else what comes next is not wanted yet
		if t.loaded && t.tail && len(t.ready) < r.settings.Batch && r.mine(t) && clear {
			after := t.nextOffset() - 1
			cursors = append(cursors, persistence.Cursor{Partition: t.partition, After: after})
			f.after[t] = after
		}
	}
	if len(cursors) == 0 {
		return false
	}
	f.limit = min(max(fetchMost*r.settings.Batch/len(cursors), 16), fetchMost*r.settings.Batch)
	r.fetching = make(chan fetched, 1)
	answer := r.fetching
	r.projector.workers.Go(func() {
		r.ask(&f, cursors)
		answer <- f
	})
	return true
}

// ask reads. A log that is damaged in one partition is read in the
// others.
func (r *runner) ask(f *fetched, cursors []persistence.Cursor) {
	ctx, cancel := r.projector.storeCall(r.ctx)
	defer cancel()
	events, err := r.projector.store.Tail(ctx, cursors, f.limit)
	if err != nil && r.ctx.Err() == nil {
		events, err = r.askEach(ctx, f, cursors, err)
	}
	f.err = err
	f.events = make(map[persistence.Partition][]persistence.Event, len(cursors))
	for _, of := range byPartition(events) {
		f.events[of[0].Partition] = of
	}
}

// askEach finds out which partitions the store cannot read, if it answers at all.
func (r *runner) askEach(ctx context.Context, f *fetched, cursors []persistence.Cursor, cause error) (all []persistence.Event, err error) {
	if _, err := r.projector.store.LoadCheckpoints(ctx, r.stored); err != nil {
		return nil, cause
	}
	f.broken = map[persistence.Partition]error{}
	for i := range cursors {
		events, err := r.projector.store.Tail(ctx, cursors[i:i+1], f.limit)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			f.broken[cursors[i].Partition] = err
		}
		all = append(all, events...)
	}
	return all, nil
}

// receive takes in what was fetched, if it is there, or waits for it.
func (r *runner) receive(wait bool) {
	if r.fetching == nil {
		return
	}
	var f fetched
	if wait {
		f = <-r.fetching // a store call is bounded in time
	} else {
		select {
		case f = <-r.fetching:
		default:
			return
		}
	}
	r.fetching = nil
	if f.err != nil {
		if r.ctx.Err() == nil {
			r.wait(f.err)
			r.nudge()
		}
		return
	}
	for t, after := range f.after {
		if after == t.nextOffset()-1 && t.loaded && r.has(t) {
			r.append(t, &f)
		}
	}
}

// append puts what was fetched behind what is ready. A log with a gap is not
// passed over (I9).
func (r *runner) append(t *track, f *fetched) {
	events := f.events[t.partition]
	if broken := f.broken[t.partition]; broken != nil {
		r.stand(t, t.nextOffset(), broken.Error())
		return
	}
	next := t.nextOffset()
	for i := range events {
		if found := events[i].Offset; found != next+persistence.Offset(i) {
			r.stand(t, next, fmt.Sprintf("the log has a gap: event %d comes after %d", found, next+persistence.Offset(i)-1))
			return
		}
	}
	t.ready = slices.Grow(t.ready, len(events))
	for i := range events {
		t.ready = append(t.ready, entry{event: &events[i]})
	}
	r.fetched.Add(uint64(len(events)))
	if len(events) == f.limit {
		return // there is more
	}
	t.tail = false
	r.projector.heard(t.partition, t.nextOffset()-1)
	t.reached = true
	r.atEnd(t)
}

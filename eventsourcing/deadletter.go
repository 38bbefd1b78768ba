package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// A dead letter is a pointer into the log, with why its event was not handled.
// Who retries it is the runner that handles its partition, and nobody else, so
// that a sequence is never handled by two:
//
//	handler fails so many times ──▶ letter, Attempts > 0      the sequence is parked
//	next event of the sequence ───▶ letter, Attempts = 0      behind it
//	Retry ────────────────────────▶ the first letter's Attempts become 0
//	Skip ─────────────────────────▶ the first letter goes
//	runner: a first letter with Attempts = 0 is handled ─▶ it goes, and the next is first
//	                                                  └──▶ fails: Attempts = 1
//
// letterPage is how many letters are read at once.
const letterPage = 500

// reviewLetters reads the dead letters of tracks that have some, and handles
// those that are due.
func (r *runner) reviewLetters() {
	for _, t := range slices.Clone(r.order) { // one may go
		if !t.review || !t.loaded || !r.mine(t) {
			continue
		}
		t.review = false
		if len(t.parking) > 0 {
			r.checkpoint(r.ctx, []*track{t})
		}
		again := true
		for again && r.ctx.Err() == nil && t.loaded && len(t.parking) == 0 {
			again = r.reviewTrack(t)
		}
	}
}

// reviewTrack handles the first due letter of each sequence of a track. It
// reports whether one was handled, so that the next may be due.
func (r *runner) reviewTrack(t *track) (again bool) {
	first, parked, err := r.lettersOf(t)
	if err != nil {
		t.review = true
		return false
	}
	t.parked = parked
	for i := range first {
		if l := &first[i]; l.Attempts == 0 && r.retry(t, l) {
			again = true
		}
	}
	r.mu.Lock()
	t.letters = sum(parked)
	r.mu.Unlock()
	return again
}

// lettersOf reads the letters of a track: the first of each sequence, and how
// many each has.
func (r *runner) lettersOf(t *track) (first []persistence.DeadLetter, parked map[string]int, err error) {
	ctx, cancel := r.projector.storeCall(r.ctx)
	defer cancel()
	parked = map[string]int{}
	for after := (persistence.DeadLetterKey{Partition: t.partition}); ; {
		letters, err := r.ledger.DeadLetters(ctx, r.stored, after, letterPage)
		if err != nil {
			return nil, nil, err
		}
		for i := range letters {
			l := &letters[i]
			if l.Partition != t.partition {
				return first, parked, nil
			}
			if parked[l.Sequence] == 0 {
				first = append(first, *l)
			}
			parked[l.Sequence]++
			after = l.DeadLetterKey
		}
		if len(letters) < letterPage {
			return first, parked, nil
		}
	}
}

// retry handles the event of a letter. It reports whether the letter is gone.
func (r *runner) retry(t *track, l *persistence.DeadLetter) bool {
	ctx, cancel := r.projector.storeCall(r.ctx)
	defer cancel()
	events, err := r.projector.store.Tail(ctx, []persistence.Cursor{{Partition: l.Partition, After: l.Offset - 1}}, 1)
	if err != nil || len(events) == 0 {
		return false
	}
	e := entry{event: &events[0]}
	if r.prepare(&e); e.unread != nil {
		return false
	}
	step := persistence.Step{Projection: r.stored, Resolve: []persistence.DeadLetterKey{l.DeadLetterKey}}
	if !r.join(&step, t, t.stored) { // tied to the checkpoint, and to the fence
		return false
	}
	var failure error
	work := func(ctx context.Context, tx persistence.Tx) error {
		switch {
		case e.err != nil:
			failure = e.err
		case e.handle != nil:
			to := &Tx{tx, r.generation}
			x := r.x(to)
			if failure = r.call(ctx, x, &e); failure == nil {
				failure = r.flushed(ctx, to, x)
			}
		}
		return failure
	}
	if r.kind == KindTable {
		err = r.advance(r.ctx, step, work)
	} else {
		if r.guard != nil {
			r.guard.Lock()
		}
		err = work(r.ctx, nil)
		if r.guard != nil {
			r.guard.Unlock()
		}
		if err == nil {
			err = r.advance(r.ctx, step, nil)
		}
	}
	switch {
	case err == nil:
		r.handled.Add(1)
		return true
	case failure == nil || r.ctx.Err() != nil:
		r.refused([]*track{t}, err)
		return false
	}
	r.failures.Add(1)
	again := *l
	again.Attempts, again.Cause, again.At, again.Projection = 1, failure.Error(), r.projector.clock.Wall(), r.stored
	step.Resolve, step.Park = nil, []persistence.DeadLetter{again}
	if err := r.advance(r.ctx, step, nil); err != nil {
		r.refused([]*track{t}, err)
	}
	return false
}

// ErrNoLetter says that a sequence has no dead letter.
var ErrNoLetter = errors.New("the sequence has no dead letter")

// DeadLetters lists up to limit letters of a projection, those behind after, by
// partition and offset. Those of a view are of this node's.
func (p *Projector) DeadLetters(ctx context.Context, projection string, after persistence.DeadLetterKey, limit int) ([]persistence.DeadLetter, error) {
	l, name, err := p.ledgerOf(projection)
	if err != nil {
		return nil, err
	}
	letters, err := l.DeadLetters(ctx, name, after, limit)
	for i := range letters {
		letters[i].Projection = projection
	}
	return letters, err
}

func (p *Projector) ledgerOf(projection string) (ledger, string, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	g := p.group(projection)
	switch {
	case g == nil:
		return nil, "", fmt.Errorf("this node has no projection %q", projection)
	case g.kind == KindView:
		return g.runners[0].ledger, g.runners[0].stored, nil
	}
	return p.store, p.liveName(g), nil
}

// Retry lets the sequence be handled again from its first dead letter on, by the
// node that handles its partition, and waits for what becomes of that one letter:
// nil when it was handled. Those behind it follow by themselves. Upcasts and
// handlers are those of the program that now runs.
func (p *Projector) Retry(ctx context.Context, projection, sequence string) error {
	letters, err := p.firstLetters(ctx, projection, sequence)
	if err != nil {
		return fmt.Errorf("retry %q of projection %q: %w", sequence, projection, err)
	}
	for i := range letters {
		l := &letters[i]
		l.Attempts = 0
		if err := p.alter(ctx, projection, l, func(s *persistence.Step) { s.Park = []persistence.DeadLetter{*l} }); err == nil {
			err = p.outcome(ctx, projection, l)
			if err == nil {
				continue
			}
			return fmt.Errorf("retry %q of projection %q: %w", sequence, projection, err)
		} else if !errors.Is(err, ErrNoLetter) { // somebody else was faster
			return fmt.Errorf("retry %q of projection %q: %w", sequence, projection, err)
		}
	}
	return nil
}

// Skip drops the first dead letter of a sequence: its event is never handled.
// Those behind it follow by themselves.
func (p *Projector) Skip(ctx context.Context, projection, sequence string) error {
	letters, err := p.firstLetters(ctx, projection, sequence)
	if err != nil {
		return fmt.Errorf("skip %q of projection %q: %w", sequence, projection, err)
	}
	for i := range letters {
		l := &letters[i]
		if err := p.alter(ctx, projection, l, func(s *persistence.Step) { s.Resolve = []persistence.DeadLetterKey{l.DeadLetterKey} }); err != nil {
			return fmt.Errorf("skip %q of projection %q: %w", sequence, projection, err)
		}
		p.log.Warn("dead letter skipped", "projection", projection, "partition", l.Partition, "offset", l.Offset, "stream", l.Stream.String())
	}
	return nil
}

// firstLetters finds the first letter of a sequence in each partition.
func (p *Projector) firstLetters(ctx context.Context, projection, sequence string) (first []persistence.DeadLetter, err error) {
	for after := (persistence.DeadLetterKey{}); ; {
		letters, err := p.DeadLetters(ctx, projection, after, letterPage)
		if err != nil {
			return nil, err
		}
		for i := range letters {
			l := &letters[i]
			if l.Sequence == sequence && (len(first) == 0 || first[len(first)-1].Partition != l.Partition) {
				first = append(first, *l)
			}
			after = l.DeadLetterKey
		}
		if len(letters) < letterPage {
			break
		}
	}
	if len(first) == 0 {
		return nil, ErrNoLetter
	}
	return first, nil
}

// alter changes a letter that is there, between two batches of whoever handles
// its partition.
func (p *Projector) alter(ctx context.Context, projection string, l *persistence.DeadLetter, change func(*persistence.Step)) error {
	ledger, name, err := p.ledgerOf(projection)
	if err != nil {
		return err
	}
	for {
		cursors, err := ledger.LoadCheckpoints(ctx, name)
		if err != nil {
			return err
		}
		step := persistence.Step{Projection: name}
		l.Projection = name
		change(&step)
		tie := persistence.Advance{Partition: l.Partition}
		for _, c := range cursors {
			if c.Partition == l.Partition {
				tie.From, tie.To = c.After, c.After
			}
		}
		step.Advances = []persistence.Advance{tie}
		err = ledger.Advance(ctx, step, func(ctx context.Context, _ persistence.Tx) error {
			_, err := p.letter(ctx, ledger, name, l.DeadLetterKey)
			return err
		})
		var moved *persistence.CheckpointMovedError
		if !errors.As(err, &moved) {
			p.review(projection, l.Partition)
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// letter reads one letter.
func (p *Projector) letter(ctx context.Context, from ledger, name string, key persistence.DeadLetterKey) (persistence.DeadLetter, error) {
	before := persistence.DeadLetterKey{Partition: key.Partition, Offset: key.Offset - 1}
	letters, err := from.DeadLetters(ctx, name, before, 1)
	if err != nil {
		return persistence.DeadLetter{}, err
	}
	if len(letters) == 0 || letters[0].DeadLetterKey != key {
		return persistence.DeadLetter{}, ErrNoLetter
	}
	return letters[0], nil
}

// outcome waits until a letter that was to be retried is gone, or has failed.
func (p *Projector) outcome(ctx context.Context, projection string, l *persistence.DeadLetter) error {
	from, name, err := p.ledgerOf(projection)
	if err != nil {
		return err
	}
	for {
		now, err := p.letter(ctx, from, name, l.DeadLetterKey)
		switch {
		case errors.Is(err, ErrNoLetter):
			return nil
		case err != nil:
			return err
		case now.Attempts > 0:
			return fmt.Errorf("event %d of partition %d: %s", l.Offset, l.Partition, now.Cause)
		}
		due := make(chan struct{})
		stop := p.clock.AfterFunc(20*time.Millisecond, func() { close(due) })
		select {
		case <-due:
		case <-ctx.Done():
			stop()
			return ctx.Err()
		}
	}
}

// review makes the runner of a partition, if it is here, look at its letters.
func (p *Projector) review(projection string, partition persistence.Partition) {
	p.mu.RLock()
	g := p.group(projection)
	p.mu.RUnlock()
	if g == nil {
		return
	}
	for _, r := range *p.runners.Load() {
		if r.projection != g.projection {
			continue
		}
		select {
		case r.turn <- struct{}{}:
			for _, t := range r.order {
				t.review = t.review || t.partition == partition
			}
			<-r.turn
		default: // it looks at its next tick
		}
		r.nudge()
	}
}

// volatile is the ledger of a view: its letters are as lasting as itself, and its
// checkpoints are nowhere.
type volatile struct {
	step    sync.Mutex // one at a time
	mu      sync.Mutex
	letters []persistence.DeadLetter // by partition and offset
}

func newVolatile() *volatile { return &volatile{} }

func (v *volatile) LoadCheckpoints(context.Context, string) ([]persistence.Cursor, error) {
	return nil, nil
}

func (v *volatile) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	v.step.Lock()
	defer v.step.Unlock()
	if work != nil {
		if err := work(ctx, nil); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	gone := func(key persistence.DeadLetterKey) {
		v.letters = slices.DeleteFunc(v.letters, func(l persistence.DeadLetter) bool { return l.DeadLetterKey == key })
	}
	for _, key := range step.Resolve {
		gone(key)
	}
	for _, l := range step.Park {
		gone(l.DeadLetterKey)
		v.letters = append(v.letters, l)
	}
	slices.SortFunc(v.letters, func(a, b persistence.DeadLetter) int { return compareKeys(a.DeadLetterKey, b.DeadLetterKey) })
	return nil
}

func (v *volatile) DeadLetters(_ context.Context, _ string, after persistence.DeadLetterKey, limit int) ([]persistence.DeadLetter, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []persistence.DeadLetter
	for i := range v.letters {
		if compareKeys(v.letters[i].DeadLetterKey, after) > 0 && len(list) < limit {
			list = append(list, v.letters[i])
		}
	}
	return list, nil
}

func compareKeys(a, b persistence.DeadLetterKey) int {
	if a.Partition != b.Partition {
		return int(a.Partition) - int(b.Partition)
	}
	return int(a.Offset - b.Offset)
}

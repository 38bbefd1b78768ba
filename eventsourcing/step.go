package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// ledger is where a runner's progress is kept: the store, or for a view nowhere.
type ledger interface {
	LoadCheckpoints(ctx context.Context, projection string) ([]persistence.Cursor, error)
	Advance(ctx context.Context, step persistence.Step, work func(ctx context.Context, tx persistence.Tx) error) error
	DeadLetters(ctx context.Context, projection string, after persistence.DeadLetterKey, limit int) ([]persistence.DeadLetter, error)
}

// slice is what a batch has of one track.
type slice struct {
	track   *track
	entries []entry
	letters []persistence.DeadLetter // of entries that are not handled
	skip    map[persistence.Offset]bool
	to      persistence.Offset // how far the handlers came
}

// plan decides which entries of a slice are parked instead of handled: those that
// nobody can read, that were tried often enough, and those behind them in their
// sequence. It cuts the slice before an entry that has to wait.
func (r *runner) plan(s *slice) {
	t := s.track
	s.to = t.cursor
	for i := range s.entries {
		e := &s.entries[i]
		if r.prepare(e); e.unread != nil {
			s.entries = s.entries[:i]
			r.wait(e.unread)
			r.nudge()
			return
		}
		offset := e.event.Offset
		if offset <= t.done {
			s.to = offset
			continue // it had its effect, only the checkpoint failed
		}
		cause, attempts := e.err, 1
		if t.suspect == offset && t.attempts >= r.settings.Attempts {
			cause, attempts = t.cause, t.attempts
		}
		if cause == nil && e.handle != nil && (len(t.parked) > 0 || len(s.letters) > 0) {
			if sequence := r.sequence(e.event); t.parked[sequence] > 0 || slices.ContainsFunc(s.letters, func(l persistence.DeadLetter) bool { return l.Sequence == sequence }) {
				cause, attempts = errBehind, 0
			}
		}
		if cause == nil {
			s.to = offset
			continue
		}
		if why := r.mustWait(t, s, e); why != "" {
			s.entries = s.entries[:i]
			r.stand(t, offset, why)
			return
		}
		s.letters = append(s.letters, r.letter(e.event, cause, attempts))
		if s.skip == nil {
			s.skip = map[persistence.Offset]bool{}
		}
		s.skip[offset] = true
		s.to = offset
		if attempts > 0 {
			r.projector.log.Error("projection parked a sequence", "projection", r.settings.Name, "partition", t.partition,
				"offset", offset, "stream", e.event.Stream.String(), "event", e.event.Type, "attempts", attempts, "error", cause)
		}
	}
}

var errBehind = errors.New("an event before it in its sequence is parked")

// mustWait says why an entry can not even be parked; empty when it can.
func (r *runner) mustWait(t *track, s *slice, e *entry) string {
	switch {
	case e.unknown && r.settings.Unknown == Stop:
		return fmt.Sprintf("event %d: %v", e.event.Offset, e.err)
	case sum(t.parked)+len(s.letters) >= r.settings.MaxParked:
		return fmt.Sprintf("there are %d dead letters", r.settings.MaxParked)
	}
	return ""
}

// standing is the pause before a track that stands still is looked at again.
const standing = 5 * time.Second

// stand stops a track before an offset.
func (r *runner) stand(t *track, offset persistence.Offset, why string) {
	if t.suspect != offset {
		t.suspect, t.attempts = offset, 0
	}
	t.retryAt = r.projector.clock.Now() + standing
	r.wakeAt(t.retryAt)
	r.mu.Lock()
	before := t.why
	t.why = why
	r.mu.Unlock()
	if before != why {
		r.projector.log.Error("projection stands still", "projection", r.settings.Name, "partition", t.partition, "offset", offset, "reason", why)
	}
}

func (r *runner) letter(e *persistence.Event, cause error, attempts int) persistence.DeadLetter {
	return persistence.DeadLetter{
		Projection: r.stored, DeadLetterKey: persistence.DeadLetterKey{Partition: e.Partition, Offset: e.Offset},
		Sequence: r.sequence(e), Stream: e.Stream, Type: e.Type, Cause: cause.Error(), Attempts: attempts, At: r.projector.clock.Wall(),
	}
}

// sequence names what an event is handled in order with.
func (r *runner) sequence(e *persistence.Event) (name string) {
	if r.settings.Sequence == nil {
		return e.Stream.String()
	}
	defer func() {
		if recover() != nil {
			name = e.Stream.String()
		}
	}()
	return r.settings.Sequence(factOf(e))
}

// call runs one handler.
func (r *runner) call(ctx context.Context, x any, e *entry) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return e.handle(ctx, x, e.value, factOf(e.event))
}

// execute handles a batch and moves the checkpoints.
func (r *runner) execute(batch []*slice) {
	for _, s := range batch {
		r.plan(s)
	}
	batch = slices.DeleteFunc(batch, func(s *slice) bool { return len(s.entries) == 0 })
	if len(batch) == 0 {
		return
	}
	if r.kind == KindTable {
		r.transact(batch)
		return
	}
	r.effects(r.ctx, batch)
	tracks := make([]*track, len(batch))
	for i, s := range batch {
		tracks[i] = s.track
	}
	r.checkpoint(r.ctx, tracks)
}

// effects runs the handlers of a projection whose effects are not in the store.
// What they have done is done, whatever becomes of the checkpoint.
func (r *runner) effects(ctx context.Context, batch []*slice) {
	if r.guard != nil {
		r.guard.Lock()
		defer r.guard.Unlock()
	}
	x := r.x(nil)
	for _, s := range batch {
		t := s.track
		for i := range s.entries {
			e := &s.entries[i]
			if e.event.Offset <= t.done {
				continue
			}
			if e.handle != nil && !s.skip[e.event.Offset] {
				if err := r.call(ctx, x, e); err != nil {
					if ctx.Err() == nil {
						r.blame(t, e, err)
					}
					s.letters = slices.DeleteFunc(s.letters, func(l persistence.DeadLetter) bool { return l.Offset > t.done })
					break
				}
			}
			t.done = e.event.Offset
		}
		t.parking = append(t.parking, s.letters...)
		t.park(s.letters)
	}
}

// park counts letters.
func (t *track) park(letters []persistence.DeadLetter) {
	for i := range letters {
		if t.parked == nil {
			t.parked = map[string]int{}
		}
		t.parked[letters[i].Sequence]++
	}
}

// checkpoint stores how far effects outside have come.
func (r *runner) checkpoint(ctx context.Context, tracks []*track) {
	step := persistence.Step{Projection: r.stored}
	var moving []*track
	for _, t := range tracks {
		to := max(t.cursor, min(t.done, t.nextOffset()-1)) // what is done may have to be read again
		if to == t.stored || !r.join(&step, t, to) {
			continue
		}
		for i := range t.parking {
			if t.parking[i].Offset <= to {
				step.Park = append(step.Park, t.parking[i])
			}
		}
		moving = append(moving, t)
	}
	if len(moving) == 0 {
		return
	}
	if err := r.advance(ctx, step, nil); err != nil {
		r.refused(moving, err)
		return
	}
	r.answered()
	for i, t := range moving {
		t.stored = step.Advances[i].To
		if t.parking = slices.DeleteFunc(t.parking, func(l persistence.DeadLetter) bool { return l.Offset <= t.stored }); len(t.parking) == 0 {
			t.parking = nil
		}
		r.settle(t, t.stored)
	}
}

// join adds a track to a step; false when its partition is not ours, or is under
// another name than the rest.
func (r *runner) join(step *persistence.Step, t *track, to persistence.Offset) bool {
	a := persistence.Advance{Partition: t.partition, From: t.stored, To: to}
	if r.kind != KindView {
		var owner persistence.NodeID
		if owner, a.Epoch = r.projector.config.Owned(t.partition); a.Epoch == 0 || step.Owner != "" && step.Owner != owner {
			return false
		}
		step.Owner = owner
	}
	step.Advances = append(step.Advances, a)
	return true
}

func (r *runner) advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	ctx, cancel := r.projector.storeCall(ctx)
	defer cancel()
	return r.ledger.Advance(ctx, step, work)
}

// transact handles a batch in the transaction that moves the checkpoints. If an
// event cannot be handled, nothing has happened, and the others go on without it.
func (r *runner) transact(batch []*slice) {
	step := persistence.Step{Projection: r.stored}
	batch = slices.DeleteFunc(batch, func(s *slice) bool { return !r.join(&step, s.track, s.to) })
	if len(batch) == 0 {
		return
	}
	for _, s := range batch {
		step.Park = append(step.Park, s.letters...)
	}
	var guilty *slice
	var culprit *entry
	err := r.advance(r.ctx, step, func(ctx context.Context, tx persistence.Tx) error {
		t := &Tx{tx, r.generation}
		x := r.x(t)
		for _, s := range batch {
			for i := range s.entries {
				e := &s.entries[i]
				if e.event.Offset > s.to {
					break
				}
				if e.handle == nil || s.skip[e.event.Offset] {
					continue
				}
				if err := r.call(ctx, x, e); err != nil {
					guilty, culprit = s, e
					return err
				}
			}
		}
		return r.flushed(ctx, t, x)
	})
	if err == nil {
		r.answered()
		for i, s := range batch {
			s.track.stored = step.Advances[i].To
			s.track.park(s.letters)
			r.settle(s.track, s.track.stored)
		}
		return
	}
	if r.refused(tracksOf(batch), err) {
		return
	}
	switch {
	case culprit != nil:
		r.blame(guilty.track, culprit, err)
	case len(batch) == 1 && len(batch[0].entries) == 1:
		r.blame(batch[0].track, &batch[0].entries[0], err)
	default: // whose fault it is shows when each is alone
		for _, s := range batch {
			s.track.careful = s.to
		}
	}
}

// flushed writes what a batch has gathered.
func (r *runner) flushed(ctx context.Context, tx *Tx, x any) (err error) {
	if r.flush == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.flush(ctx, tx, x)
}

func tracksOf(batch []*slice) []*track {
	tracks := make([]*track, len(batch))
	for i, s := range batch {
		tracks[i] = s.track
	}
	return tracks
}

// blame counts an attempt to handle an event.
func (r *runner) blame(t *track, e *entry, err error) {
	r.failures.Add(1)
	if t.suspect != e.event.Offset {
		t.suspect, t.attempts = e.event.Offset, 0
	}
	t.attempts++
	t.cause = err
	now := r.projector.clock.Now()
	t.retryAt = now
	if t.attempts < r.settings.Attempts {
		factor := math.Pow(4, float64(t.attempts-1))
		t.retryAt += time.Duration(min(float64(r.settings.Backoff)*factor, float64(10*time.Second)))
	}
	if t.attempts == 1 {
		r.projector.log.Warn("event not handled", "projection", r.settings.Name, "partition", t.partition,
			"offset", e.event.Offset, "stream", e.event.Stream.String(), "event", e.event.Type, "error", err)
	}
	r.mu.Lock()
	t.why = fmt.Sprintf("event %d: %v", e.event.Offset, err)
	r.mu.Unlock()
	r.wakeAt(t.retryAt)
}

// refused sees to a step that the store did not take; false when it is the
// handlers' fault.
func (r *runner) refused(tracks []*track, err error) bool {
	var fenced *persistence.FencedError
	var moved *persistence.CheckpointMovedError
	switch {
	case r.ctx.Err() != nil:
	case errors.As(err, &fenced):
		for _, t := range tracks {
			if t.partition != fenced.Partition {
				continue
			}
			if !r.mine(t) {
				r.dismiss(t)
				return true
			}
			// our epoch has changed, or we are about to learn that it has; the others go on
			r.fenced++
			t.restUntil = r.projector.clock.Now() + fencedPause
			r.wakeAt(t.restUntil)
		}
	case errors.As(err, &moved), errors.Is(err, persistence.ErrUnknownOutcome):
		for _, t := range tracks {
			if moved == nil || t.partition == moved.Partition {
				r.reload(t)
			}
		}
	default:
		// an outage is nobody's fault: it is one if the store answers nothing else either
		ctx, cancel := r.projector.storeCall(r.ctx)
		defer cancel()
		if _, down := r.ledger.LoadCheckpoints(ctx, r.stored); down == nil && r.kind == KindTable {
			return false
		}
		r.wait(err)
	}
	return true
}

// reload forgets where a track is, so that the store is asked.
func (r *runner) reload(t *track) {
	t.loaded, t.ready, t.tail = false, nil, true
	t.done = max(t.done, t.cursor)
}

// The pauses between attempts to reach the store, and before a partition is tried
// again that was found to be in other hands.
const (
	fencedPause   = 50 * time.Millisecond
	shortestPause = 5 * time.Millisecond
	longestPause  = time.Second
)

// wait pauses before the store is asked again.
func (r *runner) wait(err error) {
	now := r.projector.clock.Now()
	r.pause = min(max(2*r.pause, shortestPause), longestPause)
	r.notBefore = now + r.pause
	r.failing++
	if r.failing == 1 || now-r.logged > 10*time.Second {
		r.logged = now
		if r.failing > 1 { // the first may be nothing
			r.projector.log.Warn("projection waits for the store", "projection", r.settings.Name, "failures", r.failing, "error", err)
		}
	}
}

// answered notes that the store has answered.
func (r *runner) answered() {
	if r.failing > 1 {
		r.projector.log.Info("projection goes on", "projection", r.settings.Name, "failures", r.failing)
	}
	r.failing, r.pause, r.notBefore = 0, 0, 0
}

package memory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/ingrain-go/ingrain/persistence"
)

// projections is what steps need besides the checkpoints. Its lock is the
// checkpoints' own.
type projections struct {
	letters map[string]map[persistence.DeadLetterKey]persistence.DeadLetter
	rows    rows
}

// rows are the checkpoints that steps hold while they work.
type rows struct {
	mu   sync.Mutex
	held map[row]chan struct{} // closed when it is let go
}

type row struct {
	projection string
	partition  persistence.Partition
}

// hold waits until nobody holds the row, and holds it.
func (r *rows) hold(ctx context.Context, wanted row) error {
	for {
		r.mu.Lock()
		free, taken := r.held[wanted]
		if !taken {
			if r.held == nil {
				r.held = make(map[row]chan struct{})
			}
			r.held[wanted] = make(chan struct{})
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *rows) letGo(held row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.held[held])
	delete(r.held, held)
}

// Advance holds the step's checkpoints while it works, and moves them when the
// work is done. Its Tx has no SQL.
func (s *Store) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	if err := step.Validate(len(s.data.partitions)); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	advances := slices.SortedFunc(slices.Values(step.Advances), func(a, b persistence.Advance) int {
		return cmp.Compare(a.Partition, b.Partition)
	})
	for i := range advances {
		held := row{step.Projection, advances[i].Partition}
		if err := s.data.projections.rows.hold(ctx, held); err != nil {
			return err
		}
		defer s.data.projections.rows.letGo(held)
	}
	for i := range advances {
		if err := s.data.admitStep(step.Owner, &advances[i]); err != nil {
			return err
		}
	}
	if err := s.data.land(&step, advances, false); err != nil {
		return err
	}
	if work != nil {
		if err := work(ctx, noSQL{}); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.data.land(&step, advances, true)
}

// admitStep compares an advance with its partition's row.
func (d *data) admitStep(owner persistence.NodeID, a *persistence.Advance) error {
	if a.Epoch == 0 {
		return nil
	}
	p := &d.partitions[a.Partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.Epoch != p.epoch || owner != p.owner || p.owner == "" {
		return &persistence.FencedError{Partition: a.Partition, Epoch: a.Epoch, Current: p.epoch, Owner: p.owner}
	}
	return nil
}

// land compares the checkpoints and, if asked to, does what the step says.
func (d *data) land(step *persistence.Step, advances []persistence.Advance, write bool) error {
	t := &d.checkpoints
	t.Lock()
	defer t.Unlock()
	saved := t.cursors[step.Projection]
	for i := range advances {
		a := &advances[i]
		if stored := saved[a.Partition]; stored != a.From {
			return &persistence.CheckpointMovedError{
				Projection: step.Projection, Partition: a.Partition, From: a.From, Stored: stored,
			}
		}
	}
	if !write {
		return nil
	}
	if saved == nil && len(advances) > 0 {
		saved = make(map[persistence.Partition]persistence.Offset)
		t.cursors[step.Projection] = saved
	}
	for i := range advances {
		saved[advances[i].Partition] = advances[i].To
	}
	letters := d.projections.letters[step.Projection]
	for _, key := range step.Resolve {
		delete(letters, key)
	}
	if letters == nil && len(step.Park) > 0 {
		letters = make(map[persistence.DeadLetterKey]persistence.DeadLetter)
		if d.projections.letters == nil {
			d.projections.letters = make(map[string]map[persistence.DeadLetterKey]persistence.DeadLetter)
		}
		d.projections.letters[step.Projection] = letters
	}
	for _, letter := range step.Park {
		letter.Projection = step.Projection
		letter.At = microseconds(letter.At)
		letters[letter.DeadLetterKey] = letter
	}
	return nil
}

// DeadLetters returns a projection's letters by their places.
func (s *Store) DeadLetters(
	ctx context.Context, projection string, after persistence.DeadLetterKey, limit int,
) ([]persistence.DeadLetter, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	t := &s.data.checkpoints
	t.Lock()
	defer t.Unlock()
	var found []persistence.DeadLetter
	for key, letter := range s.data.projections.letters[projection] {
		if compareLetters(key, after) > 0 {
			found = append(found, letter)
		}
	}
	slices.SortFunc(found, func(a, b persistence.DeadLetter) int { return compareLetters(a.DeadLetterKey, b.DeadLetterKey) })
	return found[:min(max(limit, 0), len(found))], nil
}

func compareLetters(a, b persistence.DeadLetterKey) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// ProjectionNames lists what has a checkpoint or a dead letter.
func (s *Store) ProjectionNames(ctx context.Context) ([]string, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	t := &s.data.checkpoints
	t.Lock()
	defer t.Unlock()
	names := make(map[string]bool)
	for name, cursors := range t.cursors {
		names[name] = len(cursors) > 0
	}
	for name, letters := range s.data.projections.letters {
		names[name] = names[name] || len(letters) > 0
	}
	maps.DeleteFunc(names, func(_ string, there bool) bool { return !there })
	return slices.Sorted(maps.Keys(names)), nil
}

// DeleteProjection forgets checkpoints and dead letters.
func (s *Store) DeleteProjection(ctx context.Context, projection string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	t := &s.data.checkpoints
	t.Lock()
	defer t.Unlock()
	delete(t.cursors, projection)
	delete(s.data.projections.letters, projection)
	return nil
}

// noSQL is the transaction of a store without tables.
type noSQL struct{}

func (noSQL) Exec(context.Context, string, ...any) (int64, error) { return 0, persistence.ErrNoSQL }

func (noSQL) Query(context.Context, string, ...any) (persistence.Rows, error) {
	return nil, persistence.ErrNoSQL
}

package memory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ingrain-go/ingrain/persistence"
)

// SaveSnapshots keeps the newest snapshot of each stream that is of its log.
func (s *Store) SaveSnapshots(ctx context.Context, snapshots []persistence.Snapshot) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	for i := range snapshots {
		if err := snapshots[i].Stream.Validate(); err != nil {
			return fmt.Errorf("save snapshots: %w", err)
		}
	}
	for i := range snapshots {
		s.data.home(snapshots[i].Stream).keep(&snapshots[i])
	}
	return nil
}

func (p *partition) keep(snapshot *persistence.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.streams[snapshot.Stream]
	if !p.log.holds(st, snapshot) || p.log.holds(st, st.snapshot) && st.snapshot.Version >= snapshot.Version {
		return
	}
	st.snapshot = cloneSnapshot(snapshot)
	st.snapshot.Stream = st.name
	st.snapshot.At = microseconds(snapshot.At)
	st.snapshot.Last.At = microseconds(snapshot.Last.At)
}

// holds reports whether a snapshot's last event is in the log.
func (l *log) holds(st *stream, snapshot *persistence.Snapshot) bool {
	if snapshot == nil || snapshot.Version < 1 || snapshot.Version > st.version() {
		return false
	}
	r := l.at(st.offsets[snapshot.Version-1])
	return r.command == snapshot.Last.Command && r.at.Equal(microseconds(snapshot.Last.At))
}

func cloneSnapshot(s *persistence.Snapshot) *persistence.Snapshot {
	c := *s
	c.Payload = bytes.Clone(s.Payload)
	return &c
}

// DeleteSnapshots forgets the streams' snapshots.
func (s *Store) DeleteSnapshots(ctx context.Context, names []persistence.Stream) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	for _, name := range names {
		p := s.data.home(name)
		p.mu.Lock()
		if st := p.streams[name]; st != nil {
			st.snapshot = nil
		}
		p.mu.Unlock()
	}
	return nil
}

// LoadCheckpoints returns a projection's cursors, ascending by partition.
func (s *Store) LoadCheckpoints(ctx context.Context, projection string) ([]persistence.Cursor, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	t := &s.data.checkpoints
	t.Lock()
	defer t.Unlock()
	var cursors []persistence.Cursor
	for p, after := range t.cursors[projection] {
		cursors = append(cursors, persistence.Cursor{Partition: p, After: after})
	}
	slices.SortFunc(cursors, func(a, b persistence.Cursor) int { return cmp.Compare(a.Partition, b.Partition) })
	return cursors, nil
}

// SaveCheckpoints moves a projection's cursors forwards, all of them at once.
func (s *Store) SaveCheckpoints(ctx context.Context, projection string, cursors []persistence.Cursor) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	for _, c := range cursors {
		if _, err := s.data.partition(c.Partition); err != nil {
			return err
		}
	}
	t := &s.data.checkpoints
	t.Lock()
	defer t.Unlock()
	saved := t.cursors[projection]
	if saved == nil {
		saved = make(map[persistence.Partition]persistence.Offset)
		t.cursors[projection] = saved
	}
	for _, c := range cursors {
		if have, found := saved[c.Partition]; !found || have < c.After {
			saved[c.Partition] = c.After
		}
	}
	return nil
}

// DeleteCheckpoints forgets a projection.
func (s *Store) DeleteCheckpoints(ctx context.Context, projection string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	t := &s.data.checkpoints
	t.Lock()
	defer t.Unlock()
	delete(t.cursors, projection)
	return nil
}

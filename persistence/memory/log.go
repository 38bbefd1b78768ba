package memory

import (
	"bytes"
	"context"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// chunk is how many records a log keeps in one piece: growing a log never
// copies more than that.
const chunk = 512

// log is a partition's events, dense from offset 1.
type log struct {
	chunks [][]record
	length persistence.Offset
}

type record struct {
	stream   *stream
	version  persistence.Version
	epoch    persistence.Epoch
	typ      string
	at       time.Time
	command  persistence.CommandID
	metadata []byte
	payload  []byte
}

func (l *log) head() persistence.Offset { return l.length }

func (l *log) add(r record) persistence.Offset {
	if l.length%chunk == 0 {
		l.chunks = append(l.chunks, nil)
	}
	last := &l.chunks[len(l.chunks)-1]
	*last = append(*last, r)
	l.length++
	return l.length
}

func (l *log) at(offset persistence.Offset) *record {
	i := offset - 1
	return &l.chunks[i/chunk][i%chunk]
}

// event copies what stands at an offset, for a caller to own.
func (l *log) event(p persistence.Partition, offset persistence.Offset) persistence.Event {
	r := l.at(offset)
	return persistence.Event{
		Partition: p, Offset: offset, Epoch: r.epoch,
		Stream: r.stream.name, Version: r.version,
		Type: r.typ, At: r.at, Command: r.command,
		Metadata: bytes.Clone(r.metadata), Payload: bytes.Clone(r.payload),
	}
}

// events copies up to limit events of st behind a version.
func (l *log) events(p persistence.Partition, st *stream, after persistence.Version, limit int) []persistence.Event {
	after = max(after, 0)
	n := min(persistence.Version(max(limit, 0)), st.version()-after)
	if n <= 0 {
		return nil
	}
	events := make([]persistence.Event, 0, n)
	for _, offset := range st.offsets[after : after+n] {
		events = append(events, l.event(p, offset))
	}
	return events
}

// Read returns events of one stream.
func (s *Store) Read(ctx context.Context, name persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	id := persistence.PartitionOf(name, len(s.data.partitions))
	p := &s.data.partitions[id]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.events(id, p.streams[name], after, limit), nil
}

// ReadMany returns the newest snapshot and the events after it for every
// stream, or all events if the snapshot is not of this log.
func (s *Store) ReadMany(ctx context.Context, names []persistence.Stream, limit int) ([]persistence.History, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	histories := make([]persistence.History, len(names))
	for i, name := range names {
		id := persistence.PartitionOf(name, len(s.data.partitions))
		histories[i] = s.data.partitions[id].history(id, name, limit)
	}
	return histories, nil
}

func (p *partition) history(id persistence.Partition, name persistence.Stream, limit int) persistence.History {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.streams[name]
	if st == nil {
		return persistence.History{}
	}
	var h persistence.History
	var after persistence.Version
	switch {
	case p.log.holds(st, st.snapshot):
		h.Snapshot = cloneSnapshot(st.snapshot)
		after = st.snapshot.Version
		h.Anchor = st.offsets[after-1]
	case st.snapshot != nil:
		h.Foreign = st.snapshot.Version
	}
	h.Events = p.log.events(id, st, after, limit)
	h.More = after+persistence.Version(len(h.Events)) < st.version()
	return h
}

// Tail returns what stands behind each cursor.
func (s *Store) Tail(ctx context.Context, cursors []persistence.Cursor, limit int) ([]persistence.Event, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	var events []persistence.Event
	for _, cursor := range cursors {
		p, err := s.data.partition(cursor.Partition)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		after := max(cursor.After, 0)
		n := min(persistence.Offset(max(limit, 0)), p.log.head()-after)
		for offset := after + 1; offset <= after+n; offset++ {
			events = append(events, p.log.event(cursor.Partition, offset))
		}
		p.mu.Unlock()
	}
	return events, nil
}

// FindCommand looks through the whole stream: commands are not indexed, since
// only the resolution of an unknown outcome asks.
func (s *Store) FindCommand(ctx context.Context, name persistence.Stream, id persistence.CommandID) (persistence.CommandRecord, bool, error) {
	if err := s.enter(ctx); err != nil {
		return persistence.CommandRecord{}, false, err
	}
	defer s.life.RUnlock()
	home := persistence.PartitionOf(name, len(s.data.partitions))
	p := &s.data.partitions[home]
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.streams[name]
	if st == nil {
		return persistence.CommandRecord{}, false, nil
	}
	found := persistence.CommandRecord{Partition: home}
	for _, offset := range st.offsets {
		r := p.log.at(offset)
		if r.command != id {
			continue
		}
		if found.First == 0 {
			found.First = r.version
		}
		found.Last, found.Offset, found.At = r.version, offset, r.at
	}
	if found.First == 0 {
		return persistence.CommandRecord{}, false, nil
	}
	return found, true, nil
}

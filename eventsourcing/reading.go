package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// readPage is how many events a reader has in memory, for all partitions together.
const readPage = 8192

// Recorded is an event as the log has it. One that was split is handed out once
// for each of its parts, one that was dropped not at all.
type Recorded struct {
	Fact
	// Value is the event, through the upcasts; nil when there is an Err.
	Value any
	// Payload is its stored form, opened if it was sealed.
	Payload []byte
	// Err says why the event could not be decoded, for a reader whose policy is
	// [Park]: this program cannot name it, or its bytes are broken.
	Err error
}

// Reader reads the log for audits, exports and tests. Erased events and those of
// forgotten subjects are passed over. It is safe for concurrent use; what it
// returns is read while it is ranged over, a page at a time.
type Reader struct {
	store       persistence.Store
	config      ReaderConfig
	definitions map[string]*aggregate.Definition
}

// ReaderConfig says what a reader knows.
type ReaderConfig struct {
	Store persistence.Store
	// Aggregates are the types whose events it can decode. Events of others are
	// unknown.
	Aggregates []aggregate.Any
	// Unknown is what becomes of events that it cannot decode: [PassOver] leaves
	// them out, which is the default, [Park] hands them out with their Err, and
	// [Stop] ends the reading with an *[UnreadableError].
	Unknown Unknown
	// Vault opens sealed events; without one they are unknown.
	Vault *Vault
}

// NewReader makes a reader.
func NewReader(config ReaderConfig) *Reader {
	r := &Reader{store: config.Store, config: config, definitions: make(map[string]*aggregate.Definition)}
	for _, a := range config.Aggregates {
		r.definitions[a.Definition().Name()] = a.Definition()
	}
	return r
}

// Filter says which events are wanted; the zero value wants all.
type Filter struct {
	// Aggregates are stored names of aggregate types.
	Aggregates []string
	// Events are stored names of events, without the version of their form: those
	// under which they were stored, not those of today.
	Events []string
}

func (f *Filter) wants(e *persistence.Event) bool {
	if len(f.Aggregates) > 0 && !slices.Contains(f.Aggregates, e.Stream.Type) {
		return false
	}
	return len(f.Events) == 0 || slices.Contains(f.Events, EventName(e.Type))
}

// Stream reads the events of one aggregate behind a version, up to its last.
func (r *Reader) Stream(ctx context.Context, aggregateType, id string, after aggregate.Version) iter.Seq2[Recorded, error] {
	stream := persistence.Stream{Type: aggregateType, ID: id}
	return func(yield func(Recorded, error) bool) {
		for at := persistence.Version(after); ; {
			events, err := r.store.Read(ctx, stream, at, readPage/8)
			if err != nil {
				yield(Recorded{}, fmt.Errorf("read %s: %w", stream, err))
				return
			}
			if len(events) == 0 {
				return
			}
			at = events[len(events)-1].Version
			if !r.hand(ctx, events, Filter{}, yield) {
				return
			}
		}
	}
}

// Partition reads what a partition holds behind an offset, in its order, up to
// where it ends when the reading begins.
func (r *Reader) Partition(ctx context.Context, p persistence.Partition, after persistence.Offset, filter Filter) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		merged, err := r.merge(ctx, []persistence.Cursor{{Partition: p, After: after}})
		for err == nil {
			var events []persistence.Event
			if events, err = merged.page(ctx); len(events) == 0 {
				break
			}
			if !r.hand(ctx, events, filter, yield) {
				return
			}
		}
		if err != nil {
			yield(Recorded{}, fmt.Errorf("read partition %d: %w", p, err))
		}
	}
}

// All reads the whole log behind the places given, all partitions merged by time,
// up to where they end when the reading begins. Within a partition, and so for
// each aggregate, the order is that of the log. Between partitions it is by the
// clocks of the nodes that wrote: it is for people to read, and says nothing about
// what caused what.
func (r *Reader) All(ctx context.Context, after []persistence.Cursor, filter Filter) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		cursors := make([]persistence.Cursor, r.store.Meta().Partitions)
		for p := range cursors {
			cursors[p].Partition = persistence.Partition(p)
		}
		for _, c := range after {
			if c.Partition >= 0 && int(c.Partition) < len(cursors) {
				cursors[c.Partition].After = c.After
			}
		}
		merged, err := r.merge(ctx, cursors)
		for err == nil {
			var events []persistence.Event
			if events, err = merged.page(ctx); len(events) == 0 {
				break
			}
			if !r.hand(ctx, events, filter, yield) {
				return
			}
		}
		if err != nil {
			yield(Recorded{}, fmt.Errorf("read the log: %w", err))
		}
	}
}

// hand decodes events and hands them out. It reports whether to go on.
func (r *Reader) hand(ctx context.Context, events []persistence.Event, filter Filter, yield func(Recorded, error) bool) bool {
	events = slices.DeleteFunc(events, func(e persistence.Event) bool { return e.Erased() || IsOutcome(e.Type) || !filter.wants(&e) })
	var failed map[int]error
	if r.config.Vault != nil {
		var err error
		failed, err = r.config.Vault.OpenEvents(ctx, func(name string) *aggregate.Definition { return r.definitions[name] }, events)
		if err != nil {
			yield(Recorded{}, err)
			return false
		}
	}
	for i := range events {
		e := &events[i]
		recorded := Recorded{Fact: factOf(e), Payload: e.Payload, Err: failed[i]}
		if errors.Is(recorded.Err, ErrForgotten) {
			continue
		}
		var values []any
		if recorded.Err == nil {
			values, recorded.Err = r.decode(e)
		}
		switch {
		case recorded.Err == nil:
			for recorded.Part, recorded.Value = range values {
				if !yield(recorded, nil) {
					return false
				}
			}
		case r.config.Unknown == Park:
			if !yield(recorded, nil) {
				return false
			}
		case r.config.Unknown == Stop:
			yield(Recorded{}, &UnreadableError{Stream: e.Stream, Version: e.Version, Type: e.Type, Err: recorded.Err})
			return false
		}
	}
	return true
}

func (r *Reader) decode(e *persistence.Event) ([]any, error) {
	d := r.definitions[e.Stream.Type]
	switch {
	case d == nil:
		return nil, fmt.Errorf("no aggregate type %q", e.Stream.Type)
	case d.Seals() && isSealed(e.Payload):
		return nil, errSealed
	}
	known, err := d.Find(e.Type)
	if err != nil {
		return nil, err
	}
	return decode(nil, known, e)
}

// merged is the log's partitions, each up to its end, merged by time.
type merged struct {
	store   persistence.Store
	sources []*source // those that have more, a heap by their first events
	perPage int
}

type source struct {
	cursor persistence.Cursor
	end    persistence.Offset
	events []persistence.Event
}

func (r *Reader) merge(ctx context.Context, cursors []persistence.Cursor) (*merged, error) {
	heads, err := r.store.Heads(ctx)
	if err != nil {
		return nil, err
	}
	m := &merged{store: r.store, perPage: max(16, readPage/max(1, len(cursors)))}
	for _, c := range cursors {
		if c.Partition < 0 || int(c.Partition) >= len(heads) {
			return nil, fmt.Errorf("partition %d: the store has %d", c.Partition, len(heads))
		}
		if end := heads[c.Partition].After; c.After < end {
			m.sources = append(m.sources, &source{cursor: c, end: end})
		}
	}
	for chunk := range slices.Chunk(m.sources, 64) {
		if err := m.fill(ctx, chunk); err != nil {
			return nil, err
		}
	}
	for i := len(m.sources)/2 - 1; i >= 0; i-- {
		m.sink(i)
	}
	return m, nil
}

// fill reads the next events of sources that have none.
func (m *merged) fill(ctx context.Context, sources []*source) error {
	cursors := make([]persistence.Cursor, len(sources))
	of := make(map[persistence.Partition]*source, len(sources))
	for i, s := range sources {
		cursors[i] = s.cursor
		of[s.cursor.Partition] = s
	}
	events, err := m.store.Tail(ctx, cursors, m.perPage)
	if err != nil {
		return err
	}
	for i := range events {
		if s := of[events[i].Partition]; events[i].Offset <= s.end {
			s.events = append(s.events, events[i])
			s.cursor.After = events[i].Offset
		}
	}
	for _, s := range sources {
		if len(s.events) == 0 {
			return fmt.Errorf("partition %d ends at %d, and was at %d before", s.cursor.Partition, s.cursor.After, s.end)
		}
	}
	return nil
}

// page returns the next events, none at the end.
func (m *merged) page(ctx context.Context) ([]persistence.Event, error) {
	var page []persistence.Event
	for len(m.sources) > 0 && len(page) < readPage/8 {
		first := m.sources[0]
		page = append(page, first.events[0])
		first.events = first.events[1:]
		if len(first.events) == 0 {
			if first.cursor.After == first.end {
				last := len(m.sources) - 1
				m.sources[0] = m.sources[last]
				m.sources = m.sources[:last]
			} else if err := m.fill(ctx, m.sources[:1]); err != nil {
				return page, err
			}
		}
		m.sink(0)
	}
	return page, nil
}

// sink puts a source in its place in the heap.
func (m *merged) sink(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(m.sources); child++ {
			if before(&m.sources[child].events[0], &m.sources[least].events[0]) {
				least = child
			}
		}
		if least == i {
			return
		}
		m.sources[i], m.sources[least] = m.sources[least], m.sources[i]
		i = least
	}
}

func before(a, b *persistence.Event) bool {
	if !a.At.Equal(b.At) {
		return a.At.Before(b.At)
	}
	return a.Partition < b.Partition
}

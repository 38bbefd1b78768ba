// Package eventsourcing turns events into bytes and streams into aggregates:
// codecs and upcasts by stored name, the journal that loads an aggregate from
// its snapshot and the events after it, and the window of command ids that
// makes a repeated command harmless.
package eventsourcing

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// loadPage is how many events of one stream are read at once.
const loadPage = 2000

// Journal loads aggregates from a store. It is safe for concurrent use.
type Journal struct {
	store persistence.Store
	log   *slog.Logger
}

// NewJournal makes a journal; a nil logger means slog.Default.
func NewJournal(store persistence.Store, log *slog.Logger) *Journal {
	if log == nil {
		log = slog.Default()
	}
	return &Journal{store: store, log: log}
}

// Target is one aggregate to load.
type Target struct {
	Definition *aggregate.Definition
	Stream     persistence.Stream
}

// Loaded is an aggregate as the log has it (I2).
type Loaded struct {
	Instance aggregate.Instance
	Version  persistence.Version
	Window   Window
	// Snapshot is the version of the snapshot that was used; 0 for none.
	Snapshot persistence.Version
	// Bytes of event payload read after the snapshot.
	Bytes int
	// Err says why the aggregate could not be loaded: an *[UnreadableError], or
	// that the store could not be asked.
	Err error
}

// UnreadableError says that a stored event cannot be understood: its name is
// not registered, its version is from the future, or its bytes are broken. It
// concerns one aggregate and is cured by a program that knows the event.
type UnreadableError struct {
	Stream  persistence.Stream
	Version persistence.Version
	Type    string
	Err     error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("event %d of %s, %q, is unreadable: %v", e.Version, e.Stream, e.Type, e.Err)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

// Load brings many aggregates into memory in few round trips. The result is in
// the order of the targets; each has its own Err.
func (j *Journal) Load(ctx context.Context, targets []Target) []Loaded {
	loaded := make([]Loaded, len(targets))
	streams := make([]persistence.Stream, len(targets))
	for i, t := range targets {
		streams[i] = t.Stream
	}
	histories, err := j.store.ReadMany(ctx, streams, loadPage)
	for i := range targets {
		if err != nil {
			loaded[i].Err = fmt.Errorf("load %s: %w", streams[i], err)
			continue
		}
		j.replay(ctx, targets[i], &histories[i], &loaded[i])
	}
	return loaded
}

// LoadAt brings an aggregate into memory as it was at an earlier version.
func (j *Journal) LoadAt(ctx context.Context, t Target, version persistence.Version) (aggregate.Instance, error) {
	l := Loaded{Instance: t.Definition.NewInstance()}
	for l.Version < version {
		events, err := j.store.Read(ctx, t.Stream, l.Version, int(min(loadPage, version-l.Version)))
		if err != nil {
			return nil, fmt.Errorf("load %s at %d: %w", t.Stream, version, err)
		}
		if len(events) == 0 {
			return nil, fmt.Errorf("load %s at %d: the stream ends at %d", t.Stream, version, l.Version)
		}
		if l.fold(t, events); l.Err != nil {
			return nil, l.Err
		}
	}
	return l.Instance, nil
}

func (j *Journal) replay(ctx context.Context, t Target, h *persistence.History, l *Loaded) {
	events, more := h.Events, h.More
	if s := h.Snapshot; s != nil {
		instance, window, err := decodeSnapshot(t.Definition, s)
		if err == nil {
			l.Instance, l.Window, l.Version, l.Snapshot = instance, window, s.Version, s.Version
		} else {
			j.log.Warn("snapshot not usable, replaying", "stream", t.Stream.String(), "version", s.Version, "error", err)
			events, more = nil, true
		}
	}
	if l.Instance == nil {
		l.Instance = t.Definition.NewInstance()
	}
	for {
		if l.fold(t, events); l.Err != nil || !more {
			return
		}
		var err error
		if events, err = j.store.Read(ctx, t.Stream, l.Version, loadPage); err != nil {
			l.Err = fmt.Errorf("load %s: %w", t.Stream, err)
			return
		}
		more = len(events) == loadPage
	}
}

// fold evolves the instance by stored events and remembers their commands.
func (l *Loaded) fold(t Target, events []persistence.Event) {
	for i := range events {
		e := &events[i]
		if e.Version != l.Version+1 {
			l.Err = &UnreadableError{t.Stream, e.Version, e.Type, fmt.Errorf("it follows version %d", l.Version)}
			return
		}
		if err := evolve(t.Definition, l.Instance, e); err != nil {
			l.Err = &UnreadableError{t.Stream, e.Version, e.Type, err}
			return
		}
		l.Version = e.Version
		l.Bytes += len(e.Payload)
		l.remember(e)
	}
}

// remember adds the event's command to the window; the events of one command
// stand next to each other.
func (l *Loaded) remember(e *persistence.Event) {
	id := aggregate.CommandID(e.Command)
	if last := l.Window.last(); last != nil && last.Command == id {
		last.Version, last.Offset = e.Version, e.Offset
		last.Events++
		return
	}
	l.Window.Add(Handled{Command: id, Version: e.Version, Offset: e.Offset, Events: 1})
}

// evolve applies a stored event. A panic in a codec or in Evolve becomes an
// error: an old event that the program of today cannot digest is unreadable,
// not fatal.
func evolve(d *aggregate.Definition, instance aggregate.Instance, e *persistence.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	value, err := DecodeEvent(d, e.Type, e.Payload)
	if err != nil {
		return err
	}
	instance.Evolve(value)
	return nil
}

// EncodeEvent gives an event its stored form.
func EncodeEvent(m *aggregate.Message, event any) (persistence.NewEvent, error) {
	payload, err := CodecFor(m).Marshal(event)
	if err != nil {
		return persistence.NewEvent{}, fmt.Errorf("encode event %q: %w", m.Name(), err)
	}
	return persistence.NewEvent{Type: m.StoredName(), Payload: payload}, nil
}

// DecodeEvent reads an event by its stored name, through the upcasts.
func DecodeEvent(d *aggregate.Definition, stored string, payload []byte) (any, error) {
	name, version := stored, 1
	if base, v, ok := strings.Cut(stored, "/"); ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 2 || strconv.Itoa(n) != v {
			return nil, fmt.Errorf("malformed event name %q", stored)
		}
		name, version = base, n
	}
	m := d.Message(aggregate.KindEvent, name)
	if m == nil {
		return nil, fmt.Errorf("aggregate %q records no event %q", d.Name(), name)
	}
	if version > m.Version() {
		return nil, fmt.Errorf("event %q is known up to version %d, not %d", name, m.Version(), version)
	}
	return m.DecodeVersion(oldCodec(m, version), version, payload)
}

// Package eventsourcing turns events into bytes and streams into aggregates:
// codecs and upcasts by stored name, the journal that loads an aggregate from
// its snapshot and the events after it, and the window of command ids that
// makes a repeated command harmless.
package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// loadPage is how many events of one stream are read at once.
const loadPage = 2000

// Journal loads aggregates from a store. It is safe for concurrent use.
type Journal struct {
	store persistence.Store
	log   *slog.Logger
	vault *Vault
}

// NewJournal makes a journal; a nil logger means slog.Default.
func NewJournal(store persistence.Store, log *slog.Logger) *Journal {
	if log == nil {
		log = slog.Default()
	}
	return &Journal{store: store, log: log}
}

// Unlock gives the journal the keys for sealed aggregates, without which they
// cannot be loaded. It is called before the first load.
func (j *Journal) Unlock(v *Vault) { j.vault = v }

// Target is one aggregate to load.
type Target struct {
	Definition *aggregate.Definition
	Stream     persistence.Stream
}

// Loaded is an aggregate as the log has it (I2).
type Loaded struct {
	Instance aggregate.Instance
	Version  persistence.Version
	// Last is the event of that version; zero without events.
	Last   persistence.Cause
	Window Window
	// Snapshot is the version of the snapshot that was used; 0 for none.
	Snapshot persistence.Version
	// Key seals and opens what is the aggregate's; nil when it is not sealed.
	Key *Key
	// Reach is the highest offset among its events.
	Reach persistence.Offset
	// Begun says that something has happened to it besides outcomes that were kept.
	Begun bool
	// Bytes of event payload read after the snapshot.
	Bytes int
	// Err says why the aggregate could not be loaded: an *[UnreadableError],
	// [ErrForgotten], or that the store could not be asked.
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
	if err == nil {
		err = j.unlock(ctx, targets, loaded)
	}
	for i := range targets {
		if err != nil {
			loaded[i].Err = fmt.Errorf("load %s: %w", streams[i], err)
		}
		if loaded[i].Err != nil {
			continue
		}
		j.replay(ctx, targets[i], &histories[i], &loaded[i])
	}
	return loaded
}

// LoadAt brings an aggregate into memory as it was at an earlier version.
func (j *Journal) LoadAt(ctx context.Context, t Target, version persistence.Version) (aggregate.Instance, error) {
	l := Loaded{Instance: t.Definition.NewInstance()}
	one := []Loaded{l}
	if err := j.unlock(ctx, []Target{t}, one); err != nil {
		return nil, fmt.Errorf("load %s at %d: %w", t.Stream, version, err)
	}
	if l = one[0]; l.Err != nil {
		return nil, l.Err
	}
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

// unlock finds the keys of sealed aggregates, and makes those that are not there
// yet, in one round trip for all that are not in memory.
func (j *Journal) unlock(ctx context.Context, targets []Target, loaded []Loaded) error {
	var subjects []string
	for i := range targets {
		if d := targets[i].Definition; d.Seals() {
			subjects = append(subjects, d.Subject(targets[i].Stream.ID))
		}
	}
	if len(subjects) == 0 {
		return nil
	}
	if j.vault == nil {
		return errSealed
	}
	keys, err := j.vault.Find(ctx, subjects, true)
	if err != nil {
		return err
	}
	for i := range targets {
		d, name := targets[i].Definition, targets[i].Stream
		if !d.Seals() {
			continue
		}
		loaded[i].Key = keys[d.Subject(name.ID)]
		if key := loaded[i].Key; key != nil && errors.Is(key.Usable(), ErrForgotten) {
			loaded[i].Err = fmt.Errorf("load %s: %w", name, ErrForgotten)
		}
	}
	return nil
}

func (j *Journal) replay(ctx context.Context, t Target, h *persistence.History, l *Loaded) {
	events, more := h.Events, h.More
	if s := h.Snapshot; s != nil {
		var instance aggregate.Instance
		var window Window
		err := l.Key.openSnapshot(s)
		if err == nil {
			instance, window, err = decodeSnapshot(t.Definition, s)
		}
		if err == nil {
			l.Instance, l.Window, l.Version, l.Last, l.Snapshot = instance, window, s.Version, s.Last, s.Version
			l.Reach, l.Begun = h.Anchor, true
		} else {
			j.unusable(t, s.Version, err)
			events, more = nil, true
		}
	}
	if h.Foreign > 0 {
		j.unusable(t, h.Foreign, errForeign)
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

func (j *Journal) unusable(t Target, version persistence.Version, err error) {
	j.log.Warn("snapshot not usable, replaying", "stream", t.Stream.String(), "version", version, "error", err)
}

// fold evolves the instance by stored events and remembers their commands.
func (l *Loaded) fold(t Target, events []persistence.Event) {
	for i := range events {
		e := &events[i]
		if e.Version != l.Version+1 {
			l.Err = &UnreadableError{t.Stream, e.Version, e.Type, fmt.Errorf("it follows version %d", l.Version)}
			return
		}
		size := len(e.Payload)
		var err error
		if IsOutcome(e.Type) { // of a command that did nothing
			l.Version, l.Last, l.Reach = e.Version, persistence.Cause{Command: e.Command, At: e.At}, e.Offset
			l.remember(e)
			continue
		}
		l.Begun = true
		if l.Key != nil {
			e.Payload, err = l.Key.openEvent(e)
		}
		if err == nil {
			err = evolve(t.Definition, l.Instance, e)
		}
		if err != nil {
			l.Err = &UnreadableError{t.Stream, e.Version, e.Type, err}
			return
		}
		l.Version, l.Last, l.Reach = e.Version, persistence.Cause{Command: e.Command, At: e.At}, e.Offset
		l.Bytes += size
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
	var one [1]any
	events, err := DecodeEvents(one[:0], d, e.Type, e.Payload)
	if err != nil {
		return err
	}
	for _, event := range events {
		instance.Evolve(event)
	}
	return nil
}

package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Fact is what a handler is told of an event besides the event itself: which
// aggregate it happened to, where it stands in the log, when and why.
type Fact struct {
	// Aggregate and ID name the aggregate, Version the event's place in it.
	Aggregate string
	ID        string
	Version   aggregate.Version
	// Event is the stored name, with the version of the form, or forms, it was
	// stored in.
	Event string
	// Part counts, from 0, the events that a stored one was split into: they have
	// all else in common. 0 for any other.
	Part int
	// Partition and Offset are the event's place in the log: together they name
	// it for ever, so that whatever it causes can be tied to it (I10).
	Partition aggregate.Partition
	Offset    aggregate.Offset
	// At is when the command was executed, by the owner's clock.
	At time.Time
	// Command caused the event.
	Command aggregate.CommandID

	metadata []byte
}

// Metadata decodes what travelled with the command.
func (f Fact) Metadata() (aggregate.Metadata, error) { return DecodeMetadata(f.metadata) }

func factOf(e *persistence.Event) Fact {
	return Fact{
		Aggregate: e.Stream.Type, ID: e.Stream.ID, Version: aggregate.Version(e.Version), Event: e.Type,
		Partition: aggregate.Partition(e.Partition), Offset: aggregate.Offset(e.Offset), At: e.At,
		Command: aggregate.CommandID(e.Command), metadata: e.Metadata,
	}
}

// Handler handles one event type of one aggregate type for a projection that
// works on an X. Make it with [On].
type Handler[X any] struct {
	definition *aggregate.Definition
	event      reflect.Type
	call       func(ctx context.Context, x X, event any, fact Fact) error
}

// On handles the events E of an aggregate type, in whatever form they were
// stored: upcasts are applied. What X is and what the handler may do with it
// depends on the projection: see [NewView], [NewTable], [NewReaction] and
// [NewLocal].
//
// The context ends when the node stops. Events of one aggregate arrive in order,
// one at a time; nothing is promised about the order of events of different
// aggregates. A panic is an error of the handler.
func On[E aggregate.Event[S], S, X any](t *aggregate.Type[S], handle func(ctx context.Context, x X, event E, fact Fact) error) Handler[X] {
	h := Handler[X]{event: reflect.TypeFor[E]()}
	if t != nil {
		h.definition = t.Definition()
	}
	if handle != nil {
		h.call = func(ctx context.Context, x X, event any, fact Fact) error { return handle(ctx, x, event.(E), fact) }
	}
	return h
}

// Unknown says what a projection does with an event of an aggregate it
// subscribes to that this program cannot name: written by a newer one.
type Unknown uint8

const (
	// PassOver ignores it. The default.
	PassOver Unknown = iota
	// Park puts its sequence into the dead letters, until a program that knows
	// it retries.
	Park
	// Stop stops the partition before it.
	Stop
)

// Settings of a projection. Name is required.
type Settings struct {
	// Name is under which its progress is stored, so it never changes: 1 to 128
	// bytes of a-z, 0-9, '-', '_' and '.', beginning with a letter.
	Name string
	// Sequence names what is handled in order, and parked together when an event
	// of it cannot be handled. Default the aggregate. Order holds among events of
	// one partition, and what is of one aggregate is: a sequence that spans
	// aggregates has one order per partition.
	Sequence func(Fact) string
	// Parallel is how many batches run at the same time, each with its share of
	// the partitions. Default 1. More helps handlers that wait: for a database
	// or a service. A view has always 1.
	Parallel int
	// Batch bounds the events that are handled together, in one transaction in a
	// table. Default 1,000; 4,000 in a table that gathers.
	Batch int
	// Attempts is how often a handler is tried on one event before its sequence
	// is parked; between two is a pause of Backoff, four times as long each time,
	// at most 10 seconds. Defaults 5 and 10 ms: 0.85 seconds in all.
	Attempts int
	Backoff  time.Duration
	// MaxParked bounds the dead letters of a partition. When it is reached the
	// partition stops until some are gone. Default 10,000.
	MaxParked int
	// Unknown is what becomes of events that this program cannot name.
	Unknown Unknown
	// FromNow lets a projection that has no checkpoint yet begin at the end of
	// the log instead of its first event. Views have no use for it, and a table
	// that is rebuilt reads all of the log.
	FromNow bool
}

func (s Settings) withDefaults() Settings {
	orDefault(&s.Parallel, 1)
	orDefault(&s.Batch, 1000)
	orDefault(&s.Attempts, 5)
	orDefault(&s.Backoff, 10*time.Millisecond)
	orDefault(&s.MaxParked, 10_000)
	return s
}

func orDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// handler is a Handler whose X is bound by its projection.
type handler func(ctx context.Context, x any, event any, fact Fact) error

// subscription is what a projection handles, compiled for stored names.
type subscription struct {
	definitions map[string]*aggregate.Definition
	handlers    map[subscribed]handler
	errs        []error
}

type subscribed struct {
	aggregate string
	event     reflect.Type
}

func subscribe[X any](handlers []Handler[X]) subscription {
	s := subscription{definitions: map[string]*aggregate.Definition{}, handlers: map[subscribed]handler{}}
	if len(handlers) == 0 {
		s.errs = append(s.errs, errors.New("it handles no event"))
	}
	for i, h := range handlers {
		switch {
		case h.definition == nil:
			s.errs = append(s.errs, fmt.Errorf("handler %d is of no aggregate type", i+1))
			continue
		case h.call == nil:
			s.errs = append(s.errs, fmt.Errorf("handler %d is nil", i+1))
			continue
		}
		name := h.definition.Name()
		if known := s.definitions[name]; known != nil && known != h.definition {
			s.errs = append(s.errs, fmt.Errorf("two aggregate types are named %q", name))
		}
		s.definitions[name] = h.definition
		if !slices.ContainsFunc(h.definition.Messages(), func(m *aggregate.Message) bool {
			return m.Kind() == aggregate.KindEvent && m.GoType() == h.event && !m.Retired()
		}) {
			s.errs = append(s.errs, fmt.Errorf("aggregate %q records no %s", name, h.event))
		}
		key := subscribed{name, h.event}
		if s.handlers[key] != nil {
			s.errs = append(s.errs, fmt.Errorf("%s of aggregate %q has two handlers", h.event, name))
		}
		s.handlers[key] = func(ctx context.Context, x any, event any, fact Fact) error { return h.call(ctx, x.(X), event, fact) }
	}
	return s
}

// route is what becomes of the events of one stored name. Without a definition
// they are passed over.
type route struct {
	definition *aggregate.Definition
	known      aggregate.Known
	handle     handler // nil: which it is depends on what is stored
	unknown    error   // this program cannot name them
}

type storedName struct{ aggregate, event string }

// find makes the route of a stored name.
func (s *subscription) find(name storedName) route {
	d := s.definitions[name.aggregate]
	if d == nil || IsOutcome(name.event) {
		return route{}
	}
	known, err := d.Find(name.event)
	switch {
	case err != nil:
		return route{definition: d, unknown: err}
	case known.Nothing():
		return route{}
	case known.Type() == nil:
		return route{definition: d, known: known}
	}
	h := s.handlers[subscribed{name.aggregate, known.Type()}]
	if h == nil {
		return route{}
	}
	return route{definition: d, known: known, handle: h}
}

// parts handles the events that a stored one was split into, in their order; nil
// when none of them is subscribed to. After a failure it goes on where it was,
// unless what came before was undone.
func (s *subscription) parts(aggregateType string, events []any, undone bool) handler {
	handlers := make([]handler, len(events))
	handled := false
	for i, e := range events {
		handlers[i] = s.handlers[subscribed{aggregateType, reflect.TypeOf(e)}]
		handled = handled || handlers[i] != nil
	}
	if !handled {
		return nil
	}
	next := 0
	return func(ctx context.Context, x, _ any, fact Fact) error {
		if undone {
			next = 0
		}
		for ; next < len(events); next++ {
			if handlers[next] == nil {
				continue
			}
			fact.Part = next
			if err := handlers[next](ctx, x, events[next], fact); err != nil {
				return err
			}
		}
		return nil
	}
}

package aggregate

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"time"
)

// Definition is a [Type] as the runtime reads it: names, codecs, upcasts, and a
// way to make instances. Domain code has no use for it. It is immutable.
type Definition struct {
	name      string
	snapshots SnapshotPolicy
	reads     ReadMode
	idle      time.Duration
	state     reflect.Type
	newState  func() Instance
	// setsTimers: some event does
	setsTimers bool
	subject    func(id string) string // nil: nothing is sealed
	reactions  []Reaction
	since      time.Time            // before it, reactions pass over
	ended      func(state any) bool // nil: it has no end

	byType map[reflect.Type]*Message
	byName map[nameKey]*Message
	all    []*Message
	errs   []error
}

type nameKey struct {
	kind MessageKind
	name string
}

// MessageKind tells commands, queries and events apart.
type MessageKind uint8

// The kinds of messages.
const (
	KindCommand MessageKind = iota + 1
	KindQuery
	KindEvent
)

// Message is one command, query or event of a definition.
type Message struct {
	kind    MessageKind
	name    string
	typ     reflect.Type
	codec   Codec
	decode  func(Codec, []byte) (any, error)
	answer  *answerer
	upcasts []Upcast
	stored  string
	pointer bool                                                // whether typ is a pointer, and a value of it may be nil
	effects func(d *Definition, event any, into *Effects) error // nil when there can be none
	timers  bool                                                // whether the event may set timers
	sends   func(event any) []Send                              // nil when it cannot send
	errs    []error

	// of events: how they have changed (evolution.go)
	forms    []Form
	retired  bool            // it is only read
	dropped  bool            // and means nothing
	today    func(any) []any // what a retired one is
	readAs   *standIn
	optional bool
}

// Upcast leads from one earlier form of an event to a later one, or to the events
// that it was split into.
type Upcast struct {
	// From is the version of the earlier form, from 1.
	From     int
	old, new reflect.Type // new is nil when it is split
	decode   func(Codec, []byte) (any, error)
	convert  func(any) any   // nil when the definition gave none
	down     func(any) any   // the way back; nil when the definition gave none
	split    func(any) []any // instead of convert
	state    reflect.Type    // of the aggregate that records what it is split into
}

type answerer struct {
	result reflect.Type
	call   func(message, state any) (any, error)
}

func newMessage[M any](kind MessageKind, name string, settings []Setting) *Message {
	m := &Message{kind: kind, name: name, stored: name, typ: reflect.TypeFor[M](), decode: decoderOf[M]()}
	m.pointer = m.typ.Kind() == reflect.Pointer
	for i, s := range settings {
		if s == nil {
			m.problem("setting %d is nil", i+1)
			continue
		}
		s.set(m)
	}
	return m
}

func newDefinition[S any](name string) *Definition {
	return &Definition{
		name: name, state: reflect.TypeFor[S](),
		newState: func() Instance { return new(instance[S]) },
		byType:   map[reflect.Type]*Message{}, byName: map[nameKey]*Message{},
	}
}

func (d *Definition) add(m *Message) {
	d.all = append(d.all, m)
	key := nameKey{m.kind, m.name}
	if d.byName[key] != nil {
		d.problem("%s %q is registered twice", m.kind, m.name)
	}
	d.byName[key] = m
	if m.retired {
		return
	}
	if d.byType[m.typ] != nil {
		d.problem("%s is registered twice, as %q and as %q", m.typ, d.byType[m.typ].name, m.name)
	}
	d.byType[m.typ] = m
}

func (d *Definition) problem(format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("aggregate %q: "+format, append([]any{d.name}, args...)...))
}

func (m *Message) problem(format string, args ...any) {
	m.errs = append(m.errs, fmt.Errorf(format, args...))
}

// namePattern is what a stored name looks like. It has no slash and no plus:
// stored events are named "name/version+name/version", streams "type/id".
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,127}$`)

// finish checks everything about the definition that can be checked alone.
func (d *Definition) finish() {
	d.snapshots = d.snapshots.withDefaults()
	if !namePattern.MatchString(d.name) {
		d.problem("a type name is 1 to 128 bytes of a-z, 0-9, '-', '_' and '.', beginning with a letter")
	}
	if d.state.Kind() == reflect.Interface {
		d.problem("the state %s is an interface, not a concrete type", d.state)
	}
	if d.reads > Eventual {
		d.problem("read mode %d is unknown", d.reads)
	}
	if d.idle < 0 {
		d.problem("the idle time %s is negative", d.idle)
	}
	events := 0
	for _, m := range d.all {
		for _, err := range m.errs {
			d.problem("%s %q: %w", m.kind, m.name, err)
		}
		if !namePattern.MatchString(m.name) {
			d.problem("%s %q: a name is 1 to 128 bytes of a-z, 0-9, '-', '_' and '.', beginning with a letter", m.kind, m.name)
		}
		if m.typ.Kind() == reflect.Interface {
			d.problem("%s %q: %s is an interface, not a concrete type", m.kind, m.name, m.typ)
		}
		if m.kind == KindEvent && !m.retired {
			events++
			d.setsTimers = d.setsTimers || m.timers
		}
	}
	d.checkEvolution()
	if events == 0 {
		d.problem("it records no event")
	}
}

// Validate returns one error that lists every mistake in the definitions, and
// names used by two of them; nil when there is none.
func Validate(types ...Any) error {
	var errs []error
	seen := map[string]bool{}
	for i, t := range types {
		if isNil(t) || t.Definition() == nil {
			errs = append(errs, fmt.Errorf("aggregate type %d is nil", i))
			continue
		}
		d := t.Definition()
		errs = append(errs, d.errs...)
		if seen[d.name] {
			errs = append(errs, fmt.Errorf("aggregate %q: two types have this name", d.name))
		}
		seen[d.name] = true
	}
	return errors.Join(errs...)
}

func isNil(t Any) bool {
	v := reflect.ValueOf(t)
	return t == nil || v.Kind() == reflect.Pointer && v.IsNil()
}

// Definition makes a Definition an [Any].
func (d *Definition) Definition() *Definition { return d }

// Name is the stored name of the type.
func (d *Definition) Name() string { return d.name }

// Snapshots is the policy, defaults filled in.
func (d *Definition) Snapshots() SnapshotPolicy { return d.snapshots }

// Reads is the read mode.
func (d *Definition) Reads() ReadMode { return d.reads }

// Idle is the time set by [IdleAfter]; 0 when not set.
func (d *Definition) Idle() time.Duration { return d.idle }

// Messages lists everything registered, in the order of the definition.
func (d *Definition) Messages() []*Message { return slices.Clone(d.all) }

// Message finds a message by its stored name, nil when there is none. For
// events the name is without version.
func (d *Definition) Message(kind MessageKind, name string) *Message {
	return d.byName[nameKey{kind, name}]
}

// MessageOf finds the message that a Go value belongs to, nil when there is
// none.
func (d *Definition) MessageOf(value any) *Message { return d.byType[reflect.TypeOf(value)] }

func (d *Definition) messageOf(typ reflect.Type, kind MessageKind) *Message {
	if m := d.byType[typ]; m != nil && m.kind == kind {
		return m
	}
	return nil
}

// StateType is the Go type of the state.
func (d *Definition) StateType() reflect.Type { return d.state }

// NewInstance makes the aggregate before its first event.
func (d *Definition) NewInstance() Instance { return d.newState() }

// Kind of the message.
func (m *Message) Kind() MessageKind { return m.kind }

// Name is the stored name, without version.
func (m *Message) Name() string { return m.name }

// StoredName is the name under which new events are stored: "name", "name/2" and so
// on when there are upcasts from earlier forms, and "name/2+name" when there is a
// way back: see [Message.Forms]. Commands and queries have one form only.
func (m *Message) StoredName() string { return m.stored }

// Version is the current form of an event, from 1.
func (m *Message) Version() int { return len(m.upcasts) + 1 }

// GoType is the registered Go type. That of a retired event is the type of its last form.
func (m *Message) GoType() reflect.Type { return m.typ }

// Codec is what [Encoded] set; nil for the default.
func (m *Message) Codec() Codec { return m.codec }

// Answers reports whether the message has a result.
func (m *Message) Answers() bool { return m.answer != nil }

// Decode makes a value of the registered type.
func (m *Message) Decode(c Codec, data []byte) (any, error) { return m.decode(c, data) }

// OldType is the Go type of an event's earlier form.
func (m *Message) OldType(version int) reflect.Type { return m.upcasts[version-1].old }

// ResultType is the type of the answer; nil when there is none.
func (m *Message) ResultType() reflect.Type {
	if m.answer == nil {
		return nil
	}
	return m.answer.result
}

// DecodeAnswer makes a value of the result type.
func (m *Message) DecodeAnswer(c Codec, data []byte) (any, error) {
	v := reflect.New(m.answer.result)
	if err := c.Unmarshal(data, v.Interface()); err != nil {
		return nil, err
	}
	return v.Elem().Interface(), nil
}

// Instance is one aggregate in memory. It is not safe for concurrent use.
type Instance interface {
	// Decide runs a command on the state and returns its events, without
	// changing anything.
	Decide(command any) ([]any, error)
	// Evolve applies one event.
	Evolve(event any)
	// Answer runs a message of the definition that answers.
	Answer(m *Message, value any) (any, error)
	// State points to the state, which must not be changed through it.
	State() any
	// Restore decodes a state over the zero value.
	Restore(c Codec, data []byte) error
}

type instance[S any] struct{ state S }

func (i *instance[S]) Decide(command any) ([]any, error) {
	events, err := command.(Command[S]).Decide(i.state)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	erased := make([]any, len(events))
	for n, e := range events {
		erased[n] = e
	}
	return erased, nil
}

func (i *instance[S]) Evolve(event any) { event.(Event[S]).Evolve(&i.state) }

func (i *instance[S]) Answer(m *Message, value any) (any, error) {
	return m.answer.call(value, &i.state)
}

func (i *instance[S]) State() any { return &i.state }

func (i *instance[S]) Restore(c Codec, data []byte) error {
	var state S
	if err := c.Unmarshal(data, &state); err != nil {
		return err
	}
	i.state = state
	return nil
}

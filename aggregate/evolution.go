package aggregate

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// From is a typed upcast beside the event it leads to: events stored in form
// version are decoded as Old and converted. The current form is one more than
// the highest version mentioned, and every version from 1 must be. New is the
// registered event type, or the Old of the next version.
//
// With down, the way back, new events are stored in form version as well, beside
// the current one: programs that do not know the current form read that one. Leave
// it in for as long as such a program may run, or come back: a rolling upgrade can
// then be undone. What down leaves out, those programs do not see.
func From[Old, New any](version int, up func(Old) New, down ...func(New) Old) Setting {
	return setting(func(m *Message) {
		u := Upcast{
			From: version, old: reflect.TypeFor[Old](), new: reflect.TypeFor[New](),
			decode: decoderOf[Old](),
		}
		if up != nil {
			u.convert = func(v any) any { return up(v.(Old)) }
		}
		switch {
		case len(down) > 1 || len(down) == 1 && down[0] == nil:
			m.problem("From(%d, ...) has one way back at most, and it is not nil", version)
		case len(down) == 1:
			u.down = func(v any) any { return down[0](v.(New)) }
		}
		m.upcasts = append(m.upcasts, u)
	})
}

// Split is an upcast, like [From], to the events of today that an earlier form of
// an event has become: several, in their order, or none. For the aggregate they
// take the place of the stored one, which still is one event of one version.
func Split[Old, S any](version int, into func(Old) []Event[S]) Setting {
	return setting(func(m *Message) {
		m.upcasts = append(m.upcasts, Upcast{
			From: version, old: reflect.TypeFor[Old](), decode: decoderOf[Old](), split: eraseAll(into), state: reflect.TypeFor[S](),
		})
	})
}

// Retires keeps an event readable that is not recorded any more: what is stored
// under the name is decoded as Old, and is today the events that the function
// returns. One when the event has got another stored name, several when it was
// split, none when what is stored means nothing. The settings are the upcasts from
// earlier forms of Old. The name is never given to another event (I6).
func Retires[Old, S any](name string, into func(Old) []Event[S], settings ...Setting) Part[S] {
	return part[S](func(d *Definition) {
		m := newMessage[Old](KindEvent, name, settings)
		m.retired = true
		if m.today = eraseAll(into); into == nil {
			m.problem("it is retired without a function that says what it is today")
		}
		d.add(m)
	})
}

// Drops keeps the name of an event that means nothing any more: whatever is stored
// under it, in whatever form, is passed over, and not even decoded. The state type
// must be named: aggregate.Drops[Account]("viewed").
func Drops[S any](name string) Part[S] {
	return part[S](func(d *Definition) {
		m := newMessage[struct{}](KindEvent, name, nil)
		m.retired, m.dropped = true, true
		d.add(m)
	})
}

// ReadAs stores new events as another recorded event as well, which programs that
// do not know this one read in its place. It is for an event that comes new into a
// program whose former version may run beside it, or come back.
func ReadAs[E, Known any](as func(E) Known) Setting {
	return setting(func(m *Message) {
		if as == nil {
			m.problem("ReadAs has no function")
			return
		}
		if m.readAs != nil {
			m.problem("ReadAs is there twice")
		}
		m.readAs = &standIn{from: reflect.TypeFor[E](), typ: reflect.TypeFor[Known](), convert: func(v any) any { return as(v.(E)) }}
	})
}

// Optional lets programs that do not know the event pass it over, as if it had not
// happened: for what changes nothing that they know of.
func Optional() Setting { return setting(func(m *Message) { m.optional = true }) }

// standIn is what [ReadAs] says.
type standIn struct {
	from, typ reflect.Type
	convert   func(any) any
}

func eraseAll[Old, S any](into func(Old) []Event[S]) func(any) []any {
	if into == nil {
		return nil
	}
	return func(v any) []any {
		events := into(v.(Old))
		erased := make([]any, len(events))
		for i, e := range events {
			erased[i] = e
		}
		return erased
	}
}

// Form is one of the forms in which new events of a type are stored.
type Form struct {
	// Name is the stored name, with version: "deposited/2".
	Name string
	// Message and Version say whose form it is; Message is nil, and Name empty, for
	// the form of which programs that know none of the others read nothing.
	Message *Message
	Version int
	convert func(any) any // nil: it is the event itself
}

// Of makes the form's value of an event.
func (f Form) Of(event any) any {
	if f.convert == nil {
		return event
	}
	return f.convert(event)
}

// Forms are the forms in which new events are stored, side by side, the newest
// first: one, unless there are ways back. The slice must not be changed.
func (m *Message) Forms() []Form { return m.forms }

// maxStored bounds a stored name, as stores do.
const maxStored = 128

// checkEvolution checks how the messages have changed, and finds the forms in which
// events are stored.
func (d *Definition) checkEvolution() {
	for _, m := range d.all {
		switch {
		case m.kind == KindEvent:
			d.checkUpcasts(m)
			continue
		case len(m.upcasts) > 0:
			d.problem("%s %q: only events have upcasts", m.kind, m.name)
		case m.readAs != nil || m.optional:
			d.problem("%s %q: only events have ReadAs and Optional", m.kind, m.name)
		}
	}
	for _, m := range d.all {
		if m.kind == KindEvent {
			d.findForms(m)
		}
	}
}

func (d *Definition) findForms(m *Message) {
	m.forms = d.formsOf(m, nil)
	names := make([]string, len(m.forms))
	for i, f := range m.forms {
		names[i] = f.Name
	}
	m.stored = strings.Join(names, "+")
	if len(m.stored) > maxStored {
		d.problem("event %q: its stored name %q has %d bytes, at most %d", m.name, m.stored, len(m.stored), maxStored)
	}
}

// checkUpcasts wants forms 1..n without a hole, each leading to the event itself,
// to the next form, or to other events.
func (d *Definition) checkUpcasts(m *Message) {
	slices.SortStableFunc(m.upcasts, func(a, b Upcast) int { return a.From - b.From })
	for i := range m.upcasts {
		u := &m.upcasts[i]
		if u.From != i+1 {
			switch {
			case u.From < 1:
				d.problem("event %q: From(%d, ...): versions are counted from 1", m.name, u.From)
			case u.From <= i:
				d.problem("event %q: From(%d, ...) is there twice", m.name, u.From)
			default:
				d.problem("event %q: From(%d, ...) is missing: there is an upcast from version %d", m.name, i+1, u.From)
			}
			return
		}
		var next *Upcast
		if i < len(m.upcasts)-1 {
			next = &m.upcasts[i+1]
		}
		d.checkUpcast(m, u, next)
	}
	if m.retired && slices.ContainsFunc(m.upcasts, func(u Upcast) bool { return u.down != nil }) || m.retired && (m.readAs != nil || m.optional) {
		d.problem("event %q is retired: it is not stored any more, neither as it was nor in the place of another", m.name)
	}
}

// checkUpcast wants an upcast to lead to the next form, whose upcast is next, or
// to the event.
func (d *Definition) checkUpcast(m *Message, u, next *Upcast) {
	problem := func(format string, args ...any) {
		d.problem("event %q: the upcast from version %d "+format, append([]any{m.name, u.From}, args...)...)
	}
	if u.convert == nil && u.split == nil {
		problem("has no function")
	}
	if u.old.Kind() == reflect.Interface {
		problem("takes %s, an interface, not a concrete type", u.old)
	}
	switch {
	case u.new == nil:
		if u.state != d.state {
			problem("splits it into events of %s", u.state)
		}
	case next == nil && u.new != m.typ:
		problem("makes a %s, not a %s", u.new, m.typ)
	case next == nil:
	case u.new != m.typ && u.new != next.old:
		problem("makes a %s, but version %d is a %s", u.new, u.From+1, next.old)
	case u.new == m.typ && u.new == next.old:
		problem("makes a %s, which is both version %d and %d: give version %d a type of its own",
			u.new, u.From+1, m.Version(), u.From+1)
	case u.down != nil && u.new != m.typ && next.down == nil:
		problem("has a way back from version %d, to which there is none", u.From+1)
	}
}

// formsOf are the forms in which new events of m are stored: the current one, the
// earlier ones to which there is a way back, and those of the event that it is
// read as. In seen are the events that led here.
func (d *Definition) formsOf(m *Message, seen []*Message) []Form {
	forms := []Form{{Name: versioned(m.name, m.Version()), Message: m, Version: m.Version()}}
	if m.retired {
		return forms
	}
	var after func(any) any // makes the form behind the one at hand
	for i := len(m.upcasts) - 1; i >= 0; i-- {
		u := &m.upcasts[i]
		if u.down == nil {
			after = nil
			continue
		}
		convert := u.down
		if u.new != m.typ {
			if after == nil {
				break // there is a problem already
			}
			convert = chained(after, u.down)
		}
		after = convert
		forms = append(forms, Form{Name: versioned(m.name, u.From), Message: m, Version: u.From, convert: convert})
	}
	if r := m.readAs; r != nil {
		as := d.messageOf(r.typ, KindEvent)
		switch {
		case r.from != m.typ:
			d.problem("event %q: ReadAs takes a %s, not a %s", m.name, r.from, m.typ)
		case as == nil:
			d.problem("event %q is read as a %s, which is not recorded", m.name, r.typ)
		case as == m || slices.Contains(seen, as):
			d.problem("event %q is read as itself", m.name)
		default:
			for _, f := range d.formsOf(as, append(seen, m)) {
				convert := r.convert
				if f.convert != nil {
					convert = chained(r.convert, f.convert)
				}
				if f.Message != nil {
					forms = append(forms, Form{Name: f.Name, Message: f.Message, Version: f.Version, convert: convert})
				} else if !m.optional {
					forms = append(forms, Form{})
				}
			}
		}
	}
	if m.optional {
		forms = append(forms, Form{})
	}
	return forms
}

func chained(first, then func(any) any) func(any) any {
	return func(v any) any { return then(first(v)) }
}

func versioned(name string, version int) string {
	if version == 1 {
		return name
	}
	return name + "/" + strconv.Itoa(version)
}

// Known is how a program reads the events of one stored name.
type Known struct {
	// Message whose event it was stored as, in form Version; nil when it is passed
	// over, since it was stored as [Optional] and is not known.
	Message *Message
	Version int
	// Place is that form's place among the Of forms in the payload.
	Place, Of  int
	definition *Definition
}

// Find tells how events of a stored name are read. The name lists the forms that
// the payload has, the newest first: "deposited/2", "deposited/2+deposited". Of
// them the first that the definition knows counts. It fails when there is none:
// the event is from a newer program.
func (d *Definition) Find(stored string) (Known, error) {
	if m := d.byName[nameKey{KindEvent, stored}]; m != nil {
		return Known{Message: m, Version: 1, Of: 1, definition: d}, nil
	}
	k := Known{Of: strings.Count(stored, "+") + 1, definition: d}
	var unknown error
	for rest, more := stored, true; more; k.Place++ {
		var name string
		if name, rest, more = strings.Cut(rest, "+"); name == "" && !more && k.Of > 1 {
			return k, nil
		}
		var err error
		if k.Message, k.Version, err = d.find(name); err == nil {
			return k, nil
		}
		if errors.Is(err, errMalformed) {
			return Known{}, fmt.Errorf("malformed event name %q", stored)
		}
		if unknown == nil {
			unknown = err
		}
	}
	return Known{}, unknown
}

var errMalformed = errors.New("malformed event name")

// find finds the event of a name with a version.
func (d *Definition) find(stored string) (*Message, int, error) {
	name, version := stored, 1
	if base, v, ok := strings.Cut(stored, "/"); ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 2 || strconv.Itoa(n) != v {
			return nil, 0, errMalformed
		}
		name, version = base, n
	}
	if name == "" {
		return nil, 0, errMalformed
	}
	m := d.byName[nameKey{KindEvent, name}]
	if m == nil {
		return nil, 0, fmt.Errorf("aggregate %q records no event %q", d.name, name)
	}
	if version > m.Version() && !m.dropped {
		return nil, 0, fmt.Errorf("event %q is known up to version %d, not %d", name, m.Version(), version)
	}
	return m, version, nil
}

// Type is the one type of event that is read from the stored name; nil when that
// depends on what is stored, or there is none.
func (k Known) Type() reflect.Type {
	if k.Message == nil || k.Message.retired {
		return nil
	}
	for i := k.Version - 1; i < len(k.Message.upcasts); i++ {
		switch u := &k.Message.upcasts[i]; u.new {
		case nil:
			return nil
		case k.Message.typ:
			return u.new
		}
	}
	return k.Message.typ
}

// Nothing reports whether events of the stored name are passed over, whatever they
// are.
func (k Known) Nothing() bool { return k.Message == nil || k.Message.dropped }

// Append decodes the bytes of the form that Find found and appends the events that
// they are today: one, or as many as the stored one was split into. An upcast that
// panics is an error: the bytes are older than the program, and concern one
// aggregate only.
func (k Known) Append(to []any, c Codec, data []byte) ([]any, error) {
	m := k.Message
	if k.Nothing() {
		return to, nil
	}
	if k.Version == m.Version() && !m.retired {
		value, err := m.decode(c, data)
		if err != nil {
			return to, err
		}
		return append(to, value), nil
	}
	return k.upcast(to, c, data)
}

func (k Known) upcast(to []any, c Codec, data []byte) (events []any, err error) {
	m := k.Message
	decode := m.decode
	if k.Version < m.Version() {
		decode = m.upcasts[k.Version-1].decode
	}
	value, err := decode(c, data)
	if err != nil {
		return to, err
	}
	defer func() {
		if p := recover(); p != nil {
			events, err = to, fmt.Errorf("upcast of event %q from version %d panicked: %v", m.name, k.Version, p)
		}
	}()
	for i := k.Version - 1; i < len(m.upcasts); i++ {
		u := &m.upcasts[i]
		if u.split != nil {
			return k.recorded(to, u.split(value))
		}
		if value = u.convert(value); u.new == m.typ {
			break
		}
	}
	if m.retired {
		return k.recorded(to, m.today(value))
	}
	return append(to, value), nil
}

// recorded appends events that the domain made, if the definition records them.
func (k Known) recorded(to, events []any) ([]any, error) {
	for _, e := range events {
		if m := k.definition.byType[reflect.TypeOf(e)]; m == nil || m.kind != KindEvent || m.pointer && reflect.ValueOf(e).IsNil() {
			return to, fmt.Errorf("event %q was split into a %T, which aggregate %q does not record", k.Message.name, e, k.definition.name)
		}
	}
	return append(to, events...), nil
}

// Retired reports whether the event is only read: see [Retires] and [Drops].
func (m *Message) Retired() bool { return m.retired }

// Dropped reports whether the event means nothing any more: see [Drops].
func (m *Message) Dropped() bool { return m.dropped }

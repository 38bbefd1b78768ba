package aggregate

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// An event may have effects beside the state, as methods. They are written with
// the event, all or nothing, and are pure like Evolve (I4): the same event has the
// same effects whenever it is asked, so that they can be made again from the log.
//
//	func (e UserRegistered) Claims() []aggregate.Claim {
//		return []aggregate.Claim{{Namespace: "username", Key: e.Name}}
//	}
//	func (e UserRemoved) Releases() []aggregate.Claim {
//		return []aggregate.Claim{{Namespace: "username", Key: e.Name}}
//	}
//	func (e OrderPlaced) Timers() []aggregate.Timer[Order] {
//		return []aggregate.Timer[Order]{{Name: "expiry", Due: e.At.Add(24 * time.Hour), Command: Expire{}}}
//	}
//	func (e OrderFilled) Cancels() []string { return []string{"expiry"} }
//
// A method of one of these names with another signature is a mistake, which
// [Validate] lists. The events of one command take effect in their order; those
// of one event: releases before claims, cancels before timers.
type (
	// Claimer is an event that claims unique values for its aggregate. When another
	// aggregate holds one of them, the command is rejected with [ErrClaimTaken], and
	// nothing is written.
	Claimer interface{ Claims() []Claim }
	// Releaser is an event that gives claims back. What the aggregate does not hold
	// is passed over.
	Releaser interface{ Releases() []Claim }
	// Scheduler is an event that sets timers on its aggregate.
	Scheduler[S any] interface{ Timers() []Timer[S] }
	// Canceler is an event that cancels timers of its aggregate by name. What is not
	// set is passed over.
	Canceler interface{ Cancels() []string }
)

// Claim is a value that at most one aggregate may hold, of whatever type, such as
// a user name. Together they have 1 to 2,048 bytes of UTF-8 without NUL, and are
// compared byte by byte: who wants "Ada" and "ada" to be one folds them first.
type Claim struct {
	// Namespace keeps values of different kinds apart; it is not empty.
	Namespace string
	Key       string
}

// Timer is a command to the aggregate itself at a later time. It is sent once, by
// the node that owns the aggregate then, never before it is due, and until it is
// decided: a rejection ends it too. It carries the metadata of the command that set
// it.
type Timer[S any] struct {
	// Name is 1 to 256 bytes of UTF-8 without NUL. An aggregate has one timer of a
	// name: to set it again replaces it.
	Name string
	// Due is a moment between year 1 and 9999, kept to the microsecond. One that has
	// passed is due at once.
	Due time.Time
	// Command is one that the definition accepts.
	Command Command[S]
}

// ErrClaimTaken rejects a command one of whose events claims what another
// aggregate holds. Its details are namespace, key and holder, "type/id".
var ErrClaimTaken = Reject("claim-taken", "the value is taken")

// Effects are what events do besides evolving the state, as the runtime reads
// them. What they say is folded: see [Definition.AddEffects].
type Effects struct {
	Claims   []Claim
	Releases []Claim
	Timers   []TimerSet
	Cancels  []string
}

// TimerSet is a [Timer] without the type of its aggregate.
type TimerSet struct {
	Name    string
	Due     time.Time
	Message *Message
	Command any
}

// Empty reports whether there is no effect.
func (e *Effects) Empty() bool {
	return len(e.Claims)+len(e.Releases)+len(e.Timers)+len(e.Cancels) == 0
}

// Bounds of effects, as stores have them; the fourth error kind says when they
// are exceeded.
const (
	maxClaimBytes = 2048
	maxTimerBytes = 256
)

// AddEffects puts the effects of an event behind those of the events before it in the
// same command: releases before claims and cancels before timers, a later event
// undoing what an earlier one did. It fails, with an invalid failure, for effects
// that no store could keep, and for a timer whose command is not accepted.
func (d *Definition) AddEffects(e *Effects, m *Message, event any) error {
	if m.effects == nil {
		return nil
	}
	var own Effects
	if err := m.effects(d, event, &own); err != nil {
		return Invalid(ReasonBadEffect, fmt.Errorf("event %q of aggregate %q %w", m.name, d.name, err))
	}
	for _, c := range own.Releases {
		e.Claims = without(e.Claims, c)
		e.Releases = append(without(e.Releases, c), c)
	}
	for _, c := range own.Claims {
		e.Releases = without(e.Releases, c)
		e.Claims = append(without(e.Claims, c), c)
	}
	for _, name := range own.Cancels {
		e.Timers = unset(e.Timers, name)
		e.Cancels = append(without(e.Cancels, name), name)
	}
	for _, t := range own.Timers {
		e.Cancels = without(e.Cancels, t.Name)
		e.Timers = append(unset(e.Timers, t.Name), t)
	}
	return nil
}

func without[T comparable](list []T, gone T) []T {
	for i := range list {
		if list[i] == gone {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

func unset(list []TimerSet, name string) []TimerSet {
	for i := range list {
		if list[i].Name == name {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// HasEffects reports whether an event may have effects.
func (m *Message) HasEffects() bool { return m.effects != nil }

// SetsTimers reports whether an event of the definition may set timers.
func (d *Definition) SetsTimers() bool { return d.setsTimers }

// effectMethods are the names of the methods that effects are.
var effectMethods = [...]string{"Claims", "Releases", "Timers", "Cancels"}

// effectsOf finds the effects of an event type. A method of one of their names
// that is not theirs is a mistake: silence would lose the effect.
func effectsOf[E, S any](m *Message) {
	typ := reflect.TypeFor[E]()
	var zero E
	_, claims := any(zero).(Claimer)
	_, releases := any(zero).(Releaser)
	_, timers := any(zero).(Scheduler[S])
	_, cancels := any(zero).(Canceler)
	for i, found := range [...]bool{claims, releases, timers, cancels} {
		name := effectMethods[i]
		wanted := [...]reflect.Type{
			reflect.TypeFor[[]Claim](), reflect.TypeFor[[]Claim](), reflect.TypeFor[[]Timer[S]](), reflect.TypeFor[[]string](),
		}[i]
		if method, ok := typ.MethodByName(name); ok && !found {
			m.problem("its method %s is %s, not func() %s: an effect has this name", name, signature(method.Type), wanted)
		}
		if typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Interface {
			continue
		}
		if _, ok := reflect.PointerTo(typ).MethodByName(name); ok {
			if _, ok := typ.MethodByName(name); !ok {
				m.problem("its method %s has a pointer receiver, but the event is recorded as a value: the effect would be lost", name)
			}
		}
	}
	m.timers = timers
	if !claims && !releases && !timers && !cancels {
		return
	}
	m.effects = func(d *Definition, event any, into *Effects) error {
		if c, ok := event.(Claimer); ok {
			into.Claims = c.Claims()
		}
		if r, ok := event.(Releaser); ok {
			into.Releases = r.Releases()
		}
		if c, ok := event.(Canceler); ok {
			into.Cancels = c.Cancels()
		}
		if s, ok := event.(Scheduler[S]); ok {
			for _, t := range s.Timers() {
				set := TimerSet{Name: t.Name, Due: t.Due.Truncate(0), Command: t.Command}
				if t.Command != nil {
					set.Message = d.messageOf(reflect.TypeOf(t.Command), KindCommand)
				}
				into.Timers = append(into.Timers, set)
			}
		}
		return into.check()
	}
}

func signature(method reflect.Type) string {
	in := make([]string, 0, method.NumIn())
	for i := 1; i < method.NumIn(); i++ {
		in = append(in, method.In(i).String())
	}
	out := make([]string, 0, method.NumOut())
	for i := range method.NumOut() {
		out = append(out, method.Out(i).String())
	}
	text := "func(" + strings.Join(in, ", ") + ")"
	switch len(out) {
	case 0:
		return text
	case 1:
		return text + " " + out[0]
	}
	return text + " (" + strings.Join(out, ", ") + ")"
}

// check finds effects that cannot be kept.
func (e *Effects) check() error {
	for _, claims := range [...][]Claim{e.Claims, e.Releases} {
		for _, c := range claims {
			switch n := len(c.Namespace) + len(c.Key); {
			case c.Namespace == "":
				return fmt.Errorf("claims or releases %q without a namespace", c.Key)
			case n > maxClaimBytes:
				return fmt.Errorf("claims or releases a value of %d bytes in %.40q, at most %d", n, c.Namespace, maxClaimBytes)
			case !isText(c.Namespace) || !isText(c.Key):
				return fmt.Errorf("claims or releases %q in %q, which is not UTF-8 without NUL", c.Key, c.Namespace)
			}
		}
	}
	for _, name := range e.Cancels {
		if err := checkTimerName(name); err != nil {
			return fmt.Errorf("cancels a timer: %w", err)
		}
	}
	for _, t := range e.Timers {
		if err := checkTimerName(t.Name); err != nil {
			return fmt.Errorf("sets a timer: %w", err)
		}
		if t.Due.Year() < 1 || t.Due.Year() > 9999 || t.Due.IsZero() {
			return fmt.Errorf("sets timer %q for %s: it has no due time, or one before year 1 or after 9999", t.Name, t.Due)
		}
		if t.Message == nil {
			return fmt.Errorf("sets timer %q with the command %T, which is not accepted", t.Name, t.Command)
		}
		if t.Message.pointer && reflect.ValueOf(t.Command).IsNil() {
			return fmt.Errorf("sets timer %q with a nil %T", t.Name, t.Command)
		}
	}
	return nil
}

func checkTimerName(name string) error {
	switch {
	case name == "":
		return errors.New("it has no name")
	case len(name) > maxTimerBytes:
		return fmt.Errorf("its name has %d bytes, at most %d", len(name), maxTimerBytes)
	case !isText(name):
		return fmt.Errorf("its name %q is not UTF-8 without NUL", name)
	}
	return nil
}

func isText(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

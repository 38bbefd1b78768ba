package aggregate

import (
	"fmt"
	"reflect"
	"time"
)

// Part is one line of a definition.
type Part[S any] interface {
	apply(d *Definition)
	of(S) // ties the part to the state type, so that Define can infer it
}

type part[S any] func(d *Definition)

func (p part[S]) apply(d *Definition) { p(d) }
func (part[S]) of(S)                  {}

// Accepts registers a command under its stored name. If the command has an
// Answer method as well, [Do] returns its result.
func Accepts[C Command[S], S any](name string, settings ...Setting) Part[S] {
	return part[S](func(d *Definition) {
		m := newMessage[C](KindCommand, name, settings)
		m.answer = answerOf[C, S]()
		d.add(m)
	})
}

// Answers registers a query under its name.
func Answers[Q Query[S, R], S, R any](name string, settings ...Setting) Part[S] {
	return part[S](func(d *Definition) {
		m := newMessage[Q](KindQuery, name, settings)
		m.answer = &answerer{result: reflect.TypeFor[R](), call: func(message, state any) (any, error) {
			return message.(Q).Answer(*state.(*S))
		}}
		d.add(m)
	})
}

// Records registers an event under its stored name, with the [Upcast] from each
// of its earlier forms. Old names and old bytes live for ever (I6); the Go type
// may be renamed at will. An event with one of the methods Claims, Releases,
// Timers and Cancels has effects beside the state: see [Claimer]. One with the
// method Sends sends commands to other aggregates: see [Sender].
func Records[E Event[S], S any](name string, settings ...Setting) Part[S] {
	return part[S](func(d *Definition) {
		m := newMessage[E](KindEvent, name, settings)
		effectsOf[E, S](m)
		sendsOf[E, S](m)
		d.add(m)
	})
}

// Setting refines one message of a definition.
type Setting interface{ set(m *Message) }

type setting func(m *Message)

func (s setting) set(m *Message) { s(m) }

// Encoded stores one message in another codec than the default, which is
// protobuf for proto.Message types and JSON for all others. The codec of a
// stored name never changes.
func Encoded(c Codec) Setting {
	return setting(func(m *Message) {
		if c == nil {
			m.problem("the codec is nil")
		}
		m.codec = c
	})
}

// Codec turns values into bytes and back. It is safe for concurrent use and
// must not keep the data it is given.
type Codec interface {
	// Name is stable: "json", "protobuf".
	Name() string
	Marshal(value any) ([]byte, error)
	// Unmarshal fills what value points to.
	Unmarshal(data []byte, value any) error
}

// SnapshotPolicy says when the state of an aggregate is stored beside its
// events. A snapshot is a cache: an unreadable one, or one of another Schema,
// means a replay.
type SnapshotPolicy struct {
	// Every is the number of events since the last snapshot after which a new
	// one is taken. Default 200.
	Every int
	// Bytes is the same in bytes of event payload. Default 64 KiB.
	Bytes int
	// OnPassivation takes one when the aggregate leaves memory with at least
	// that many events since the last snapshot. Default 20.
	OnPassivation int
	// Schema is the version of the state's own format. Count it up when old
	// snapshots would decode wrongly.
	Schema int
	// Codec of the state; default JSON, for which fields must be exported.
	Codec Codec
	// Off takes none.
	Off bool
}

// Snapshots sets the snapshot policy. The state type must be named:
// aggregate.Snapshots[Account](aggregate.SnapshotPolicy{Every: 50}).
func Snapshots[S any](p SnapshotPolicy) Part[S] {
	return part[S](func(d *Definition) { d.snapshots = p })
}

func (p SnapshotPolicy) withDefaults() SnapshotPolicy {
	if p.Every <= 0 {
		p.Every = 200
	}
	if p.Bytes <= 0 {
		p.Bytes = 64 << 10
	}
	if p.OnPassivation <= 0 {
		p.OnPassivation = 20
	}
	return p
}

// ReadMode says what a reply that no event proves (a query's answer, a
// rejection, a receipt without events) costs and is worth.
type ReadMode uint8

const (
	// Lease: linearizable, without a round trip as long as the node's lease
	// lasts (I7). The default.
	Lease ReadMode = iota
	// Strict: linearizable, with a store round trip for every such reply. A
	// take-over needs no hold (I8).
	Strict
	// Eventual: the owner's state at some recent moment. A node that lost
	// its ownership may still answer for a while.
	Eventual
)

// Reads sets the read mode. The state type must be named:
// aggregate.Reads[Account](aggregate.Strict).
func Reads[S any](mode ReadMode) Part[S] {
	return part[S](func(d *Definition) { d.reads = mode })
}

// IdleAfter sets how long an aggregate without commands stays in memory. The
// default is the node's. The state type must be named:
// aggregate.IdleAfter[Account](time.Minute).
func IdleAfter[S any](idle time.Duration) Part[S] {
	return part[S](func(d *Definition) { d.idle = idle })
}

// decoderOf returns a function that makes a T from bytes: for a pointer type
// the thing pointed to, for any other the value itself.
func decoderOf[T any]() func(Codec, []byte) (any, error) {
	typ := reflect.TypeFor[T]()
	if typ.Kind() == reflect.Pointer {
		elem := typ.Elem()
		return func(c Codec, data []byte) (any, error) {
			v := reflect.New(elem).Interface()
			return v, c.Unmarshal(data, v)
		}
	}
	return func(c Codec, data []byte) (any, error) {
		var v T
		err := c.Unmarshal(data, &v)
		return v, err
	}
}

// answerOf finds the Answer method of a command type, if it has one whose
// parameter is S. Go cannot infer the result type of a method that need not be
// there, so it is found, and called, by reflection.
func answerOf[M, S any]() *answerer {
	typ := reflect.TypeFor[M]()
	method, ok := typ.MethodByName("Answer")
	if !ok {
		return nil
	}
	f := method.Type
	if f.NumIn() != 2 || f.In(1) != reflect.TypeFor[S]() || f.NumOut() != 2 || f.Out(1) != reflect.TypeFor[error]() {
		return nil
	}
	return &answerer{result: f.Out(0), call: func(message, state any) (any, error) {
		out := method.Func.Call([]reflect.Value{reflect.ValueOf(message), reflect.ValueOf(state).Elem()})
		err, _ := out[1].Interface().(error)
		return out[0].Interface(), err
	}}
}

func (k MessageKind) String() string {
	switch k {
	case KindCommand:
		return "command"
	case KindQuery:
		return "query"
	case KindEvent:
		return "event"
	}
	return fmt.Sprintf("message kind %d", uint8(k))
}

// Package aggregate is the vocabulary in which a domain is written: commands
// decide which events happen, events evolve the state, queries read it.
//
// A domain package imports this package and nothing else of the framework. All
// of it is plain Go: no annotations, no code generation, no base type.
//
//	type Account struct{ Cents int64 }
//
//	type Deposit struct{ Cents int64 }
//	func (c Deposit) Decide(a Account) ([]aggregate.Event[Account], error) { ... }
//
//	type Deposited struct{ Cents int64 }
//	func (e Deposited) Evolve(a *Account) { a.Cents += e.Cents }
//
//	var Accounts = aggregate.Define("account",
//		aggregate.Accepts[Deposit]("deposit"), aggregate.Records[Deposited]("deposited"))
//
// A program reaches one aggregate through a [Ref]: its method Send delivers a
// command, the function [Ask] a query, and the function [Do] a command that also
// answers. What goes wrong is one of four kinds: see [KindOf].
//
//	alice := Accounts.Ref(node, "alice") // node is a *cluster.Node
//	receipt, err := alice.Send(ctx, Deposit{Cents: 500})
//
// Decide, Evolve and Answer are pure (I4): no clock, no randomness, no I/O, no
// goroutine. Time and new ids arrive in the command. The runtime calls them for
// one aggregate one at a time, and again when it replays.
package aggregate

// Event has happened to an aggregate with state S, and evolves it. The type is
// a value or a pointer; its fields are what is stored.
type Event[S any] interface {
	// Evolve changes the state. It cannot fail: what happened, happened. Neither
	// it nor a later Evolve may change what the event refers to: a state that
	// changes a slice or map in place has its own copy.
	Evolve(state *S)
}

// Command asks an aggregate with state S to change.
type Command[S any] interface {
	// Decide returns the events that follow from the command, none when there
	// is nothing to do, or an error when the domain says no (see [Reject]).
	// It must not change the state, nor what the state refers to.
	Decide(state S) ([]Event[S], error)
}

// Query reads an aggregate with state S.
type Query[S, R any] interface {
	// Answer computes the result. It must not change the state, and the result
	// must share no map, slice or pointer with it: a caller in the same process
	// receives the value itself.
	Answer(state S) (R, error)
}

// CommandQuery is a command that also answers, on the state its events leave.
type CommandQuery[S, R any] interface {
	Command[S]
	Query[S, R]
}

// Type is an aggregate type: the only place where Go types meet stored names.
// It is immutable and safe for concurrent use. Make it with [Define].
type Type[S any] struct {
	def *Definition
}

// Any is a [Type] of whatever state, for lists of aggregate types.
type Any interface {
	Definition() *Definition
}

// Define describes an aggregate type under its stored name, which never
// changes: 1 to 128 bytes of a-z, 0-9, '-', '_' and '.', beginning with a
// letter. The state type is inferred from the parts; its zero value is the
// aggregate before its first event.
//
// Define reports nothing. Every mistake in every definition is listed in one
// error by [Validate], which cluster.Start calls.
func Define[S any](name string, parts ...Part[S]) *Type[S] {
	d := newDefinition[S](name)
	for i, p := range parts {
		if p == nil {
			d.problem("part %d is nil", i+1)
			continue
		}
		p.apply(d)
	}
	d.finish()
	return &Type[S]{def: d}
}

// Name is the stored name of the type.
func (t *Type[S]) Name() string { return t.def.name }

// Definition is the form in which the runtime reads the type.
func (t *Type[S]) Definition() *Definition { return t.def }

// Ref addresses one aggregate through a gateway, usually a *cluster.Node. It
// costs nothing, is never stale, and the aggregate need not exist. An id is 1 to
// 512 bytes of UTF-8 without NUL.
func (t *Type[S]) Ref(gateway Gateway, id string) Ref[S] {
	return Ref[S]{def: t.def, gateway: gateway, id: id}
}

package eventsourcing

import (
	"context"
	"errors"
	"reflect"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Inline writes into the store's own database in the transaction of the command
// itself: when the caller has the receipt, the row is there, and when the row
// cannot be written, the command fails and nothing has happened. Every command of
// the aggregates it subscribes to waits for it, so it is for the few rows that
// must never be behind, and a [Table] for all else.
//
// It sees the events of commands, never the log: it is not replayed, has no
// progress and no dead letters. A store without SQL refuses it.
type Inline struct {
	projection
	statements map[subscribed]func(event any, fact Fact) []persistence.Statement
}

// Writer makes the statements of one event type for an [Inline]. Make it with
// [Writes].
type Writer struct {
	Handler[struct{}]
	statements func(event any, fact Fact) []persistence.Statement
}

// Writes says what an event writes. The function is pure: it only makes
// statements, in the store's own placeholders. The fact has no offset yet.
func Writes[E aggregate.Event[S], S any](t *aggregate.Type[S], statements func(event E, fact Fact) []persistence.Statement) Writer {
	w := Writer{Handler: Handler[struct{}]{event: reflect.TypeFor[E]()}}
	if t != nil {
		w.definition = t.Definition()
	}
	if statements != nil {
		w.call = func(context.Context, struct{}, any, Fact) error {
			return errors.New("an inline projection is not replayed")
		}
		w.statements = func(event any, fact Fact) []persistence.Statement { return statements(event.(E), fact) }
	}
	return w
}

// NewInline makes an inline projection. Of the settings only the name counts.
func NewInline(s Settings, writers ...Writer) *Inline {
	handlers := make([]Handler[struct{}], len(writers))
	for i, w := range writers {
		handlers[i] = w.Handler
	}
	p := &Inline{
		projection: projection{subscription: subscribe(handlers), settings: s.withDefaults(), kind: KindInline},
		statements: map[subscribed]func(any, Fact) []persistence.Statement{},
	}
	for _, w := range writers {
		if w.definition != nil {
			p.statements[subscribed{w.definition.Name(), w.event}] = w.statements
		}
	}
	return p
}

// InlineStatements returns the function that adds to a commit what the inline
// projections write for its events; nil when there is none. The function may
// panic as the writers do.
func InlineStatements(projections ...Projection) func(c *persistence.Commit, events []any) {
	var list []*Inline
	for _, p := range projections {
		if inline, ok := p.(*Inline); ok {
			list = append(list, inline)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return func(c *persistence.Commit, events []any) {
		for i, event := range events {
			for _, inline := range list {
				if write := inline.statements[subscribed{c.Stream.Type, reflect.TypeOf(event)}]; write != nil {
					c.Statements = append(c.Statements, write(event, Fact{
						Aggregate: c.Stream.Type, ID: c.Stream.ID, Version: aggregate.Version(c.Expected) + aggregate.Version(i) + 1,
						Event: c.Events[i].Type, Partition: aggregate.Partition(c.Partition), At: c.At,
						Command: aggregate.CommandID(c.Command), metadata: c.Metadata,
					})...)
				}
			}
		}
	}
}

package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/ingrain-go/ingrain/persistence"
)

// Projection is one of [View], [Table], [Reaction], [Local] and [Inline]. They
// have one way to say what is handled, and differ in what a handler works on,
// where it runs and how often:
//
//	View      on every node, in memory                       every event, again after each start
//	Table     at the partition's owner, in the store         once, with the checkpoint in one transaction
//	Reaction  at the partition's owner, outside effects      at least once; never again by a rebuild
//	Local     at the partition's owner, before the reply     once, or again after a crash
//	Inline    in the command's own transaction               once, and the command fails with it
//
// A value belongs to one node.
type Projection interface {
	describe() *projection
}

// Kind tells the projections apart.
type Kind string

// The kinds.
const (
	KindView     Kind = "view"
	KindTable    Kind = "table"
	KindReaction Kind = "reaction"
	KindLocal    Kind = "local"
	KindInline   Kind = "inline"
)

// projection is what the engine knows of a projection, its X erased.
type projection struct {
	subscription
	settings Settings
	kind     Kind
	// x makes what the handlers of one batch work on. tx is nil but for a table.
	x func(tx *Tx) any
	// flush writes what the handlers of a batch have gathered; nil for none.
	flush func(ctx context.Context, tx *Tx, x any) error
	// guard is held while handlers run; nil for none.
	guard sync.Locker
	// of a view: a new instance, and its taking the place of the old
	renew func() (x any, swap func())
	// of a table: what begins and ends a generation, and the one that is read
	create, drop func(ctx context.Context, tx *Tx) error
	live         atomic.Int64
}

func (p *projection) describe() *projection { return p }

// KindOf tells what kind of projection it is.
func KindOf(p Projection) Kind { return p.describe().kind }

var projectionName = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,127}$`)

// Validate returns one error that lists every mistake in the projections; nil
// when there is none.
func Validate(projections ...Projection) error {
	var errs []error
	seen := map[string]bool{}
	for i, each := range projections {
		if each == nil {
			errs = append(errs, fmt.Errorf("projection %d is nil", i+1))
			continue
		}
		p := each.describe()
		name := p.settings.Name
		problems := p.errs
		if !projectionName.MatchString(name) {
			problems = append(problems, errors.New("a name is 1 to 128 bytes of a-z, 0-9, '-', '_' and '.', beginning with a letter"))
		}
		if seen[name] {
			problems = append(problems, errors.New("two projections have this name"))
		}
		if p.settings.Unknown > Stop {
			problems = append(problems, fmt.Errorf("policy %d for unknown events is unknown", p.settings.Unknown))
		}
		seen[name] = true
		for _, err := range problems {
			errs = append(errs, fmt.Errorf("projection %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// View is a read model in memory, which every node keeps for itself. It is built
// from the whole log when the node starts, and follows it from then on: pushed by
// the owners of the partitions, healed from the store where a push was lost.
//
// Handlers run one at a time and return soon: they hold up readers.
type View[V any] struct {
	projection
	mu    sync.RWMutex
	value *V
}

// NewView makes a view. empty makes the read model before the first event.
func NewView[V any](s Settings, empty func() *V, handlers ...Handler[*V]) *View[V] {
	v := &View[V]{projection: projection{subscription: subscribe(handlers), settings: s.withDefaults(), kind: KindView}}
	v.settings.Parallel = 1
	if empty == nil {
		v.errs = append(v.errs, errors.New("nothing makes the empty view"))
		return v
	}
	v.value = empty()
	v.guard = &v.mu
	v.x = func(*Tx) any { return v.value }
	v.renew = func() (any, func()) {
		next := empty()
		return next, func() { v.value = next }
	}
	return v
}

// Read calls f with the view, which does not change meanwhile. f must not keep
// what it is given, nor change it, and returns soon.
func (v *View[V]) Read(f func(*V)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	f(v.value)
}

// Table is a read model in the store's own database. What handlers write and how
// far they have come are one transaction, so every event has its effect exactly
// once. Each partition is handled by its owner, so nodes share the work.
//
// A table has generations: [Projector.Rebuild] fills the next one beside the one
// that is read. Handlers and readers name their SQL tables with [Tx.Name] and
// Table.Name.
type Table struct{ projection }

// Schema makes and removes the SQL tables of a generation.
type Schema struct {
	// Create makes them, if they are not there: CREATE TABLE IF NOT EXISTS. Every
	// node that handles the table calls it before it begins.
	Create func(ctx context.Context, tx *Tx) error
	// Drop removes them, when the next generation is read: DROP TABLE IF EXISTS.
	// Nil leaves them.
	Drop func(ctx context.Context, tx *Tx) error
}

// NewTable makes a table whose handlers write each event for itself.
func NewTable(s Settings, schema Schema, handlers ...Handler[*Tx]) *Table {
	t := newTable(s, schema, subscribe(handlers))
	t.x = func(tx *Tx) any { return tx }
	return t
}

// NewBatchTable makes a table whose handlers gather what a batch of events does
// in a B, which flush then writes in a few statements. One statement for many
// events makes a table several times as fast. Handlers have no effect but on B.
func NewBatchTable[B any](s Settings, schema Schema, begin func() *B, flush func(ctx context.Context, tx *Tx, batch *B) error,
	handlers ...Handler[*B],
) *Table {
	orDefault(&s.Batch, 4000)
	t := newTable(s, schema, subscribe(handlers))
	if begin == nil || flush == nil {
		t.errs = append(t.errs, errors.New("a batch needs begin and flush"))
		return t
	}
	t.x = func(*Tx) any { return begin() }
	t.flush = func(ctx context.Context, tx *Tx, x any) error { return flush(ctx, tx, x.(*B)) }
	return t
}

func newTable(s Settings, schema Schema, sub subscription) *Table {
	t := &Table{projection{subscription: sub, settings: s.withDefaults(), kind: KindTable}}
	t.create, t.drop = schema.Create, schema.Drop
	t.live.Store(1)
	return t
}

// Name is the name of an SQL table of the generation that is to be read, as far
// as this node knows: Tx.Name of that generation.
func (t *Table) Name(table string) string { return generationName(table, t.live.Load()) }

// Tx is the transaction in which a table's handlers write.
type Tx struct {
	persistence.Tx
	generation int64
}

// Name is the name of an SQL table of the generation that is being written:
// "balances" is "balances_1" at first, and "balances_2" after a rebuild.
func (t *Tx) Name(table string) string { return generationName(table, t.generation) }

func generationName(table string, generation int64) string {
	return table + "_" + strconv.FormatInt(generation, 10)
}

// Reaction has effects outside: mails, calls of other services. X is what its
// handlers need for that. An event is handled at least once: after a crash, or
// when a partition changes hands, the last ones may be handled again, so an
// effect carries an id made from the fact. Nothing ever replays a reaction.
type Reaction struct{ projection }

// NewReaction makes a reaction.
func NewReaction[X any](s Settings, x X, handlers ...Handler[X]) *Reaction {
	return &Reaction{projection{
		subscription: subscribe(handlers), settings: s.withDefaults(), kind: KindReaction, x: func(*Tx) any { return x },
	}}
}

// Local is handled on the node that has executed the command, after its events
// are durable and before the reply leaves: whoever has the reply and asks this
// node sees the change. X is what its handlers work on, one at a time; whoever
// reads it elsewhere locks it himself.
//
// A handler runs where commits are made: it returns at once, waits for nothing,
// and sends no command, which would wait for itself. When one fails, or the
// partition has just come to this node and is more than a batch behind, the
// events are handled in the background and replies do not wait.
type Local struct{ projection }

// NewLocal makes a local projection.
func NewLocal[X any](s Settings, x X, handlers ...Handler[X]) *Local {
	return &Local{projection{
		subscription: subscribe(handlers), settings: s.withDefaults(), kind: KindLocal, x: func(*Tx) any { return x },
		guard: new(sync.Mutex),
	}}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// kind is a store that figures are measured on.
type kind struct {
	name   string // in sentences
	suffix string // of figures
}

var (
	onMemory   = kind{"the memory store", "-memory"}
	onSQLite   = kind{"SQLite", "-sqlite"}
	onPostgres = kind{"PostgreSQL", "-postgres"}
)

// openNew opens an empty store of a kind, and returns what closes and removes it.
func (b *bench) openNew(ctx context.Context, k kind) (persistence.Store, func() error, error) {
	switch k {
	case onMemory:
		store, err := memory.Open(memory.Config{})
		if err != nil {
			return nil, nil, err
		}
		return store, store.Close, nil
	case onSQLite:
		dir, err := os.MkdirTemp("", "ingrain-speed-")
		if err != nil {
			return nil, nil, err
		}
		store, err := sqlite.Open(ctx, sqlite.Config{Dir: dir})
		if err != nil {
			return nil, nil, errors.Join(err, os.RemoveAll(dir))
		}
		return store, func() error { return errors.Join(store.Close(), os.RemoveAll(dir)) }, nil
	case onPostgres:
		store, _, err := b.openStore(ctx, nil)
		if err != nil {
			return nil, nil, err
		}
		return store, store.Close, nil
	}
	return nil, nil, fmt.Errorf("no store %q", k.name)
}

// eachKind measures on every kind of which a figure is wanted; names are those of
// the figures without the kind.
func (b *bench) eachKind(ctx context.Context, kinds []kind, names []string, measure func(context.Context, kind) ([]*figure, error)) ([]*figure, error) {
	var figures []*figure
	for _, k := range kinds {
		var wanted []string
		for _, name := range names {
			wanted = append(wanted, name+k.suffix)
		}
		if !b.wants(wanted...) {
			continue
		}
		of, err := measure(ctx, k)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		figures = append(figures, of...)
	}
	return figures, nil
}

// figuresOf lists the names of figures that are measured on several stores.
func figuresOf(kinds []kind, names ...string) (list []string) {
	for _, k := range kinds {
		for _, name := range names {
			list = append(list, name+k.suffix)
		}
	}
	return list
}

// rig is a node on a store of its own, and what its callers did.
type rig struct {
	*path
	store      persistence.Store
	closeStore func() error
}

// newRig serves accounts of a type, with n of them in memory. prepare, if there
// is one, is given the empty store.
func (b *bench) newRig(ctx context.Context, k kind, t *aggregate.Type[account], n int, prepare func(persistence.Store) error) (_ *rig, err error) {
	r := &rig{}
	if r.store, r.closeStore, err = b.openNew(ctx, k); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.end())
		}
	}()
	if prepare != nil {
		if err := prepare(r.store); err != nil {
			return nil, err
		}
	}
	node, err := startNode(ctx, r.store, func(c *cluster.Config) { c.Aggregates = []aggregate.Any{t} })
	if err != nil {
		return nil, err
	}
	r.path = &path{node: node, booked: &bookings{refs: make([]aggregate.Ref[account], n), acked: make([]atomic.Int64, n)}}
	for i := range r.booked.refs {
		r.booked.refs[i] = t.Ref(node, accountID(i))
	}
	return r, r.booked.warm(ctx, bookOf(storedBytes))
}

// check compares the store with what was acknowledged.
func (r *rig) check(ctx context.Context) error {
	inStore, err := stored(ctx, r.store)
	if err != nil {
		return err
	}
	return compare(inStore, r.booked)
}

func (r *rig) end() error {
	if r.path != nil {
		r.stop()
	}
	return r.closeStore()
}

// tenant is a node that nobody calls: it owns all partitions of a store, and
// appends.
type tenant struct {
	store  persistence.Store
	id     persistence.NodeID
	fences []persistence.Fence
}

// rent claims every partition, of which nobody may be the owner.
func rent(ctx context.Context, store persistence.Store) (*tenant, error) {
	t := &tenant{store: store, id: persistence.NodeID(aggregate.NewCommandID().String())}
	member := persistence.Node{ID: t.id, Cluster: "ingrain", Address: "none:1", State: persistence.Active, Lease: time.Second}
	if err := store.Join(ctx, member); err != nil {
		return nil, err
	}
	view, err := store.View(ctx)
	if err != nil {
		return nil, errors.Join(err, t.leave(ctx))
	}
	seen := map[persistence.Partition]persistence.Epoch{}
	for _, row := range view.Partitions {
		seen[row.Partition] = row.Epoch
	}
	t.fences = make([]persistence.Fence, store.Meta().Partitions)
	for i := range t.fences {
		p := persistence.Partition(i)
		tenure, err := store.Claim(ctx, p, seen[p], t.id)
		if err != nil {
			return nil, errors.Join(err, t.leave(ctx))
		}
		t.fences[i] = persistence.Fence{Partition: tenure.Partition, Epoch: tenure.Epoch, Head: tenure.Head}
	}
	return t, nil
}

func (t *tenant) leave(ctx context.Context) error { return t.store.Leave(ctx, t.id) }

// append writes commits, whose partition and epoch it sets.
func (t *tenant) append(ctx context.Context, commits []*persistence.Commit) error {
	batch, events := &persistence.Batch{Owner: t.id, Commits: commits}, map[persistence.Partition]int{}
	for _, c := range commits {
		c.Partition = persistence.PartitionOf(c.Stream, len(t.fences))
		c.Epoch = t.fences[c.Partition].Epoch
		if _, fenced := events[c.Partition]; !fenced {
			batch.Fences = append(batch.Fences, t.fences[c.Partition])
		}
		events[c.Partition] += len(c.Events)
	}
	t.store.Append(ctx, batch)
	for _, c := range commits {
		if c.Err != nil {
			return fmt.Errorf("append %s: %w", c.Stream, c.Err)
		}
	}
	for p, n := range events {
		t.fences[p].Head += persistence.Offset(n)
	}
	return nil
}

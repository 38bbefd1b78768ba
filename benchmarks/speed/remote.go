package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// remoteCallers is the number of callers, each with an aggregate of its own, of
// the figure on remote commands.
const remoteCallers = 256

// remote compares commands to aggregates in another process with protoactor's
// cluster.Request to actors in another process. The actors keep nothing, so the
// aggregates' store is memory in their own process: this figure is about the
// way there and back.
func (b *bench) remote(ctx context.Context) (_ []*figure, err error) {
	ours, err := b.startRemotePath(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	theirs, err := b.startRequests(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, theirs.stop()) }()
	contenders := []contender{
		{"remote commands of bytes, 256 callers", b.brief, ours.runWith(note{make([]byte, remoteBytes)})},
		{"cluster.Request, 256 callers", b.brief, theirs.run},
	}
	if b.wants("remote-256-json") {
		contenders = append(contenders, contender{"remote commands of JSON, 256 callers", b.brief, ours.runWith(bookOf(remoteBytes))})
	}
	taken, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ours.check(ctx), theirs.check(ctx)); err != nil {
		return nil, err
	}
	const than = "protoactor cluster.Request to actors in another process, 128 bytes"
	figures := []*figure{(&figure{
		Name: "remote-256", What: "commands to 256 aggregates in another process, 128 bytes, 256 callers", Unit: "commands/s",
		Than: than, Goal: ratioAtLeast(2),
	}).rates(taken[0], taken[1])}
	if len(taken) > 2 {
		figures = append(figures, (&figure{
			Name: "remote-256-json", What: "the same, the 128 bytes being JSON that is decoded and encoded again", Unit: "commands/s", Than: than,
		}).rates(taken[2], taken[1]))
	}
	return figures, nil
}

// remotePath is a node in this process, which owns nothing, and one in a child,
// which owns everything.
type remotePath struct {
	child  *child
	node   *cluster.Node
	booked *bookings
}

func (b *bench) startRemotePath(ctx context.Context) (_ *remotePath, err error) {
	p := &remotePath{}
	if p.child, err = b.startChild(ctx, "owner", 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	store := &remoteStore{child: p.child}
	if err := p.child.call(ctx, "Meta", struct{}{}, &store.meta); err != nil {
		return nil, err
	}
	if p.node, err = startNode(ctx, store, func(c *cluster.Config) { c.Sticky = true }); err != nil {
		return nil, err
	}
	p.booked = newBookings(p.node, 0, remoteCallers)
	if err := p.booked.warm(ctx, bookOf(remoteBytes)); err != nil {
		return nil, err
	}
	if local := p.node.Stats().Local; local != 0 {
		return nil, fmt.Errorf("%d commands were not remote", local)
	}
	return p, nil
}

// runWith sends one command again and again, each caller to its own aggregate.
func (p *remotePath) runWith(command aggregate.Command[account]) func(context.Context, time.Duration) (sample, error) {
	return func(ctx context.Context, d time.Duration) (sample, error) { return p.run(ctx, d, command) }
}

func (p *remotePath) run(ctx context.Context, d time.Duration, command aggregate.Command[account]) (s sample, err error) {
	before := p.node.Stats().Envelopes
	s.n, s.elapsed, err = closedLoop(ctx, d, remoteCallers, func(i int) error { return p.booked.send(ctx, i, command) })
	if envelopes := p.node.Stats().Envelopes - before; envelopes > 0 {
		s.batch = float64(s.n) / float64(envelopes)
	}
	return s, err
}

func (p *remotePath) check(ctx context.Context) error {
	var inStore map[string]int64
	if err := p.child.call(ctx, "Stored", struct{}{}, &inStore); err != nil {
		return err
	}
	if local := p.node.Stats().Local; local != 0 {
		return fmt.Errorf("%d commands were not remote", local)
	}
	return compare(inStore, p.booked)
}

func (p *remotePath) stop() error {
	if p.node != nil {
		stopNode(p.node)
	}
	return p.child.stop()
}

// Owner is the child: a node on a memory store.
type Owner struct {
	store *memory.Store
	node  *cluster.Node
	ctx   context.Context // the child's life
}

func newOwner(ctx context.Context) (service, error) {
	store, err := memory.Open(memory.Config{})
	if err != nil {
		return nil, err
	}
	node, err := startNode(ctx, store, func(c *cluster.Config) { c.Sticky = true })
	return &Owner{store, node, ctx}, err
}

func (o *Owner) close() error {
	stopNode(o.node)
	return o.store.Close()
}

// Stored counts the events by aggregate id.
func (o *Owner) Stored(_ struct{}, counts *map[string]int64) (err error) {
	*counts, err = stored(o.ctx, o.store)
	return err
}

// The rest of Owner is the membership part of its store, for the parent's node.

// Meta is the store's.
func (o *Owner) Meta(_ struct{}, m *persistence.Meta) error {
	*m = o.store.Meta()
	return nil
}

// Join is the store's.
func (o *Owner) Join(n persistence.Node, _ *struct{}) error { return o.store.Join(o.ctx, n) }

// Renew is the store's.
func (o *Owner) Renew(r persistence.Renewal, v *persistence.View) (err error) {
	*v, err = o.store.Renew(o.ctx, r)
	return err
}

// Leave is the store's.
func (o *Owner) Leave(n persistence.NodeID, _ *struct{}) error { return o.store.Leave(o.ctx, n) }

// remoteStore is the child's store as far as a node needs it that owns nothing.
// What it lacks fails loudly.
type remoteStore struct {
	persistence.Store
	child *child
	meta  persistence.Meta
}

func (s *remoteStore) Meta() persistence.Meta { return s.meta }

func (s *remoteStore) Join(ctx context.Context, n persistence.Node) error {
	return s.child.call(ctx, "Join", n, &struct{}{})
}

func (s *remoteStore) Renew(ctx context.Context, r persistence.Renewal) (v persistence.View, err error) {
	err = s.child.call(ctx, "Renew", r, &v)
	return v, err
}

func (s *remoteStore) Leave(ctx context.Context, n persistence.NodeID) error {
	return s.child.call(ctx, "Leave", n, &struct{}{})
}

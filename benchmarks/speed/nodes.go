package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
)

// manyNodes is the number of nodes that one node is compared with.
const manyNodes = 4

// nodes compares the processor time of a durable command in a cluster of several
// nodes with that of one node: of all node processes, the callers in them, and
// the server. Every node brings as many callers and aggregates, as a cluster that
// grows with its load does.
func (b *bench) nodes(ctx context.Context) (_ []*figure, err error) {
	var offices []*office
	defer func() {
		for _, o := range offices {
			err = errors.Join(err, atOnce(o.branches, (*child).stop))
		}
	}()
	for _, n := range []int{manyNodes, 1} {
		o, err := b.open(ctx, n)
		if o != nil {
			offices = append(offices, o)
		}
		if err != nil {
			return nil, err
		}
	}
	several, single := offices[0], offices[1]
	working := func(o *office, what string, anywhere bool) contender {
		return contender{what, b.middle, func(ctx context.Context, d time.Duration) (sample, error) {
			return o.run(ctx, d, anywhere, offices)
		}}
	}
	contenders := []contender{
		working(several, plural(manyNodes, "node")+", commands sent to the owner", false),
		working(single, plural(1, "node"), true),
	}
	if b.wants("cost-nodes-any") {
		contenders = append(contenders, working(several, plural(manyNodes, "node")+", commands sent to any node", true))
	}
	taken, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	for _, o := range offices {
		if err := o.check(ctx); err != nil {
			return nil, err
		}
	}
	var figures []*figure
	for i, f := range []figure{
		{Name: "cost-nodes", What: "processor time of a durable command on PostgreSQL, 4 nodes, each command sent to the node that owns the aggregate"},
		{},
		{Name: "cost-nodes-any", What: "the same, each command sent to any of the nodes: three in four go on to another"},
	} {
		if i >= len(taken) || f.Name == "" {
			continue
		}
		f.Unit, f.Than, f.Goal = "us", "1 node, each node with 1,024 callers and as many aggregates", ratioAtMost(1.2)
		if b.server == nil {
			f.Note = "without that of the server, which may be another machine's"
		}
		f.Of, f.Base = each(taken[i], sample.busyMicros), each(taken[1], sample.busyMicros)
		figures = append(figures, &f)
	}
	return figures, nil
}

// office is a cluster, each node in a process of its own, on a database of its
// own.
type office struct {
	dsn        string
	aggregates int
	capacity   float64 // commands a second, when views are measured
	branches   []*child
}

func (b *bench) open(ctx context.Context, nodes int) (*office, error) {
	return b.openAs(ctx, "branch", nodes)
}

// openAs does it with children in another role, which is that of a Branch and more.
func (b *bench) openAs(ctx context.Context, role string, nodes int) (*office, error) {
	dsn, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	o := &office{dsn: dsn, aggregates: concurrent * nodes}
	for i := range nodes {
		c, err := b.startChild(ctx, role, 10*nodes+i)
		if err != nil {
			return o, err
		}
		o.branches = append(o.branches, c)
		if err := c.call(ctx, "Open", Opening{DSN: dsn, Aggregates: o.aggregates}, &struct{}{}); err != nil {
			return o, err
		}
	}
	b.progress("  %s, waiting for each to own its share", plural(nodes, "node"))
	return o, atOnce(o.branches, func(c *child) error { return c.call(ctx, "Settle", nodes, &struct{}{}) })
}

// run lets the callers of all branches send commands, and sees what every
// process used, those of the other offices too.
func (o *office) run(ctx context.Context, d time.Duration, anywhere bool, offices []*office) (s sample, err error) {
	used := func() (ours, others time.Duration, err error) {
		for _, other := range offices {
			times, err := usedBy(ctx, other.branches)
			if err != nil {
				return 0, 0, err
			}
			for _, t := range times {
				if other == o {
					ours += t
				} else {
					others += t
				}
			}
		}
		return ours, others, nil
	}
	oursBefore, othersBefore, err := used()
	if err != nil {
		return s, err
	}
	measured := make([]Measured, len(o.branches))
	places := map[*child]int{}
	for i, c := range o.branches {
		places[c] = i
	}
	err = atOnce(o.branches, func(c *child) error {
		return c.call(ctx, "Run", Shift{d, anywhere}, &measured[places[c]])
	})
	if err != nil {
		return s, err
	}
	ours, others, err := used()
	if err != nil {
		return s, err
	}
	s.used, s.idle = ours-oursBefore, others-othersBefore
	for _, m := range measured {
		s.n += m.N
		s.elapsed = max(s.elapsed, m.Elapsed)
		s.batch += m.Batch / float64(len(measured))
	}
	return s, nil
}

// check compares the store with what all branches had acknowledged.
func (o *office) check(ctx context.Context) error {
	booked := newBookings(nil, 0, o.aggregates)
	for _, c := range o.branches {
		var acked []int64
		if err := c.call(ctx, "Acked", struct{}{}, &acked); err != nil {
			return err
		}
		for i, n := range acked {
			booked.acked[i].Add(n)
		}
	}
	return checkPath(ctx, o.dsn, booked)
}

// Opening tells a branch where it is.
type Opening struct {
	DSN        string
	Aggregates int // of the whole cluster
}

// Shift is the argument of Run.
type Shift struct {
	For      time.Duration
	Anywhere bool // commands go to any aggregate, not only to those of this node
}

// Branch is a child with one of several nodes, and callers.
type Branch struct {
	Opening
	store persistence.Store
	path  path
	ctx   context.Context // the child's life
}

func newBranch(ctx context.Context) (service, error) { return &Branch{ctx: ctx}, nil }

// Open starts the node.
func (b *Branch) Open(o Opening, _ *struct{}) error { return b.start(o, nil) }

func (b *Branch) start(o Opening, adjust func(*cluster.Config)) (err error) {
	b.Opening = o
	if b.store, err = pgstore.Open(b.ctx, pgstore.Config{DSN: o.DSN}); err != nil {
		return err
	}
	b.path.node, err = startNode(b.ctx, b.store, adjust)
	if err == nil {
		b.path.booked = newBookings(b.path.node, 0, o.Aggregates)
	}
	return err
}

// Settle waits until every one of so many nodes serves its share.
func (b *Branch) Settle(nodes int, _ *struct{}) error {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		least := b.store.Meta().Partitions / (nodes + 1)
		shares := map[persistence.NodeID]int{}
		for _, row := range b.path.node.Partitions() {
			shares[row.Owner]++
		}
		settled := len(shares) == nodes
		for _, share := range shares {
			settled = settled && share >= least
		}
		if settled {
			return b.path.node.Ready(ctx)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("the partitions are spread as %v: %w", shares, ctx.Err())
		}
	}
}

// Run sends commands for a while, to aggregates at random.
func (b *Branch) Run(s Shift, m *Measured) error {
	choice := b.choice(s.Anywhere)
	before := b.path.node.Stats()
	taken, err := b.path.runAt(b.ctx, s.For, concurrent, bookOf(storedBytes), func(int) int { return choice[rand.IntN(len(choice))] })
	if err != nil {
		return err
	}
	after := b.path.node.Stats()
	if remote := after.Remote - before.Remote; !s.Anywhere && remote > 0 {
		return fmt.Errorf("%d of %d commands were not for this node", remote, taken.n)
	}
	*m = Measured{taken.n, taken.elapsed, taken.batch}
	return nil
}

// choice are the aggregates that commands go to: those of this node, or all.
func (b *Branch) choice(anywhere bool) (list []int) {
	for i := range b.Aggregates {
		if anywhere || b.path.node.Owner(accountType, accountID(i)).Owner == b.path.node.ID() {
			list = append(list, i)
		}
	}
	return list
}

// Used is the processor time of the child so far.
func (b *Branch) Used(_ struct{}, used *time.Duration) error {
	*used, _, _ = processorTimes()
	return nil
}

// Acked is how many commands to each account this branch's callers had
// acknowledged.
func (b *Branch) Acked(_ struct{}, acked *[]int64) error {
	for i := range b.path.booked.acked {
		*acked = append(*acked, b.path.booked.acked[i].Load())
	}
	return nil
}

func (b *Branch) close() error {
	if b.path.node != nil {
		b.path.stop()
	}
	if b.store == nil {
		return nil
	}
	return b.store.Close()
}

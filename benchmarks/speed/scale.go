package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
)

// few is the number of aggregates that many are compared with.
const few = 10_000

// scale compares the processor time of a durable command among many aggregates
// with that among few, all of them in memory, each command to one at random.
// Both logs begin with as many events, so that what differs is the number of
// aggregates and not the size of the tables.
func (b *bench) scale(ctx context.Context) ([]*figure, error) {
	crowds := make([]Gathering, 2)
	for i, n := range []int{b.many, few} {
		dsn, err := b.database(ctx)
		if err != nil {
			return nil, err
		}
		crowds[i] = Gathering{DSN: dsn, Aggregates: n, Events: b.many / n, Callers: concurrent, Resident: b.resident}
	}
	where := "in memory"
	if b.resident > 0 {
		where = fmt.Sprintf("of which up to %d are in memory", b.resident)
	}
	f := &figure{
		Name: "cost-scale", What: fmt.Sprintf("processor time of a durable command on PostgreSQL among %d aggregates, %s", b.many, where), Unit: "us",
		Than: fmt.Sprintf("the same among %d with as many events in the store", few), Goal: ratioAtMost(1.2),
	}
	if b.server == nil {
		f.Note = "without that of the server, which may be another machine's"
	}
	return b.crowds(ctx, f, sample.busyMicros, crowds)
}

// scaleMemory is the same on the memory store, whose own maps grow with the
// number of aggregates.
func (b *bench) scaleMemory(ctx context.Context) ([]*figure, error) {
	return b.crowds(ctx, &figure{
		Name: "cost-scale-memory", What: fmt.Sprintf("processor time of a command among %d aggregates in memory, memory store", b.many), Unit: "us",
		Than: fmt.Sprintf("the same among %d", few),
	}, sample.usedMicros, []Gathering{{Aggregates: b.many, Callers: 64}, {Aggregates: few, Callers: 64}})
}

// crowds measures two of them in turn. Each lives in a process of its own, so
// that neither pays for the garbage of the other.
func (b *bench) crowds(ctx context.Context, f *figure, cost func(sample) float64, gatherings []Gathering) (_ []*figure, err error) {
	var contenders []contender
	var children []*child
	defer func() {
		err = errors.Join(err, atOnce(children, (*child).stop))
	}()
	for i, g := range gatherings {
		c, err := b.startChild(ctx, "crowd", i)
		if err != nil {
			return nil, err
		}
		children = append(children, c)
		b.progress("  bringing %d aggregates into memory", g.Aggregates)
		if err := c.call(ctx, "Gather", g, &struct{}{}); err != nil {
			return nil, err
		}
		contenders = append(contenders, contender{
			fmt.Sprintf("commands among %s aggregates", amount(float64(g.Aggregates))), b.brief,
			func(ctx context.Context, d time.Duration) (sample, error) { return runCrowd(ctx, d, i, children) },
		})
	}
	taken, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	check := func(c *child) error { return c.call(ctx, "Check", struct{}{}, &struct{}{}) }
	b.progress("  checking the stores")
	if err := atOnce(children, check); err != nil {
		return nil, err
	}
	f.Of, f.Base = each(taken[0], cost), each(taken[1], cost)
	return []*figure{f}, nil
}

// atOnce does something with all children and waits.
func atOnce(children []*child, do func(*child) error) error {
	errs := make([]error, len(children))
	var wait sync.WaitGroup
	for i, c := range children {
		wait.Go(func() { errs[i] = do(c) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// runCrowd measures one of the children, and what the others use meanwhile.
func runCrowd(ctx context.Context, d time.Duration, measured int, children []*child) (s sample, err error) {
	before, err := usedBy(ctx, children)
	if err != nil {
		return s, err
	}
	var m Measured
	if err := children[measured].call(ctx, "Run", d, &m); err != nil {
		return s, err
	}
	after, err := usedBy(ctx, children)
	if err != nil {
		return s, err
	}
	for i := range children {
		if used := after[i] - before[i]; i == measured {
			s.used = used
		} else {
			s.idle += used
		}
	}
	s.n, s.elapsed, s.batch = m.N, m.Elapsed, m.Batch
	return s, nil
}

// usedBy is the processor time of each child so far.
func usedBy(ctx context.Context, children []*child) ([]time.Duration, error) {
	used := make([]time.Duration, len(children))
	for i, c := range children {
		if err := c.call(ctx, "Used", struct{}{}, &used[i]); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// usedMicros is the processor time of the measured child alone, busyMicros that
// of everything but the children that waited, the server included.
func (s sample) usedMicros() float64 { return s.per(float64(s.used.Nanoseconds()) / 1e3) }

func (s sample) busyMicros() float64 { return s.allMicros() - s.per(float64(s.idle.Nanoseconds())/1e3) }

// Gathering tells a crowd what to be.
type Gathering struct {
	DSN        string // of an empty database; without one the store is memory
	Aggregates int
	Events     int // of each, written beforehand; only with a DSN
	Callers    int
	Resident   int // bound on those in memory; 0 for all of them
}

// Measured is what a crowd tells of a sample.
type Measured struct {
	N       int64
	Elapsed time.Duration
	Batch   float64
}

// Crowd is a child with many aggregates in memory.
type Crowd struct {
	Gathering
	store persistence.Store
	path  path
	ctx   context.Context // the child's life
}

func newCrowd(ctx context.Context) (service, error) { return &Crowd{ctx: ctx}, nil }

// Gather brings the aggregates into memory: with a query each out of a log that
// has been written past the store, or else with a command each.
func (c *Crowd) Gather(g Gathering, _ *struct{}) (err error) {
	c.Gathering = g
	if err := c.open(); err != nil {
		return err
	}
	c.path.node, err = startNode(c.ctx, c.store, func(config *cluster.Config) {
		config.MaxResident, config.IdleAfter = cmp.Or(g.Resident, 2*g.Aggregates), 24*time.Hour
	})
	if err != nil {
		return err
	}
	c.path.booked = newBookings(c.path.node, 0, g.Aggregates)
	if g.DSN == "" {
		err = c.path.booked.warm(c.ctx, deposit{Cents: 1})
	} else {
		for i := range c.path.booked.acked {
			c.path.booked.acked[i].Store(int64(g.Events))
		}
		if g.Resident > 0 && g.Resident < g.Aggregates {
			return nil // who is commanded comes into memory, and others leave
		}
		err = c.path.booked.wake(c.ctx)
	}
	// Aggregates leave with a partition that the node claims once more, as it may
	// when it has just started.
	for again := 0; err == nil && again < 3 && c.resident() != g.Aggregates; again++ {
		err = c.path.booked.wake(c.ctx)
	}
	if err != nil {
		return err
	}
	runtime.GC()
	if resident := c.resident(); resident != g.Aggregates {
		return fmt.Errorf("%d of %d aggregates are in memory", resident, g.Aggregates)
	}
	return nil
}

func (c *Crowd) resident() int { return c.path.node.Stats().Host.Resident }

func (c *Crowd) open() (err error) {
	if c.DSN == "" {
		c.store, err = memory.Open(memory.Config{Partitions: 256})
		return err
	}
	if c.store, err = pgstore.Open(c.ctx, pgstore.Config{DSN: c.DSN, KnownStreams: 2 * cmp.Or(c.Resident, c.Aggregates)}); err != nil {
		return err
	}
	return fill(c.ctx, c.DSN, c.Aggregates, c.Events, c.store.Meta().Partitions)
}

// Run sends commands to aggregates at random for a while.
func (c *Crowd) Run(d time.Duration, m *Measured) error {
	s, err := c.path.runAt(c.ctx, d, c.Callers, deposit{Cents: 1}, func(int) int { return rand.IntN(c.Aggregates) })
	*m = Measured{s.n, s.elapsed, s.batch}
	return err
}

// Used is the processor time of the child so far.
func (c *Crowd) Used(_ struct{}, used *time.Duration) error {
	*used, _, _ = processorTimes()
	return nil
}

// Check compares the store with what was acknowledged.
func (c *Crowd) Check(struct{}, *struct{}) error {
	if c.DSN != "" {
		return checkPath(c.ctx, c.DSN, c.path.booked)
	}
	inStore, err := stored(c.ctx, c.store)
	if err != nil {
		return err
	}
	return compare(inStore, c.path.booked)
}

func (c *Crowd) close() error {
	if c.path.node != nil {
		c.path.stop()
	}
	if c.store == nil {
		return nil
	}
	return c.store.Close()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// few is the number of aggregates that many are compared with.
const few = 10_000

// scale compares the processor time of a command among many aggregates with
// that among few, all of them in memory, each command to one at random. Each
// crowd lives in a process of its own, so that neither pays for the garbage of
// the other.
func (b *bench) scale(ctx context.Context) (_ []*figure, err error) {
	var contenders []contender
	var children []*child
	defer func() {
		for _, c := range children {
			err = errors.Join(err, c.stop())
		}
	}()
	for i, n := range []int{b.many, few} {
		c, err := b.startChild(ctx, "crowd", i)
		if err != nil {
			return nil, err
		}
		children = append(children, c)
		b.progress("  bringing %d aggregates into memory", n)
		if err := c.call(ctx, "Gather", n, &struct{}{}); err != nil {
			return nil, err
		}
		contenders = append(contenders, contender{
			fmt.Sprintf("commands among %s aggregates", amount(float64(n))), b.brief,
			func(ctx context.Context, d time.Duration) (s sample, err error) {
				var m Measured
				err = c.call(ctx, "Run", d, &m)
				return sample{n: m.N, elapsed: m.Elapsed, used: m.Used}, err
			},
		})
	}
	taken, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		if err := c.call(ctx, "Check", struct{}{}, &struct{}{}); err != nil {
			return nil, err
		}
	}
	micros := func(s sample) float64 { return s.per(float64(s.used.Nanoseconds()) / 1e3) }
	return []*figure{{
		Name: "cost-scale", What: fmt.Sprintf("processor time of a command among %d aggregates in memory, memory store", b.many), Unit: "us",
		Than: fmt.Sprintf("the same among %d", few), Goal: ratioAtMost(1.2),
		Of: each(taken[0], micros), Base: each(taken[1], micros),
	}}, nil
}

// Crowd is a child with many aggregates in memory.
type Crowd struct {
	store  *memory.Store
	node   *cluster.Node
	booked *bookings
	ctx    context.Context // the child's life
}

// Measured is what a crowd tells of a sample.
type Measured struct {
	N             int64
	Elapsed, Used time.Duration // Used is processor time
}

func newCrowd(ctx context.Context) (service, error) {
	store, err := memory.Open(memory.Config{Partitions: 256})
	return &Crowd{store: store, ctx: ctx}, err
}

// Gather brings n aggregates into memory, with one command each.
func (c *Crowd) Gather(n int, _ *struct{}) (err error) {
	c.node, err = startNode(c.ctx, c.store, func(config *cluster.Config) {
		config.MaxResident, config.IdleAfter = 2*n, 24*time.Hour
	})
	if err != nil {
		return err
	}
	c.booked = newBookings(c.node, 0, n)
	if err := c.booked.warm(c.ctx, deposit{Cents: 1}); err != nil {
		return err
	}
	runtime.GC()
	if resident := c.node.Stats().Host.Resident; resident != n {
		return fmt.Errorf("%d of %d aggregates are in memory", resident, n)
	}
	return nil
}

// Run sends commands to aggregates at random for a while.
func (c *Crowd) Run(d time.Duration, m *Measured) (err error) {
	before, _, _ := processorTimes()
	m.N, m.Elapsed, err = closedLoop(c.ctx, d, 64, func(int) error {
		return c.booked.send(c.ctx, rand.IntN(len(c.booked.refs)), deposit{Cents: 1})
	})
	after, _, _ := processorTimes()
	m.Used = after - before
	return err
}

// Check compares the store with what was acknowledged.
func (c *Crowd) Check(struct{}, *struct{}) error {
	inStore, err := stored(c.ctx, c.store)
	if err != nil {
		return err
	}
	return compare(inStore, c.booked)
}

func (c *Crowd) close() error {
	if c.node != nil {
		stopNode(c.node)
	}
	return c.store.Close()
}

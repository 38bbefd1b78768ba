package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
)

// viewNodes is the number of nodes, each a process, that have a view of all events.
const viewNodes = 3

// viewLag measures how long after a command was acknowledged a view on another
// node has handled its event, at half of the load that the cluster takes. The
// processes are on one machine, and its clock is theirs.
func (b *bench) viewLag(ctx context.Context) (_ []*figure, err error) {
	o, err := b.openAs(ctx, "viewer", viewNodes)
	if o != nil {
		defer func() { err = errors.Join(err, atOnce(o.branches, (*child).stop)) }()
	}
	if err != nil {
		return nil, err
	}
	for range 2 { // the first one warms up
		o.capacity, err = o.most(ctx, b.middle)
		if err != nil {
			return nil, err
		}
	}
	rate := max(1, int(o.capacity/2/viewNodes))
	b.progress("  %s take %s commands a second; half of it is sent", plural(viewNodes, "node"), amount(o.capacity))
	var commands []sample
	taken, err := b.rounds(ctx, contender{"view lag, " + plural(viewNodes, "node"), b.length, func(ctx context.Context, d time.Duration) (sample, error) {
		lag, command, err := o.lag(ctx, d, rate)
		commands = append(commands, command)
		return lag, err
	}})
	if err != nil {
		return nil, err
	}
	if err := o.check(ctx); err != nil {
		return nil, err
	}
	p99 := func(s sample) float64 { return float64(percentile(s.latencies, 0.99).Microseconds()) / 1e3 }
	commands = commands[1:] // without the short turn that does not count
	return []*figure{{
		Name: "view-lag", What: fmt.Sprintf("from a command's acknowledgement until views on %d other nodes have handled its event, p99, PostgreSQL", viewNodes-1),
		Unit: "ms", Than: "p99 of the commands themselves, from when they were due until acknowledged", Goal: valueAtMost(20),
		Note:   fmt.Sprintf("at %s commands a second, half of what the nodes take", amount(float64(rate*viewNodes))),
		Of:     each(taken[0], p99),
		Base:   each(commands, p99),
		curves: []curve{{"view lag", quantiles(taken[0])}, {"commands", quantiles(commands)}},
	}}, nil
}

// most is how many commands a second get through from callers that wait, with the
// views at the end of the log when the last one has.
func (o *office) most(ctx context.Context, d time.Duration) (float64, error) {
	begin := time.Now()
	var mu sync.Mutex
	var n int64
	err := atOnce(o.branches, func(c *child) error {
		var m Measured
		if err := c.call(ctx, "Run", Shift{d, false}, &m); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		n += m.N
		return nil
	})
	if err != nil {
		return 0, err
	}
	var lags Lags
	err = atOnce(o.branches, func(c *child) error {
		return c.call(ctx, "Handled", Acks{}, &lags)
	})
	return float64(n) / time.Since(begin).Seconds(), err
}

// lag sends commands at a rate on each node, and asks every other one when it
// has handled their events.
func (o *office) lag(ctx context.Context, d time.Duration, rate int) (lag, command sample, err error) {
	places := map[*child]int{}
	for i, c := range o.branches {
		places[c] = i
	}
	acks, lags := make([]Acks, len(o.branches)), make([]Lags, len(o.branches))
	err = atOnce(o.branches, func(c *child) error { return c.call(ctx, "Pace", Pace{d, rate}, &acks[places[c]]) })
	if err != nil {
		return lag, command, err
	}
	err = atOnce(o.branches, func(c *child) error {
		var others Acks
		for i := range acks {
			if i != places[c] {
				others.List = append(others.List, acks[i].List...)
			}
		}
		return c.call(ctx, "Handled", others, &lags[places[c]])
	})
	if err != nil {
		return lag, command, err
	}
	for i := range acks {
		command.latencies = append(command.latencies, acks[i].Took...)
		lag.latencies = append(lag.latencies, lags[i].List...)
	}
	slices.Sort(command.latencies)
	slices.Sort(lag.latencies)
	command.n, lag.n = int64(len(command.latencies)), int64(len(lag.latencies))
	if lag.n != command.n*int64(len(o.branches)-1) {
		return lag, command, fmt.Errorf("%d commands were handled %d times", command.n, lag.n)
	}
	return lag, command, nil
}

// Pace is the argument of the method of that name.
type Pace struct {
	For  time.Duration
	Rate int
}

// Ack is a command that was acknowledged: its event, and the time.
type Ack struct {
	Partition aggregate.Partition
	Offset    aggregate.Offset
	At        int64
}

// Acks are those of one node, and how long each command took.
type Acks struct {
	List []Ack
	Took []time.Duration
}

// Lags are how long after its acknowledgement each event was handled; 0 if it was
// before.
type Lags struct{ List []time.Duration }

// Viewer is a branch with a view of all events.
type Viewer struct {
	Branch
	seen *eventsourcing.View[sightings]
}

// sightings are when the events of each partition were handled: offset 1 first.
type sightings struct{ at [][]int64 }

func newViewer(ctx context.Context) (service, error) { return &Viewer{Branch: Branch{ctx: ctx}}, nil }

// Open starts the node.
func (v *Viewer) Open(o Opening, _ *struct{}) error {
	v.seen = eventsourcing.NewView(eventsourcing.Settings{Name: "sightings"}, func() *sightings { return &sightings{} },
		eventsourcing.On(accounts, func(_ context.Context, s *sightings, _ booked, f eventsourcing.Fact) error {
			for int(f.Partition) >= len(s.at) {
				s.at = append(s.at, nil)
			}
			if int(f.Offset) != len(s.at[f.Partition])+1 {
				return fmt.Errorf("partition %d: offset %d follows %d", f.Partition, f.Offset, len(s.at[f.Partition]))
			}
			s.at[f.Partition] = append(s.at[f.Partition], time.Now().UnixNano())
			return nil
		}))
	return v.start(o, func(c *cluster.Config) { c.Projections = []eventsourcing.Projection{v.seen} })
}

// Pace sends commands to aggregates of this node, so many a second.
func (v *Viewer) Pace(p Pace, acks *Acks) error {
	choice := v.choice(false)
	var mu sync.Mutex
	var err error
	acks.Took, err = openLoop(v.ctx, p.For, p.Rate, func(int) error {
		i := choice[rand.IntN(len(choice))]
		receipt, err := v.path.booked.refs[i].Send(v.ctx, bookOf(storedBytes))
		at := time.Now().UnixNano()
		if err != nil {
			return err
		}
		v.path.booked.acked[i].Add(1)
		mu.Lock()
		defer mu.Unlock()
		acks.List = append(acks.List, Ack{receipt.Partition, receipt.Offset, at})
		return nil
	})
	return err
}

// Handled waits until this node's view has handled all events there are, and
// tells how long that took after each of the acknowledgements.
func (v *Viewer) Handled(acks Acks, lags *Lags) error {
	return await(v.ctx, "the view", func() (done bool, _ error) {
		if of := v.path.node.Projections(); len(of) != 1 || of[0].Parked > 0 || of[0].Lag > 0 {
			return false, nil
		}
		lags.List = lags.List[:0]
		v.seen.Read(func(s *sightings) {
			for _, a := range acks.List {
				if int(a.Partition) >= len(s.at) || int(a.Offset) > len(s.at[a.Partition]) {
					return
				}
				lags.List = append(lags.List, max(0, time.Duration(s.at[a.Partition][a.Offset-1]-a.At)))
			}
			done = true
		})
		return done, nil
	})
}

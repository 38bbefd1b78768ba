package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
)

// path is the whole way of a command: client, grain, commit, reply, on a node in
// this process.
type path struct {
	node   *cluster.Node
	booked *bookings
}

// newPath starts a node and brings n aggregates into memory.
func newPath(ctx context.Context, store persistence.Store, n int) (*path, error) {
	node, err := startNode(ctx, store, nil)
	if err != nil {
		return nil, err
	}
	p := &path{node: node, booked: newBookings(node, 0, n)}
	if err := p.booked.warm(ctx, bookOf(storedBytes)); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *path) stop() { stopNode(p.node) }

// run lets callers book on one aggregate each, or all on the first when there
// is only one.
func (p *path) run(ctx context.Context, d time.Duration, callers int) (sample, error) {
	return p.runAt(ctx, d, callers, bookOf(storedBytes), func(caller int) int { return caller % len(p.booked.refs) })
}

// runAt lets callers send a command to the aggregates that at chooses.
func (p *path) runAt(ctx context.Context, d time.Duration, callers int, command aggregate.Command[account], at func(caller int) int) (s sample, err error) {
	before := p.node.Stats().Host
	s.n, s.elapsed, err = closedLoop(ctx, d, callers, func(i int) error { return p.booked.send(ctx, at(i), command) })
	after := p.node.Stats().Host
	if batches := after.Batches - before.Batches; batches > 0 {
		s.batch = float64(after.Commits-before.Commits) / float64(batches)
	}
	return s, err
}

// payload is an event's stored form of the given size.
func payload(size int) []byte {
	bytes, err := json.Marshal(booked(bookOf(size)))
	if err != nil || len(bytes) != size {
		panic(fmt.Sprintf("a payload of %d bytes came out as %d: %v", size, len(bytes), err))
	}
	return bytes
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

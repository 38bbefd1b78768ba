package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// idleAggregates is how many are kept in memory to see what one takes.
const idleAggregates = 50_000

// idleMemory measures what an aggregate that nobody uses keeps in memory,
// besides its state: after one command, and after as many as the window of
// command ids always remembers, and more.
func (b *bench) idleMemory(ctx context.Context) ([]*figure, error) {
	var figures []*figure
	for _, m := range []struct {
		name     string
		commands int
		goal     *goal
	}{{"idle-memory", 1, valueAtMost(2048)}, {"idle-memory-busy", 64, nil}} {
		if !b.wants(m.name) {
			continue
		}
		bytes, err := residentBytes(ctx, idleAggregates/m.commands, m.commands)
		if err != nil {
			return nil, err
		}
		b.progress("  %-48s %.0f bytes", plural(idleAggregates/m.commands, "aggregate")+" after "+plural(m.commands, "command"), bytes)
		figures = append(figures, &figure{
			Name: m.name, What: "memory of an idle aggregate besides its state, after " + plural(m.commands, "command"), Unit: "bytes",
			Goal: m.goal, Of: samples{bytes},
		})
	}
	return figures, nil
}

// residentBytes fills a store and compares a node that has all its aggregates
// in memory with the same node before it had any.
func residentBytes(ctx context.Context, n, commands int) (bytes float64, err error) {
	store, err := memory.Open(memory.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	adjust := func(c *cluster.Config) { c.MaxResident, c.IdleAfter = 2*n, time.Hour }
	writer, err := startNode(ctx, store, adjust)
	if err != nil {
		return 0, err
	}
	booked := newBookings(writer, 0, n)
	for range commands {
		if err = booked.warm(ctx, deposit{Cents: 1}); err != nil {
			break
		}
	}
	stopNode(writer)
	if err != nil {
		return 0, err
	}
	inStore, err := stored(ctx, store)
	if err != nil {
		return 0, err
	}
	if err := compare(inStore, booked); err != nil {
		return 0, err
	}
	reader, err := startNode(ctx, store, adjust)
	if err != nil {
		return 0, err
	}
	defer stopNode(reader)
	refs := newBookings(reader, 0, n).refs
	ask := func(refs []aggregate.Ref[account]) error {
		for _, ref := range refs {
			if got, err := aggregate.Ask(ctx, ref, entries{}); err != nil || got != int64(commands) {
				return fmt.Errorf("account %s has %d entries, not %d: %w", ref.ID(), got, commands, errors.Join(err))
			}
		}
		return nil
	}
	const first = 100 // what all of them share is made for the first ones
	if err := ask(refs[:first]); err != nil {
		return 0, err
	}
	before := heapInUse()
	if err := ask(refs[first:]); err != nil {
		return 0, err
	}
	after := heapInUse()
	if resident := reader.Stats().Host.Resident; resident != n {
		return 0, fmt.Errorf("%d of %d aggregates are in memory", resident, n)
	}
	runtime.KeepAlive(inStore)
	return float64(after-before)/float64(n-first) - float64(unsafe.Sizeof(account{})), nil
}

// heapInUse is what the program holds: twice collected, because a pool gives
// up what it holds only at the second collection.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

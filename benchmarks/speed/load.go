package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// closedLoop lets callers call again and again for d. It returns how many calls
// succeeded and how long it took until the last one had. The first failure ends
// it.
func closedLoop(ctx context.Context, d time.Duration, callers int, call func(caller int) error) (int64, time.Duration, error) {
	var stop atomic.Bool
	var total atomic.Int64
	errs := make([]error, callers)
	var wait sync.WaitGroup
	begin := time.Now()
	for i := range callers {
		wait.Go(func() {
			var n int64
			for !stop.Load() {
				if errs[i] = call(i); errs[i] != nil {
					stop.Store(true)
					break
				}
				n++
			}
			total.Add(n)
		})
	}
	pause(ctx, d, &stop)
	wait.Wait()
	elapsed := time.Since(begin)
	return total.Load(), elapsed, errors.Join(first(errs), ctx.Err())
}

// pause sets stop after d, when ctx ends, or soon after somebody else has set it.
func pause(ctx context.Context, d time.Duration, stop *atomic.Bool) {
	defer stop.Store(true)
	end := time.NewTimer(d)
	defer end.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !stop.Load() {
		select {
		case <-end.C:
			return
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

func first(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// openLoop calls at random moments, rate times a second on average, whether or
// not earlier calls have returned. Each latency counts from the moment at which
// the call was due, not from when it got its turn, so that a stall is felt by
// every call that it delays (no coordinated omission).
func openLoop(ctx context.Context, d time.Duration, rate int, call func(n int) error) ([]time.Duration, error) {
	due := arrivals(d, rate)
	latencies := make([]time.Duration, len(due))
	errs := make([]error, len(due))
	var wait sync.WaitGroup
	clock, err := newPacer()
	if err != nil {
		return nil, err
	}
	defer clock.close()
	begin := time.Now()
	for i, at := range due {
		clock.sleepUntil(begin.Add(at))
		if ctx.Err() != nil {
			break
		}
		wait.Go(func() {
			errs[i] = call(i)
			latencies[i] = time.Since(begin) - at
		})
	}
	wait.Wait()
	slices.Sort(latencies)
	return latencies, errors.Join(first(errs), ctx.Err())
}

// arrivals draws the moments of a Poisson process.
func arrivals(d time.Duration, rate int) []time.Duration {
	var due []time.Duration
	for at := time.Duration(0); ; {
		at += time.Duration(rand.ExpFloat64() * float64(time.Second) / float64(rate))
		if at >= d {
			return due
		}
		due = append(due, at)
	}
}

// percentile of sorted latencies, by the nearest rank.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// bookings is what callers do to aggregates, and the memory of what was
// acknowledged, to be compared with the store afterwards.
type bookings struct {
	refs  []aggregate.Ref[account]
	acked []atomic.Int64
}

// newBookings addresses n accounts, numbered from first.
func newBookings(gateway aggregate.Gateway, first, n int) *bookings {
	b := &bookings{refs: make([]aggregate.Ref[account], n), acked: make([]atomic.Int64, n)}
	for i := range b.refs {
		b.refs[i] = accounts.Ref(gateway, accountID(first+i))
	}
	return b
}

// send books on account i and notes the acknowledgement.
func (b *bookings) send(ctx context.Context, i int, command aggregate.Command[account]) error {
	receipt, err := b.refs[i].Send(ctx, command)
	if err != nil {
		return fmt.Errorf("account %s: %w", b.refs[i].ID(), err)
	}
	if receipt.Events != 1 || receipt.Duplicate {
		return fmt.Errorf("account %s: the receipt is that of %d events, duplicate %t", b.refs[i].ID(), receipt.Events, receipt.Duplicate)
	}
	b.acked[i].Add(1)
	return nil
}

// warm books once on every account, so that all are in memory.
func (b *bookings) warm(ctx context.Context, command aggregate.Command[account]) error {
	return b.all(func(i int) error { return b.send(ctx, i, command) })
}

// wake asks every account how often it was booked on, so that all are in
// memory.
func (b *bookings) wake(ctx context.Context) error {
	return b.all(func(i int) error {
		got, err := aggregate.Ask(ctx, b.refs[i], entries{})
		if acked := b.acked[i].Load(); err != nil || got != acked {
			return fmt.Errorf("account %s has %d entries, not %d: %w", b.refs[i].ID(), got, acked, errors.Join(err))
		}
		return nil
	})
}

// all calls for every account, many at once.
func (b *bookings) all(call func(i int) error) error {
	const callers = 1024
	errs := make([]error, callers)
	var next atomic.Int64
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for errs[c] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(b.refs) {
					return
				}
				errs[c] = call(i)
			}
		})
	}
	wait.Wait()
	return first(errs)
}

package main

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// contender is one of the things that are measured in turn.
type contender struct {
	name   string
	length time.Duration // of a sample
	sample func(ctx context.Context, d time.Duration) (sample, error)
}

// sample is what one turn yields.
type sample struct {
	n       int64 // commands, rows or requests
	elapsed time.Duration
	cost    cost // of this process and its children meanwhile
	// latencies are sorted; only of open loops
	latencies  []time.Duration
	used, idle time.Duration // processor time of the child that was measured, and of those that waited
	// batch is how many went in one append, or in one envelope; 0 if unknown
	batch float64
}

func (s sample) rate() float64 { return float64(s.n) / s.elapsed.Seconds() }

// per divides a cost by the number of commands.
func (s sample) per(total float64) float64 { return total / float64(max(s.n, 1)) }

// rounds measures the contenders in turn, A B A B, so that whatever else the
// machine does hits all alike. The result is by contender. Before, each has a
// short turn that does not count.
func (b *bench) rounds(ctx context.Context, contenders ...contender) ([][]sample, error) {
	taken := make([][]sample, len(contenders))
	for round := -1; round < b.pairs; round++ {
		for i, c := range contenders {
			length := c.length
			if round < 0 {
				length = max(length/5, 50*time.Millisecond)
			}
			s, err := b.take(ctx, c, length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if round < 0 {
				continue
			}
			taken[i] = append(taken[i], s)
			b.progress("  %d/%d %-44s %s", round+1, b.pairs, c.name, s)
		}
	}
	return taken, nil
}

func (b *bench) take(ctx context.Context, c contender, length time.Duration) (sample, error) {
	runtime.GC() // what the one before left is not this one's
	before := b.machine.usage()
	s, err := c.sample(ctx, length)
	if err != nil {
		return s, err
	}
	whole := b.machine.usage().minus(before)
	if s.cost == (cost{}) {
		s.cost = whole // else the sample has left out what it had to prepare
	}
	b.machine.note(whole)
	if s.n == 0 {
		return s, fmt.Errorf("nothing was done in %s", length)
	}
	return s, nil
}

func (s sample) String() string {
	if s.latencies != nil {
		return fmt.Sprintf("p50 %s, p99 %s", percentile(s.latencies, 0.50).Round(time.Microsecond),
			percentile(s.latencies, 0.99).Round(10*time.Microsecond))
	}
	text := fmt.Sprintf("%s/s, %.1f us CPU each", amount(s.rate()), s.allMicros())
	if s.batch > 0 {
		text += fmt.Sprintf(", %.0f at once", s.batch)
	}
	return text
}

// each picks one number out of every sample.
func each(taken []sample, pick func(sample) float64) samples {
	picked := make(samples, len(taken))
	for i, s := range taken {
		picked[i] = pick(s)
	}
	return picked
}

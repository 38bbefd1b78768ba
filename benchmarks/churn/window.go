package main

import (
	"context"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

// blow tells the clients that a fault has struck.
type blow struct {
	At      int64  // unix nanoseconds
	Victims []int  // partitions that lose their owner
	Node    string // the incarnation that loses them
}

// window is the time of a fault, until all is well again, as clients see it.
type window struct {
	struck    int64 // 0 until the fault struck
	node      string
	victims   map[int]*victim
	probing   sync.WaitGroup
	over      chan struct{}
	tally     [5]int // by outcome
	latencies []time.Duration
}

// victim is a partition without an owner.
type victim struct {
	wrote, read       time.Duration // until the first of each was acknowledged by another owner
	hasWrote, hasRead bool
}

// windowResult is what a window comes to.
type windowResult struct {
	OK, Rejected, Unknown, Failed int
	// Gaps are each partition's longest time without an answer.
	Gaps map[int]time.Duration
	// FirstWrite and FirstRead are, for each victim that had one, the time from
	// the fault to the first acknowledgement by another owner.
	FirstWrite, FirstRead []time.Duration
	Victims               int
	Median, Tail, Worst   time.Duration
}

// probeEvery is how often a victim is asked whether it is back.
const probeEvery = 20 * time.Millisecond

func (d *driver) beginWindow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gaps.Begin()
	d.window = &window{victims: map[int]*victim{}, over: make(chan struct{})}
}

// strike tells which partitions have lost their owner, and looks for each of them
// when it is back.
func (d *driver) strike(b blow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.window
	if w == nil {
		return
	}
	w.struck, w.node = b.At-d.begin.UnixNano(), b.Node
	for _, p := range b.Victims {
		w.victims[p] = &victim{}
	}
	if len(b.Victims) > 0 {
		w.probing.Go(func() { d.probe(w) })
	}
}

func (d *driver) probe(w *window) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		var ask []*operation
		d.mu.Lock()
		for p, v := range w.victims {
			if !v.hasWrote {
				ask = append(ask, &operation{verb: verbAdd, id: d.probes[p][0]})
			}
			if !v.hasRead {
				ask = append(ask, &operation{verb: verbCount, id: d.probes[p][1]})
			}
		}
		d.mu.Unlock()
		if len(ask) == 0 {
			return
		}
		for _, o := range ask {
			d.launch(func() (*operation, func(*result)) { return o, nil })
		}
		select {
		case <-tick.C:
		case <-w.over:
			return
		}
	}
}

// add takes an operation in that ended during the window.
func (w *window) add(partition int, o *operation, r *result) {
	w.tally[r.outcome]++
	if r.outcome != check.OK && r.outcome != check.Rejected {
		return
	}
	if len(w.latencies) < 10*sampleLimit {
		w.latencies = append(w.latencies, time.Duration(r.end-r.call))
	}
	v := w.victims[partition]
	if v == nil || r.outcome != check.OK || r.end < w.struck || r.reply.Seen.Node == "" || r.reply.Seen.Node == w.node {
		return
	}
	since := time.Duration(r.end - w.struck)
	if o.isCommand() && !r.reply.Duplicate && !v.hasWrote {
		v.wrote, v.hasWrote = since, true
	}
	if !o.isCommand() && !v.hasRead {
		v.read, v.hasRead = since, true
	}
}

func (d *driver) endWindow() windowResult {
	d.mu.Lock()
	w := d.window
	if w == nil {
		d.mu.Unlock()
		return windowResult{}
	}
	d.window = nil
	gaps := d.gaps.End(d.now())
	d.mu.Unlock()
	close(w.over)
	w.probing.Wait()
	sorted := sortedDurations(w.latencies)
	out := windowResult{
		OK: w.tally[check.OK], Rejected: w.tally[check.Rejected], Unknown: w.tally[check.Unknown], Failed: w.tally[check.Failed],
		Gaps: gaps, Victims: len(w.victims),
		Median: percentile(sorted, 0.5), Tail: percentile(sorted, 0.99), Worst: percentile(sorted, 1),
	}
	for _, v := range w.victims {
		if v.hasWrote {
			out.FirstWrite = append(out.FirstWrite, v.wrote)
		}
		if v.hasRead {
			out.FirstRead = append(out.FirstRead, v.read)
		}
	}
	return out
}

// liveness is how long it took until every partition took a command again.
type liveness struct {
	Took time.Duration
	Dead []int
}

// alive asks every partition for a command until it is done, and notes those
// that do not answer in time.
func (d *driver) alive(ctx context.Context, patience time.Duration) liveness {
	begin := time.Now()
	var l liveness
	var mu sync.Mutex
	var wait sync.WaitGroup
	for p := range d.probes {
		wait.Go(func() {
			for {
				r := d.do(&operation{verb: verbAdd, id: d.probes[p][0]})
				if r.outcome == check.OK {
					return
				}
				if ctx.Err() != nil || time.Since(begin) >= patience {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			l.Dead = append(l.Dead, p)
		})
	}
	wait.Wait()
	l.Took = time.Since(begin)
	for _, p := range l.Dead {
		d.violation(check.Violation{Kind: check.Dead, At: d.wall(d.now()), Detail: "partition took no command after everything was healed: " + d.probes[p][0]})
	}
	return l
}

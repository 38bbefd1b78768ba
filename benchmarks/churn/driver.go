package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
)

// driverSetup is what the clients' process is told.
type driverSetup struct {
	Seed       uint64
	Partitions int
	Patience   time.Duration // of a client, for one operation
	Rate       int           // operations a second that are asked for
	Mix        map[string]int
	Keys       int // aggregates of each workload that are in use at a time
	Fleet      int // idle aggregates
	Baseline   baseline
	Ledger     string // file
}

// driver is all clients: one process with one clock, so that their calls and
// answers have an order.
type driver struct {
	setup     driverSetup
	begin     time.Time
	ctx       context.Context
	balancer  balancer
	ids       check.Ids
	nextSeq   atomic.Uint64
	monitor   *check.Monitor
	workloads *workloads
	probes    [][]string // ids of lists, by partition
	inflight  chan struct{}
	work      sync.WaitGroup

	rate  atomic.Int64
	stop  chan struct{}
	paced sync.WaitGroup

	mu      sync.Mutex
	gaps    *check.Gaps
	window  *window
	tally   tally
	report  check.Report
	reasons map[string]int
	ledger  *check.Ledger
	flush   func() error
	err     error
}

// maxInFlight bounds the operations that are on their way. What is asked for
// beyond is not asked, and counted as shed.
const maxInFlight = 16_384

// runDriver is the main function of the clients' process.
func runDriver(raw json.RawMessage) int {
	orders := process.Listen()
	if err := serveDriver(raw, orders); err != nil {
		orders.Fail(err)
		fmt.Fprintln(os.Stderr, "clients:", err)
		return 1
	}
	return 0
}

func serveDriver(raw json.RawMessage, orders *process.Server) error {
	var setup driverSetup
	if err := json.Unmarshal(raw, &setup); err != nil {
		return fmt.Errorf("decode the clients' setup: %w", err)
	}
	d, err := newDriver(setup)
	if err != nil {
		return err
	}
	if err := orders.Ready(struct{}{}, d.op); err != nil {
		return err
	}
	<-orders.Terminated()
	orders.Wait()
	return nil
}

func newDriver(setup driverSetup) (*driver, error) {
	file, err := os.Create(setup.Ledger)
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewWriterSize(file, 1<<20)
	d := &driver{
		setup: setup, begin: time.Now(), ctx: context.Background(), ids: check.NewIds(setup.Seed), monitor: check.NewMonitor(),
		gaps: check.NewGaps(setup.Partitions), inflight: make(chan struct{}, maxInFlight), stop: make(chan struct{}),
		reasons: map[string]int{}, ledger: check.NewLedger(buffered),
		flush: func() error { return errors.Join(buffered.Flush(), file.Close()) },
	}
	d.probes = probesOf(setup.Partitions)
	d.workloads = newWorkloads(d)
	d.tally.begin()
	d.paced.Go(d.pace)
	return d, nil
}

// op carries out an order of the harness.
func (d *driver) op(ctx context.Context, op string, raw json.RawMessage) (any, error) {
	switch op {
	case "nodes":
		return do(raw, func(places []place) (any, error) { d.balancer.point(places); return nil, nil })
	case "rate":
		return do(raw, func(rate int64) (any, error) { d.rate.Store(rate); return nil, nil })
	case "progress":
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.tally.progress(len(d.inflight)), nil
	case "saturate":
		return do(raw, func(s saturation) (any, error) { return d.saturate(ctx, s), nil })
	case "begin":
		d.beginWindow()
		return nil, nil
	case "struck":
		return do(raw, func(w blow) (any, error) { d.strike(w); return nil, nil })
	case "alive":
		return do(raw, func(patience time.Duration) (any, error) { return d.alive(ctx, patience), nil })
	case "end":
		return d.endWindow(), nil
	case "finish":
		return d.finish()
	}
	return nil, fmt.Errorf("the clients have no op %q", op)
}

func do[A any](raw json.RawMessage, f func(A) (any, error)) (any, error) {
	var args A
	if err := json.Unmarshal(raw, &args); err != nil {
		return nil, err
	}
	return f(args)
}

// now is the clients' clock; wall is it in unix nanoseconds.
func (d *driver) now() int64         { return int64(time.Since(d.begin)) }
func (d *driver) wall(t int64) int64 { return d.begin.UnixNano() + t }

// pace starts operations at the rate that is asked for, whether or not those
// before have ended: an outage is felt by everybody who comes.
func (d *driver) pace() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	last, owed := time.Now(), 0.0
	for {
		select {
		case <-tick.C:
		case <-d.stop:
			return
		}
		now := time.Now()
		owed += now.Sub(last).Seconds() * float64(d.rate.Load())
		owed = min(owed, float64(d.rate.Load())/5) // what a pause of ours swallowed is gone
		last = now
		for ; owed >= 1; owed-- {
			d.launch(d.workloads.next)
		}
	}
}

// launch starts an operation, unless too many are on their way.
func (d *driver) launch(next func() (*operation, func(*result))) bool {
	select {
	case d.inflight <- struct{}{}:
	default:
		d.mu.Lock()
		d.tally.Shed++
		d.mu.Unlock()
		return false
	}
	o, then := next()
	if o == nil {
		<-d.inflight
		return false
	}
	d.work.Go(func() {
		r := d.do(o)
		if then != nil {
			then(&r)
		}
		<-d.inflight
	})
	return true
}

// began and ended see every operation.
func (d *driver) began(partition int, now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gaps.Call(partition, now)
}

func (d *driver) ended(partition int, o *operation, r *result) {
	var c check.Command
	if o.isCommand() {
		c = d.command(o, r)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	answered := r.outcome == check.OK || r.outcome == check.Rejected
	if answered {
		d.gaps.Answer(partition, r.end)
	} else {
		d.gaps.GiveUp(partition, r.end)
		d.reasons[r.outcome.String()+": "+r.reason]++
		if r.outcome == check.Failed && r.reason == r.reply.Reason && r.reply.Text != "" && len(d.reasons) < 200 {
			d.reasons[r.outcome.String()+": "+r.reply.Text]++
		}
	}
	d.tally.add(r)
	if d.window != nil {
		d.window.add(partition, o, r)
	}
	if o.isCommand() {
		if err := d.ledger.Add(&c); err != nil {
			d.err = errors.Join(d.err, err)
		}
	}
}

func (d *driver) violation(v check.Violation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Add(v)
}

// findings are what the clients know when all is over.
type findings struct {
	Commands uint64 // the highest number
	Report   check.Report
	Tally    tally
	Reasons  map[string]int
	Keys     int // histories that were checked for linearizability
	Steps    int // calls in them
	Begin    int64
}

// finish stops the workloads, waits for what is on its way, and judges what is
// left to judge.
func (d *driver) finish() (*findings, error) {
	close(d.stop)
	d.paced.Wait()
	d.work.Wait()
	d.workloads.finish()
	d.balancer.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := errors.Join(d.err, d.flush()); err != nil {
		return nil, fmt.Errorf("write the ledger: %w", err)
	}
	return &findings{
		Commands: d.nextSeq.Load(), Report: d.report, Tally: d.tally, Reasons: d.reasons,
		Keys: d.workloads.checked, Steps: d.workloads.steps, Begin: d.begin.UnixNano(),
	}, nil
}

// saturation asks for as much as so many callers can do.
type saturation struct {
	Callers int
	For     time.Duration
}

// saturate runs callers that ask again as soon as they are answered, and returns
// how many commands a second were acknowledged.
func (d *driver) saturate(ctx context.Context, s saturation) float64 {
	end := time.Now().Add(s.For)
	var acknowledged atomic.Int64
	var wait sync.WaitGroup
	begin := time.Now()
	for range s.Callers {
		wait.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				o, then := d.workloads.next()
				if o == nil {
					continue
				}
				r := d.do(o)
				if then != nil {
					then(&r)
				}
				if r.outcome == check.OK || r.outcome == check.Rejected {
					acknowledged.Add(1)
				}
			}
		})
	}
	wait.Wait()
	return float64(acknowledged.Load()) / time.Since(begin).Seconds()
}

// percentile of sorted values; 0 of none.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func sortedDurations(values []time.Duration) []time.Duration {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
	"github.com/ingrain-go/ingrain/persistence"
)

// What a child of this program is.
const (
	roleNode    = "churn-node"
	roleClients = "churn-clients"
)

// harness runs the nodes, the clients and the faults.
type harness struct {
	o       *options
	saying  sync.Mutex
	out     io.Writer
	dir     string
	begin   time.Time
	backend backend
	world   world
	store   persistence.Store // its own way to the store, past all links
	fleet   *fleet
	clients *process.Child
	records []*record
	steady  []steadySample
	speed   *speed
	crashed check.Report
	early   bool     // not all of it was done
	trouble []string // what did not go as it should, but broke no promise
}

// run does everything and judges it.
func run(ctx context.Context, o *options, stdout io.Writer) (_ *outcome, err error) {
	dir, temporary, err := o.place()
	if err != nil {
		return nil, err
	}
	h := &harness{o: o, out: stdout, dir: dir, begin: time.Now()}
	h.say("seed %d, %s, %d nodes, L = %s, %d operations a second; files in %s", o.seed, o.store, o.nodes, o.lease, o.rate, dir)
	h.say("again: %s", o.command)
	var result *outcome
	defer func() {
		clean := err == nil && result != nil && result.Report.Total() == 0
		if temporary && !o.keep && (clean || ctx.Err() != nil) {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if o.baseline.slow() {
		if h.speed, err = h.compare(ctx); err != nil {
			return nil, err
		}
	}
	if err := h.open(ctx, dir); err != nil {
		return nil, errors.Join(err, h.close(false, false))
	}
	findings, err := h.drive(ctx)
	if err == nil {
		result, err = h.judge(ctx, findings)
	}
	keep := o.keep || result != nil && result.Report.Total() > 0
	return result, errors.Join(err, h.close(err == nil, keep))
}

func (h *harness) say(format string, args ...any) {
	h.saying.Lock()
	defer h.saying.Unlock()
	fmt.Fprintf(h.out, "%7.1fs  %s\n", time.Since(h.begin).Seconds(), fmt.Sprintf(format, args...))
}

// complain notes what did not go as it should, but broke no promise.
func (h *harness) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.trouble = append(h.trouble, text)
	h.say("%s", text)
}

// buryCrashed looks for nodes that ended without being told to, which is a
// violation, and starts others.
func (h *harness) buryCrashed(ctx context.Context) error {
	for _, n := range append([]*node(nil), h.fleet.nodes...) {
		select {
		case <-n.child.Exited():
		default:
			continue
		}
		h.crashed.Add(check.Violation{
			Kind: check.Crashed, At: time.Now().UnixNano(),
			Detail: fmt.Sprintf("%s ended by itself: %v\n%s", n.name, n.child.LastWords(), n.child.Log()),
		})
		h.say("%s ENDED BY ITSELF: %v", n.name, n.child.LastWords())
		if err := h.fleet.drop(n); err != nil {
			return err
		}
		if _, err := h.fleet.start(ctx); err != nil {
			return err
		}
		if err := h.point(ctx, h.fleet.nodes); err != nil {
			return err
		}
	}
	return nil
}

// open starts everything but the load.
func (h *harness) open(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if h.o.store == "postgres" {
		h.backend, err = openServer(ctx, filepath.Join(dir, "postgres"), h.o.partitions)
	} else {
		h.backend, err = openFile(filepath.Join(dir, "store"), h.o.partitions)
	}
	if err != nil {
		return err
	}
	if h.world, err = newWorld(h.o.world); err != nil {
		return err
	}
	if h.store, err = h.backend.place("").Open(ctx); err != nil {
		return err
	}
	if h.o.fleet > 0 {
		h.say("putting %d idle aggregates into the store", h.o.fleet)
		if err := populate(ctx, h.store, h.o.fleet, h.o.lease); err != nil {
			return fmt.Errorf("make the idle fleet: %w", err)
		}
	}
	if h.fleet, err = newFleet(h.o, h.backend, h.world, dir); err != nil {
		return err
	}
	nodes, err := h.fleet.startAll(ctx, h.o.nodes)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := n.ready(ctx, startPatience); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	setup := driverSetup{
		Seed: h.o.seed, Partitions: h.o.partitions, Patience: h.o.patience, Rate: h.o.rate, Mix: h.o.mix, Keys: h.o.keys,
		Fleet: h.o.fleet, Baseline: h.o.baseline, Ledger: filepath.Join(dir, "ledger"),
	}
	if h.clients, err = process.Start(ctx, process.Spec{Name: "clients", Role: roleClients, Setup: setup, Log: os.Stderr}); err != nil {
		return err
	}
	if err := h.point(ctx, h.fleet.nodes); err != nil {
		return err
	}
	_, err = h.settle(ctx)
	return err
}

// point tells the load balancer which nodes there are.
func (h *harness) point(ctx context.Context, nodes []*node) error {
	places := []place{}
	for _, n := range nodes {
		places = append(places, place{n.name, n.hello.Address})
	}
	return h.clients.Call(ctx, "nodes", places, nil)
}

// drive runs the load and the faults and returns what the clients found.
func (h *harness) drive(ctx context.Context) (*findings, error) {
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		h.watch(ctx, stop)
	}()
	err := h.faults(ctx)
	close(stop)
	<-watched
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil { // what was seen until then counts
		h.early = true
		h.complain("the run ended early: %v", err)
		h.world.heal()
	}
	h.say("waiting for what is on its way")
	var found findings
	if err := h.clients.Call(ctx, "finish", nil, &found); err != nil {
		return nil, fmt.Errorf("finish: %w", err)
	}
	book, err := h.settlePayments(ctx)
	if err != nil {
		return nil, err
	}
	book.Check(&found.Report)
	return &found, nil
}

func (h *harness) faults(ctx context.Context) error {
	if h.o.steady > 0 {
		if err := h.measureSteady(ctx); err != nil {
			return err
		}
	}
	if err := h.rate(ctx, h.o.rate); err != nil {
		return err
	}
	if err := h.rest(ctx, max(h.o.calm, time.Second)); err != nil {
		return err
	}
	plan := newSchedule(h.o.seed, h.o.faults, h.o.lease, h.o.length)
	if h.o.schedule != nil {
		plan = exactly(h.o.schedule, h.o.lease, h.o.length)
	}
	end := time.Now().Add(h.o.length)
	for time.Now().Before(end) || h.o.schedule != nil {
		f, more := plan.next()
		if !more {
			break
		}
		if err := f.allowed(h.o); err != nil {
			return err
		}
		if err := h.inflict(ctx, f); err != nil {
			return fmt.Errorf("fault %s: %w", f, err)
		}
		if err := h.rest(ctx, h.o.calm); err != nil {
			return err
		}
	}
	if left := time.Until(end); left > 0 && h.o.schedule == nil {
		return h.rest(ctx, left)
	}
	return nil
}

// rest is a time without faults.
func (h *harness) rest(ctx context.Context, d time.Duration) error {
	return h.record(ctx, fault{Kind: calm}, func(*record) error { return pauseFor(ctx, d) })
}

func (h *harness) rate(ctx context.Context, rate int) error {
	return h.clients.Call(ctx, "rate", rate, nil)
}

// watch prints a line a second.
func (h *harness) watch(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
		var p progress
		asked, cancel := context.WithTimeout(ctx, time.Second)
		err := h.clients.Call(asked, "progress", nil, &p)
		cancel()
		if err != nil {
			h.say("the clients do not answer: %v", err)
			continue
		}
		line := fmt.Sprintf("%5d ok %4d rejected %3d unknown %3d failed", p.OK, p.Rejected, p.Unknown, p.Failed)
		if p.Shed > 0 {
			line += fmt.Sprintf(" %d not asked", p.Shed)
		}
		h.say("%s, %4d on their way, p50 %s p99 %s", line, p.InFlight, brief(p.Median), brief(p.Tail))
	}
}

// judge reads the log and says what is to be said of it.
func (h *harness) judge(ctx context.Context, found *findings) (*outcome, error) {
	stopping, cancel := context.WithTimeout(ctx, stopPatience+startPatience)
	defer cancel()
	counters := h.fleet.counters(ctx)
	if err := h.fleet.stop(stopping, true); err != nil {
		h.complain("a node did not stop well: %v", err)
	}
	h.fleet = nil
	h.say("reading the log")
	file, err := os.Open(filepath.Join(h.dir, "ledger"))
	if err != nil {
		return nil, err
	}
	commands, err := check.ReadLedger(buffered(file), found.Commands)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	tenures, err := h.backend.tenures(ctx)
	if err != nil {
		return nil, err
	}
	view, err := h.view(ctx)
	if err != nil {
		return nil, err
	}
	const page = 4096
	log := &check.Log{
		Tenures: tenures, Partitions: view.Partitions,
		Events: check.Tail(func(c persistence.Cursor) ([]persistence.Event, error) {
			return h.store.Tail(ctx, []persistence.Cursor{c}, page)
		}, h.o.partitions),
	}
	events, err := check.Effects(check.NewIds(h.o.seed), commands, log, &found.Report)
	if err != nil {
		return nil, err
	}
	found.Report.Merge(&h.crashed)
	return h.outcome(found, counters, events), nil
}

// close ends what is left, and keeps the server's data if it is evidence.
func (h *harness) close(well, keep bool) error {
	var errs []error
	if h.clients != nil {
		h.clients.Close()
		h.clients = nil
	}
	if h.fleet != nil {
		errs = append(errs, h.fleet.stop(context.Background(), false))
		h.fleet = nil
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
		h.store = nil
	}
	if h.world != nil {
		errs = append(errs, h.world.close())
		h.world = nil
	}
	if h.backend != nil {
		errs = append(errs, h.backend.close(keep))
		h.backend = nil
	}
	if !well {
		return nil // what failed first is what counts
	}
	return errors.Join(errs...)
}

func pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
)

// inflict does what a fault says, and undoes it.
func (h *harness) inflict(ctx context.Context, f fault) error {
	switch f.Kind {
	case kill:
		return h.thenJoin(ctx, f, h.record(ctx, f, func(r *record) error { return h.kill(ctx, f, r) }))
	case leave:
		return h.thenJoin(ctx, f, h.record(ctx, f, func(r *record) error { return h.leave(ctx, f, r) }))
	case join:
		if err := h.record(ctx, f, func(r *record) error { return h.join(ctx, r) }); err != nil {
			return err
		}
		if err := h.rest(ctx, h.o.calm); err != nil {
			return err
		}
		f = fault{Kind: leave, Target: len(h.fleet.nodes)}
		return h.record(ctx, f, func(r *record) error { r.Undoes = true; return h.leave(ctx, f, r) })
	}
	do := map[kind]func(context.Context, fault, *record) error{
		pause: h.pause, cutPeers: h.cut, cutStore: h.cut, cutBoth: h.cut, flap: h.flap, slow: h.slow,
		storeKill: h.storeKill, storeHang: h.storePause, storeCut: h.storeCut, roll: h.roll, scale: h.scale,
	}[f.Kind]
	return h.record(ctx, f, func(r *record) error { return do(ctx, f, r) })
}

// thenJoin starts a node in place of one that has gone.
func (h *harness) thenJoin(ctx context.Context, f fault, err error) error {
	if err != nil {
		return err
	}
	if err := h.rest(ctx, f.For); err != nil {
		return err
	}
	return h.record(ctx, fault{Kind: join}, func(r *record) error { r.Undoes = true; return h.join(ctx, r) })
}

// kill ends a node with SIGKILL, at whatever it is doing.
func (h *harness) kill(ctx context.Context, f fault, r *record) error {
	n, owned, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	_, _ = h.fleet.figures(ctx, n) // its last words
	at := time.Now()
	if err := n.child.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := h.struck(ctx, r, at, n, owned); err != nil {
		return err
	}
	r.Minimum = len(owned)
	if err := h.fleet.drop(n); err != nil {
		return err
	}
	return h.point(ctx, h.fleet.nodes)
}

// leave ends a node with SIGTERM, after the load balancer was told.
func (h *harness) leave(ctx context.Context, f fault, r *record) error {
	n, owned, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	r.Struck = time.Now().UnixNano()
	r.Minimum = len(owned)
	return h.dismiss(ctx, n)
}

func (h *harness) dismiss(ctx context.Context, n *node) error {
	if err := h.point(ctx, h.fleet.without(n)); err != nil {
		return err
	}
	_, _ = h.fleet.figures(ctx, n) // its last words
	bounded, cancel := context.WithTimeout(ctx, stopPatience+startPatience)
	defer cancel()
	if err := n.child.Terminate(bounded); err != nil {
		h.complain("%s did not leave well: %v", n.name, err)
	}
	return h.fleet.drop(n)
}

// join starts one node more.
func (h *harness) join(ctx context.Context, r *record) error {
	r.Struck = time.Now().UnixNano()
	n, err := h.fleet.start(ctx)
	if err != nil {
		return err
	}
	r.Target = n.name
	r.Minimum = h.o.partitions / len(h.fleet.nodes)
	if err := n.ready(ctx, startPatience); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return h.point(ctx, h.fleet.nodes)
}

// pause freezes a node, but not while it holds the lock of a SQLite file: then
// nobody could write, which says nothing about the cluster.
func (h *harness) pause(ctx context.Context, f fault, r *record) error {
	n, owned, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var at time.Time
	tries := 1
	for ; ; tries++ {
		at = time.Now()
		if err := n.child.Pause(bounded); err != nil {
			return err
		}
		if !h.backend.blocks(n.child.PID()) {
			break
		}
		if err := n.child.Resume(); err != nil {
			return err
		}
		if err := pauseFor(bounded, time.Duration(tries)*time.Millisecond); err != nil {
			return fmt.Errorf("%s always holds the lock of the file: %w", n.name, err)
		}
	}
	if tries > 1 {
		r.Note = fmt.Sprintf("frozen at the %d. attempt, since it held the lock of the file", tries)
	}
	if f.For < h.o.lease {
		owned = nil // nobody takes over from it
	}
	if err := h.struck(ctx, r, at, n, owned); err != nil {
		return err
	}
	err = pauseFor(ctx, f.For)
	if err2 := n.child.Resume(); err == nil {
		err = err2
	}
	return err
}

// cut cuts links of a node and heals them.
func (h *harness) cut(ctx context.Context, f fault, r *record) error {
	n, owned, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	frozen := link.Condition{Frozen: true}
	at := time.Now()
	if f.Kind != cutStore {
		h.world.peers(n.name, f.Way, frozen)
	}
	if f.Kind != cutPeers {
		h.world.store(n.name, f.Way, frozen)
	}
	if f.Reset {
		h.world.reset(n.name, f.Kind != cutPeers)
	}
	if f.Kind == cutPeers {
		owned = nil // it keeps what it owns
	}
	if err := h.struck(ctx, r, at, n, owned); err != nil {
		return err
	}
	err = pauseFor(ctx, f.For)
	h.world.heal()
	return err
}

// flapEvery is how long links are off, and then on.
const flapEvery = 200 * time.Millisecond

func (h *harness) flap(ctx context.Context, f fault, r *record) error {
	n, _, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	defer h.world.heal()
	for begin, off := time.Now(), true; time.Since(begin) < f.For; off = !off {
		if off {
			h.world.peers(n.name, both, link.Condition{Frozen: true})
			h.world.store(n.name, both, link.Condition{Frozen: true})
			h.world.reset(n.name, true)
		} else {
			h.world.heal()
		}
		if err := pauseFor(ctx, flapEvery); err != nil {
			return err
		}
	}
	return nil
}

// slowBy is the delay of each direction.
const slowBy = 40 * time.Millisecond

func (h *harness) slow(ctx context.Context, f fault, r *record) error {
	n, _, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	h.world.peers(n.name, both, link.Condition{Delay: slowBy})
	h.world.store(n.name, both, link.Condition{Delay: slowBy})
	err = pauseFor(ctx, f.For)
	h.world.heal()
	return err
}

// storeKill kills the server and starts it again.
func (h *harness) storeKill(ctx context.Context, f fault, r *record) error {
	r.Struck = time.Now().UnixNano()
	if err := h.backend.kill(); err != nil {
		return err
	}
	if err := pauseFor(ctx, f.For); err != nil {
		return err
	}
	begin := time.Now()
	if err := h.backend.restart(ctx); err != nil {
		return err
	}
	r.Note = fmt.Sprintf("the server took %s to accept again", brief(time.Since(begin)))
	return nil
}

func (h *harness) storePause(ctx context.Context, f fault, r *record) error {
	r.Struck = time.Now().UnixNano()
	if err := h.backend.pause(); err != nil {
		return err
	}
	err := pauseFor(ctx, f.For)
	if err2 := h.backend.resume(); err == nil {
		err = err2
	}
	return err
}

// storeAnswers is how many answers of the store are lost in one fault.
const storeAnswers = 3

// storeCut takes answers of the store away after it gave them.
func (h *harness) storeCut(ctx context.Context, f fault, r *record) error {
	n, _, err := h.victim(ctx, f, r)
	if err != nil {
		return err
	}
	r.Struck = time.Now().UnixNano()
	before := h.world.swallowed(n.name)
	for lost := range storeAnswers {
		h.world.swallow(n.name, 1)
		for begin := time.Now(); h.world.swallowed(n.name) <= before+lost; {
			if time.Since(begin) > h.o.recovery {
				return fmt.Errorf("%s asked the store for nothing", n.name)
			}
			if err := pauseFor(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		if err := pauseFor(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	r.Note = fmt.Sprintf("%d answers lost", storeAnswers)
	return nil
}

// roll restarts every node, as an upgrade does.
func (h *harness) roll(ctx context.Context, _ fault, r *record) error {
	r.Minimum = 0
	for _, n := range append([]*node(nil), h.fleet.nodes...) {
		if err := h.fewer(ctx, n, r); err != nil {
			return err
		}
		if err := h.more(ctx, r); err != nil {
			return err
		}
	}
	r.Target = "all"
	return nil
}

// scale goes to 1 node, 5, 2, and back.
func (h *harness) scale(ctx context.Context, _ fault, r *record) error {
	r.Minimum = 0
	for _, want := range []int{1, 5, 2, h.o.nodes} {
		for len(h.fleet.nodes) > want {
			if err := h.fewer(ctx, h.fleet.nodes[0], r); err != nil {
				return err
			}
		}
		for len(h.fleet.nodes) < want {
			if err := h.more(ctx, r); err != nil {
				return err
			}
		}
	}
	r.Target = "all"
	return nil
}

func (h *harness) fewer(ctx context.Context, n *node, r *record) error {
	if len(h.fleet.nodes) > 1 { // who leaves last hands nothing over
		r.Minimum += h.o.partitions / len(h.fleet.nodes)
	}
	if err := h.dismiss(ctx, n); err != nil || len(h.fleet.nodes) == 0 {
		return err
	}
	_, err := h.settle(ctx)
	return err
}

func (h *harness) more(ctx context.Context, r *record) error {
	minimum := r.Minimum
	if err := h.join(ctx, r); err != nil {
		return err
	}
	r.Minimum += minimum
	_, err := h.settle(ctx)
	return err
}

package actor

import (
	"errors"
	"sync"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// release decides whether a computed reply may leave now. Everything it depends
// on is durable.
//
//	a failure ........................... at once
//	reveals commits of a held tenure .... when the hold ends (I8)
//	proved by a commit of just now ...... at once
//	anything else ....................... under the lease, else behind the barrier (I7)
//
// What was committed a while ago proves nothing any more: a store that was set
// back meanwhile has lost it, and only the lease or the store itself can say that
// it was not.
func (h *Host) release(it *item) {
	t, mode := it.grain.tenure, it.grain.def.Reads()
	receipt := &it.result.Response.Receipt
	proven := receipt.Offset != 0 && !receipt.Duplicate && !it.held
	// The lease is looked at before the loss: whoever extends a lease past the
	// loss of a partition has told us of the loss first.
	leased := !proven && mode == aggregate.Lease && (h.seams.Without.CheckAfterCompute || h.leased())
	switch {
	case isFailure(it.result.Err), it.call.timer != nil: // which tells nobody
		h.send(it)
	case it.reveals && mode != aggregate.Strict && t.holding.Load() && t.hold(it):
	case proven, mode == aggregate.Eventual:
		h.send(it)
	case t.lost.Load():
		it.withhold(notOwner)
		h.send(it)
	case leased:
		h.send(it) // the look at the clock above is the linearisation point
	default:
		h.barrier.add(it)
	}
}

// withhold replaces a reply that nobody can vouch for. A command that had its
// effect, as far as this node knows, must not be told that it had none: whoever
// asks again under its id learns what became of it.
func (it *item) withhold(instead Result) {
	if it.result.Response.Receipt.Offset != 0 {
		instead = failed(aggregate.UnknownOutcome(aggregate.ReasonOutcome, instead.Err))
	}
	it.result = instead
}

// leased reports whether the lease covers a reply that leaves now.
func (h *Host) leased() bool { return int64(h.clock.Now()) < h.leaseUntil.Load() }

func isFailure(err error) bool {
	if err == nil {
		return false
	}
	var failure *aggregate.Failure
	return errors.As(err, &failure)
}

// send answers the call, and those that were the same command.
func (h *Host) send(it *item) {
	answered := it.call.Request.Answer
	it.grain.finish(it.call, it.result)
	for _, twin := range it.twins {
		r := it.result
		if r.Err == nil {
			h.stats.duplicates.Add(1)
			r.Response.Receipt.Duplicate = true
			switch {
			case !twin.Request.Answer:
				r.Response.Answer = nil
			case !answered: // only this one asks for the answer
				h.answerAt(it.grain, &item{grain: it.grain, call: twin, result: r, reveals: it.reveals},
					persistence.Version(r.Response.Receipt.Version))
				continue
			}
		}
		it.grain.finish(twin, r)
	}
}

// barrierLimit bounds the replies of one store round trip.
const barrierLimit = 4096

// barrier proves ownership to replies that no lease covers: one round trip to
// the store for all that wait. Its queue is bounded by the host's admission.
type barrier struct {
	host *Host
	wake chan struct{}

	mu      sync.Mutex
	waiting []*item
	closed  bool
}

func newBarrier(h *Host) *barrier { return &barrier{host: h, wake: make(chan struct{}, 1)} }

func (b *barrier) add(it *item) {
	if err := b.host.reads.admit(); err != nil {
		it.withhold(failed(err))
		b.host.send(it)
		return
	}
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.waiting = append(b.waiting, it)
	}
	b.mu.Unlock()
	if closed {
		it.withhold(failed(errStopping))
		b.host.send(it)
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *barrier) take() []*item {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting), barrierLimit)
	taken := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	if len(b.waiting) == 0 {
		b.waiting = nil
	}
	return taken
}

func (b *barrier) run() {
	for {
		select {
		case <-b.wake:
		case <-b.host.storeContext.Done():
		}
		for taken := b.take(); len(taken) > 0; taken = b.take() {
			b.prove(taken)
		}
		if b.host.storeContext.Err() != nil && b.close() {
			return
		}
	}
}

// close ends the barrier unless something waits.
func (b *barrier) close() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = len(b.waiting) == 0
	return b.closed
}

// prove asks the store once for every partition among the replies.
func (b *barrier) prove(replies []*item) {
	h := b.host
	h.stats.barriers.Add(1)
	place := map[*tenure]int{}
	var fences []persistence.Fence
	for _, it := range replies {
		t := it.grain.tenure
		if _, ok := place[t]; !ok {
			place[t] = len(fences)
			fences = append(fences, t.fence()) // with the head: an older copy of the log may have the same epoch
		}
	}
	ctx, cancel := h.storeCall()
	defer cancel()
	owned, err := h.store.Verify(ctx, h.node, fences)
	h.read(err)
	for _, it := range replies {
		t := it.grain.tenure
		i := place[t]
		switch {
		case err != nil:
			it.withhold(failed(aggregate.NotDone(aggregate.ReasonStoreDown, err)))
		case !owned[i]:
			if persistence.Epoch(t.epoch.Load()) != fences[i].Epoch {
				b.add(it) // we fenced ourselves meanwhile: ask again under the new epoch
				continue
			}
			h.deposed(t, &persistence.FencedError{Partition: t.partition, Epoch: fences[i].Epoch})
			it.withhold(notOwner)
		}
		h.send(it)
	}
}

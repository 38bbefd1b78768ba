package actor

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// tenure is one partition in this node's hands, from its claim to its release
// or loss. A partition that comes back is another tenure.
//
//	serving ──▶ sealed ──▶ released
//	   └──────────┴──────▶ lost
type tenure struct {
	host      *Host
	partition persistence.Partition
	lane      *lane
	since     persistence.Epoch // under which it was claimed
	epoch     atomic.Int64      // changes when we fence ourselves
	head      atomic.Int64      // the last offset that is known to be in the log; set by the lane
	lost      atomic.Bool       // deposed: nothing may commit or be answered from memory
	sealed    atomic.Bool       // on its way out: no new calls
	calls     atomic.Int64      // admitted and not answered
	drained   chan struct{}     // closed when sealed or lost and calls is 0
	drainOnce sync.Once

	holding   atomic.Bool // I8
	holdUntil time.Duration
	// unrevealed: the hold is for what was in the log before this tenure, too
	unrevealed bool

	mu     sync.Mutex
	grains map[persistence.Stream]*grain
	held   []*item                         // replies that wait for the end of the hold
	marks  map[persistence.Stream]struct{} // streams with commits during the hold
}

// fence is the proof of ownership that the store is asked for. The epoch is read
// first: whoever fences himself off has found the head before.
func (t *tenure) fence() persistence.Fence {
	epoch := persistence.Epoch(t.epoch.Load())
	return persistence.Fence{Partition: t.partition, Epoch: epoch, Head: persistence.Offset(t.head.Load())}
}

// enter admits a call unless the partition is leaving.
func (t *tenure) enter() bool {
	t.calls.Add(1)
	if t.sealed.Load() || t.lost.Load() {
		t.leave()
		return false
	}
	return true
}

func (t *tenure) leave() {
	if t.calls.Add(-1) == 0 && (t.sealed.Load() || t.lost.Load()) {
		t.drainOnce.Do(func() { close(t.drained) })
	}
}

// seal refuses new calls; drained tells when the last one is answered.
func (t *tenure) seal() {
	t.calls.Add(1)
	t.sealed.Store(true)
	t.leave()
}

// grain finds or makes the activation of a stream.
func (t *tenure) grain(d *aggregate.Definition, s persistence.Stream) *grain {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.grains[s]
	if g == nil {
		g = t.host.activate(t, d, s)
		t.host.loader.load(g)
	}
	return g
}

// warm makes the activation of a stream that nobody has called; nil when there
// is one, or the partition is on its way out.
func (t *tenure) warm(d *aggregate.Definition, s persistence.Stream) *grain {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.grains[s] != nil || t.sealed.Load() || t.lost.Load() {
		return nil
	}
	g := t.host.activate(t, d, s)
	g.fetched = true
	return g
}

// resident reports whether a stream has an activation.
func (t *tenure) resident(s persistence.Stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.grains[s] != nil
}

// forget removes an activation that has stopped.
func (t *tenure) forget(g *grain) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.grains[g.stream] == g {
		delete(t.grains, g.stream)
	}
}

// all lists the activations, in an order that is always the same.
func (t *tenure) all() []*grain {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*grain, 0, len(t.grains))
	for _, g := range t.grains {
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b *grain) int {
		return cmp.Or(strings.Compare(a.stream.Type, b.stream.Type), strings.Compare(a.stream.ID, b.stream.ID))
	})
	return list
}

// mark remembers, while the hold lasts, that a stream has commits which a
// deposed owner's last answers could contradict; a later activation of the
// stream must hold its replies too.
func (t *tenure) mark(s persistence.Stream) {
	if !t.holding.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.marks == nil {
		t.marks = map[persistence.Stream]struct{}{}
	}
	t.marks[s] = struct{}{}
}

func (t *tenure) marked(s persistence.Stream) bool {
	if !t.holding.Load() {
		return false
	}
	if t.unrevealed {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.marks[s]
	return ok
}

// hold keeps a reply back until the hold ends; false when it has ended.
func (t *tenure) hold(it *item) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.holding.Load() {
		return false
	}
	t.held = append(t.held, it)
	t.host.stats.held.Add(1)
	return true
}

// endHold lets the held replies go, if it is time.
func (t *tenure) endHold() {
	if left := t.holdUntil - t.host.clock.Now(); left > 0 {
		t.host.clock.AfterFunc(left, t.endHold)
		return
	}
	t.mu.Lock()
	held := t.held
	t.held, t.marks = nil, nil
	t.holding.Store(false)
	t.mu.Unlock()
	for _, it := range held {
		it.held = true
		t.host.release(it)
	}
}

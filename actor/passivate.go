package actor

import (
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// resident keeps the number of aggregates in memory within bounds: unused ones
// leave after their idle time, and the least recently used one when there are
// too many. Use is noted at most once a second for each aggregate, so that the
// hot path seldom takes the lock.
type resident struct {
	host *Host

	mu  sync.Mutex
	lru *simplelru.LRU[*grain, struct{}]
}

const touchEvery = time.Second

// tidyAfter is how long an aggregate is unused before it gives back what a burst
// needed: longer than a busy one's commands stay in its window.
const tidyAfter = 10 * time.Second

func newResident(h *Host) *resident {
	lru, err := simplelru.NewLRU[*grain, struct{}](math.MaxInt, nil) // the bound is kept by add
	if err != nil {
		panic(err) // the size is positive
	}
	return &resident{host: h, lru: lru}
}

// add notes a new activation and sends the least recently used ones away if that
// makes too many: up to two, since the one that was asked before may have been
// busy. They stay in memory until their commits are settled.
func (r *resident) add(g *grain) {
	now := int64(r.host.clock.Coarse())
	g.lastUsed.Store(now)
	g.touched.Store(now)
	r.mu.Lock()
	r.lru.Add(g, struct{}{})
	var eldest [2]*grain
	for i := range min(len(eldest), r.lru.Len()-r.host.config.MaxResident) {
		eldest[i], _, _ = r.lru.GetOldest()
		r.lru.Get(eldest[i]) // the next one that is too many asks another
	}
	r.mu.Unlock()
	for _, g := range eldest {
		if g != nil {
			g.mailbox.PostUserMessage(passivate{})
		}
	}
}

func (r *resident) remove(g *grain) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lru.Remove(g)
}

func (r *resident) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lru.Len()
}

// touch notes that an aggregate is in use.
func (h *Host) touch(g *grain) {
	now := int64(h.clock.Coarse())
	g.lastUsed.Store(now)
	if now-g.touched.Load() < int64(touchEvery) {
		return
	}
	g.touched.Store(now)
	h.resident.mu.Lock()
	h.resident.lru.Get(g)
	h.resident.mu.Unlock()
}

// run sends idle aggregates away, a quarter of the shortest idle time late at
// most.
func (r *resident) run() {
	shortest := r.host.config.IdleAfter
	for _, d := range r.host.types {
		if i := d.Idle(); i > 0 {
			shortest = min(shortest, i)
		}
	}
	every := max(shortest/4, 10*time.Millisecond)
	for {
		due := make(chan struct{})
		stop := r.host.clock.AfterFunc(every, func() { close(due) })
		select {
		case <-due:
			r.sweep()
		case <-r.host.storeContext.Done():
			stop()
			return
		}
	}
}

func (r *resident) sweep() {
	now := r.host.clock.Coarse()
	r.mu.Lock()
	grains := r.lru.Keys()
	r.mu.Unlock()
	for _, g := range grains {
		idle := g.def.Idle()
		if idle == 0 {
			idle = r.host.config.IdleAfter
		}
		since := g.idleSince()
		switch unused := now - since; {
		case g.inflight.Load() > 0:
		case unused >= idle:
			g.mailbox.PostUserMessage(passivate{})
		case unused >= tidyAfter && g.tidied.Swap(int64(since)) != int64(since):
			g.mailbox.PostUserMessage(tidy{})
		}
	}
}

package actor

import (
	"container/list"
	"sync"
	"time"
)

// resident keeps the number of aggregates in memory within bounds: unused ones
// leave after their idle time, and one that was not used for long when there are
// too many. A use is only noted in the grain: among a million, to keep a list in
// the order of use would cost a command more than anything else that it does in
// memory. The list is put right when one has to leave (second chance).
type resident struct {
	host *Host

	mu   sync.Mutex
	list list.List // of *grain, those in front have had their place for longest
}

// looks bounds how many grains are looked at to find one that may leave.
const looks = 16

// tidyAfter is how long an aggregate is unused before it gives back what a burst
// needed: longer than a busy one's commands stay in its window.
const tidyAfter = 10 * time.Second

func newResident(h *Host) *resident { return &resident{host: h} }

// add notes a new activation and sends others away if that makes too many: up to
// two, since the one that was asked before may have been busy. They stay in
// memory until their commits are settled.
func (r *resident) add(g *grain) {
	now := int64(r.host.clock.Coarse())
	g.lastUsed.Store(now)
	r.mu.Lock()
	var leaving [2]*grain
	for i := range min(len(leaving), r.list.Len()+1-r.host.config.MaxResident) {
		leaving[i] = r.eldest()
	}
	g.listed, g.place = now, r.list.PushBack(g)
	r.mu.Unlock()
	for _, g := range leaving {
		if g != nil {
			g.mailbox.PostUserMessage(passivate{})
		}
	}
}

// eldest finds one that was not used since it got its place, or else, of those
// it looks at, the one whose use is longest ago. All of them get a new place at
// the end, so that the next one that is too many asks another.
func (r *resident) eldest() (eldest *grain) {
	var since int64
	for range min(looks, r.list.Len()) {
		g := r.list.Front().Value.(*grain)
		r.list.MoveToBack(g.place)
		used, before := g.lastUsed.Load(), g.listed
		g.listed = used
		if used == before {
			return g
		}
		if eldest == nil || used < since {
			eldest, since = g, used
		}
	}
	return eldest
}

func (r *resident) remove(g *grain) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.place != nil {
		r.list.Remove(g.place)
		g.place = nil
	}
}

func (r *resident) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list.Len()
}

// all lists the aggregates in memory.
func (r *resident) all() []*grain {
	r.mu.Lock()
	defer r.mu.Unlock()
	grains := make([]*grain, 0, r.list.Len())
	for e := r.list.Front(); e != nil; e = e.Next() {
		grains = append(grains, e.Value.(*grain))
	}
	return grains
}

// touch notes that an aggregate is in use.
func (h *Host) touch(g *grain) { g.lastUsed.Store(int64(h.clock.Coarse())) }

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
	for _, g := range r.all() {
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

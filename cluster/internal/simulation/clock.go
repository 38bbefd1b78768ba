package simulation

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// clock is a machine's clock, with an offset and a rate of its own. Now runs
// through a suspend; Coarse and the timers stand still in it.
type clock struct{ m *machine }

func (c clock) read() time.Duration {
	return c.m.offset + time.Duration(float64(c.m.w.elapsed())*c.m.rate)
}

// mayFreeze are the places in which a machine may be stopped just before or after
// it looks at the clock: those where the look means something, and that hold no
// lock which other goroutines wait for.
var mayFreeze = []string{"(*Host).release", "(*Host).leased", "(*renewal).renew", "(*claims).claim"}

// Now implements actor.Clock.
func (c clock) Now() time.Duration {
	m := c.m
	if f := m.freeze.Load(); f == freezeBeforeClock || f == freezeAfterClock {
		var pcs [1]uintptr
		runtime.Callers(2, pcs[:])
		frame, _ := runtime.CallersFrames(pcs[:]).Next()
		for _, name := range mayFreeze {
			if strings.HasSuffix(frame.Function, name) {
				m.point(freezeBeforeClock)
				now := c.read()
				m.point(freezeAfterClock)
				return now
			}
		}
	}
	return c.read()
}

// Coarse implements actor.Clock.
func (c clock) Coarse() time.Duration { return c.read() - time.Duration(c.m.slept.Load()) }

// Wall implements actor.Clock.
func (c clock) Wall() time.Time { return time.Now().Add(c.m.skew) }

// AfterFunc implements actor.Clock. The function runs a little late, so that no
// two timers ever fire at the same moment.
func (c clock) AfterFunc(d time.Duration, f func()) func() bool {
	m := c.m
	w := m.w
	const idle, over = 0, 1
	var state atomic.Int32
	due, slept := w.elapsed()+time.Duration(float64(d)/m.rate), m.slept.Load()
	w.post(m, fmt.Sprintf("timer %d", d), func() {
		var fire func()
		fire = func() {
			if state.Load() == over {
				return
			}
			if more := m.slept.Load() - slept; more > 0 && !m.crashed { // it stood still meanwhile
				slept += more
				w.at(w.now+time.Duration(more), m, fire)
				return
			}
			if state.CompareAndSwap(idle, over) {
				w.tally["timers"]++
				go f()
			}
		}
		if m.crashed { // its end takes nothing from the seed
			w.at(due, m, fire)
			return
		}
		w.at(due+w.span(0, 50*time.Microsecond), m, fire)
	})
	return func() bool { return state.CompareAndSwap(idle, over) }
}

// timeout is context.WithTimeout by the machine's clock. Contexts that end with
// their parent end in the order in which they began; those of package context end
// in the order of a map.
func (c clock) timeout(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	leave := c.m.families.join(parent, cancel)
	stop := c.AfterFunc(d, cancel)
	return ctx, func() {
		stop()
		leave()
		cancel()
	}
}

// families are the contexts of a machine that end with their parents.
type families struct {
	mu       sync.Mutex
	byParent map[context.Context]*family
}

// family is what ends with one context, the oldest first.
type family struct {
	children []*child
	stop     func() bool
}

type child struct{ cancel context.CancelFunc }

// join lets a context end with its parent, until leave is called.
func (f *families) join(parent context.Context, cancel context.CancelFunc) (leave func()) {
	switch {
	case parent.Done() == nil:
		return func() {}
	case parent.Err() != nil:
		cancel()
		return func() {}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.byParent[parent]
	if of == nil {
		of = &family{}
		of.stop = context.AfterFunc(parent, func() { f.end(parent) })
		if f.byParent == nil {
			f.byParent = map[context.Context]*family{}
		}
		f.byParent[parent] = of
	}
	c := &child{cancel}
	of.children = append(of.children, c)
	return func() { f.leave(parent, c) }
}

func (f *families) leave(parent context.Context, c *child) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.byParent[parent]
	if of == nil {
		return // all have ended
	}
	of.children = slices.DeleteFunc(of.children, func(other *child) bool { return other == c })
	if len(of.children) == 0 && of.stop() {
		delete(f.byParent, parent)
	}
}

// end ends a family with its parent.
func (f *families) end(parent context.Context) {
	f.mu.Lock()
	children := f.byParent[parent].children
	delete(f.byParent, parent)
	f.mu.Unlock()
	for _, c := range children {
		c.cancel()
	}
}

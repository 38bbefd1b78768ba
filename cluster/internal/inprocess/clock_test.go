package inprocess_test

import (
	"sync"
	"time"
)

// clock is a clock for several nodes that moves when it is told to.
type clock struct {
	mu     sync.Mutex
	now    time.Duration
	timers map[*alarm]struct{}
	onNow  func() // called once, before the time is told
}

type alarm struct {
	due time.Duration
	f   func()
}

func newClock() *clock { return &clock{now: time.Hour, timers: map[*alarm]struct{}{}} }

func (c *clock) Now() time.Duration {
	c.mu.Lock()
	hook := c.onNow
	c.onNow = nil
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	return c.Coarse()
}

func (c *clock) Coarse() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// interrupt runs f when somebody looks at the clock next.
func (c *clock) interrupt(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onNow = f
}

func (c *clock) Wall() time.Time { return time.Now() }

func (c *clock) AfterFunc(d time.Duration, f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &alarm{c.now + d, f}
	c.timers[a] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, pending := c.timers[a]
		delete(c.timers, a)
		return pending
	}
}

// advance moves the time, and runs what is due.
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
	for a := range c.timers {
		if a.due <= c.now {
			delete(c.timers, a)
			go a.f()
		}
	}
}

// creep moves the time to the next timer if that is due within most, and
// reports by how much. Unlike a fixed step it does not leave behind a goroutine
// that has not set its timer yet.
func (c *clock) creep(most time.Duration) (moved time.Duration) {
	c.mu.Lock()
	moved = most + 1
	for a := range c.timers {
		moved = min(moved, max(a.due-c.now, 0))
	}
	c.mu.Unlock()
	if moved > most {
		return 0
	}
	c.advance(moved)
	return moved
}

// soon counts the timers that are due within some time.
func (c *clock) soon(within time.Duration) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.timers {
		if a.due <= c.now+within {
			n++
		}
	}
	return n
}

// run lets the time pass, a step every millisecond, until it is stopped.
func (c *clock) run(step time.Duration) (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.advance(step)
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-over }
}

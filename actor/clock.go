package actor

import "time"

// Clock is the time by which leases, holds and deadlines are measured. It must
// run through a suspend of the machine (I7), and need not agree with any other
// machine's clock.
type Clock interface {
	// Now is the time since some fixed moment in the past.
	Now() time.Duration
	// Coarse is like Now but cheap, and may stand still during a suspend: for
	// housekeeping and callers' deadlines, of which no promise depends.
	Coarse() time.Duration
	// AfterFunc calls f in its own goroutine after d; stop prevents it and
	// reports whether it did.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
	// Wall is the time of day, for what is recorded with events and the age of
	// command ids. Nothing about ownership depends on it.
	Wall() time.Time
}

// SystemClock is the machine's clock: CLOCK_BOOTTIME on Linux, the monotonic
// clock elsewhere.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Duration { return sinceBoot() }

// Coarse implements Clock.
func (SystemClock) Coarse() time.Duration { return startedAt + time.Since(started) }

// AfterFunc implements Clock. Its timers stand still during a suspend and fire
// late after it; whoever acts on them looks at Now again.
func (SystemClock) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

// Wall implements Clock.
func (SystemClock) Wall() time.Time { return time.Now() }

// when the process started, by both clocks
var (
	started   = time.Now()
	startedAt = sinceBoot()
)

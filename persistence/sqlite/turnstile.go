package sqlite

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// SQLite's write lock knows no queue: a process that writes one transaction
// after the other takes it again before any other notices that it was free. So
// whoever wants it first passes a turnstile, a file lock that is given back as
// soon as the write lock is held:
//
//	turnstile ──▶ write lock ──▶ leave turnstile ──▶ write ──▶ commit
//
// Behind the turnstile waits one process at most, and the one that has just
// written stands behind it. Passing it is politeness: after patience, say
// because the process inside was stopped, a writer goes on without.
const (
	patience = 20 * time.Millisecond
	// distrust is how long a turnstile that used up somebody's patience is
	// then not waited for.
	distrust = time.Second
)

type turnstile struct {
	lock *fileLock
	// ignoreUntil is written with the writer held.
	ignoreUntil time.Time
}

// enter reports whether the turnstile is held; then leave must follow.
func (t *turnstile) enter(ctx context.Context, abandon <-chan struct{}) bool {
	if t.lock.tryLock() {
		return true
	}
	now := time.Now()
	if now.Before(t.ignoreUntil) {
		return false
	}
	deadline := now.Add(patience)
	for attempt := 0; time.Now().Before(deadline); attempt++ {
		if pause(ctx, abandon, longPause(attempt)) != nil {
			return false
		}
		if t.lock.tryLock() {
			return true
		}
	}
	t.ignoreUntil = time.Now().Add(distrust)
	return false
}

func (t *turnstile) leave() { t.lock.unlock() }

// longPause is between attempts when many may be trying: short at first, since
// most transactions take less than a millisecond.
func longPause(attempt int) time.Duration {
	if attempt < 4 {
		return shortPause(attempt)
	}
	return jitter(200*time.Microsecond, 2*time.Millisecond)
}

// shortPause is between attempts when this process alone is next.
func shortPause(int) time.Duration { return jitter(50*time.Microsecond, 250*time.Microsecond) }

func jitter(from, to time.Duration) time.Duration { return from + rand.N(to-from) }

// pause waits for d, unless ctx ends first or the store abandons its calls.
func pause(ctx context.Context, abandon <-chan struct{}, d time.Duration) error {
	if d < time.Millisecond {
		nap(d)
		select {
		case <-abandon:
			return persistence.ErrClosed
		default:
			return ctx.Err()
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-abandon:
		return persistence.ErrClosed
	}
}

// Package simulated is where a simulation takes hold of a node, beyond the clock,
// the network, the randomness and the store that a Config lets anybody replace.
// It is internal: programs cannot name it, and run with everything real.
package simulated

import (
	"context"
	"runtime"
	"time"
)

// Seams are what a simulation replaces or switches off. A nil *Seams is a node in
// the real world.
type Seams struct {
	// Without names the safety rules that the node is to break, so that a
	// simulation can show that it would notice.
	Without Rules
	// Yield lets other goroutines run where that makes a batch fuller. Default
	// runtime.Gosched.
	Yield func()
	// Timeout derives the context of one call to the store. Default
	// context.WithTimeout.
	Timeout func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
	// Locks are what proves a death. Default lock files.
	Locks Locks
}

// Rules are safety rules of a node, true when it is to do without. Those that the
// store keeps (fence, head check, in-flight wait) are switched off there.
type Rules struct {
	// Hold: a new owner holds back what reveals its own commits (I8).
	Hold bool
	// CheckAfterCompute: the lease is looked at once the answer is known (I7).
	CheckAfterCompute bool
	// Dedup: a command id that was executed is not executed again (I5).
	Dedup bool
	// EpochBump: an owner that does not know the outcome of an append fences itself
	// off before it looks.
	EpochBump bool
	// TimerCheck: a timer that was cancelled or replaced after it was fired, and
	// before its command is executed, is passed over.
	TimerCheck bool
	// TimerCancel: the commit of a timer's command cancels the timer (I10).
	TimerCancel bool
	// Outcomes: what becomes of a command that an event caused is kept, also when it
	// does nothing (I5, I10).
	Outcomes bool
	// TimerReload: after a commit that changes timers has failed, the store is asked
	// which there are.
	TimerReload bool
}

// Locks are held by the living and can be taken from the dead.
type Locks interface {
	// Host names the machine on which the locks mean something.
	Host() string
	// Lock takes the lock of an incarnation.
	Lock(id string) (path string, unlock func() error, err error)
	// Released reports whether nobody holds a lock.
	Released(path string) bool
}

// OrReal fills in what is real.
func (s *Seams) OrReal() Seams {
	var seams Seams
	if s != nil {
		seams = *s
	}
	if seams.Yield == nil {
		seams.Yield = runtime.Gosched
	}
	if seams.Timeout == nil {
		seams.Timeout = context.WithTimeout
	}
	return seams
}

package main

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pacer sleeps to the microsecond: Go's own timers are up to a millisecond
// late in an idle process, as long as a commit takes. It belongs to one
// goroutine.
type pacer struct{}

func newPacer() (pacer, error) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		runtime.UnlockOSThread()
		return pacer{}, fmt.Errorf("set timer slack: %w", err)
	}
	return pacer{}, nil
}

func (pacer) close() { runtime.UnlockOSThread() }

func (pacer) sleepUntil(t time.Time) {
	for {
		left := time.Until(t)
		if left <= 0 {
			return
		}
		request := unix.NsecToTimespec(int64(left))
		_ = unix.Nanosleep(&request, nil) // an interrupted sleep goes on in the next round
	}
}

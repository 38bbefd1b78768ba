package sqlite

import (
	"syscall"
	"time"
)

// nap sleeps for less than a millisecond. The runtime's timers do not go below
// one when the process is otherwise idle: they wait in epoll.
func nap(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // a signal may end it early
}

//go:build !linux

package sqlite

import "time"

// nap sleeps for less than a millisecond, or as short as the system can.
func nap(d time.Duration) { time.Sleep(d) }

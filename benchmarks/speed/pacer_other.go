//go:build !linux

package main

import "time"

// pacer sleeps by Go's timers.
type pacer struct{}

func newPacer() (pacer, error) { return pacer{}, nil }

func (pacer) close() {}

func (pacer) sleepUntil(t time.Time) { time.Sleep(time.Until(t)) }

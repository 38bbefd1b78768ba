//go:build !linux

package main

import (
	"runtime/metrics"
	"time"
)

// processorTimes knows this process only.
func processorTimes() (self, children, everyone time.Duration) {
	s := []metrics.Sample{{Name: "/cpu/classes/user:cpu-seconds"}}
	metrics.Read(s)
	return time.Duration(s[0].Value.Float64() * float64(time.Second)), 0, 0
}

//go:build !linux

package actor

import "time"

func sinceBoot() time.Duration { return time.Since(started) }

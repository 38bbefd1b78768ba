package persistence

import (
	"context"
	"time"
)

// Timers are durable messages to one's own aggregate at a later time. They are
// set and cancelled by commits and never by themselves, so that a timer and the
// event that caused or consumed it are one (I10).
type Timers interface {
	// DueTimers returns up to limit timers of the partitions that are due at
	// or before until, earliest first. Asking does not consume them. A partition
	// that is named twice counts once.
	DueTimers(ctx context.Context, partitions []Partition, until time.Time, limit int) ([]Timer, error)
}

// TimerKey identifies a timer.
type TimerKey struct {
	Partition Partition
	Due       time.Time // microsecond precision
	ID        CommandID
}

// Timer is a message to Stream at Due.
type Timer struct {
	TimerKey
	Stream  Stream
	Payload []byte
}

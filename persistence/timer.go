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
	// that is named twice counts once. How many others there are costs nothing.
	DueTimers(ctx context.Context, partitions []Partition, until time.Time, limit int) ([]Timer, error)
}

// TimerKey identifies a timer: a stream has one of a name at a time.
type TimerKey struct {
	Stream Stream
	// Name is 1 to [MaxTimerBytes] bytes of UTF-8 without NUL.
	Name string
}

// Timer is a message to its stream at Due.
type Timer struct {
	TimerKey
	Partition Partition // that of the stream
	Due       time.Time // microsecond precision
	// ID is that of the command that set it. It tells the timer from others that
	// had, or will have, its name and its due time.
	ID      CommandID
	Payload []byte
}

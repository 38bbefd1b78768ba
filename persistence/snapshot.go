package persistence

import (
	"context"
	"time"
)

// Snapshots keep the fold of a stream's first events, so that a load need not
// repeat it. They are a cache: losing one costs time, never data.
type Snapshots interface {
	// SaveSnapshots stores each snapshot whose last event is in the log, unless
	// one of the same or a higher version whose last event is in the log too is
	// there already. What it does not store is no error. It refuses a stream
	// that [Stream.Validate] refuses, and then keeps none of them.
	SaveSnapshots(ctx context.Context, snapshots []Snapshot) error
	// DeleteSnapshots forgets what is stored for the streams.
	DeleteSnapshots(ctx context.Context, streams []Stream) error
}

// Snapshot is a stream's state after its first Version events.
type Snapshot struct {
	Stream  Stream
	Version Version
	// Last names the event of that version. A log that was set back loses events
	// and gives their versions to others; a snapshot that has one of the lost
	// events in it is of no use to it, and this is how it is told.
	Last Cause
	// Schema is the version of the state's own format, chosen by the
	// aggregate's definition.
	Schema  int
	At      time.Time
	Payload []byte
}

// Cause tells an event from any other that has, had or will have its place in
// its stream: by the command it is of, and by when that was executed. The command
// alone does not. One whose events a log has lost may be sent again, and then
// has events of the same version that may follow others.
type Cause struct {
	// Command is [Event.Command].
	Command CommandID
	// At is [Event.At], microsecond precision.
	At time.Time
}

// Checkpoints remember how far a projection has come.
type Checkpoints interface {
	// LoadCheckpoints returns one cursor for each partition that has one.
	LoadCheckpoints(ctx context.Context, projection string) ([]Cursor, error)
	// SaveCheckpoints stores the cursors; a cursor never moves backwards.
	SaveCheckpoints(ctx context.Context, projection string, cursors []Cursor) error
	// DeleteCheckpoints forgets a projection.
	DeleteCheckpoints(ctx context.Context, projection string) error
}

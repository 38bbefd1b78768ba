package persistence

import (
	"context"
	"time"
)

// Snapshots keep the fold of a stream's first events, so that a load need not
// repeat it. They are a cache: losing one costs time, never data.
type Snapshots interface {
	// SaveSnapshots stores each snapshot unless one of the same or a higher
	// version is there already. It refuses a stream that [Stream.Validate]
	// refuses, and then keeps none of them.
	SaveSnapshots(ctx context.Context, snapshots []Snapshot) error
	// DeleteSnapshots forgets what is stored for the streams.
	DeleteSnapshots(ctx context.Context, streams []Stream) error
}

// Snapshot is a stream's state after its first Version events.
type Snapshot struct {
	Stream  Stream
	Version Version
	// Schema is the version of the state's own format, chosen by the
	// aggregate's definition.
	Schema  int
	At      time.Time
	Payload []byte
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

package persistence

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Projections moves projections on: what events caused, how far the projection
// has come and what it could not handle are one transaction, so that each event
// has its effect exactly once (I10).
type Projections interface {
	// Advance runs work in a transaction that also moves the step's checkpoints,
	// parks its dead letters and resolves others: all of it happens, or nothing.
	// A nil work does nothing. It is run once at most, after the checkpoints were
	// locked and the fences found to stand; two steps of one projection that
	// share a partition never run their work at the same time.
	//
	// The error is a *[FencedError] when an advance carries an epoch under which
	// Owner does not own its partition, and a *[CheckpointMovedError] when a
	// checkpoint is not where the advance starts; then work was not run. What
	// work returns is returned as it is, and a panic of work goes on to the
	// caller: both leave nothing behind. An error that wraps [ErrUnknownOutcome]
	// says that the step may have happened, and may even still be on its way: the
	// caller loads the checkpoints and goes on from there; if the step lands
	// after that, the next one is refused with where the checkpoint is. Any other
	// error leaves nothing. Advance refuses what [Step.Validate] refuses.
	//
	// Work must not call anything of this store that writes: it would wait for
	// itself.
	Advance(ctx context.Context, step Step, work func(ctx context.Context, tx Tx) error) error

	// DeadLetters returns up to limit letters of the projection, ascending by
	// partition and offset, those behind after; the zero key is before all.
	DeadLetters(ctx context.Context, projection string, after DeadLetterKey, limit int) ([]DeadLetter, error)

	// ProjectionNames lists the projections that have a checkpoint or a dead
	// letter, ascending bytewise.
	ProjectionNames(ctx context.Context) ([]string, error)

	// DeleteProjection forgets a projection: its checkpoints and its dead
	// letters. What work wrote is the caller's. A step in flight lands before, or
	// finds its checkpoint gone.
	DeleteProjection(ctx context.Context, projection string) error
}

// Step is what one transaction does to one projection, apart from the work.
type Step struct {
	// Projection names it; not empty.
	Projection string
	// Owner is the node incarnation that works; empty when no advance is fenced.
	Owner NodeID
	// Advances has each partition at most once, in any order. It may be empty
	// when nothing moves.
	Advances []Advance
	// Park adds dead letters; a letter whose key is there is replaced. Their
	// Projection may be left empty and is the step's.
	Park []DeadLetter
	// Resolve removes dead letters; one that is not there is not an error. It
	// comes before Park.
	Resolve []DeadLetterKey
}

// Advance moves one checkpoint.
type Advance struct {
	Partition Partition
	// Epoch is the one under which the step's Owner owns the partition; 0 asks
	// for no fence: the compare-and-set on From is then all that keeps two
	// workers apart.
	Epoch Epoch
	// From must be the stored checkpoint, 0 when there is none. To is the new
	// one, not below From; equal to it, the step is tied to the checkpoint and
	// to the fence without moving: so a new owner makes sure that no step of the
	// one before can land any more.
	From, To Offset
}

// Tx is the transaction of a step. It belongs to the goroutine that runs the
// work, and ends with it. SQL is in the store's own dialect and placeholders, see
// [Meta].Dialect: $1 on PostgreSQL, ? on SQLite. A store without SQL answers
// every call with [ErrNoSQL].
//
// Arguments and scanned values are what the driver knows, and on every store
// this package's own types, integers, strings, byte slices, booleans, floats and
// times; SQLite keeps a time as an integer of microseconds since 1970. After an
// error of a statement the transaction may be unusable: work returns the error.
// Statements that begin or end a transaction are not allowed.
type Tx interface {
	// Exec runs a statement and reports how many rows it changed.
	Exec(ctx context.Context, sql string, args ...any) (affected int64, err error)
	// Query runs a statement that returns rows, which must be closed before the
	// next call.
	Query(ctx context.Context, sql string, args ...any) (Rows, error)
}

// Rows is a result being read:
//
//	for rows.Next() { err := rows.Scan(&a, &b) … }
//	err := rows.Err()
type Rows interface {
	// Next moves to the next row, and reports false at the end or on an error.
	Next() bool
	// Scan copies the row's columns to where dest points.
	Scan(dest ...any) error
	// Err is what ended the reading early, or nil.
	Err() error
	// Close ends the reading; closing twice is harmless. It returns Err.
	Close() error
}

// DeadLetterKey names a dead letter: the event that could not be handled.
type DeadLetterKey struct {
	Partition Partition
	Offset    Offset
}

// DeadLetter points to an event that a projection could not handle, or that
// stands behind such an event in its sequence. It has no copy of the event.
type DeadLetter struct {
	Projection string
	DeadLetterKey
	// Sequence is what is handled in order and parked together; by default
	// the stream.
	Sequence string
	Stream   Stream
	Type     string
	// Cause says why. It may quote the event, so it goes when the event's stream
	// is erased or its subject forgotten.
	Cause    string
	Attempts int
	// At is when it was parked, microsecond precision.
	At time.Time
}

// ErrNoSQL says that the store keeps no tables of its users.
var ErrNoSQL = errors.New("the store has no SQL")

// CheckpointMovedError says that a checkpoint is not where a step starts:
// somebody else has moved it, or a step of unknown outcome has landed.
type CheckpointMovedError struct {
	Projection string
	Partition  Partition
	// From is what the step carried, Stored what the store holds; 0 for none.
	From, Stored Offset
}

func (e *CheckpointMovedError) Error() string {
	return fmt.Sprintf("projection %s has its checkpoint of partition %d at %d, the step starts at %d",
		e.Projection, e.Partition, e.Stored, e.From)
}

// Validate reports what makes the step unfit for every store of so many
// partitions.
func (s *Step) Validate(partitions int) error {
	if s.Projection == "" {
		return errors.New("advance: the projection has no name")
	}
	within := func(p Partition) error {
		if p < 0 || int(p) >= partitions {
			return fmt.Errorf("advance %s: partition %d: the store has %d", s.Projection, p, partitions)
		}
		return nil
	}
	for i := range s.Advances {
		a := &s.Advances[i]
		if err := within(a.Partition); err != nil {
			return err
		}
		if a.From < 0 || a.To < a.From {
			return fmt.Errorf("advance %s: partition %d from %d to %d", s.Projection, a.Partition, a.From, a.To)
		}
		for j := range i {
			if s.Advances[j].Partition == a.Partition {
				return fmt.Errorf("advance %s: partition %d is there twice", s.Projection, a.Partition)
			}
		}
	}
	for i := range s.Park {
		l := &s.Park[i]
		if err := within(l.Partition); err != nil {
			return err
		}
		if l.Projection != "" && l.Projection != s.Projection {
			return fmt.Errorf("advance %s: a dead letter is of projection %s", s.Projection, l.Projection)
		}
		if err := l.Stream.Validate(); err != nil {
			return fmt.Errorf("advance %s: park: %w", s.Projection, err)
		}
	}
	return nil
}

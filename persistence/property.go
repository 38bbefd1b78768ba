package persistence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Property is what makes the log its user's: to list it, to bring one in from
// elsewhere, to take out of it what the law wants out, and to keep the keys of
// what is sealed.
type Property interface {
	Keys

	// Heads returns the last offset of every partition, ascending by partition;
	// an empty one's is 0.
	Heads(ctx context.Context) ([]Cursor, error)

	// Streams lists the streams of a partition in the order of their first
	// events, those whose first event is behind after, up to limit. Streams
	// without events and erased ones are not listed.
	Streams(ctx context.Context, partition Partition, after Offset, limit int) ([]StreamInfo, error)

	// Import writes events of another store as they stand there, in the order
	// given: partition, offset, epoch, stream, version, type, time, command,
	// metadata and payload. Each continues the log of its partition and of its
	// stream. Either all are written, or none.
	//
	// The target must be empty and no node may ever have joined it. Source names
	// the store that the events are from; the first call notes it, and later ones
	// must name the same. Partitions that got events count the epochs on, and are
	// nobody's. What does not fit is an *[ImportError]; an error that wraps
	// [ErrUnknownOutcome] is resolved by Heads.
	Import(ctx context.Context, source string, events []Event) error

	// Erase takes what a stream says out of the log, under the fence of its
	// partition. The events keep their places, versions and times; but their
	// stream becomes [ErasedStream], their type [ErasedType], and metadata,
	// payload and command id are gone. So are the stream's snapshot, timers,
	// claims and dead letters. A stream of that name starts at version 0. It
	// returns the version that the stream had; 0 says that there was none.
	//
	// It must be called on the handle through which the owner appends, with no
	// append of the stream in flight. The error is a *[FencedError], or one that
	// wraps [ErrUnknownOutcome]; erasing again is harmless.
	Erase(ctx context.Context, owner NodeID, fence Fence, stream Stream) (Version, error)
}

// Keys keeps the secret keys of those who may have themselves forgotten. Keys
// are compared byte for byte, and never change once they are there.
type Keys interface {
	// FindKeys returns the keys of those subjects that have one, or what is left
	// of them, ascending by subject, bytewise, in one round trip.
	FindKeys(ctx context.Context, subjects []string) ([]Key, error)
	// PutKey keeps the key unless the subject has one, and returns the one that
	// the subject has then: the first wins. A forgotten subject stays forgotten,
	// and the marker is returned, unless renew asks for a new key.
	PutKey(ctx context.Context, key Key, renew bool) (Key, error)
	// DeleteKey destroys the subject's secret and leaves a marker, also where
	// there was no key. DESIGN.md says what that means for disks.
	DeleteKey(ctx context.Context, subject string, at time.Time) error
	// ListKeys returns keys and markers, ascending by subject, bytewise.
	ListKeys(ctx context.Context, after string, limit int) ([]Key, error)
}

// Key is the secret of one subject, or the marker that it was destroyed.
type Key struct {
	// Subject is whom the key is of; at most [MaxIDBytes]. It outlives the
	// secret, so it should be an id that says nothing by itself.
	Subject string
	// Secret is opaque to stores; empty when Forgotten.
	Secret    []byte
	Forgotten bool
	// At is when the key was made, or destroyed; microsecond precision.
	At time.Time
}

// Validate reports why no store keeps the key.
func (k *Key) Validate() error {
	switch {
	case k.Subject == "" || len(k.Subject) > MaxIDBytes:
		return fmt.Errorf("a key's subject has 1 to %d bytes, not %d", MaxIDBytes, len(k.Subject))
	case k.Forgotten != (len(k.Secret) == 0):
		return errors.New("a key has a secret, or is forgotten")
	}
	return nil
}

// StreamInfo is one stream of a listing.
type StreamInfo struct {
	Stream Stream
	// First is the offset of the stream's first event; Version and Last are the
	// version and the offset of its last one.
	First   Offset
	Version Version
	Last    Offset
}

// ErasedType is the type of an erased event, and of the stream that it is in
// since. No definition can have it.
const ErasedType = "$erased"

// ErasedStream is the stream that holds what is left of an erased one, named
// after the place of its first event.
func ErasedStream(partition Partition, first Offset) Stream {
	return Stream{Type: ErasedType, ID: strconv.Itoa(int(partition)) + "-" + strconv.FormatInt(int64(first), 10)}
}

// Erased reports whether the event was erased: it has a place and nothing to
// say, and readers pass over it.
func (e *Event) Erased() bool { return e.Type == ErasedType }

// ImportError says why events cannot be brought into a store.
type ImportError struct {
	// Event is the place of the event that does not fit; zero when the store as
	// a whole does not.
	Event  Cursor
	Reason string
}

func (e *ImportError) Error() string {
	if e.Event.After == 0 {
		return "import: " + e.Reason
	}
	return fmt.Sprintf("import partition %d, offset %d: %s", e.Event.Partition, e.Event.After, e.Reason)
}

// ValidateImport reports which event cannot follow the ones before it, whatever
// is in the store: it lives in another partition, or has no place, or what
// [Stream.Validate] refuses.
func ValidateImport(events []Event, partitions int) error {
	heads := make(map[Partition]Offset)
	for i := range events {
		e := &events[i]
		refuse := func(reason string) error {
			return &ImportError{Event: Cursor{Partition: e.Partition, After: e.Offset}, Reason: reason}
		}
		if e.Partition < 0 || int(e.Partition) >= partitions || e.Offset < 1 {
			return refuse(fmt.Sprintf("the store has %d partitions, and offsets from 1", partitions))
		}
		if head, known := heads[e.Partition]; known && e.Offset != head+1 {
			return refuse(fmt.Sprintf("it follows offset %d", head))
		}
		heads[e.Partition] = e.Offset
		if err := e.Stream.Validate(); err != nil {
			return refuse(err.Error())
		}
		if home := PartitionOf(e.Stream, partitions); home != e.Partition && !e.Erased() {
			return refuse(fmt.Sprintf("%s lives in partition %d", e.Stream, home))
		}
		if e.Erased() != (e.Stream.Type == ErasedType) {
			return refuse("it is erased in half")
		}
		if e.Version < 1 || e.Epoch < 0 || e.Type == "" || len(e.Type) > MaxTypeBytes {
			return refuse("its version, epoch or type cannot be")
		}
	}
	return nil
}

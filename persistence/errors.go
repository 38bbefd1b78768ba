package persistence

import (
	"errors"
	"fmt"
)

var (
	// ErrUnknownOutcome says that an append may or may not have happened.
	ErrUnknownOutcome = errors.New("unknown outcome")
	// ErrUnreachable says that a commit has not come to the store, which may be down,
	// starting or cut off. It certainly had no effect, and may be appended again.
	// What the store itself refuses is no case of it.
	ErrUnreachable = errors.New("store not reached")
	// ErrTooLarge says that a commit exceeds what the store can hold.
	ErrTooLarge = errors.New("commit too large for the store")
	// ErrNotMember says that a node incarnation is unknown, dead or evicted. It
	// never becomes a member again; a new incarnation may.
	ErrNotMember = errors.New("not a member")
	// ErrClosed says that the store has been closed.
	ErrClosed = errors.New("store is closed")
)

// ConflictError says that a stream was not at the expected version.
type ConflictError struct {
	Stream   Stream
	Expected Version
	Actual   Version
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("stream %s is at version %d, expected %d", e.Stream, e.Actual, e.Expected)
}

// FencedError says that the appender does not own the partition any more, or
// that the store's log is not the one the appender wrote.
type FencedError struct {
	Partition Partition
	// Epoch is what the append carried, Current what the store holds.
	Epoch, Current Epoch
	// Owner is who holds the partition now; empty when it was released.
	Owner NodeID
	// Head is what the append carried, StoreHead what the store holds. They
	// are only filled, and only differ, when the epoch was right but the log
	// was not.
	Head, StoreHead Offset
}

func (e *FencedError) Error() string {
	if e.Head != e.StoreHead {
		return fmt.Sprintf("partition %d: the store's log ends at %d, the owner's at %d: it is not the log this owner wrote",
			e.Partition, e.StoreHead, e.Head)
	}
	return fmt.Sprintf("partition %d is %s under epoch %d, append carried epoch %d",
		e.Partition, ownedBy(e.Owner), e.Current, e.Epoch)
}

// ClaimTakenError says that a unique value belongs to another stream.
type ClaimTakenError struct {
	Claim  Claim
	Holder Stream
}

func (e *ClaimTakenError) Error() string {
	return fmt.Sprintf("%s %q is taken by %s", e.Claim.Namespace, e.Claim.Key, e.Holder)
}

// StatementError says that a statement of a commit failed, so that nothing of the
// commit was written.
type StatementError struct {
	Index int // among the commit's statements
	Err   error
}

func (e *StatementError) Error() string { return fmt.Sprintf("statement %d: %v", e.Index, e.Err) }

func (e *StatementError) Unwrap() error { return e.Err }

// ClaimLostError says that a partition changed hands before it could be
// claimed or released.
type ClaimLostError struct {
	Partition Partition
	// Seen is what the caller saw, Current what the store holds.
	Seen, Current Epoch
	// Owner is who holds the partition now; empty when nobody does.
	Owner NodeID
}

func (e *ClaimLostError) Error() string {
	return fmt.Sprintf("partition %d is %s under epoch %d, seen was epoch %d",
		e.Partition, ownedBy(e.Owner), e.Current, e.Seen)
}

func ownedBy(owner NodeID) string {
	if owner == "" {
		return "nobody's"
	}
	return fmt.Sprintf("owned by %q", owner)
}

// SetupError says why a store cannot be used: a wrong address, a schema this
// build does not know, another partition count, a foreign cluster.
type SetupError struct {
	Store string // "postgres", "sqlite", "memory"
	// Place tells this store from others of its kind: a directory, or a database
	// and a schema. Empty when there is none, or none was given.
	Place  string
	Reason string
	Err    error // may be nil
}

func (e *SetupError) Error() string {
	text := e.Store + " store"
	if e.Place != "" {
		text += " " + e.Place
	}
	text += ": " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *SetupError) Unwrap() error { return e.Err }

// Package persistence is the contract between the framework and the place where
// its bytes are kept: event streams, snapshots, timers, claims, projection
// checkpoints, and the node and partition tables that make ownership true.
//
// A [Store] is passive. It never starts work of its own, never interprets a
// payload, and decides exactly one thing: whether an append may commit. It
// refuses every append that does not carry the epoch under which its partition
// is owned right now (I1), in the same transaction that writes the events.
//
// The suite persistencetest.Run is the executable form of this contract. See
// DESIGN.md beside this file for the reasons behind it.
package persistence

import (
	"context"
	"time"
)

// Store keeps everything that must outlive a process.
//
// All methods are safe for concurrent use. All methods honour ctx; a cancelled
// Append either happened as a whole or left nothing behind, and reports
// [ErrUnknownOutcome] when the store cannot tell which. Errors other than the
// ones named at each method mean that the store gave no answer. A call other
// than Append may nevertheless have happened: all of them are compare-and-set
// or harmless to repeat, so the caller looks at the store again.
type Store interface {
	Log
	Snapshots
	Timers
	Checkpoints
	Projections
	Property
	Membership

	// Meta tells what the store is. It never changes while the store is open and
	// costs no round trip.
	Meta() Meta
	// Close releases connections and files. It waits for calls in flight.
	// Closing twice is harmless.
	Close() error
}

// Meta is what a store was created with, and how it was found.
type Meta struct {
	// StoreID is made at random when the store is created.
	StoreID string
	// Partitions is the number of partitions, 1 to 65,536, fixed for ever.
	Partitions int
	// Schema is the version of the store's own tables.
	Schema int
	// Copied says that this handle's opening found the store in another place
	// than the one before: it was copied, or moved as if copied. The nodes in it
	// were then marked dead, because they live, if at all, where the original is:
	// nobody may send them a command for this store. All else, StoreID included,
	// is as it was. DESIGN.md says which copies are noticed.
	Copied bool
	// Dialect is the SQL that a [Statement] of a commit is written in: "postgres",
	// "sqlite", or "" when the store takes none.
	Dialect string
}

// Log is the event log: one dense sequence of events per partition, and within
// it one dense sequence of versions per stream.
type Log interface {
	// Append writes the batch's commits, each of them as a whole or not at
	// all, and sets Offset or Err on every commit. Everything that was written
	// is durable when Append returns.
	//
	// Commits of one partition are written in the order in which they stand in
	// the batch, at the offsets that follow the head in the partition's Fence.
	// One commit's failure never fails another, with one exception: later
	// commits of the same stream expect versions that now do not exist, and
	// fail as conflicts too.
	//
	// A commit's Err is nil, a *[ConflictError], a *[FencedError], a
	// *[ClaimTakenError], a *[StatementError], [ErrTooLarge], or an error that wraps
	// [ErrUnknownOutcome]: then the commit may or may not be in the log, may
	// even still be on its way there, and only a claim of the partition under a
	// new epoch followed by FindCommand can tell. Any other error certainly
	// left nothing behind; among them is what [Commit.Validate] says. One that
	// wraps [ErrUnreachable] has its cause in the way to the store. A batch with
	// two fences for one partition fails as a whole.
	//
	// The store does not keep the batch, nor its payloads, after it returns.
	Append(ctx context.Context, batch *Batch)

	// Read returns up to limit events of one stream, versions after+1 onwards,
	// in order. An unknown stream is an empty one, and so is one whose name
	// [Stream.Validate] refuses.
	Read(ctx context.Context, stream Stream, after Version, limit int) ([]Event, error)

	// ReadMany returns the snapshot and up to limit events after it for every
	// stream, in the order of the argument. A snapshot whose last event is not in
	// the log with its [Cause] is not returned, whatever way it came to be there:
	// then the events are those from the first. It is the way to bring many
	// aggregates into memory and costs a bounded number of round trips.
	ReadMany(ctx context.Context, streams []Stream, limit int) ([]History, error)

	// Tail returns events in offset order within each cursor's partition,
	// starting behind the cursor, up to limit per cursor. It never returns an
	// event while one with a smaller offset in the same partition could still
	// appear: offsets are dense and in commit order (I9). A log with a gap is
	// damaged: Tail, Read and ReadMany say so instead of passing over it.
	Tail(ctx context.Context, cursors []Cursor, limit int) ([]Event, error)

	// FindCommand looks in one stream for the events of one command.
	FindCommand(ctx context.Context, stream Stream, id CommandID) (CommandRecord, bool, error)

	// FindClaim returns the stream that holds a unique value.
	FindClaim(ctx context.Context, claim Claim) (Stream, bool, error)

	// Claims lists up to limit held values behind one, ascending by namespace and
	// key, bytewise; the zero Claim stands before all. It is how claims are
	// compared with the log.
	Claims(ctx context.Context, after Claim, limit int) ([]HeldClaim, error)
}

// Batch is what one writer lane sends in one round trip.
type Batch struct {
	// Owner is the node incarnation that appends.
	Owner NodeID
	// Fences holds one entry for each distinct partition among the commits.
	Fences []Fence
	// Commits holds at most a few hundred commits; the order matters.
	Commits []*Commit
}

// Fence is the proof of ownership that an append carries (I1).
type Fence struct {
	Partition Partition
	// Epoch under which Owner claimed the partition.
	Epoch Epoch
	// Head is the partition's last offset as the owner knows it; 0 when empty.
	// When the store's head differs, the log is not the one the owner wrote (a
	// restored or rolled-back database): every commit of the partition fails
	// with a FencedError that says so.
	Head Offset
}

// Commit is what one command changes: all of it, or none.
type Commit struct {
	Stream    Stream
	Partition Partition // PartitionOf(Stream, Meta.Partitions)
	Epoch     Epoch     // equals the epoch of the partition's fence
	// Expected is the stream's version before this commit; 0 for a new stream.
	Expected Version
	// Command identifies what caused the commit.
	Command CommandID
	// At is the time recorded with the events, microsecond precision.
	At time.Time
	// Metadata is opaque and stored with every event of the commit.
	Metadata []byte
	// Events may be empty when the commit only claims, releases, sets or
	// cancels timers.
	Events []NewEvent

	Claims   []Claim
	Releases []Claim // releasing what the stream does not hold is not an error
	// Cancels are made before Timers, whatever they set.
	Timers  []Timer    // a timer under a key that is there replaces it
	Cancels []TimerKey // cancelling what is not there is not an error
	// Statements are run after all else that the commit writes, in its own
	// transaction. One that fails fails the commit alone.
	Statements []Statement

	// Offset is set by Append: the place of the commit's first event, or 0 when
	// it has none.
	Offset Offset
	// Err is set by Append.
	Err error
}

// Claim is a value that at most one stream may hold, such as a user name.
type Claim struct {
	Namespace string
	Key       string
}

// HeldClaim is a claim and the stream that holds it.
type HeldClaim struct {
	Claim
	Holder Stream
}

// Statement is SQL that a commit runs in its own transaction, such as the row of
// a read model: one statement that inserts, updates, deletes or selects, with the
// store's own placeholders ($1 or ?). It must not touch the store's own tables.
type Statement struct {
	SQL string
	// Args are nil, bool, integers, floats, string, []byte, or [time.Time].
	Args []any
}

// NewEvent is an event before it has a place in the log.
type NewEvent struct {
	// Type is the stored name, with its schema version; at most [MaxTypeBytes].
	Type    string
	Payload []byte
}

// Event is an event as it stands in the log. Callers own it, bytes included.
type Event struct {
	Partition Partition
	Offset    Offset
	Epoch     Epoch
	Stream    Stream
	Version   Version
	Type      string
	At        time.Time
	Command   CommandID
	Metadata  []byte
	Payload   []byte
}

// History is a stream's newest snapshot and what came after.
type History struct {
	Snapshot *Snapshot // nil when there is none that is of this log
	// Anchor is the place of the last event in the snapshot; 0 without one.
	Anchor Offset
	// Foreign is the version of a snapshot that is there but not of this log; 0
	// for none.
	Foreign Version
	Events  []Event
	// More says that there are events behind the last one returned.
	More bool
}

// Cursor is a reader's place in a partition.
type Cursor struct {
	Partition Partition
	After     Offset
}

// CommandRecord is what a command left in its stream.
type CommandRecord struct {
	First, Last Version
	Partition   Partition
	Offset      Offset // of the last event
	At          time.Time
}

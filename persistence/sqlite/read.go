package sqlite

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	selectStream    = "select " + eventColumns + " from es_event where stream = ? and version > ? order by version limit ?"
	selectTail      = "select " + eventColumns + " from es_event where part = ? and pos > ? order by pos limit ?"
	selectLast      = "select version, part, pos, at from es_event where stream = ? and cmd = ? order by version desc limit 1"
	selectBackwards = "select version, cmd from es_event where stream = ? and version < ? order by version desc"
)

// readSlice is how many streams are read at one moment: a reader that stays
// keeps the write-ahead log from starting over.
const readSlice = 64

// The streams of a slice are parameters, each with its place. Cross joins are
// made in the order in which they stand, so that the events of a stream come
// in the order of the index es_event_version, unsorted.
var (
	selectSnapshots = "with wanted (i, stream) as (values " + places(readSlice, "?") + `)
		select w.i, s.version, e.pos, s.schema, s.at, s.last_cmd, s.last_at, iif(e.pos, s.payload, null)
		from wanted w cross join es_snapshot s on s.stream = w.stream
		left join es_event e indexed by es_event_version
			on e.stream = s.stream and e.version = s.version and e.cmd = s.last_cmd and e.at = s.last_at`
	selectHistories = "with wanted (i, stream, after) as (values " + places(readSlice, "?, ?") + `)
		select e.` + strings.ReplaceAll(eventColumns, ", ", ", e.") + `, w.i
		from wanted w cross join es_event e indexed by es_event_version
			on e.stream = w.stream and e.version > w.after and e.version <= w.after + ?`
)

func places(n int, columns string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "(%d, %s), ", i, columns)
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// Read returns events of one stream.
func (s *Store) Read(ctx context.Context, stream persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	var events []persistence.Event
	err := s.read(ctx, func(c *conn) (err error) {
		events, err = readStream(ctx, c, stream, after, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	return events, nil
}

func readStream(ctx context.Context, c *conn, stream persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	if !isName(stream) {
		return nil, nil
	}
	var events []persistence.Event
	next := max(after, 0) + 1
	err := c.query(selectStream, func(r row) error {
		if len(events)%256 == 255 && ctx.Err() != nil {
			return ctx.Err()
		}
		event, err := scanVersion(r, next)
		next++
		events = append(events, event)
		return err
	}, stream, after, max(limit, 0))
	return events, err
}

// scanVersion reads a row of the columns in eventColumns, which must be the
// next event of its stream.
func scanVersion(r row, next persistence.Version) (persistence.Event, error) {
	event, err := scanEvent(r)
	if err == nil && event.Version != next {
		err = fmt.Errorf("%s: version %d follows %d: the log is damaged", event.Stream, event.Version, next-1)
	}
	return event, err
}

// ReadMany returns the newest snapshot and the events after it for every
// stream, slice by slice, each slice as of one moment. The last event in a
// snapshot is looked up with it.
func (s *Store) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	limit = min(max(limit, 0), math.MaxInt32)
	histories := make([]persistence.History, len(streams))
	for from := 0; from < len(streams); from += readSlice {
		to := min(from+readSlice, len(streams))
		err := s.view(ctx, func(c *conn) error {
			clear(histories[from:to])
			return readHistories(ctx, c, streams[from:to], limit, histories[from:to])
		})
		if err != nil {
			return nil, fmt.Errorf("read %d streams: %w", len(streams), err)
		}
	}
	return histories, nil
}

// readHistories reads up to readSlice streams with two statements. Versions
// are dense, so a range of them limits the events of each stream.
func readHistories(ctx context.Context, c *conn, streams []persistence.Stream, limit int, into []persistence.History) error {
	names := make([]any, readSlice) // what stays null finds nothing
	args := make([]any, 2*readSlice+1)
	for i, stream := range streams {
		if isName(stream) {
			names[i] = stream
			args[2*i], args[2*i+1] = stream, 0
		}
	}
	err := c.query(selectSnapshots, func(r row) error {
		i, version := r.int(0), persistence.Version(r.int(1))
		if r[2] == nil {
			into[i].Foreign = version
			return nil
		}
		into[i].Snapshot = &persistence.Snapshot{
			Stream: streams[i], Version: version, Schema: int(r.int(3)), At: r.time(4),
			Last: persistence.Cause{Command: r.command(5), At: r.time(6)}, Payload: r.blob(7),
		}
		into[i].Anchor = persistence.Offset(r.int(2))
		args[2*i+1] = version
		return nil
	}, names...)
	if err != nil {
		return err
	}
	args[2*readSlice] = limit + 1
	rows := 0
	return c.query(selectHistories, func(r row) error {
		if rows++; rows%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		h := &into[r.int(10)]
		if len(h.Events) == limit {
			h.More = true
			return nil
		}
		event, err := scanVersion(r, last(h)+1)
		h.Events = append(h.Events, event)
		return err
	}, args...)
}

func last(h *persistence.History) persistence.Version {
	switch n := len(h.Events); {
	case n > 0:
		return h.Events[n-1].Version
	case h.Snapshot != nil:
		return h.Snapshot.Version
	}
	return 0
}

// Tail returns what stands behind each cursor. // I9
func (s *Store) Tail(ctx context.Context, cursors []persistence.Cursor, limit int) ([]persistence.Event, error) {
	var events []persistence.Event
	err := s.read(ctx, func(c *conn) error {
		events = events[:0]
		for _, cursor := range cursors {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.within(cursor.Partition); err != nil {
				return err
			}
			next := max(cursor.After, 0) + 1
			err := c.query(selectTail, func(r row) error {
				event, err := scanEvent(r)
				if err == nil && event.Offset != next {
					err = fmt.Errorf("partition %d: offset %d follows %d: the log is damaged", cursor.Partition, event.Offset, next-1)
				}
				next++
				events = append(events, event)
				return err
			}, cursor.Partition, next-1, max(limit, 0))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tail: %w", err)
	}
	return events, nil
}

// FindCommand looks for the command from the stream's end backwards; commands
// are not indexed, so one that is not there costs a walk through the stream.
func (s *Store) FindCommand(ctx context.Context, stream persistence.Stream, id persistence.CommandID) (persistence.CommandRecord, bool, error) {
	var record persistence.CommandRecord
	var found bool
	err := s.view(ctx, func(c *conn) (err error) {
		if !isName(stream) {
			return nil
		}
		found, err = c.queryRow(selectLast, func(r row) {
			last := persistence.Version(r.int(0))
			record = persistence.CommandRecord{
				First: last, Last: last,
				Partition: persistence.Partition(r.int(1)), Offset: persistence.Offset(r.int(2)), At: r.time(3),
			}
		}, stream, id)
		if err != nil || !found {
			return err
		}
		return c.query(selectBackwards, func(r row) error {
			if r.command(1) != id {
				return errStop
			}
			record.First = persistence.Version(r.int(0))
			return nil
		}, stream, record.Last)
	})
	if err != nil {
		return persistence.CommandRecord{}, false, fmt.Errorf("find command %s of %s: %w", id, stream, err)
	}
	return record, found, nil
}

// FindClaim returns the stream that holds a unique value.
func (s *Store) FindClaim(ctx context.Context, claim persistence.Claim) (persistence.Stream, bool, error) {
	var holder persistence.Stream
	var found bool
	err := s.read(ctx, func(c *conn) (err error) {
		holder, found, err = findClaim(c, claim)
		return err
	})
	if err != nil {
		return persistence.Stream{}, false, fmt.Errorf("find claim %s %q: %w", claim.Namespace, claim.Key, err)
	}
	return holder, found, nil
}

// Claims lists who holds what, ascending by namespace and key.
func (s *Store) Claims(ctx context.Context, after persistence.Claim, limit int) ([]persistence.HeldClaim, error) {
	var held []persistence.HeldClaim
	err := s.read(ctx, func(c *conn) error {
		held = held[:0]
		return c.query("select ns, key, stream from es_claim where (ns, key) > (?, ?) order by ns, key limit ?", func(r row) error {
			holder, err := r.stream(2)
			held = append(held, persistence.HeldClaim{
				Claim: persistence.Claim{Namespace: r.text(0), Key: r.text(1)}, Holder: holder,
			})
			return err
		}, after.Namespace, after.Key, max(limit, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	return held, nil
}

func findClaim(c *conn, claim persistence.Claim) (holder persistence.Stream, found bool, err error) {
	var parseErr error
	found, err = c.queryRow(selectClaim, func(r row) { holder, parseErr = r.stream(0) }, claim.Namespace, claim.Key)
	if err == nil {
		err = parseErr
	}
	return holder, found, err
}

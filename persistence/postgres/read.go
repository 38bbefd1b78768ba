package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	readSQL = `select part, pos, epoch, version, type, at, cmd, meta, payload from es_event
		where stream = $1 and version > $2 order by version limit $3`
	snapshotsSQL = `select i.n, s.version, s.schema, s.at, s.payload, s.last_cmd, s.last_at
		from unnest($1::text[]) with ordinality i(stream, n) join es_snapshot s on s.stream = i.stream`
	// From the last event in the snapshot on, which the same look at the index
	// finds; its bytes are not wanted.
	readManySQL = `select e.part, e.pos, e.epoch, e.version, e.type, e.at, e.cmd,
			case when e.version > i.version then e.meta end, case when e.version > i.version then e.payload end, i.n
		from unnest($1::text[], $2::bigint[]) with ordinality i(stream, version, n)
		cross join lateral (select * from es_event
			where stream = i.stream and version >= i.version order by version limit $3) e`
	tailSQL = `select e.part, e.pos, e.epoch, e.version, e.type, e.at, e.cmd, e.meta, e.payload, e.stream, i.n
		from unnest($1::int[], $2::bigint[]) with ordinality i(part, pos, n)
		cross join lateral (select * from es_event
			where part = i.part and pos > i.pos order by pos limit $3) e`
	findCommandSQL = `select min(version), max(version), max(part), max(pos), max(at) from es_event
		where stream = $1 and cmd = $2`
	claimsSQL    = `select ns, key, stream from es_claim where (ns, key) > ($1, $2) order by ns, key limit $3`
	findClaimSQL = `select stream from es_claim where ns = $1 and key = $2`
)

// Read returns up to limit events of one stream.
func (s *Store) Read(ctx context.Context, stream persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if limit <= 0 || !isName(stream) {
		return nil, nil
	}
	var events []persistence.Event
	var d decoder
	next := max(after, 0) + 1
	err := s.each(ctx, readSQL, []any{stream.String(), int64(after), limit}, func(row [][]byte) error {
		event, err := d.version(row, stream, next)
		next++
		events = append(events, event)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	return events, nil
}

// ReadMany brings many streams in two round trips: the snapshots, then the
// events behind them, together with the last one in each, which proves it. In
// between a snapshot may be replaced, which does no harm. A third is for the
// streams whose snapshots were not proven.
func (s *Store) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if len(streams) == 0 {
		return nil, nil
	}
	histories, err := s.readMany(ctx, streams, min(max(limit, 0), math.MaxInt32))
	if err != nil {
		return nil, fmt.Errorf("read %d streams: %w", len(streams), err)
	}
	return histories, nil
}

func (s *Store) readMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	histories := make([]persistence.History, len(streams))
	names := make([]string, len(streams))
	for i, stream := range streams {
		if isName(stream) {
			names[i] = stream.String()
		}
	}
	var d decoder
	err := s.each(ctx, snapshotsSQL, []any{names}, func(row [][]byte) error {
		i := int(d.int8(row[0])) - 1
		snapshot := &persistence.Snapshot{
			Stream:  streams[i],
			Version: persistence.Version(d.int8(row[1])),
			Schema:  int(d.int4(row[2])),
			At:      d.timestamp(row[3]),
			Payload: d.bytes(row[4]),
		}
		if row[5] != nil && row[6] != nil {
			snapshot.Last = persistence.Cause{Command: persistence.CommandID(row[5]), At: d.timestamp(row[6])}
		}
		histories[i].Snapshot = snapshot
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.readEvents(ctx, streams, names, limit, histories); err != nil {
		return nil, err
	}
	foreign := false
	for i := range histories {
		if histories[i].Foreign > 0 {
			foreign = true
		} else {
			names[i] = ""
		}
	}
	if foreign {
		err = s.readEvents(ctx, streams, names, limit, histories)
	}
	return histories, err
}

// readEvents reads what is behind the snapshots of the streams that names has
// names of. A snapshot that is not proven by its last event is given up, with
// what was read behind it.
func (s *Store) readEvents(ctx context.Context, streams []persistence.Stream, names []string, limit int, histories []persistence.History) error {
	after := make([]int64, len(histories))
	proven := make([]bool, len(histories))
	for i := range histories {
		if snapshot := histories[i].Snapshot; snapshot != nil {
			after[i] = int64(snapshot.Version)
		} else {
			proven[i] = true
		}
	}
	var d decoder
	// One more than asked for tells whether there is more, and one is in the snapshot.
	err := s.each(ctx, readManySQL, []any{names, after, int64(limit) + 2}, func(row [][]byte) error {
		i := int(d.int8(row[9])) - 1
		h := &histories[i]
		switch {
		case after[i] > 0 && d.int8(row[3]) == after[i]:
			proven[i] = h.Snapshot.Last == d.cause(row)
			h.Anchor = persistence.Offset(d.int8(row[1]))
			return nil
		case !proven[i]:
			return nil
		case len(h.Events) == limit:
			h.More = true
			return nil
		}
		event, err := d.version(row, streams[i], persistence.Version(after[i])+persistence.Version(len(h.Events))+1)
		h.Events = append(h.Events, event)
		return err
	})
	for i := range histories {
		if !proven[i] && names[i] != "" {
			histories[i] = persistence.History{Foreign: histories[i].Snapshot.Version}
		}
	}
	return err
}

// each calls f with every row of a query, until it returns an error. The row is
// only valid during the call.
func (s *Store) each(ctx context.Context, sql string, args []any, f func(row [][]byte) error) error {
	begun := false
	var cut error // what ended a result that had begun, so that it is not tried again
	err := try(ctx, s.reads, repeatable, func() error {
		rows, err := s.reads.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			begun = true
			if cut = f(rows.RawValues()); cut != nil {
				return nil
			}
		}
		if begun {
			cut = rows.Err()
			return nil
		}
		return rows.Err()
	})
	return errors.Join(err, cut)
}

// Tail returns events behind the cursors. That none comes late is the appends'
// doing: offsets are assigned and committed under the partition's lock. // I9
func (s *Store) Tail(ctx context.Context, cursors []persistence.Cursor, limit int) ([]persistence.Event, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if limit <= 0 || len(cursors) == 0 {
		return nil, nil
	}
	parts, after := make([]int32, len(cursors)), make([]int64, len(cursors))
	next := make([]persistence.Offset, len(cursors))
	for i, c := range cursors {
		if err := s.within(c.Partition); err != nil {
			return nil, fmt.Errorf("tail: %w", err)
		}
		parts[i], after[i], next[i] = int32(c.Partition), int64(c.After), max(c.After, 0)+1
	}
	var d decoder
	var events []persistence.Event
	err := s.each(ctx, tailSQL, []any{parts, after, limit}, func(row [][]byte) error {
		stream, err := persistence.ParseStream(string(row[9]))
		if err != nil {
			return err
		}
		event, i := d.event(row, stream), d.int8(row[10])-1
		if event.Offset != next[i] {
			return fmt.Errorf("partition %d: offset %d follows %d: the log is damaged", event.Partition, event.Offset, next[i]-1)
		}
		next[i]++
		events = append(events, event)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tail %d partitions: %w", len(cursors), err)
	}
	return events, nil
}

// FindCommand looks through the whole stream: commands have no index, because
// it would cost every append a quarter, and this is for unknown outcomes only.
func (s *Store) FindCommand(ctx context.Context, stream persistence.Stream, id persistence.CommandID) (persistence.CommandRecord, bool, error) {
	var record persistence.CommandRecord
	if err := s.gate.enter(ctx); err != nil {
		return record, false, err
	}
	defer s.gate.leave()
	if !isName(stream) {
		return record, false, nil
	}
	var d decoder
	found := false
	err := s.each(ctx, findCommandSQL, []any{stream.String(), [16]byte(id)}, func(row [][]byte) error {
		if found = row[0] != nil; found {
			record = persistence.CommandRecord{
				First:     persistence.Version(d.int8(row[0])),
				Last:      persistence.Version(d.int8(row[1])),
				Partition: persistence.Partition(d.int4(row[2])),
				Offset:    persistence.Offset(d.int8(row[3])),
				At:        d.timestamp(row[4]),
			}
		}
		return nil
	})
	if err != nil {
		return record, false, fmt.Errorf("find command %s in %s: %w", id, stream, err)
	}
	return record, found, nil
}

// FindClaim returns the stream that holds a unique value.
func (s *Store) FindClaim(ctx context.Context, claim persistence.Claim) (holder persistence.Stream, found bool, err error) {
	if err := s.gate.enter(ctx); err != nil {
		return holder, false, err
	}
	defer s.gate.leave()
	if !isText(claim.Namespace) || !isText(claim.Key) {
		return holder, false, nil
	}
	err = s.each(ctx, findClaimSQL, []any{claim.Namespace, claim.Key}, func(row [][]byte) (err error) {
		found = true
		holder, err = persistence.ParseStream(string(row[0]))
		return err
	})
	if err != nil {
		return persistence.Stream{}, false, fmt.Errorf("find claim %s %q: %w", claim.Namespace, claim.Key, err)
	}
	return holder, found, nil
}

// Claims lists who holds what, ascending by namespace and key.
func (s *Store) Claims(ctx context.Context, after persistence.Claim, limit int) ([]persistence.HeldClaim, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if !isText(after.Namespace) || !isText(after.Key) {
		return nil, fmt.Errorf("list claims: %q of %q is not valid text", after.Key, after.Namespace)
	}
	var held []persistence.HeldClaim
	err := s.each(ctx, claimsSQL, []any{after.Namespace, after.Key, max(limit, 0)}, func(row [][]byte) error {
		holder, err := persistence.ParseStream(string(row[2]))
		held = append(held, persistence.HeldClaim{
			Claim: persistence.Claim{Namespace: string(row[0]), Key: string(row[1])}, Holder: holder,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	return held, nil
}

// decoder reads PostgreSQL's binary format. It copies what it returns.
type decoder struct{ lastType string }

// event reads the nine columns that all event queries start with.
func (d *decoder) event(row [][]byte, stream persistence.Stream) persistence.Event {
	e := persistence.Event{
		Partition: persistence.Partition(d.int4(row[0])),
		Offset:    persistence.Offset(d.int8(row[1])),
		Epoch:     persistence.Epoch(d.int8(row[2])),
		Stream:    stream,
		Version:   persistence.Version(d.int8(row[3])),
		At:        d.timestamp(row[5]),
		Command:   persistence.CommandID(row[6]),
	}
	if string(row[4]) != d.lastType { // types come in runs
		d.lastType = string(row[4])
	}
	e.Type = d.lastType
	meta, payload := row[7], row[8]
	if len(meta)+len(payload) > 0 {
		both := append(append(make([]byte, 0, len(meta)+len(payload)), meta...), payload...)
		e.Metadata = orNil(both[:len(meta):len(meta)])
		e.Payload = orNil(both[len(meta):])
	}
	return e
}

// cause is what tells the event of a row from others.
func (d *decoder) cause(row [][]byte) persistence.Cause {
	return persistence.Cause{Command: persistence.CommandID(row[6]), At: d.timestamp(row[5])}
}

// version is event for the stream's next one, which it must be.
func (d *decoder) version(row [][]byte, stream persistence.Stream, next persistence.Version) (persistence.Event, error) {
	event := d.event(row, stream)
	if event.Version != next {
		return event, fmt.Errorf("%s: version %d follows %d: the log is damaged", stream, event.Version, next-1)
	}
	return event, nil
}

// orNil makes nothing nil, so that it reads back the same from every store.
func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (d *decoder) int4(b []byte) int32 { return int32(binary.BigEndian.Uint32(b)) } //nolint:gosec // two's complement
func (d *decoder) int8(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) } //nolint:gosec // two's complement

func (d *decoder) timestamp(b []byte) time.Time {
	return time.UnixMicro(d.int8(b) + postgresEpoch).UTC()
}

func (d *decoder) bytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}

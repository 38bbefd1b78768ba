package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// Of each stream the newest that is of this log, because one statement cannot
	// write a row twice; sorted, so that two savers cannot deadlock. It stays out
	// if what is there is no older and of this log too. The rows are compared with
	// what one look at an index finds: an "exists" might be made a join, for which
	// all of the log would be read. The key share lock of the event is against an
	// erasure at the same moment: it waits for this, or this finds the event gone.
	saveSnapshotsSQL = `insert into es_snapshot as s (stream, version, schema, at, payload, last_cmd, last_at)
		select distinct on (i.stream) i.*
		from unnest($1::text[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bytea[], $6::uuid[], $7::timestamptz[])
			i(stream, version, schema, at, payload, cmd, last)
		where (i.cmd, i.last) = (select e.cmd, e.at from es_event e where e.stream = i.stream and e.version = i.version
			for key share)
		order by i.stream, i.version desc
		on conflict (stream) do update set version = excluded.version, schema = excluded.schema, at = excluded.at,
			payload = excluded.payload, last_cmd = excluded.last_cmd, last_at = excluded.last_at
		where s.version < excluded.version or
			((s.last_cmd, s.last_at) = (select e.cmd, e.at from es_event e where e.stream = s.stream and e.version = s.version)) is not true`
	deleteSnapshotsSQL = `delete from es_snapshot where stream = any($1::text[])`

	loadCheckpointsSQL = `select part, pos from es_checkpoint where projection = $1 order by part`
	saveCheckpointsSQL = `insert into es_checkpoint as c (projection, part, pos)
		select $1, * from unnest($2::int[], $3::bigint[])
		on conflict (projection, part) do update set pos = excluded.pos where c.pos < excluded.pos`
	deleteCheckpointsSQL = `delete from es_checkpoint where projection = $1`
)

// SaveSnapshots stores the snapshots that are of this log and newer than what is
// there and of this log too.
func (s *Store) SaveSnapshots(ctx context.Context, snapshots []persistence.Snapshot) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	n := len(snapshots)
	if n == 0 {
		return nil
	}
	streams, versions, schemas := make([]string, n), make([]int64, n), make([]int64, n)
	ats, payloads := make([]time.Time, n), make([][]byte, n)
	commands, lasts := make([][16]byte, n), make([]time.Time, n)
	for i := range snapshots {
		snapshot := &snapshots[i]
		if !isName(snapshot.Stream) {
			return fmt.Errorf("save snapshots: the stream's name %q is not valid", snapshot.Stream.String())
		}
		streams[i], versions[i], schemas[i] = snapshot.Stream.String(), int64(snapshot.Version), int64(snapshot.Schema)
		ats[i], payloads[i] = snapshot.At, snapshot.Payload
		commands[i], lasts[i] = snapshot.Last.Command, snapshot.Last.At
		if payloads[i] == nil {
			payloads[i] = []byte{} // nil is NULL
		}
	}
	return s.change(ctx, "save snapshots", saveSnapshotsSQL, streams, versions, schemas, ats, payloads, commands, lasts)
}

// DeleteSnapshots forgets what is stored for the streams.
func (s *Store) DeleteSnapshots(ctx context.Context, streams []persistence.Stream) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	names := make([]string, 0, len(streams))
	for _, stream := range streams {
		if isName(stream) {
			names = append(names, stream.String())
		}
	}
	slices.Sort(names)
	return s.change(ctx, "delete snapshots", deleteSnapshotsSQL, names)
}

// LoadCheckpoints returns the projection's cursors, ascending by partition.
func (s *Store) LoadCheckpoints(ctx context.Context, projection string) ([]persistence.Cursor, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	var cursors []persistence.Cursor
	var d decoder
	err := s.each(ctx, loadCheckpointsSQL, []any{projection}, func(row [][]byte) error {
		cursors = append(cursors, persistence.Cursor{
			Partition: persistence.Partition(d.int4(row[0])),
			After:     persistence.Offset(d.int8(row[1])),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load checkpoints of %q: %w", projection, err)
	}
	return cursors, nil
}

// SaveCheckpoints moves the projection's cursors forward.
func (s *Store) SaveCheckpoints(ctx context.Context, projection string, cursors []persistence.Cursor) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	furthest := slices.Clone(cursors)
	slices.SortFunc(furthest, func(a, b persistence.Cursor) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(b.After, a.After))
	})
	furthest = slices.CompactFunc(furthest, func(a, b persistence.Cursor) bool { return a.Partition == b.Partition })
	if len(furthest) == 0 {
		return nil
	}
	parts, offsets := make([]int32, len(furthest)), make([]int64, len(furthest))
	for i, c := range furthest {
		if err := s.within(c.Partition); err != nil {
			return fmt.Errorf("save checkpoints of %q: %w", projection, err)
		}
		parts[i], offsets[i] = int32(c.Partition), int64(c.After)
	}
	return s.change(ctx, "save checkpoints", saveCheckpointsSQL, projection, parts, offsets)
}

// DeleteCheckpoints forgets a projection.
func (s *Store) DeleteCheckpoints(ctx context.Context, projection string) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	return s.change(ctx, "delete checkpoints", deleteCheckpointsSQL, projection)
}

// change runs a statement that is a transaction of its own and has the same
// effect when run twice.
func (s *Store) change(ctx context.Context, what, sql string, args ...any) error {
	err := try(ctx, s.reads, repeatable, func() error {
		_, err := s.reads.Exec(ctx, sql, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

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
	saveSnapshotsSQL = `insert into es_snapshot as s (stream, version, schema, at, payload)
		select * from unnest($1::text[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bytea[])
		on conflict (stream) do update
			set version = excluded.version, schema = excluded.schema, at = excluded.at, payload = excluded.payload
			where s.version < excluded.version`
	deleteSnapshotsSQL = `delete from es_snapshot where stream = any($1::text[])`

	loadCheckpointsSQL = `select part, pos from es_checkpoint where projection = $1 order by part`
	saveCheckpointsSQL = `insert into es_checkpoint as c (projection, part, pos)
		select $1, * from unnest($2::int[], $3::bigint[])
		on conflict (projection, part) do update set pos = excluded.pos where c.pos < excluded.pos`
	deleteCheckpointsSQL = `delete from es_checkpoint where projection = $1`
)

// SaveSnapshots stores the snapshots that are newer than what is there.
func (s *Store) SaveSnapshots(ctx context.Context, snapshots []persistence.Snapshot) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	// Sorted, so that two savers cannot deadlock; the newest of a stream only,
	// because one statement cannot write a row twice.
	newest := slices.Clone(snapshots)
	slices.SortStableFunc(newest, func(a, b persistence.Snapshot) int {
		return cmp.Or(cmp.Compare(a.Stream.Type, b.Stream.Type), cmp.Compare(a.Stream.ID, b.Stream.ID), cmp.Compare(b.Version, a.Version))
	})
	newest = slices.CompactFunc(newest, func(a, b persistence.Snapshot) bool { return a.Stream == b.Stream })
	if len(newest) == 0 {
		return nil
	}
	n := len(newest)
	streams, versions, schemas := make([]string, n), make([]int64, n), make([]int64, n)
	ats, payloads := make([]time.Time, n), make([][]byte, n)
	for i, snapshot := range newest {
		if !isName(snapshot.Stream) {
			return fmt.Errorf("save snapshots: the stream's name %q is not valid", snapshot.Stream.String())
		}
		streams[i], versions[i], schemas[i] = snapshot.Stream.String(), int64(snapshot.Version), int64(snapshot.Schema)
		ats[i], payloads[i] = snapshot.At, snapshot.Payload
		if payloads[i] == nil {
			payloads[i] = []byte{} // nil is NULL
		}
	}
	return s.change(ctx, "save snapshots", saveSnapshotsSQL, streams, versions, schemas, ats, payloads)
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

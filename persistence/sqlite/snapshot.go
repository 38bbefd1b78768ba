package sqlite

import (
	"context"
	"fmt"

	"github.com/ingrain-go/ingrain/persistence"
)

// saveSnapshot keeps a snapshot that is of this log, unless one that is no older
// is there and of this log too.
const saveSnapshot = `insert into es_snapshot (stream, version, schema, at, payload, last_cmd, last_at)
	select e.stream, e.version, ?3, ?4, ?5, e.cmd, e.at from es_event e
	where e.stream = ?1 and e.version = ?2 and e.cmd = ?6 and e.at = ?7
	on conflict (stream) do update set version = excluded.version, schema = excluded.schema, at = excluded.at,
		payload = excluded.payload, last_cmd = excluded.last_cmd, last_at = excluded.last_at
	where excluded.version > es_snapshot.version or not exists (select 1 from es_event e where e.stream = es_snapshot.stream
		and e.version = es_snapshot.version and e.cmd = es_snapshot.last_cmd and e.at = es_snapshot.last_at)`

// SaveSnapshots keeps the newest snapshot of each stream that is of its log.
func (s *Store) SaveSnapshots(ctx context.Context, snapshots []persistence.Snapshot) error {
	err := s.write(ctx, func(c *conn) error {
		for i := range snapshots {
			snap := &snapshots[i]
			if err := snap.Stream.Validate(); err != nil {
				return err
			}
			_, err := c.exec(saveSnapshot,
				snap.Stream, snap.Version, snap.Schema, snap.At, snap.Payload, snap.Last.Command, snap.Last.At)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save %d snapshots: %w", len(snapshots), err)
	}
	return nil
}

// DeleteSnapshots forgets the streams' snapshots.
func (s *Store) DeleteSnapshots(ctx context.Context, streams []persistence.Stream) error {
	err := s.write(ctx, func(c *conn) error {
		for _, stream := range streams {
			if !isName(stream) {
				continue
			}
			if _, err := c.exec("delete from es_snapshot where stream = ?", stream); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete %d snapshots: %w", len(streams), err)
	}
	return nil
}

// LoadCheckpoints returns a projection's cursors, ascending by partition.
func (s *Store) LoadCheckpoints(ctx context.Context, projection string) ([]persistence.Cursor, error) {
	var cursors []persistence.Cursor
	err := s.read(ctx, func(c *conn) error {
		cursors = nil
		return c.query("select part, pos from es_checkpoint where projection = ? order by part", func(r row) error {
			cursors = append(cursors, persistence.Cursor{
				Partition: persistence.Partition(r.int(0)), After: persistence.Offset(r.int(1)),
			})
			return nil
		}, projection)
	})
	if err != nil {
		return nil, fmt.Errorf("load checkpoints of %s: %w", projection, err)
	}
	return cursors, nil
}

// SaveCheckpoints moves a projection's cursors forwards, all of them at once.
func (s *Store) SaveCheckpoints(ctx context.Context, projection string, cursors []persistence.Cursor) error {
	err := s.write(ctx, func(c *conn) error {
		for _, cursor := range cursors {
			if err := s.within(cursor.Partition); err != nil {
				return err
			}
			_, err := c.exec(`insert into es_checkpoint (projection, part, pos) values (?, ?, ?)
				on conflict (projection, part) do update set pos = excluded.pos where excluded.pos > pos`,
				projection, cursor.Partition, cursor.After)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save checkpoints of %s: %w", projection, err)
	}
	return nil
}

// DeleteCheckpoints forgets a projection.
func (s *Store) DeleteCheckpoints(ctx context.Context, projection string) error {
	err := s.write(ctx, func(c *conn) error {
		_, err := c.exec("delete from es_checkpoint where projection = ?", projection)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete checkpoints of %s: %w", projection, err)
	}
	return nil
}

package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	selectStep = `select p.epoch, p.owner, coalesce(c.pos, 0) from es_partition p
		left join es_checkpoint c on c.projection = ? and c.part = p.part where p.part = ?`
	moveCheckpoint = `insert into es_checkpoint (projection, part, pos) values (?, ?, ?)
		on conflict (projection, part) do update set pos = excluded.pos`
	resolveLetter = "delete from es_dead_letter where projection = ? and part = ? and pos = ?"
	parkLetter    = `insert or replace into es_dead_letter
		(projection, part, pos, sequence, stream, type, cause, attempts, at) values (?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

// Advance runs the step as one of the file's writes: holding the write lock,
// what it reads of owners and checkpoints stays true until it ends.
func (s *Store) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	if err := step.Validate(s.meta.Partitions); err != nil {
		return err
	}
	var worked error // an error of work's own is returned as it is
	err := s.write(ctx, func(c *conn) error {
		if err := c.step(&step); err != nil {
			return err
		}
		if work == nil {
			return nil
		}
		tx := &tx{conn: c}
		defer tx.end()
		if worked = work(ctx, tx); worked != nil {
			return worked
		}
		return tx.whole()
	})
	if err == nil || worked != nil {
		return worked
	}
	return fmt.Errorf("advance %s: %w", step.Projection, err)
}

// step does what a step says, if its fences and checkpoints stand.
func (c *conn) step(step *persistence.Step) error {
	advances := slices.SortedFunc(slices.Values(step.Advances), func(a, b persistence.Advance) int {
		return cmp.Compare(a.Partition, b.Partition)
	})
	var moved error // a deposed owner hears that first
	for _, a := range advances {
		var epoch persistence.Epoch
		var owner persistence.NodeID
		var stored persistence.Offset
		_, err := c.queryRow(selectStep, func(r row) {
			epoch, owner, stored = persistence.Epoch(r.int(0)), persistence.NodeID(r.text(1)), persistence.Offset(r.int(2))
		}, step.Projection, a.Partition)
		if err != nil {
			return err
		}
		if a.Epoch != 0 && (a.Epoch != epoch || owner != step.Owner || owner == "") {
			return &persistence.FencedError{Partition: a.Partition, Epoch: a.Epoch, Current: epoch, Owner: owner}
		}
		if stored != a.From && moved == nil {
			moved = &persistence.CheckpointMovedError{
				Projection: step.Projection, Partition: a.Partition, From: a.From, Stored: stored,
			}
		}
	}
	if moved != nil {
		return moved
	}
	for _, a := range advances {
		if _, err := c.exec(moveCheckpoint, step.Projection, a.Partition, a.To); err != nil {
			return err
		}
	}
	for _, key := range step.Resolve {
		if _, err := c.exec(resolveLetter, step.Projection, key.Partition, key.Offset); err != nil {
			return err
		}
	}
	for i := range step.Park {
		l := &step.Park[i]
		_, err := c.exec(parkLetter, step.Projection, l.Partition, l.Offset, l.Sequence, l.Stream, l.Type, l.Cause, l.Attempts, l.At)
		if err != nil {
			return err
		}
	}
	return nil
}

// DeadLetters returns a projection's letters by their places.
func (s *Store) DeadLetters(
	ctx context.Context, projection string, after persistence.DeadLetterKey, limit int,
) ([]persistence.DeadLetter, error) {
	var letters []persistence.DeadLetter
	err := s.read(ctx, func(c *conn) error {
		letters = nil
		return c.query(`select part, pos, sequence, stream, type, cause, attempts, at from es_dead_letter
			where projection = ? and (part, pos) > (?, ?) order by part, pos limit ?`, func(r row) error {
			stream, err := r.stream(3)
			letters = append(letters, persistence.DeadLetter{
				Projection: projection,
				DeadLetterKey: persistence.DeadLetterKey{
					Partition: persistence.Partition(r.int(0)), Offset: persistence.Offset(r.int(1)),
				},
				Sequence: r.text(2), Stream: stream, Type: r.text(4),
				Cause: r.text(5), Attempts: int(r.int(6)), At: r.time(7),
			})
			return err
		}, projection, after.Partition, after.Offset, max(limit, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("dead letters of %s: %w", projection, err)
	}
	return letters, nil
}

// ProjectionNames lists what has a checkpoint or a dead letter.
func (s *Store) ProjectionNames(ctx context.Context) ([]string, error) {
	var names []string
	err := s.read(ctx, func(c *conn) error {
		names = nil
		return c.query(`select projection from es_checkpoint union select projection from es_dead_letter order by 1`,
			func(r row) error {
				names = append(names, r.text(0))
				return nil
			})
	})
	if err != nil {
		return nil, fmt.Errorf("list projections: %w", err)
	}
	return names, nil
}

// DeleteProjection forgets checkpoints and dead letters.
func (s *Store) DeleteProjection(ctx context.Context, projection string) error {
	err := s.write(ctx, func(c *conn) error {
		_, checkpoints := c.exec("delete from es_checkpoint where projection = ?", projection)
		_, letters := c.exec("delete from es_dead_letter where projection = ?", projection)
		return errors.Join(checkpoints, letters)
	})
	if err != nil {
		return fmt.Errorf("delete projection %s: %w", projection, err)
	}
	return nil
}

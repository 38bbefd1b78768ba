package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// DueTimers returns the timers that are due, earliest first.
func (s *Store) DueTimers(ctx context.Context, partitions []persistence.Partition, until time.Time, limit int) ([]persistence.Timer, error) {
	limit = max(limit, 0)
	var due []persistence.Timer
	err := s.view(ctx, func(c *conn) error {
		due = due[:0]
		for _, p := range slices.Compact(slices.Sorted(slices.Values(partitions))) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.within(p); err != nil {
				return err
			}
			err := c.query(`select due, id, stream, name, payload from es_timer indexed by es_timer_due
				where part = ? and due <= ? order by due limit ?`, func(r row) error {
				stream, err := r.stream(2)
				due = append(due, persistence.Timer{
					TimerKey:  persistence.TimerKey{Stream: stream, Name: r.text(3)},
					Partition: p,
					Due:       r.time(0),
					ID:        r.command(1),
					Payload:   r.blob(4),
				})
				return err
			}, p, until, limit)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("due timers: %w", err)
	}
	slices.SortStableFunc(due, func(a, b persistence.Timer) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Partition, b.Partition))
	})
	return due[:min(limit, len(due))], nil
}

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const dueTimersSQL = `select t.part, t.due, t.id, t.payload, t.stream, t.name
	from (select distinct part from unnest($1::int[]) p(part)) p
	cross join lateral (select * from es_timer
		where part = p.part and due <= $2 order by due limit $3) t
	order by t.due, t.part limit $3`

// DueTimers returns the timers that are due, earliest first.
func (s *Store) DueTimers(ctx context.Context, partitions []persistence.Partition, until time.Time, limit int) ([]persistence.Timer, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	if limit <= 0 || len(partitions) == 0 {
		return nil, nil
	}
	parts := make([]int32, len(partitions))
	for i, p := range partitions {
		if err := s.within(p); err != nil {
			return nil, fmt.Errorf("due timers: %w", err)
		}
		parts[i] = int32(p)
	}
	var d decoder
	var timers []persistence.Timer
	err := s.each(ctx, dueTimersSQL, []any{parts, until, limit}, func(row [][]byte) error {
		stream, err := persistence.ParseStream(string(row[4]))
		if err != nil {
			return err
		}
		timers = append(timers, persistence.Timer{
			TimerKey:  persistence.TimerKey{Stream: stream, Name: string(row[5])},
			Partition: persistence.Partition(d.int4(row[0])),
			Due:       d.timestamp(row[1]),
			ID:        persistence.CommandID(row[2]),
			Payload:   d.bytes(row[3]),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("due timers of %d partitions: %w", len(partitions), err)
	}
	return timers, nil
}

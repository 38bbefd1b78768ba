package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
)

// writers use a PostgreSQL store as a node's lanes do, without the node: each
// has its own partitions and appends batch after batch.
type writers struct {
	store *pgstore.Store
	dsn   string
	owner persistence.NodeID
	lanes []*writerLane
}

// writerLane is one of them.
type writerLane struct {
	streams  []persistence.Stream
	versions []persistence.Version
	fences   map[persistence.Partition]*persistence.Fence
	batch    persistence.Batch
	next     int
	rows     int64
}

// batchRows is the size that batches have on the whole path under load.
const batchRows = 300

func (b *bench) newWriters(ctx context.Context) (*writers, error) {
	store, dsn, err := b.openStore(ctx, nil)
	if err != nil {
		return nil, err
	}
	w := &writers{store: store, dsn: dsn, owner: persistence.NodeID(aggregate.NewCommandID().String())}
	if err := w.claim(ctx, 2); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return w, nil
}

func (w *writers) claim(ctx context.Context, lanes int) error {
	err := w.store.Join(ctx, persistence.Node{
		ID: w.owner, Cluster: "speed", Address: "127.0.0.1:0", Types: []string{accountType}, State: persistence.Active,
	})
	if err != nil {
		return err
	}
	for range lanes {
		w.lanes = append(w.lanes, &writerLane{fences: map[persistence.Partition]*persistence.Fence{}})
	}
	partitions := w.store.Meta().Partitions
	for p := range partitions {
		tenure, err := w.store.Claim(ctx, persistence.Partition(p), 0, w.owner)
		if err != nil {
			return err
		}
		w.lanes[p%lanes].fences[tenure.Partition] = &persistence.Fence{Partition: tenure.Partition, Epoch: tenure.Epoch, Head: tenure.Head}
	}
	for i := range concurrent {
		s := persistence.Stream{Type: accountType, ID: accountID(i)}
		l := w.lanes[int(persistence.PartitionOf(s, partitions))%lanes]
		l.streams = append(l.streams, s)
	}
	event := []persistence.NewEvent{{Type: "booked", Payload: payload(storedBytes)}}
	for _, l := range w.lanes {
		l.versions = make([]persistence.Version, len(l.streams))
		l.batch.Owner = w.owner
		for range batchRows {
			l.batch.Commits = append(l.batch.Commits, &persistence.Commit{Events: event})
		}
	}
	return nil
}

func (w *writers) run(ctx context.Context, d time.Duration) (s sample, err error) {
	s.batch = batchRows
	var stop atomic.Bool
	var wait sync.WaitGroup
	errs := make([]error, len(w.lanes))
	counts := make([]int64, len(w.lanes))
	begin := time.Now()
	for i, l := range w.lanes {
		wait.Go(func() {
			for !stop.Load() && errs[i] == nil {
				errs[i] = l.append(ctx, w.store)
				counts[i] += batchRows
			}
			if errs[i] != nil {
				stop.Store(true)
			}
		})
	}
	pause(ctx, d, &stop)
	wait.Wait()
	s.elapsed = time.Since(begin)
	for _, n := range counts {
		s.n += n
	}
	return s, errors.Join(first(errs), ctx.Err())
}

// append writes the lane's next batch.
func (l *writerLane) append(ctx context.Context, store *pgstore.Store) error {
	l.batch.Fences = l.batch.Fences[:0]
	fenced := make(map[persistence.Partition]bool, len(l.fences))
	partitions, now := store.Meta().Partitions, time.Now()
	for _, c := range l.batch.Commits {
		i := l.next % len(l.streams)
		l.next++
		c.Stream, c.Expected, c.At = l.streams[i], l.versions[i], now
		l.versions[i]++
		c.Command = persistence.CommandID(aggregate.NewCommandID())
		c.Partition = persistence.PartitionOf(c.Stream, partitions)
		f := l.fences[c.Partition]
		c.Epoch = f.Epoch
		if !fenced[c.Partition] {
			fenced[c.Partition] = true
			l.batch.Fences = append(l.batch.Fences, *f)
		}
	}
	store.Append(ctx, &l.batch)
	for _, c := range l.batch.Commits {
		if c.Err != nil {
			return c.Err
		}
		f := l.fences[c.Partition]
		f.Head = max(f.Head, c.Offset)
	}
	l.rows += int64(len(l.batch.Commits))
	return nil
}

// check compares the table with what was appended.
func (w *writers) check(ctx context.Context) error {
	var rows, appended int64
	if err := ask(ctx, w.dsn, "select count(*) from ingrain.es_event", &rows); err != nil {
		return err
	}
	for _, l := range w.lanes {
		appended += l.rows
	}
	if rows != appended {
		return fmt.Errorf("the store acknowledged %d commits, the table has %d", appended, rows)
	}
	return nil
}

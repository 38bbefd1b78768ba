package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
)

const (
	// rehydrated is how many aggregates there are to bring back, each of one
	// event, and rehydratedBatch how many of them go into one load, as in the
	// loader of a node.
	rehydrated      = 200_000
	rehydratedBatch = 2000
)

// rehydration measures how fast small aggregates come back into memory after a
// move, on one connection, beside the bare query that fetches the same rows
// and throws them away.
func (b *bench) rehydration(ctx context.Context) (_ []*figure, err error) {
	store, dsn, err := b.openStore(ctx, func(c *pgstore.Config) { c.ReadConns = 1 })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	targets, ids := make([]eventsourcing.Target, rehydrated), make([]string, rehydrated)
	for i := range targets {
		s := persistence.Stream{Type: accountType, ID: accountID(i)}
		targets[i], ids[i] = eventsourcing.Target{Definition: accounts.Definition(), Stream: s}, s.String()
	}
	if err := fill(ctx, dsn, rehydrated, 1, store.Meta().Partitions); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	journal, next := eventsourcing.NewJournal(store, nil), 0
	slice := func() (from, to int) {
		from = next
		next = (next + rehydratedBatch) % rehydrated
		return from, from + rehydratedBatch
	}
	taken, err := b.rounds(ctx,
		contender{"rehydration", b.brief, func(ctx context.Context, d time.Duration) (s sample, err error) {
			s.n, s.elapsed, err = closedLoop(ctx, d, 1, func(int) error {
				from, to := slice()
				for i, l := range journal.Load(ctx, targets[from:to]) {
					if state, ok := stateOf(&l); l.Err != nil || !ok || state.Entries != 1 || l.Version != 1 {
						return fmt.Errorf("%s came back at version %d: %w", targets[from+i].Stream, l.Version, errors.Join(l.Err))
					}
				}
				return nil
			})
			s.n *= rehydratedBatch
			return s, err
		}},
		contender{"bare query", b.brief, func(ctx context.Context, d time.Duration) (s sample, err error) {
			s.n, s.elapsed, err = closedLoop(ctx, d, 1, func(int) error {
				from, to := slice()
				return fetch(ctx, conn, ids[from:to])
			})
			s.n *= rehydratedBatch
			return s, err
		}})
	if err != nil {
		return nil, err
	}
	return []*figure{{
		Name: "rehydration", What: "aggregates of one event brought back into memory on one connection", Unit: "streams/s",
		Than: "the bare query for the same events", Goal: valueAtLeast(200_000),
		Of: each(taken[0], sample.rate), Base: each(taken[1], sample.rate),
	}}, nil
}

func stateOf(l *eventsourcing.Loaded) (*account, bool) {
	if l.Instance == nil {
		return nil, false
	}
	state, ok := l.Instance.State().(*account)
	return state, ok
}

// fill writes events for each of the first n accounts, past the store, by COPY,
// in the order that costs the index on streams least.
func fill(ctx context.Context, dsn string, n, events, partitions int) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = accountID(i)
	}
	slices.Sort(ids)
	heads, row, now := make([]int64, partitions), []byte(`{"Cents":1}`), time.Now()
	columns := []string{"part", "pos", "epoch", "stream", "version", "type", "at", "cmd", "payload"}
	written, err := conn.CopyFrom(ctx, pgx.Identifier{"ingrain", "es_event"}, columns, pgx.CopyFromSlice(n*events, func(i int) ([]any, error) {
		s := persistence.Stream{Type: accountType, ID: ids[i/events]}
		p := persistence.PartitionOf(s, partitions)
		heads[p]++
		return []any{int32(p), heads[p], int64(1), s.String(), int64(i%events) + 1, "deposited", now, [16]byte(aggregate.NewCommandID()), row}, nil
	}))
	if err != nil {
		return err
	}
	if written != int64(n*events) {
		return fmt.Errorf("%d of %d events written", written, n*events)
	}
	_, err = conn.Exec(ctx, "vacuum analyze ingrain.es_event")
	return err
}

// fetch reads the events of some streams and looks at none.
func fetch(ctx context.Context, conn *pgx.Conn, ids []string) error {
	rows, err := conn.Query(ctx, `select e.part, e.pos, e.epoch, e.stream, e.version, e.type, e.at, e.cmd, e.meta, e.payload
		from unnest($1::text[]) i(id) cross join lateral (select * from ingrain.es_event e where e.stream = i.id order by e.version) e`, ids)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		if len(rows.RawValues()) != 10 {
			return fmt.Errorf("a row of %d columns", len(rows.RawValues()))
		}
		n++
	}
	if rows.Err() == nil && n != len(ids) {
		return fmt.Errorf("%d events of %d streams", n, len(ids))
	}
	return rows.Err()
}

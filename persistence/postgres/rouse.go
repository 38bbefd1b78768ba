package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ingrain-go/ingrain/persistence"
)

// rousing is what a session runs once, so that its functions are compiled and
// its plans made before somebody waits for them. It changes nothing: there is
// no partition -1, nobody without a name, and nothing in an empty list.
var (
	rousingClaims = []string{
		`select from es_take(-1, 0, '')`,
		`select from es_give(-1, 0, '', '')`,
	}
	rousingLanes = []string{
		`select es_fence('{}', '{}', '{}', '{}', '{}', 0, 0, '')`,
		`select es_expect('{}', '{}')`,
	}
	rousingReads = map[string][]any{
		snapshotsSQL:   {[]string{""}},
		readManySQL:    {[]string{""}, []int64{0}, int64(1)},
		findCommandSQL: {"", [16]byte{}},
	}
	rousingInserts = []struct {
		name   string
		params int
	}{{"event", 10}, {steadyEvent, 13}, {steadyPart, 13}, {steadyParts, 15}}
)

// rouse makes the connections that a member needs when partitions come to it,
// and lets them do everything once. A first connection and a first statement
// take 5 to 20 ms between them, for which the callers of a partition on the move
// would wait. What fails here is tried again, and reported, by who needs it. It
// is done once for a store: two at a time would wait for each other's
// connections.
func (s *Store) rouse(ctx context.Context) {
	var done sync.WaitGroup
	for range cap(s.lanes.tokens) {
		done.Go(func() { s.rouseLane(ctx) })
	}
	s.rousePool(ctx, &done, s.claims, func(ctx context.Context, conn *pgx.Conn) {
		for _, sql := range rousingClaims {
			_, _ = conn.Exec(ctx, sql)
		}
	})
	s.rousePool(ctx, &done, s.reads, func(ctx context.Context, conn *pgx.Conn) {
		for sql, args := range rousingReads {
			_, _ = conn.Exec(ctx, sql, args...)
		}
	})
	done.Wait()
}

// rousePool runs something on every connection that a pool may have.
func (s *Store) rousePool(ctx context.Context, done *sync.WaitGroup, pool *pgxpool.Pool, run func(context.Context, *pgx.Conn)) {
	for _, conn := range s.acquireAll(ctx, pool) {
		done.Go(func() {
			defer conn.Release()
			run(ctx, conn.Conn())
		})
	}
}

// acquireAll takes the connections of a pool that are free or can be made.
func (s *Store) acquireAll(ctx context.Context, pool *pgxpool.Pool) []*pgxpool.Conn {
	var mu sync.Mutex
	var all []*pgxpool.Conn
	var wait sync.WaitGroup
	for range pool.Config().MaxConns - pool.Stat().AcquiredConns() {
		wait.Go(func() {
			if conn, err := pool.Acquire(ctx); err == nil {
				mu.Lock()
				all = append(all, conn)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return all
}

func (s *Store) rouseLane(ctx context.Context) {
	l, err := s.lanes.get(ctx, &persistence.Batch{})
	if err != nil {
		return
	}
	defer s.lanes.put(l)
	if l.ready(ctx) != nil {
		return
	}
	for _, sql := range rousingLanes {
		_, _ = l.conn.Exec(ctx, sql)
	}
	for _, st := range rousingInserts { // of nulls: no row is inserted
		_, _ = l.conn.PgConn().ExecPrepared(ctx, st.name, make([][]byte, st.params), nil, nil).Close()
	}
	l.used = time.Now()
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	_ "github.com/ingrain-go/ingrain/persistence/sqlite" // brings the driver
)

// locks are locks in a database, one for each name.
type locks interface {
	// lock waits for a lock; the function gives it back.
	lock(ctx context.Context, name string) (unlock func(), err error)
	close() error
}

// lockingGateway takes a lock in the database around every command, as those do
// who have no owners. It is a baseline that must lose on speed.
type lockingGateway struct {
	aggregate.Gateway
	locks locks
}

func (g *lockingGateway) Deliver(ctx context.Context, r *aggregate.Request) (aggregate.Response, error) {
	if r.Message.Kind() != aggregate.KindCommand {
		return g.Gateway.Deliver(ctx, r)
	}
	unlock, err := g.locks.lock(ctx, r.Definition.Name()+"/"+r.ID)
	if err != nil {
		return aggregate.Response{}, aggregate.NotDone(aggregate.ReasonStoreDown, err)
	}
	defer unlock()
	return g.Gateway.Deliver(ctx, r)
}

func openLocks(ctx context.Context, s clustertest.Store) (locks, error) {
	if s.DSN != "" {
		pool, err := pgxpool.New(ctx, s.DSN)
		if err != nil {
			return nil, fmt.Errorf("open locks: %w", err)
		}
		return &advisoryLocks{pool}, nil
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.Dir, "locks.db")+
		"?_txlock=immediate&_pragma=busy_timeout(30000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return nil, fmt.Errorf("open locks: %w", err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "create table if not exists lock (name text primary key, until integer not null)"); err != nil {
		return nil, errors.Join(fmt.Errorf("open locks: %w", err), db.Close())
	}
	return &rowLocks{db}, nil
}

// advisoryLocks are PostgreSQL's, held by a connection each.
type advisoryLocks struct{ pool *pgxpool.Pool }

func (l *advisoryLocks) lock(ctx context.Context, name string) (func(), error) {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	key := int64(persistence.PartitionOf(persistence.Stream{Type: "lock", ID: name}, 1<<30))
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", key); err != nil {
		conn.Release()
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), startPatience)
		defer cancel()
		if _, err := conn.Exec(ctx, "select pg_advisory_unlock($1)", key); err != nil {
			_ = conn.Conn().Close(ctx) // the lock ends with it
		}
		conn.Release()
	}, nil
}

func (l *advisoryLocks) close() error {
	l.pool.Close()
	return nil
}

// rowLocks are rows of a table: SQLite has no other lock with a name. A row that
// is too old is that of a process that died.
type rowLocks struct{ db *sql.DB }

// rowLockLife is how long a lock lasts whose holder does not give it back.
const rowLockLife = 5 * time.Second

func (l *rowLocks) lock(ctx context.Context, name string) (func(), error) {
	for {
		now := time.Now()
		result, err := l.db.ExecContext(ctx, `insert into lock values (?1, ?2)
			on conflict (name) do update set until = ?2 where until < ?3`, name, now.Add(rowLockLife).UnixMicro(), now.UnixMicro())
		if err != nil {
			return nil, err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return func() {
				ctx, cancel := context.WithTimeout(context.Background(), rowLockLife)
				defer cancel()
				_, _ = l.db.ExecContext(ctx, "delete from lock where name = ?", name) // else it ends by its age
			}, err
		}
		retry := time.NewTimer(time.Millisecond)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return nil, ctx.Err()
		}
	}
}

func (l *rowLocks) close() error { return l.db.Close() }

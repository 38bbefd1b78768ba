package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
)

// flushTime is what a flush of the log to disk takes on a server in a data
// centre, or more.
const flushTime = time.Millisecond

// slowDisk compares one hot aggregate with one commit per round trip on a disk
// that needs flushTime for a flush. Where the disk is faster, the server is
// told to wait: who flushes the log holds its lock meanwhile, as it would
// during a slower flush.
func (b *bench) slowDisk(ctx context.Context) (_ []*figure, err error) {
	const name = "postgres-hot-round-trip-1ms"
	ours, err := b.slowDatabase(ctx)
	if forbidden(err) {
		b.progress("  %s is left out: only a superuser may slow the disk down: %v", name, err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	theirs, err := b.slowDatabase(ctx)
	if err != nil {
		return nil, err
	}
	base, err := b.newBaselineIn(ctx, theirs)
	if err != nil {
		return nil, err
	}
	store, err := pgstore.Open(ctx, pgstore.Config{DSN: ours})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	p, err := newPath(ctx, store, 1)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	taken, err := b.rounds(ctx,
		contender{"one hot aggregate, flush of 1 ms", b.brief, func(ctx context.Context, d time.Duration) (sample, error) {
			return p.run(ctx, d, 64)
		}},
		contender{"one commit per round trip, flush of 1 ms", b.brief, func(ctx context.Context, d time.Duration) (sample, error) {
			s, err := base.singles(ctx, d)
			if err == nil && s.n > 0 && s.elapsed/time.Duration(s.n) < flushTime {
				err = fmt.Errorf("%d commits in %s: the flush is too fast", s.n, s.elapsed)
			}
			return s, err
		}})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkPath(ctx, ours, p.booked), base.check(ctx)); err != nil {
		return nil, err
	}
	return []*figure{(&figure{
		Name: name, What: "one hot aggregate on PostgreSQL, 64 callers, on a disk whose flush takes 1 ms", Unit: "commands/s",
		Than: "one INSERT and commit per round trip, 1 connection, the same disk", Goal: ratioAtLeast(20),
	}).rates(taken[0], taken[1])}, nil
}

// slowDatabase makes an empty database on which a flush takes flushTime at
// least, and returns its DSN.
func (b *bench) slowDatabase(ctx context.Context) (string, error) {
	dsn, err := b.database(ctx)
	if err != nil {
		return "", err
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", err
	}
	for _, setting := range []string{fmt.Sprintf("commit_delay = %d", flushTime.Microseconds()), "commit_siblings = 0"} {
		if err := execute(ctx, dsn, "alter database "+pgx.Identifier{config.Database}.Sanitize()+" set "+setting); err != nil {
			return "", fmt.Errorf("%s: %w", setting, err)
		}
	}
	return dsn, nil
}

// forbidden reports whether the server refused for lack of privileges.
func forbidden(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == "42501" // insufficient_privilege
}

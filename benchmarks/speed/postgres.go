package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// postgres is the server that figures are measured on: one of our own, or the
// one that -dsn names.
type postgres struct {
	server    *postgrestest.Server
	admin     string
	databases []string // made on the server that -dsn names
}

// database makes an empty one and returns its DSN.
func (b *bench) database(ctx context.Context) (dsn string, err error) {
	if b.admin == "" {
		if b.admin = b.dsn; b.dsn == "" {
			b.progress("starting a PostgreSQL server")
			if b.server, err = postgrestest.Start(ctx, ""); err != nil {
				return "", err
			}
			b.admin = b.server.DSN("postgres")
		}
		if err := ask(ctx, b.admin, "show server_version", &b.machine.Postgres); err != nil {
			return "", err
		}
	}
	if b.server != nil {
		return b.server.CreateDatabase(ctx)
	}
	name := fmt.Sprintf("ingrain_speed_%d_%d", os.Getpid(), len(b.databases))
	if err := execute(ctx, b.admin, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	b.databases = append(b.databases, name)
	return withDatabase(b.admin, name), nil
}

// stop ends the server, or drops the databases made on it.
func (p *postgres) stop() error {
	if p.server != nil {
		return p.server.Stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	for _, name := range p.databases {
		errs = append(errs, execute(ctx, p.admin, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)"))
	}
	return errors.Join(errs...)
}

// withDatabase replaces the database in a DSN of either form.
func withDatabase(dsn, name string) string {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		if u, err := url.Parse(dsn); err == nil {
			u.Path = "/" + name
			return u.String()
		}
	}
	return dsn + " dbname=" + name // the last one counts
}

func execute(ctx context.Context, dsn, sql string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func ask(ctx context.Context, dsn, sql string, into ...any) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// openStore opens a store in a new database.
func (b *bench) openStore(ctx context.Context, adjust func(*pgstore.Config)) (*pgstore.Store, string, error) {
	dsn, err := b.database(ctx)
	if err != nil {
		return nil, "", err
	}
	config := pgstore.Config{DSN: dsn}
	if adjust != nil {
		adjust(&config)
	}
	store, err := pgstore.Open(ctx, config)
	return store, dsn, err
}

// durable measures all figures whose ceiling is the server alone, pgbench and
// what is compared with it in one round.
func (b *bench) durable(ctx context.Context) (_ []*figure, err error) {
	var contenders []contender
	var checks []func(context.Context) error
	var closers []func() error
	defer func() {
		for _, c := range closers {
			err = errors.Join(err, c())
		}
	}()
	index := map[string]int{}
	add := func(name, what string, length time.Duration, s func(context.Context, time.Duration) (sample, error)) {
		index[name] = len(contenders)
		contenders = append(contenders, contender{what, length, s})
	}

	base, err := b.newBaseline(ctx)
	if err != nil {
		return nil, err
	}
	checks = append(checks, base.check)
	add("pgbench", "pgbench, the server alone", b.length, base.pgbench)

	if b.wants("postgres-store") {
		writers, err := b.newWriters(ctx)
		if err != nil {
			return nil, err
		}
		closers = append(closers, writers.store.Close)
		checks = append(checks, writers.check)
		add("store", "the store alone", b.length, writers.run)
	}
	addPath := func(name, what string, aggregates, callers int) error {
		store, dsn, err := b.openStore(ctx, nil)
		if err != nil {
			return err
		}
		p, err := newPath(ctx, store, aggregates)
		if err != nil {
			return errors.Join(err, store.Close())
		}
		closers = append(closers, func() error { p.stop(); return store.Close() })
		checks = append(checks, func(ctx context.Context) error { return checkPath(ctx, dsn, p.booked) })
		add(name, what, b.length, func(ctx context.Context, d time.Duration) (sample, error) { return p.run(ctx, d, callers) })
		return nil
	}
	if b.wants("postgres-commands", "cost-cpu-postgres", "cost-allocs-postgres") {
		if err := addPath("path", "whole path on PostgreSQL", concurrent, concurrent); err != nil {
			return nil, err
		}
	}
	if b.wants("postgres-hot-ceiling", "postgres-hot-round-trip") {
		if err := addPath("hot", "one hot aggregate on PostgreSQL", 1, 64); err != nil {
			return nil, err
		}
	}
	if b.wants("postgres-hot-round-trip") {
		add("single", "one commit per round trip", b.brief, base.singles)
	}
	taken, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	for _, check := range checks {
		if err := check(ctx); err != nil {
			return nil, err
		}
	}
	of := func(name string) []sample {
		if i, ok := index[name]; ok {
			return taken[i]
		}
		return nil
	}
	return b.durableFigures(of), nil
}

// durableFigures are those of the samples that were taken.
func (b *bench) durableFigures(of func(string) []sample) []*figure {
	path, server, hot := of("path"), of("pgbench"), of("hot")
	const same = "pgbench inserting the same rows, 300 at a time, 2 clients"
	var measured []*figure
	if path != nil {
		measured = append(measured, (&figure{
			Name: "postgres-commands", What: "durable commands through the whole path on PostgreSQL, 1,024 aggregates", Unit: "commands/s",
			Than: same, Goal: ratioAtLeast(0.60),
		}).rates(path, server))
	}
	if store := of("store"); store != nil {
		measured = append(measured, (&figure{
			Name: "postgres-store", What: "the PostgreSQL store alone, 2 lanes, 300 commits a batch", Unit: "commits/s",
			Than: same, Goal: ratioAtLeast(0.68),
		}).rates(store, server))
	}
	if hot != nil {
		measured = append(measured, (&figure{
			Name: "postgres-hot-ceiling", What: "one hot aggregate on PostgreSQL, 64 callers", Unit: "commands/s",
			Than: same, Goal: ratioAtLeast(0.35),
		}).rates(hot, server))
	}
	if single := of("single"); hot != nil && single != nil {
		measured = append(measured, (&figure{
			Name: "postgres-hot-round-trip", What: "one hot aggregate on PostgreSQL, 64 callers", Unit: "commands/s",
			Than: "one INSERT and commit per round trip, 1 connection",
			Note: "no goal: it depends on the disk, and where a flush costs next to nothing one commit per round trip is quick; see postgres-hot-round-trip-1ms",
		}).rates(hot, single))
	}
	if path != nil {
		measured = append(measured, &figure{
			Name: "cost-cpu-postgres", What: "processor time of a durable command in this process, 1,024 aggregates", Unit: "us",
			Than: "the server's own for the same row under pgbench", Note: b.serverNote(path),
			Of: each(path, sample.selfMicros), Base: each(server, sample.serverMicros),
		}, &figure{
			Name: "cost-allocs-postgres", What: "allocations of a durable command in this process, 1,024 aggregates", Unit: "objects",
			Of: each(path, sample.allocations),
		})
	}
	return measured
}

func (b *bench) serverNote(path []sample) string {
	if b.server == nil {
		return "" // another machine's, perhaps
	}
	return fmt.Sprintf("the server takes %s us more", amount(median(each(path, sample.serverMicros))))
}

// checkPath compares the events in the database with what was acknowledged.
func checkPath(ctx context.Context, dsn string, booked *bookings) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `select stream, count(*), max(version), count(distinct cmd) from ingrain.es_event group by stream`)
	if err != nil {
		return err
	}
	counts := map[string]int64{}
	for rows.Next() {
		var stream string
		var events, version, commands int64
		if err := rows.Scan(&stream, &events, &version, &commands); err != nil {
			return err
		}
		if version != events || commands != events {
			return fmt.Errorf("%s: %d events of %d commands end at version %d", stream, events, commands, version)
		}
		counts[strings.TrimPrefix(stream, accountType+"/")] = events
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return compare(counts, booked)
}

// latency compares the time from when a command is due until it is acknowledged
// with that of a single INSERT, both at 1,000 a second.
func (b *bench) latency(ctx context.Context) (_ []*figure, err error) {
	const rate = 1000
	base, err := b.newBaseline(ctx)
	if err != nil {
		return nil, err
	}
	store, dsn, err := b.openStore(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	p, err := newPath(ctx, store, concurrent)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	command := bookOf(storedBytes)
	taken, err := b.rounds(ctx,
		contender{"commands, 1,000 a second", b.middle, func(ctx context.Context, d time.Duration) (sample, error) {
			begin := time.Now()
			latencies, err := openLoop(ctx, d, rate, func(n int) error { return p.booked.send(ctx, n%concurrent, command) })
			return sample{n: int64(len(latencies)), elapsed: time.Since(begin), latencies: latencies}, err
		}},
		contender{"INSERTs, 1,000 a second", b.middle, func(ctx context.Context, d time.Duration) (sample, error) {
			return base.singlesAt(ctx, d, rate)
		}})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkPath(ctx, dsn, p.booked), base.check(ctx)); err != nil {
		return nil, err
	}
	at := func(q float64) func(sample) float64 {
		return func(s sample) float64 { return float64(percentile(s.latencies, q).Nanoseconds()) / 1e3 }
	}
	figures := []*figure{{
		Name: "postgres-latency-p50", What: "commit latency on PostgreSQL at 1,000 commands a second, median", Unit: "us",
		Than: "a single INSERT at the same rate, 16 connections", Goal: ratioAtMost(1.3),
		Of: each(taken[0], at(0.50)), Base: each(taken[1], at(0.50)),
		curves: []curve{{"command", quantiles(taken[0])}, {"single INSERT", quantiles(taken[1])}},
	}, {
		Name: "postgres-latency-p99", What: "commit latency on PostgreSQL at 1,000 commands a second, 99th percentile", Unit: "us",
		Than: "a single INSERT at the same rate, 16 connections",
		Of:   each(taken[0], at(0.99)), Base: each(taken[1], at(0.99)),
	}}
	return figures, nil
}

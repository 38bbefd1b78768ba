package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	modernc "modernc.org/sqlite"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// concurrent is the number of aggregates, each with one caller in a closed
// loop, of the figures on durable commands.
const concurrent = 1024

// sqlite compares the whole path on SQLite with the bare driver, which inserts
// the same rows into the same table in as large batches as the path has just
// formed, and checks nothing.
func (b *bench) sqlite(ctx context.Context) (_ []*figure, err error) {
	dir, err := os.MkdirTemp("", "ingrain-speed-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := sqlite.Open(ctx, sqlite.Config{Dir: filepath.Join(dir, "path")})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	bare, err := openBare(ctx, filepath.Join(dir, "bare"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	path, err := newPath(ctx, store, concurrent)
	if err != nil {
		return nil, err
	}
	defer path.stop()
	batch := 1.0
	taken, err := b.rounds(ctx,
		contender{"whole path on SQLite", b.middle, func(ctx context.Context, d time.Duration) (sample, error) {
			s, err := path.run(ctx, d, concurrent)
			batch = max(1, s.batch)
			return s, err
		}},
		contender{"bare driver", b.middle, func(ctx context.Context, d time.Duration) (sample, error) { return bare.run(ctx, d, int(batch)) }})
	if err != nil {
		return nil, err
	}
	inStore, err := stored(ctx, store)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(compare(inStore, path.booked), bare.check()); err != nil {
		return nil, err
	}
	f := &figure{
		Name: "sqlite-commands", What: "durable commands through the whole path on SQLite, 1,024 aggregates", Unit: "commands/s",
		Than: "the bare driver inserting the same rows in the same batches", Goal: ratioAtLeast(0.70),
	}
	return []*figure{f.rates(taken[0], taken[1])}, nil
}

// bareSQLite is a store's file in the hands of the driver alone.
type bareSQLite struct {
	conn       driver.Conn
	statements []driver.Stmt
	begin      func([]driver.NamedValue) error
	insert     func([]driver.NamedValue) error
	commit     func([]driver.NamedValue) error

	streams  []string
	parts    []int64
	versions []int64
	heads    []int64
	payload  []byte
	rows     int64
	next     int
}

func openBare(ctx context.Context, dir string) (_ *bareSQLite, err error) {
	store, err := sqlite.Open(ctx, sqlite.Config{Dir: dir}) // makes the tables
	if err != nil {
		return nil, err
	}
	partitions := store.Meta().Partitions
	if err := store.Close(); err != nil {
		return nil, err
	}
	address := url.URL{Scheme: "file", Path: filepath.Join(dir, "ingrain.db")}
	b := &bareSQLite{heads: make([]int64, partitions), versions: make([]int64, concurrent), payload: payload(storedBytes)}
	if b.conn, err = new(modernc.Driver).Open(address.String()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, pragma := range []string{"synchronous = full", "cache_size = -65536", "wal_autocheckpoint = 10000"} {
		if _, err := b.conn.(driver.ExecerContext).ExecContext(ctx, "pragma "+pragma, nil); err != nil {
			return nil, err
		}
	}
	for sql, f := range map[string]*func([]driver.NamedValue) error{
		"begin immediate": &b.begin, "commit": &b.commit,
		"insert into es_event (part, pos, epoch, stream, version, type, at, cmd, meta, payload) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)": &b.insert,
	} {
		statement, err := b.conn.Prepare(sql)
		if err != nil {
			return nil, err
		}
		b.statements = append(b.statements, statement)
		*f = func(args []driver.NamedValue) error {
			_, err := statement.(driver.StmtExecContext).ExecContext(context.Background(), args)
			return err
		}
	}
	for i := range concurrent {
		s := persistence.Stream{Type: accountType, ID: accountID(i)}
		b.streams = append(b.streams, s.String())
		b.parts = append(b.parts, int64(persistence.PartitionOf(s, partitions)))
	}
	return b, nil
}

// run inserts batches for d.
func (b *bareSQLite) run(ctx context.Context, d time.Duration, batch int) (sample, error) {
	args := make([]driver.NamedValue, 10)
	for i := range args {
		args[i].Ordinal = i + 1
	}
	command, s, begin := make([]byte, 16), sample{batch: float64(batch)}, time.Now()
	for time.Since(begin) < d && ctx.Err() == nil {
		if err := b.begin(nil); err != nil {
			return s, err
		}
		for range batch {
			i := b.next % len(b.streams)
			b.next++
			p := b.parts[i]
			b.heads[p]++
			b.versions[i]++
			args[0].Value, args[1].Value, args[2].Value = p, b.heads[p], int64(1)
			args[3].Value, args[4].Value, args[5].Value = b.streams[i], b.versions[i], "booked"
			args[6].Value, args[7].Value, args[8].Value, args[9].Value = time.Now().UnixMicro(), command, nil, b.payload
			if err := b.insert(args); err != nil {
				return s, err
			}
		}
		if err := b.commit(nil); err != nil {
			return s, err
		}
		s.n += int64(batch)
	}
	s.elapsed = time.Since(begin)
	b.rows += s.n
	return s, ctx.Err()
}

// check compares the table with what was inserted.
func (b *bareSQLite) check() error {
	rows, err := b.conn.(driver.QueryerContext).QueryContext(context.Background(), "select count(*) from es_event", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	count := make([]driver.Value, 1)
	if err := rows.Next(count); err != nil {
		return err
	}
	if count[0] != b.rows {
		return fmt.Errorf("the bare driver inserted %d rows, the table has %v", b.rows, count[0])
	}
	return nil
}

func (b *bareSQLite) close() error {
	var errs []error
	for _, s := range b.statements {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, b.conn.Close())...)
}

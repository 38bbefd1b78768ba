package sqlite

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ingrain-go/ingrain/persistence"
)

// Migrations run forwards only, each once, and are never edited: their names
// are NNNN_what.sql, and NNNN is the schema version they bring about.
//
//go:embed migrations/*.sql
var migrations embed.FS

type migration struct {
	version   int
	name, sql string
}

// applicationID marks the file as ours; migration 1 writes it.
const applicationID = 1231972210

// migrate brings the file to the newest schema, creating it with the given
// number of partitions if it is empty. Any number of processes may do so at
// once: one does the work under the write lock, the others find it done.
func (s *Store) migrate(ctx context.Context, c *conn, partitions int) error {
	all, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	var version int
	inspect := func() (err error) {
		version, err = inspect(c, all[len(all)-1].version)
		return err
	}
	if err := s.retry(ctx, inspect); err != nil { // before the file is touched
		return err
	}
	if err := s.useWAL(ctx, c); err != nil {
		return err
	}
	if version == all[len(all)-1].version {
		return nil
	}
	if err := s.begin(ctx, c); err != nil {
		return err
	}
	err = inspect()
	if err == nil {
		err = apply(c, all, version, partitions)
	}
	return end(c, err)
}

// end commits c's transaction, or rolls it back if there was an error.
func end(c *conn, err error) error {
	if err == nil {
		err = c.script("commit")
	}
	if err != nil {
		return errors.Join(err, c.script("rollback"))
	}
	return nil
}

// readMigrations returns the migrations in order of their versions, which have
// no gaps.
func readMigrations(from fs.FS) ([]migration, error) {
	files, err := fs.Glob(from, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	all := make([]migration, 0, len(files))
	for i, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", name, i+1)
		}
		sql, err := fs.ReadFile(from, file)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version, name, string(sql)})
	}
	return all, nil
}

// inspect returns the file's schema version, 0 for an empty file. It refuses
// files that are not ours, and schemas newer than this build knows.
func inspect(c *conn, newest int) (int, error) {
	var id, tables int64
	// Tables first: another process may make them at this very moment, together
	// with the id.
	err := c.query("select count(*) from sqlite_schema", func(r row) error { tables = r.int(0); return nil })
	if err == nil {
		err = c.query("pragma application_id", func(r row) error { id = r.int(0); return nil })
	}
	switch {
	case err != nil:
		return 0, err
	case id == 0 && tables == 0:
		return 0, nil
	case id != applicationID:
		return 0, setupError("the file is the database of another program", nil)
	}
	var version int
	err = c.query("select max(version) from es_schema", func(r row) error { version = int(r.int(0)); return nil })
	if err != nil {
		return 0, err
	}
	if version > newest {
		return 0, setupError(fmt.Sprintf("its schema is version %d, this build knows versions up to %d", version, newest), nil)
	}
	return version, nil
}

func apply(c *conn, all []migration, version, partitions int) error {
	err := c.script(`create table if not exists es_schema (
		version integer primary key, name text not null, applied_at integer not null)`)
	if err != nil {
		return err
	}
	for _, m := range all[version:] {
		if err := c.script(m.sql); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
		_, err := c.exec("insert into es_schema (version, name, applied_at) values (?, ?, ?)", m.version, m.name, time.Now())
		if err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	if version > 0 {
		return nil
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return fmt.Errorf("make a store id: %w", err)
	}
	_, err = c.exec("insert into es_meta (one, store_id, partitions, created_at) values (1, ?, ?, ?)",
		hex.EncodeToString(id[:]), partitions, time.Now())
	if err != nil {
		return err
	}
	_, err = c.exec(`insert into es_partition (part)
		with recursive p (n) as (select 0 union all select n + 1 from p where n + 1 < ?) select n from p`, partitions)
	return err
}

// useWAL turns the write-ahead log on, which lasts. SQLite does not wait by
// itself while another connection does the same.
func (s *Store) useWAL(ctx context.Context, c *conn) error {
	var mode string
	err := s.retry(ctx, func() error {
		return c.query("pragma journal_mode = wal", func(r row) error { mode = r.text(0); return nil })
	})
	if err != nil {
		return err
	}
	if mode != "wal" {
		return setupError(fmt.Sprintf("the file system does not allow a write-ahead log (journal mode %s); use a local disk", mode), nil)
	}
	return nil
}

func readMeta(c *conn) (persistence.Meta, error) {
	var meta persistence.Meta
	found, err := c.queryRow("select store_id, partitions, (select max(version) from es_schema) from es_meta", func(r row) {
		meta = persistence.Meta{StoreID: r.text(0), Partitions: int(r.int(1)), Schema: int(r.int(2)), Dialect: "sqlite"}
	})
	if err == nil && !found {
		err = setupError("the file has no store in it: its tables are damaged", nil)
	}
	return meta, err
}

func setupError(reason string, err error) *persistence.SetupError {
	return &persistence.SetupError{Store: "sqlite", Reason: reason, Err: err}
}

// explain turns what went wrong while opening the store in dir into a
// SetupError, unless the caller's context ended.
func explain(dir string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("open sqlite store %s: %w", dir, err)
	}
	var setup *persistence.SetupError
	if !errors.As(err, &setup) {
		reason := fileName + " cannot be used"
		switch code(err) & 0xff {
		case sqlite3.SQLITE_NOTADB:
			reason = fileName + " is not a SQLite database"
		case sqlite3.SQLITE_CORRUPT:
			reason = fileName + " is damaged"
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
			reason = fileName + " cannot be written"
		case sqlite3.SQLITE_CANTOPEN:
			reason = fileName + " cannot be opened or created"
		}
		setup = setupError(reason, err)
		err = setup
	}
	setup.Place = dir
	return fmt.Errorf("open %w", err)
}

package postgres

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/persistence"
)

// Files are named NNNN_what.sql, numbered from 1 without gaps. A released one
// never changes.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

type migration struct {
	version int
	name    string
	sql     string
}

func migrations() ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []migration
	for _, path := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != len(all)+1 {
			return nil, fmt.Errorf("migration %s is out of sequence", name)
		}
		sql, err := migrationFiles.ReadFile(path)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version: version, name: name, sql: string(sql)})
	}
	return all, nil
}

// setUp checks the server and creates or updates the schema, all in one
// transaction, which waits for others that do the same.
func setUp(ctx context.Context, base *pgx.ConnConfig, config *Config) (meta persistence.Meta, err error) {
	defer func() {
		if err != nil {
			err = opening(config.place(base), err)
		}
	}()
	conn, err := pgx.ConnectConfig(ctx, session(base, setupRole, config.Schema, nil))
	if err != nil {
		return meta, unfit(err, base, config.Schema)
	}
	defer func() {
		// After success a failing goodbye has no consequence.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if e := conn.Close(closing); err != nil {
			err = errors.Join(err, e)
		}
	}()
	if err := checkServer(ctx, conn, base, config); err != nil {
		return meta, err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		meta, err = migrate(ctx, tx, config)
		return err
	})
	if setup := (*persistence.SetupError)(nil); err != nil && !errors.As(err, &setup) {
		return meta, unfit(err, base, config.Schema)
	}
	return meta, err
}

func checkServer(ctx context.Context, conn *pgx.Conn, base *pgx.ConnConfig, config *Config) error {
	var version int
	var encoding, fsync string
	if err := conn.QueryRow(ctx, `select current_setting('server_version_num')::int, current_setting('server_encoding'),
		current_setting('fsync')`).Scan(&version, &encoding, &fsync); err != nil {
		return unfit(err, base, config.Schema)
	}
	if version < 130000 {
		return refuse("the server is PostgreSQL %d, at least 13 is needed", version/10000)
	}
	if encoding != "UTF8" {
		return refuse("the database's encoding is %s, UTF8 is needed", encoding)
	}
	if fsync != "on" {
		config.Logger.Warn("the server runs with fsync off: a crash of its machine loses what was acknowledged")
	}
	return nil
}

func migrate(ctx context.Context, tx pgx.Tx, config *Config) (meta persistence.Meta, err error) {
	all, err := migrations()
	if err != nil {
		return meta, refuse("%v", err)
	}
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('ingrain ' || $1, 0))`, config.Schema); err != nil {
		return meta, err
	}
	// "if not exists" would ask for permissions that an existing schema makes
	// needless.
	var schemaExists, tableExists bool
	if err := tx.QueryRow(ctx, `select to_regnamespace($1) is not null, to_regclass($2) is not null`,
		pgx.Identifier{config.Schema}.Sanitize(), pgx.Identifier{config.Schema, "es_migration"}.Sanitize()).
		Scan(&schemaExists, &tableExists); err != nil {
		return meta, err
	}
	if !schemaExists {
		if _, err := tx.Exec(ctx, "create schema "+pgx.Identifier{config.Schema}.Sanitize()); err != nil {
			return meta, err
		}
	}
	if !tableExists {
		if _, err := tx.Exec(ctx, `create table es_migration (
			version int primary key, name text not null, at timestamptz not null default now())`); err != nil {
			return meta, err
		}
	}
	if tableExists {
		if err := checkGrants(ctx, tx, config.Schema); err != nil {
			return meta, err
		}
	}
	var current int
	if err := tx.QueryRow(ctx, `select coalesce(max(version), 0) from es_migration`).Scan(&current); err != nil {
		return meta, err
	}
	if current > len(all) {
		return meta, refuse("its schema has version %d, this build knows up to %d", current, len(all))
	}
	for _, m := range all[current:] {
		if _, err := tx.Conn().PgConn().Exec(ctx, m.sql).ReadAll(); err != nil {
			return meta, fmt.Errorf("migration %s: %w", m.name, err)
		}
		if _, err := tx.Exec(ctx, `insert into es_migration (version, name) values ($1, $2)`, m.version, m.name); err != nil {
			return meta, err
		}
	}
	return readMeta(ctx, tx, config, len(all))
}

// readMeta returns what the store was created with, creating it first when it
// is new.
func readMeta(ctx context.Context, tx pgx.Tx, config *Config, schema int) (meta persistence.Meta, err error) {
	meta.Dialect = "postgres"
	var id [16]byte
	var noted *string
	var place string
	err = tx.QueryRow(ctx, `select m.store_id, m.partitions, m.place, `+placeSQL+` from es_meta m`).
		Scan(&id, &meta.Partitions, &noted, &place)
	switch {
	case err == nil && (noted == nil || *noted != place):
		meta.Copied = noted != nil
		err = settle(ctx, tx, meta.Copied)
	case errors.Is(err, pgx.ErrNoRows):
		meta.Partitions = config.Partitions
		if meta.Partitions == 0 {
			meta.Partitions = DefaultPartitions
		}
		if _, err := rand.Read(id[:]); err != nil {
			return meta, refuse("make a store id: %v", err)
		}
		if _, err = tx.Exec(ctx, `insert into es_meta (store_id, partitions) values ($1, $2)`, id, meta.Partitions); err == nil {
			_, err = tx.Exec(ctx, `insert into es_partition (part) select generate_series(0, $1 - 1)`, meta.Partitions)
		}
		if err == nil {
			err = settle(ctx, tx, false)
		}
	}
	if err != nil {
		return meta, err
	}
	if config.Partitions != 0 && config.Partitions != meta.Partitions {
		return meta, refuse("it was created with %d partitions, not %d", meta.Partitions, config.Partitions)
	}
	meta.StoreID = hex.EncodeToString(id[:])
	meta.Schema = schema
	return meta, nil
}

// settle notes where the store is. The nodes of a copied one live elsewhere, if
// at all.
func settle(ctx context.Context, tx pgx.Tx, copied bool) error {
	if copied {
		if _, err := tx.Exec(ctx, `update es_node set state = 'dead' where state <> 'dead'`); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `update es_meta m set place = `+placeSQL)
	return err
}

// opening says of an error that it ended Open, and of which store.
func opening(place string, err error) error {
	var setup *persistence.SetupError
	if errors.As(err, &setup) {
		setup.Place = place
	}
	return fmt.Errorf("open %w", err)
}

func refuse(format string, args ...any) error {
	return &persistence.SetupError{Store: storeName, Reason: fmt.Sprintf(format, args...)}
}

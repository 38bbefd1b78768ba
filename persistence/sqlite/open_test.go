package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// alter runs SQL on a store's file behind the store's back.
func alter(t *testing.T, dir, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "ingrain.db"))
	require.NoError(t, err)
	_, err = db.Exec(statements)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// schemaVersion is what the migrations bring about.
func schemaVersion(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("migrations/*.sql")
	require.NoError(t, err)
	return len(files)
}

func TestOpenExplainsWhatIsWrong(t *testing.T) {
	newest := schemaVersion(t)
	create := func(t *testing.T) string {
		dir := t.TempDir()
		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Partitions: 4})
		require.NoError(t, err)
		require.NoError(t, s.Close())
		return dir
	}
	write := func(t *testing.T, content string) string {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "ingrain.db"), []byte(content), 0o640))
		return dir
	}
	for _, c := range []struct {
		name   string
		config func(t *testing.T) sqlite.Config
		reason string
	}{
		{"no directory", func(*testing.T) sqlite.Config { return sqlite.Config{} }, "no directory given"},
		{"too many partitions", func(t *testing.T) sqlite.Config {
			return sqlite.Config{Dir: t.TempDir(), Partitions: 65_537}
		}, "65537 partitions, want 1 to 65536"},
		{"negative partitions", func(t *testing.T) sqlite.Config {
			return sqlite.Config{Dir: t.TempDir(), Partitions: -1}
		}, "-1 partitions"},
		{"negative connections", func(t *testing.T) sqlite.Config {
			return sqlite.Config{Dir: t.TempDir(), ReadConns: -1}
		}, "-1 reading connections"},
		{"another number of partitions", func(t *testing.T) sqlite.Config {
			return sqlite.Config{Dir: create(t), Partitions: 8}
		}, "created with 4 partitions, not 8"},
		{"a newer schema", func(t *testing.T) sqlite.Config {
			dir := create(t)
			alter(t, dir, "insert into es_schema values (1000, '1000_future', 0)")
			return sqlite.Config{Dir: dir}
		}, fmt.Sprintf("schema is version 1000, this build knows versions up to %d", newest)},
		{"not a database", func(t *testing.T) sqlite.Config {
			return sqlite.Config{Dir: write(t, strings.Repeat("this is not a database\n", 1000))}
		}, "is not a SQLite database"},
		{"a short text", func(t *testing.T) sqlite.Config {
			return sqlite.Config{Dir: write(t, "hello")}
		}, "is not a SQLite database"},
		{"another program's database", func(t *testing.T) sqlite.Config {
			dir := t.TempDir()
			alter(t, dir, "create table songs (title text)")
			return sqlite.Config{Dir: dir}
		}, "database of another program"},
		{"a marked database of another program", func(t *testing.T) sqlite.Config {
			dir := t.TempDir()
			alter(t, dir, "pragma application_id = 42")
			return sqlite.Config{Dir: dir}
		}, "database of another program"},
		{"tables without a store", func(t *testing.T) sqlite.Config {
			dir := create(t)
			alter(t, dir, "delete from es_meta")
			return sqlite.Config{Dir: dir}
		}, "no store in it"},
		{"a file for a directory", func(t *testing.T) sqlite.Config {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, nil, 0o640))
			return sqlite.Config{Dir: file}
		}, "cannot be made"},
		{"a directory below a file", func(t *testing.T) sqlite.Config {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, nil, 0o640))
			return sqlite.Config{Dir: filepath.Join(file, "store")}
		}, "cannot be made"},
		{"a directory that takes no new file", func(t *testing.T) sqlite.Config {
			dir := t.TempDir()
			// A name that is taken by a directory cannot be written as a file,
			// not even by root.
			require.NoError(t, os.Mkdir(filepath.Join(dir, "ingrain.lock"), 0o750))
			return sqlite.Config{Dir: dir}
		}, "cannot be written"},
		{"a directory for a file", func(t *testing.T) sqlite.Config {
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "ingrain.db"), 0o750))
			return sqlite.Config{Dir: dir}
		}, "cannot be opened or created"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := sqlite.Open(t.Context(), c.config(t))
			require.Nil(t, s)
			var setup *persistence.SetupError
			require.ErrorAs(t, err, &setup)
			require.Equal(t, "sqlite", setup.Store)
			require.ErrorContains(t, err, c.reason)
		})
	}
}

func TestOpenRefusesWithoutTouching(t *testing.T) {
	dir := t.TempDir()
	alter(t, dir, "create table songs (title text)")
	before, err := os.ReadFile(filepath.Join(dir, "ingrain.db"))
	require.NoError(t, err)
	_, err = sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	require.Error(t, err)
	after, err := os.ReadFile(filepath.Join(dir, "ingrain.db"))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestOpenHonoursContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := sqlite.Open(ctx, sqlite.Config{Dir: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}

func TestOpenTakesStrangeNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c%20#d", "new")
	s := openStore(t, sqlite.Config{Dir: dir, Partitions: 3})
	require.Equal(t, 3, s.Meta().Partitions)
	require.Equal(t, schemaVersion(t), s.Meta().Schema)
	require.FileExists(t, filepath.Join(dir, "ingrain.db"))
	again := openStore(t, sqlite.Config{Dir: dir})
	require.Equal(t, s.Meta(), again.Meta())
}

func TestManyGoroutinesCreateOneStore(t *testing.T) {
	dir := t.TempDir()
	stores := make([]*sqlite.Store, 8)
	errs := make([]error, len(stores))
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() { stores[i], errs[i] = sqlite.Open(t.Context(), sqlite.Config{Dir: dir}) })
	}
	wg.Wait()
	for i, s := range stores {
		require.NoError(t, errs[i])
		require.Equal(t, stores[0].Meta(), s.Meta())
		require.NoError(t, s.Close())
	}
}

func TestCloseTwice(t *testing.T) {
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.View(t.Context())
	require.ErrorIs(t, err, persistence.ErrClosed)
}

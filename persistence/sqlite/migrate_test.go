package sqlite

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

func TestMigrationsRunInOrderAndOnce(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	all, err := readMigrations(migrations)
	require.NoError(t, err)
	require.Equal(t, len(all), s.Meta().Schema)
	next := migration{len(all) + 1, "next", "create table es_next (x integer)"}
	require.NoError(t, s.write(t.Context(), func(c *conn) error {
		return apply(c, append(all, next), len(all), 99)
	}))
	require.NoError(t, s.read(t.Context(), func(c *conn) error {
		meta, err := readMeta(c)
		require.Equal(t, persistence.Meta{StoreID: s.meta.StoreID, Partitions: 1, Schema: next.version, Dialect: "sqlite"}, meta)
		return err
	}))
}

func TestMigrationsHaveNoGaps(t *testing.T) {
	file := func() *fstest.MapFile { return &fstest.MapFile{Data: []byte("select 1")} }
	for _, names := range [][]string{{"0002_a.sql"}, {"0001_a.sql", "0003_b.sql"}, {"0001_a.sql", "0001_b.sql"}, {"x.sql"}} {
		files := fstest.MapFS{}
		for _, name := range names {
			files["migrations/"+name] = file()
		}
		_, err := readMigrations(files)
		require.Error(t, err, names)
	}
}

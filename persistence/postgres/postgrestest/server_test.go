package postgrestest

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestServerSurvivesKillAndIsRemoved(t *testing.T) {
	ctx := t.Context()
	s, err := Start(ctx, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })

	dsn, err := s.CreateDatabase(ctx)
	require.NoError(t, err)
	require.NoError(t, execute(ctx, dsn, "create table kept as select 7 as n"))

	require.NoError(t, s.Kill9())
	require.Error(t, execute(ctx, dsn, "select 1"))
	require.NoError(t, s.Restart(ctx))

	for _, dsn := range []string{dsn, s.TCP("ingrain_1")} {
		conn, err := pgx.Connect(ctx, dsn)
		require.NoError(t, err)
		var n int
		var fsync string
		require.NoError(t, conn.QueryRow(ctx, "select n, current_setting('fsync') from kept").Scan(&n, &fsync))
		require.Equal(t, 7, n)
		require.Equal(t, "on", fsync)
		require.NoError(t, conn.Close(ctx))
	}

	dir := s.dir
	require.NoError(t, s.Stop())
	require.NoError(t, s.Stop(), "stopping twice is harmless")
	require.NoDirExists(t, dir)
}

func TestDSNIsAFreshDatabase(t *testing.T) {
	a, b := DSN(t), DSN(t)
	require.NotEqual(t, a, b)
	require.NoError(t, execute(context.Background(), a, "create table t()"))
	require.NoError(t, execute(context.Background(), b, "create table t()"))
}

func TestNewestServerIsFound(t *testing.T) {
	sorted := []string{
		"/usr/lib/postgresql/18/bin", "/usr/pgsql-17/bin", "/opt/homebrew/opt/postgresql@16/bin", "/usr/lib/postgresql/10/bin",
		"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/9.5.24/bin", "/usr/lib/postgresql/9.5/bin", "/usr/local/pgsql/bin",
	}
	for i, newer := range sorted {
		for _, older := range sorted[i+1:] {
			require.Negative(t, byVersion(newer, older), "%s, %s", newer, older)
			require.Positive(t, byVersion(older, newer), "%s, %s", older, newer)
		}
		require.Zero(t, byVersion(newer, newer))
	}
	require.Zero(t, byVersion("/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql/bin"))
}

func TestWithDatabase(t *testing.T) {
	require.Equal(t, "postgres://u:p@h:1/new?sslmode=disable", withDatabase("postgres://u:p@h:1/old?sslmode=disable", "new"))
	require.Equal(t, "host=h dbname=old dbname=new", withDatabase("host=h dbname=old", "new"))
}

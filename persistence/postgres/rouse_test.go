package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

func TestAMemberHasItsConnectionsBeforeItNeedsThem(t *testing.T) {
	dsn := postgrestest.DSN(t)
	store, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Partitions: 4, Lanes: 3, ReadConns: 5})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	before, err := store.View(t.Context())
	require.NoError(t, err)

	for _, id := range []persistence.NodeID{"a", "b"} { // twice, as in one process with two nodes
		require.NoError(t, store.Join(t.Context(), persistence.Node{ID: id, Cluster: "c", State: persistence.Joining}))
	}

	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	roles := map[string]int{}
	rows, err := conn.Query(t.Context(), `select split_part(application_name, ' ', 2), count(*)::int from pg_stat_activity
		where application_name like 'ingrain %' and datname = current_database() group by 1`)
	require.NoError(t, err)
	for rows.Next() {
		var role string
		var n int
		require.NoError(t, rows.Scan(&role, &n))
		roles[role] = n
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 3, roles["writer"])
	require.Equal(t, 5, roles["reader"])
	require.Equal(t, 4, roles["claimer"])
	after, err := store.View(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Partitions, after.Partitions, "nothing is changed by it")
}

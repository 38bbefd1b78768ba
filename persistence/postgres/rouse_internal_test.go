package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// What rouse runs must work: it does not look at errors.
func TestRousingStatementsWorkAndChangeNothing(t *testing.T) {
	store, err := Open(t.Context(), Config{DSN: postgrestest.DSN(t), Partitions: 4})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	before, err := store.View(t.Context())
	require.NoError(t, err)
	l, err := store.lanes.get(t.Context(), &persistence.Batch{})
	require.NoError(t, err)
	defer store.lanes.put(l)
	require.NoError(t, l.ready(t.Context()))
	for _, sql := range append(rousingLanes, rousingClaims...) {
		_, err := l.conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	for _, st := range rousingInserts {
		tag, err := l.conn.PgConn().ExecPrepared(t.Context(), st.name, make([][]byte, st.params), nil, nil).Close()
		require.NoError(t, err, st.name)
		require.Zero(t, tag.RowsAffected(), st.name)
	}
	for sql, args := range rousingReads {
		_, err := l.conn.Exec(t.Context(), sql, args...)
		require.NoError(t, err, sql)
	}
	after, err := store.View(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)
}

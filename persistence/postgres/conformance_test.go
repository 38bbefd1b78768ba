package postgres_test

import (
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

func TestConformance(t *testing.T) {
	var dsns sync.Map // persistence.Store -> string
	open := func(t *testing.T, dsn string, partitions int) persistence.Store {
		s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Partitions: partitions})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		dsns.Store(persistence.Store(s), dsn)
		return s
	}
	persistencetest.Run(t, persistencetest.Harness{
		Open: func(t *testing.T, partitions int) persistence.Store {
			return open(t, postgrestest.DSN(t), partitions)
		},
		Again: func(t *testing.T, s persistence.Store) persistence.Store {
			dsn, ok := dsns.Load(s)
			require.True(t, ok)
			return open(t, dsn.(string), 0)
		},
		SetBack: func(t *testing.T, s persistence.Store, p persistence.Partition, head persistence.Offset) {
			dsn, ok := dsns.Load(s)
			require.True(t, ok)
			exec(t, raw(t, dsn.(string)), `delete from es_event where part = $1 and pos > $2`, int32(p), int64(head))
		},
		Copy: func(t *testing.T, s persistence.Store) persistence.Store {
			dsn, ok := dsns.Load(s)
			require.True(t, ok)
			elsewhere := postgrestest.DSN(t)
			postgrestest.Restore(t, elsewhere, postgrestest.Dump(t, dsn.(string)))
			return open(t, elsewhere, 0)
		},
	})
}

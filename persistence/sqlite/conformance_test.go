package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

func TestConformance(t *testing.T) {
	dirs := make(map[persistence.Store]string)
	open := func(t *testing.T, config sqlite.Config) persistence.Store {
		s, err := sqlite.Open(t.Context(), config)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		dirs[s] = config.Dir
		return s
	}
	persistencetest.Run(t, persistencetest.Harness{
		Open: func(t *testing.T, partitions int) persistence.Store {
			return open(t, sqlite.Config{Dir: t.TempDir(), Partitions: partitions})
		},
		Again: func(t *testing.T, s persistence.Store) persistence.Store {
			return open(t, sqlite.Config{Dir: dirs[s]})
		},
		SetBack: func(t *testing.T, s persistence.Store, p persistence.Partition, head persistence.Offset) {
			alter(t, dirs[s], fmt.Sprintf("delete from es_event where part = %d and pos > %d", p, head))
		},
		Copy: func(t *testing.T, s persistence.Store) persistence.Store {
			elsewhere := t.TempDir()
			alter(t, dirs[s], "vacuum into '"+filepath.Join(elsewhere, "ingrain.db")+"'")
			return open(t, sqlite.Config{Dir: elsewhere})
		},
	})
}

package sqlite_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

func TestOpenNamesTheStoreItMeans(t *testing.T) {
	dir := t.TempDir()
	openStore(t, sqlite.Config{Dir: dir, Partitions: 4})
	for partitions, reason := range map[int]string{8: "it was created with 4 partitions, not 8", -1: "-1 partitions, want 1 to 65536"} {
		_, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Partitions: partitions})
		require.EqualError(t, err, "open sqlite store "+dir+": "+reason)
		var setup *persistence.SetupError
		require.ErrorAs(t, err, &setup)
		require.Equal(t, dir, setup.Place)
	}
}

func TestForeignClusterIsToldWhoseTheStoreIs(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, sqlite.Config{Dir: dir})
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: "a", Cluster: "one", State: persistence.Active}))
	require.EqualError(t, s.Join(t.Context(), persistence.Node{ID: "b", Cluster: "two", State: persistence.Active}),
		"sqlite store "+dir+`: it belongs to cluster "one", and Config.Name is "two"`)
}

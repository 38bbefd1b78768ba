package sqlite_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// left makes a store whose one node went without a word, and returns its
// directory.
func left(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Partitions: 2})
	require.NoError(t, err)
	o, err := own(t.Context(), s, "original", []persistence.Partition{0, 1})
	require.NoError(t, err)
	batch := o.batch(commit(account(1), 0, 3))
	s.Append(t.Context(), batch)
	require.NoError(t, batch.Commits[0].Err)
	require.NoError(t, s.Close())
	return dir
}

func requireNodes(t *testing.T, s *sqlite.Store, alive, dead int) persistence.View {
	t.Helper()
	view, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, view.Nodes, alive)
	require.Len(t, view.Dead, dead)
	return view
}

func TestCopiedDirectoryKeepsNoNodesAlive(t *testing.T) {
	dir, elsewhere := left(t), filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(elsewhere, os.DirFS(dir)))
	original := openStore(t, sqlite.Config{Dir: dir})
	require.False(t, original.Meta().Copied)

	// Any number of processes may open the copy at once; one of them notes it.
	copies := make([]*sqlite.Store, 6)
	errs := make([]error, len(copies))
	var group sync.WaitGroup
	for i := range copies {
		group.Go(func() { copies[i], errs[i] = sqlite.Open(t.Context(), sqlite.Config{Dir: elsewhere}) })
	}
	group.Wait()
	noticed := 0
	for i, s := range copies {
		require.NoError(t, errs[i])
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		if s.Meta().Copied {
			noticed++
		}
		require.Equal(t, original.Meta().StoreID, s.Meta().StoreID)
	}
	require.Equal(t, 1, noticed)

	here, there := requireNodes(t, original, 1, 0), requireNodes(t, copies[0], 0, 1)
	require.Equal(t, here.Partitions, there.Partitions)
	require.NotEqual(t, here.Lineage, there.Lineage)
	events, err := copies[0].Read(t.Context(), account(1), 0, 10)
	require.NoError(t, err)
	require.Len(t, events, 3)
}

func TestMovedDirectoryKeepsItsNodes(t *testing.T) {
	dir := left(t)
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	require.NoError(t, err)
	before := requireNodes(t, s, 1, 0)
	require.NoError(t, s.Close())
	elsewhere := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(dir, elsewhere))
	s = openStore(t, sqlite.Config{Dir: elsewhere})
	require.False(t, s.Meta().Copied)
	require.Equal(t, before, requireNodes(t, s, 1, 0))
}

func TestRestoredDirectoryKeepsNoNodesAlive(t *testing.T) {
	dir, backup := left(t), filepath.Join(t.TempDir(), "backup")
	require.NoError(t, os.CopyFS(backup, os.DirFS(dir)))
	require.NoError(t, os.Rename(dir, dir+".broken"))
	require.NoError(t, os.CopyFS(dir, os.DirFS(backup)))
	s := openStore(t, sqlite.Config{Dir: dir})
	require.True(t, s.Meta().Copied)
	requireNodes(t, s, 0, 1)
}

package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// On a slow disk a single commit uses up the patience of those who wait behind
// the turnstile. If they stood outside from then on, whoever is in it would
// always come before them.
func TestWriterWhosePatienceEndedQueuesAgain(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: "node", State: persistence.Active}))
	inside, err := openFileLock(filepath.Join(filepath.Dir(s.path), lockName))
	require.NoError(t, err)
	defer func() { require.NoError(t, inside.close()) }()
	writing, err := connect(s.path, "busy_timeout = 5000")
	require.NoError(t, err)
	defer func() { require.NoError(t, writing.close()) }()

	require.True(t, inside.tryLock())
	require.NoError(t, writing.script("begin immediate"))
	renewed := make(chan error, 1)
	go func() {
		_, err := s.Renew(t.Context(), persistence.Renewal{Node: "node", State: persistence.Active})
		renewed <- err
	}()
	require.Never(t, func() bool { return len(renewed) > 0 }, 2*patience, patience)
	inside.unlock()
	require.Eventually(t, func() bool {
		free := inside.tryLock()
		if free {
			inside.unlock()
		}
		return !free
	}, 10*time.Second, 5*time.Millisecond, "the writer passes the turnstile")
	require.Empty(t, renewed)
	require.NoError(t, writing.script("rollback"))
	require.NoError(t, <-renewed)
	require.True(t, inside.tryLock(), "it has left the turnstile")
}

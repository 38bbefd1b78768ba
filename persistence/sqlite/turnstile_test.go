package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

func TestBusyWriterLetsOthersIn(t *testing.T) {
	dir := t.TempDir()
	busy, other := openAt(t, dir, defaultWALLimits), openAt(t, dir, defaultWALLimits)
	n := joined(t, busy, "busy")
	require.NoError(t, other.Join(t.Context(), persistence.Node{ID: "other", State: persistence.Active}))
	ctx, cancel := context.WithCancel(t.Context())
	var appends int
	started, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c := write(fmt.Sprint(appends), 0, 1)
			if err := n.append(context.Background(), busy, c); err != nil {
				t.Error(err)
				return
			}
			if appends++; appends == 10 {
				close(started)
			}
		}
	}()
	<-started
	const renewals = 100
	var longest time.Duration
	for range renewals {
		start := time.Now()
		_, err := other.Renew(t.Context(), persistence.Renewal{Node: "other", State: persistence.Active})
		require.NoError(t, err)
		longest = max(longest, time.Since(start))
	}
	cancel()
	<-done
	t.Logf("%d appends during %d renewals, the longest of which took %v", appends, renewals, longest)
	require.Less(t, longest, time.Second)
}

func TestStoppedProcessInTheTurnstileIsPassed(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	stopped, err := openFileLock(filepath.Join(filepath.Dir(s.path), lockName))
	require.NoError(t, err)
	require.True(t, stopped.tryLock())
	defer func() { require.NoError(t, stopped.close()) }()
	for i := range persistence.Version(20) {
		require.NoError(t, n.append(t.Context(), s, write("a", i, 1)))
	}
	require.False(t, s.turnstile.ignoreUntil.IsZero(), "it was distrusted, and not waited for again")
}

package sqlite

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

func TestLogIsTidiedUpWhenIdle(t *testing.T) {
	s := openAt(t, t.TempDir(), walLimits{idle: time.Millisecond, tidy: 1, full: 1 << 40})
	n := joined(t, s, "node")
	require.NoError(t, n.append(t.Context(), s, write("a", 0, 1)))
	require.Eventually(t, func() bool {
		// The database file itself has what was in the log.
		info, err := os.Stat(s.path)
		return err == nil && info.Size() > 4096
	}, 10*time.Second, time.Millisecond)
}

// TestLogIsBoundedUnderReaders keeps a reader in the log at nearly every
// moment, for which SQLite alone would let it grow for ever.
func TestLogIsBoundedUnderReaders(t *testing.T) {
	const full = 4 << 20
	s := openAt(t, t.TempDir(), walLimits{idle: time.Hour, tidy: 1, full: full, pause: time.Millisecond})
	n := joined(t, s, "node")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	turn := make(chan struct{}, 1) // to leave; who has left gives it to the other
	turn <- struct{}{}
	for range 2 {
		readers.Go(func() {
			for {
				err := s.view(context.Background(), func(c *conn) error {
					_, err := s.readView(c)
					<-turn
					return err
				})
				turn <- struct{}{}
				if err != nil {
					t.Error(err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	payload := []byte(strings.Repeat("x", 64<<10))
	var shortened int
	before := s.wal.size()
	for version := persistence.Version(0); shortened < 5; version++ {
		require.Less(t, version, persistence.Version(20_000), "1.2 GiB were written")
		c := write("a", version, 1)
		c.Events[0].Payload = payload
		require.NoError(t, n.append(t.Context(), s, c))
		after := s.wal.size()
		if after < before/2 {
			shortened++
		}
		before = after
	}
	close(stop)
	readers.Wait()
}

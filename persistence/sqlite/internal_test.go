package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

func openAt(t *testing.T, dir string, limits walLimits) *Store {
	t.Helper()
	s, err := open(t.Context(), Config{Dir: dir, Partitions: 1}, limits)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// node writes to the one partition of a store.
type node struct {
	id    persistence.NodeID
	epoch persistence.Epoch
	head  persistence.Offset
}

func joined(t *testing.T, s *Store, id persistence.NodeID) *node {
	t.Helper()
	n := &node{id: id}
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: id, State: persistence.Active}))
	n.claim(t, s)
	return n
}

func (n *node) claim(t *testing.T, s *Store) {
	t.Helper()
	view, err := s.View(t.Context())
	require.NoError(t, err)
	tenure, err := s.Claim(t.Context(), 0, view.Partitions[0].Epoch, n.id)
	require.NoError(t, err)
	n.epoch, n.head = tenure.Epoch, tenure.Head
}

func (n *node) append(ctx context.Context, s *Store, commits ...*persistence.Commit) error {
	for _, c := range commits {
		c.Epoch = n.epoch
	}
	s.Append(ctx, &persistence.Batch{
		Owner: n.id, Fences: []persistence.Fence{{Epoch: n.epoch, Head: n.head}}, Commits: commits,
	})
	var errs []error
	for _, c := range commits {
		if errs = append(errs, c.Err); c.Err == nil && c.Offset > 0 {
			n.head = c.Offset + persistence.Offset(len(c.Events)) - 1
		}
	}
	return errors.Join(errs...)
}

func write(id string, expected persistence.Version, events int) *persistence.Commit {
	c := &persistence.Commit{
		Stream: persistence.Stream{Type: "account", ID: id}, Expected: expected,
		Command: persistence.CommandID{byte(expected) + 1}, At: time.UnixMicro(1),
	}
	for range events {
		c.Events = append(c.Events, persistence.NewEvent{Type: "deposited", Payload: []byte("1")})
	}
	return c
}

func requireConflict(t *testing.T, err error, expected, actual persistence.Version) {
	t.Helper()
	var conflict *persistence.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, expected, conflict.Expected)
	require.Equal(t, actual, conflict.Actual)
}

// failCommit makes the next COMMIT do what is given, and fail.
func failCommit(s *Store, what string) error {
	boom := errors.New("disk on fire")
	w := <-s.writer
	commit := w.commit
	w.commit = func() error {
		w.commit = commit
		if what != "" {
			if _, err := w.conn.exec(what); err != nil {
				return err
			}
		}
		return boom
	}
	s.writer <- w
	return boom
}

func TestFailedCommitHasUnknownOutcome(t *testing.T) {
	for what, happened := range map[string]bool{
		"":         false, // the transaction is still open
		"rollback": false, // SQLite gave it up by itself
		"commit":   true,  // it was durable before the error
	} {
		t.Run("it did "+what, func(t *testing.T) {
			ctx := t.Context()
			s := openAt(t, t.TempDir(), defaultWALLimits)
			n := joined(t, s, "node")
			require.NoError(t, n.append(ctx, s, write("a", 0, 1)))

			boom := failCommit(s, what)
			stale := write("a", 7, 1)
			err := n.append(ctx, s, write("a", 1, 2), stale)
			require.ErrorIs(t, err, persistence.ErrUnknownOutcome)
			require.ErrorIs(t, err, boom)
			require.NotErrorIs(t, stale.Err, persistence.ErrUnknownOutcome, "it had failed before")
			requireConflict(t, stale.Err, 7, 3)

			n.claim(t, s)
			_, found, err := s.FindCommand(ctx, stale.Stream, persistence.CommandID{2})
			require.NoError(t, err)
			require.Equal(t, happened, found)
			version := persistence.Version(1)
			if happened {
				version = 3
			}
			requireConflict(t, n.append(ctx, s, write("a", 4-version, 1)), 4-version, version)
			require.NoError(t, n.append(ctx, s, write("a", version, 1)))
			events, err := s.Tail(ctx, []persistence.Cursor{{}}, 10)
			require.NoError(t, err)
			require.Len(t, events, int(version)+1)
		})
	}
}

// lateContext is cancelled once it has been asked some times.
type lateContext struct {
	context.Context
	left int
}

func (c *lateContext) Err() error {
	if c.left == 0 {
		return context.Canceled
	}
	c.left--
	return nil
}

func TestCancelledBatchLeavesNothingWhereverItStops(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	require.NoError(t, n.append(t.Context(), s, write("a", 0, 1)))
	for looks := 0; ; looks++ {
		commits := []*persistence.Commit{write("a", 1, 3)}
		for i := range 40 {
			commits = append(commits, write(fmt.Sprint("b", i), 0, 1))
		}
		err := n.append(&lateContext{t.Context(), looks}, s, commits...)
		if err == nil {
			require.Greater(t, looks, 5, "it was cancelled in the middle, too")
			break
		}
		for _, c := range commits {
			require.ErrorIs(t, c.Err, context.Canceled)
			require.NotErrorIs(t, c.Err, persistence.ErrUnknownOutcome)
			require.Zero(t, c.Offset)
		}
		requireConflict(t, n.append(t.Context(), s, write("a", 4, 1)), 4, 1) // nothing is remembered either
	}
	require.NoError(t, n.append(t.Context(), s, write("a", 4, 1)))
	require.Equal(t, persistence.Offset(45), n.head)
}

func TestVersionsOfAnotherHandleAreSeen(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	one, other := openAt(t, dir, defaultWALLimits), openAt(t, dir, defaultWALLimits)
	n := joined(t, one, "node")
	require.NoError(t, n.append(ctx, one, write("a", 0, 1))) // one remembers 1
	require.NoError(t, n.append(ctx, other, write("a", 1, 1)))
	requireConflict(t, n.append(ctx, one, write("a", 1, 1)), 1, 2)
	require.NoError(t, n.append(ctx, one, write("a", 2, 1)))
	requireConflict(t, n.append(ctx, other, write("a", 2, 1)), 2, 3)
}

// TestUndoneBatchIsForgottenWhenTheHeadsMeet: the head alone does not tell that
// what this handle wrote was undone, when another wrote as much in its place.
func TestUndoneBatchIsForgottenWhenTheHeadsMeet(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	one, other := openAt(t, dir, defaultWALLimits), openAt(t, dir, defaultWALLimits)
	n := joined(t, one, "node")
	boom := failCommit(one, "")
	err := n.append(ctx, one, write("a", 0, 3))
	require.ErrorIs(t, err, boom)
	require.ErrorIs(t, err, persistence.ErrUnknownOutcome)
	require.NoError(t, n.append(ctx, other, write("b", 0, 3)))
	requireConflict(t, n.append(ctx, one, write("a", 3, 1)), 3, 0)
}

func TestGapsAreConflictsWhateverIsRemembered(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, t.TempDir(), defaultWALLimits)
	w := <-s.writer
	w.versions = newVersions(8)
	s.writer <- w
	n := joined(t, s, "node")
	for i := range 40 { // most are forgotten again
		require.NoError(t, n.append(ctx, s, write(fmt.Sprint(i), 0, 5)))
	}
	for i := range 40 {
		id := fmt.Sprint(i)
		requireConflict(t, n.append(ctx, s, write(id, 7, 1)), 7, 5)
		requireConflict(t, n.append(ctx, s, write(id, 4, 1)), 4, 5)
		requireConflict(t, n.append(ctx, s, write(id, 0, 1)), 0, 5)
		requireConflict(t, n.append(ctx, s, write(id, 4, 0)), 4, 5)
		require.NoError(t, n.append(ctx, s, write(id, 5, 0)))
		require.NoError(t, n.append(ctx, s, write(id, 5, 1)))
	}
	requireConflict(t, n.append(ctx, s, write("new", 1, 1)), 1, 0)
	require.LessOrEqual(t, len(w.versions.young)+len(w.versions.old), 8)
}

func TestTooLargeCommitIsRefusedAlone(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	big := write("a", 0, 1)
	big.Events[0].Payload = make([]byte, maxCommitBytes)
	small := write("b", 0, 1)
	require.ErrorIs(t, n.append(t.Context(), s, big, small), persistence.ErrTooLarge)
	require.NoError(t, small.Err)
	require.Equal(t, persistence.Offset(1), small.Offset)
}

// lockOut holds the file's write lock, as another process would.
func lockOut(t *testing.T, s *Store) (unlock func()) {
	t.Helper()
	c, err := connect(s.path, "busy_timeout = 5000")
	require.NoError(t, err)
	require.NoError(t, c.script("begin immediate"))
	return func() { require.NoError(t, c.close()) }
}

func TestLockedFileIsWaitedForUntilTheContextEnds(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	unlock := lockOut(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := n.append(ctx, s, write("a", 0, 1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, persistence.ErrUnknownOutcome)

	done := make(chan error)
	go func() { done <- n.append(t.Context(), s, write("a", 0, 1)) }()
	require.Eventually(t, func() bool { return len(s.writer) == 0 }, 5*time.Second, time.Millisecond, "the append has the writer")
	unlock()
	require.NoError(t, <-done)
}

func TestCloseWaitsForCallsInFlight(t *testing.T) {
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	unlock := lockOut(t, s)
	appended, closed := make(chan error, 1), make(chan error, 1)
	go func() { appended <- n.append(t.Context(), s, write("a", 0, 1)) }()
	require.Eventually(t, func() bool { return len(s.writer) == 0 }, 5*time.Second, time.Millisecond, "the append has the writer")
	go func() { closed <- s.Close() }()
	<-s.closed
	_, err := s.View(t.Context())
	require.ErrorIs(t, err, persistence.ErrClosed)
	unlock()
	require.NoError(t, <-appended)
	require.NoError(t, <-closed)
}

func TestTenuresAreRemembered(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, t.TempDir(), defaultWALLimits)
	one := joined(t, s, "one")
	two := joined(t, s, "two")
	require.NoError(t, s.Release(ctx, 0, two.epoch, "two", "one"))
	one.epoch = 3
	require.NoError(t, one.append(ctx, s, write("a", 0, 1)))
	require.NoError(t, s.Leave(ctx, "one"))
	var history []string
	require.NoError(t, s.read(ctx, func(c *conn) error {
		return c.query("select epoch, owner from es_tenure where part = 0 order by epoch", func(r row) error {
			history = append(history, fmt.Sprintf("%d:%s", r.int(0), r.text(1)))
			return nil
		})
	}))
	require.Equal(t, []string{"1:one", "2:two", "3:one", "4:"}, history)
	events, err := s.Tail(ctx, []persistence.Cursor{{}}, 1)
	require.NoError(t, err)
	require.Equal(t, persistence.Epoch(3), events[0].Epoch)
}

func TestStrangeBytesSurvive(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	for _, id := range []string{"a\x00b", "\xff\xfe", "a/b", "'; drop table es_event; --", strings.Repeat("é", 256)} {
		c := write(id, 0, 1)
		c.Events[0].Payload = []byte{0, 1, 2, 0xff}
		require.NoError(t, n.append(ctx, s, c))
		events, err := s.Read(ctx, c.Stream, 0, 10)
		require.NoError(t, err)
		require.Len(t, events, 1, "%q", id)
		require.Equal(t, c.Stream, events[0].Stream)
		require.Equal(t, c.Events[0].Payload, events[0].Payload)
	}
	require.Error(t, n.append(ctx, s, &persistence.Commit{Stream: persistence.Stream{Type: "a/b", ID: "c"}}))
	require.Error(t, n.append(ctx, s, &persistence.Commit{Stream: persistence.Stream{Type: "a"}}))
}

func TestNodesFromBeforeLeasesWereKeptKeepNobodyOut(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, t.TempDir(), defaultWALLimits)
	join := func(id persistence.NodeID, lease time.Duration) error {
		return s.Join(ctx, persistence.Node{ID: id, Cluster: "test", State: persistence.Active, Lease: lease})
	}
	require.NoError(t, join("old", time.Second))
	require.NoError(t, s.write(ctx, func(c *conn) error {
		_, err := c.exec("update es_node set lease = null") // as the migration leaves it
		return err
	}))
	require.NoError(t, join("new", 3*time.Second))
	require.ErrorContains(t, join("other", time.Second), "node new has a lease of 3s, this one 1s")
	view, err := s.View(ctx)
	require.NoError(t, err)
	require.Len(t, view.Nodes, 2)
	require.Equal(t, 3*time.Second, view.Nodes[0].Lease)
	require.Zero(t, view.Nodes[1].Lease)
}

func TestDamagedLogStopsTheReader(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, t.TempDir(), defaultWALLimits)
	n := joined(t, s, "node")
	require.NoError(t, n.append(ctx, s, write("a", 0, 5)))
	require.NoError(t, s.write(ctx, func(c *conn) error {
		_, err := c.exec("delete from es_event where pos = ?", 3)
		return err
	}))
	_, err := s.Tail(ctx, []persistence.Cursor{{}}, 10)
	require.ErrorContains(t, err, "offset 4 follows 2")
	_, err = s.Read(ctx, persistence.Stream{Type: "account", ID: "a"}, 1, 10)
	require.ErrorContains(t, err, "version 4 follows 2")
	_, err = s.ReadMany(ctx, []persistence.Stream{{Type: "account", ID: "a"}}, 10)
	require.ErrorContains(t, err, "version 4 follows 2")
	events, err := s.Tail(ctx, []persistence.Cursor{{}}, 2)
	require.NoError(t, err)
	require.Len(t, events, 2)
}

func TestNothingIsLoggedInPeace(t *testing.T) {
	var log strings.Builder
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.Empty(t, log.String())
}

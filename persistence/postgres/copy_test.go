package postgres_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// owned is a store of one partition that belongs to me, with one event.
func owned(t *testing.T, dsn string) (*postgres.Store, *persistence.Tenure) {
	t.Helper()
	s := open(t, dsn)
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	c := commit("1", 0, "opened")
	appendTo(t.Context(), s, me, &tenure, c)
	require.NoError(t, c.Err)
	return s, &tenure
}

func requireNodes(t *testing.T, s *postgres.Store, alive, dead int) persistence.View {
	t.Helper()
	view, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, view.Nodes, alive)
	require.Len(t, view.Dead, dead)
	return view
}

func TestManyOpenACopyAndOneNotesIt(t *testing.T) {
	dsn, elsewhere := postgrestest.DSN(t), postgrestest.DSN(t)
	original, _ := owned(t, dsn)
	postgrestest.Restore(t, elsewhere, postgrestest.Dump(t, dsn))
	copies := make([]*postgres.Store, 6)
	errs := make([]error, len(copies))
	var group sync.WaitGroup
	for i := range copies {
		group.Go(func() { copies[i], errs[i] = postgres.Open(t.Context(), postgres.Config{DSN: elsewhere}) })
	}
	group.Wait()
	noticed := 0
	for i, s := range copies {
		require.NoError(t, errs[i])
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		if s.Meta().Copied {
			noticed++
		}
	}
	require.Equal(t, 1, noticed)
	requireNodes(t, copies[0], 0, 1)
	requireNodes(t, original, 1, 0)
}

// A dump that takes the place of the tables it was made of is another line of
// history, in the same server and database.
func TestRestoreInPlaceIsNoticed(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s, tenure := owned(t, dsn)
	dump := postgrestest.Dump(t, dsn)
	later := commit("1", 1, "lost")
	appendTo(t.Context(), s, me, tenure, later)
	require.NoError(t, later.Err)
	before := requireNodes(t, s, 1, 0)
	reaches := func(head persistence.Offset) bool {
		t.Helper()
		owned, err := s.Verify(t.Context(), me, []persistence.Fence{{Partition: 0, Epoch: tenure.Epoch, Head: head}})
		require.NoError(t, err)
		return owned[0]
	}
	require.True(t, reaches(2))

	exec(t, raw(t, dsn), `drop schema ingrain cascade`)
	postgrestest.Restore(t, dsn, dump)
	after := requireNodes(t, s, 1, 0)
	require.NotEqual(t, before.Lineage, after.Lineage, "the running node is told")
	require.False(t, reaches(2), "what it acknowledged is gone")
	require.True(t, reaches(1))

	restarted := open(t, dsn)
	require.True(t, restarted.Meta().Copied)
	requireNodes(t, restarted, 0, 1)
}

// A server that was recovered, or a standby that was promoted, goes on under
// another timeline: perhaps without its last commits, but at the same place.
func TestAnotherTimelineIsAnotherLineage(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) { // the server may run as another user
		require.NoError(t, os.Chmod(d, 0o755))
	}
	server, err := postgrestest.Start(t.Context(), filepath.Join(dir, "server"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(t.Context())
	require.NoError(t, err)
	admin, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	exec(t, admin, `create role lodger login`)
	exec(t, admin, `grant create on database ingrain_1 to lodger`)
	exec(t, admin, `alter system set restore_command = 'false'`) // nothing but what is there
	require.NoError(t, admin.Close(t.Context()))

	s, _ := owned(t, dsn+" user=lodger") // whom nothing special was granted
	before := requireNodes(t, s, 1, 0)
	require.NoError(t, server.Kill9())
	require.NoError(t, server.Restart(t.Context()))
	require.Equal(t, before, requireNodes(t, s, 1, 0), "a crash loses nothing")

	require.NoError(t, server.Kill9())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "server", "data", "recovery.signal"), nil, 0o644))
	require.NoError(t, server.Restart(t.Context()))
	require.Eventually(t, func() bool { // it answers while it recovers
		after, err := s.View(t.Context())
		return err == nil && after.Lineage != before.Lineage
	}, 30*time.Second, 20*time.Millisecond)
	again := open(t, dsn+" user=lodger")
	require.False(t, again.Meta().Copied, "it is the store itself")
	requireNodes(t, again, 1, 0)
}

package postgres_test

import (
	"context"
	"fmt"
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

// raw is a plain connection to the store's schema.
func raw(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn+" search_path="+postgres.DefaultSchema)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // may have been terminated
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

const me = persistence.NodeID("me")

// open returns a handle on a store of one partition, which the first handle
// creates.
func open(t *testing.T, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Partitions: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func join(t *testing.T, s *postgres.Store, id persistence.NodeID) {
	t.Helper()
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: id, Cluster: "test", State: persistence.Active}))
}

func claim(t *testing.T, s *postgres.Store, seen persistence.Epoch, id persistence.NodeID) persistence.Tenure {
	t.Helper()
	tenure, err := s.Claim(t.Context(), 0, seen, id)
	require.NoError(t, err)
	return tenure
}

var serial int

func commit(stream string, expected persistence.Version, types ...string) *persistence.Commit {
	serial++
	c := &persistence.Commit{Stream: persistence.Stream{Type: "thing", ID: stream}, Expected: expected, At: time.Now(), Command: persistence.CommandID{byte(serial), byte(serial >> 8), 1}}
	for _, typ := range types {
		c.Events = append(c.Events, persistence.NewEvent{Type: typ})
	}
	return c
}

// appendTo appends under the tenure and moves its head.
func appendTo(ctx context.Context, s *postgres.Store, id persistence.NodeID, tenure *persistence.Tenure, commits ...*persistence.Commit) {
	for _, c := range commits {
		c.Epoch = tenure.Epoch
	}
	s.Append(ctx, &persistence.Batch{
		Owner: id, Commits: commits,
		Fences: []persistence.Fence{{Partition: 0, Epoch: tenure.Epoch, Head: tenure.Head}},
	})
	for _, c := range commits {
		if c.Err == nil {
			tenure.Head += persistence.Offset(len(c.Events))
		}
	}
}

func requireConflict(t *testing.T, c *persistence.Commit, actual persistence.Version) {
	t.Helper()
	var conflict *persistence.ConflictError
	require.ErrorAs(t, c.Err, &conflict)
	require.Equal(t, persistence.ConflictError{Stream: c.Stream, Expected: c.Expected, Actual: actual}, *conflict)
}

func TestVersionGapIsRefusedWhateverTheHandleRemembers(t *testing.T) {
	dsn := postgrestest.DSN(t)
	mine, theirs := open(t, dsn), open(t, dsn)
	join(t, mine, me)
	join(t, theirs, "they")
	first := claim(t, mine, 0, me)

	for _, expected := range []persistence.Version{0, 1, 2} { // fills the memory
		c := commit("x", expected, "e")
		appendTo(t.Context(), mine, me, &first, c)
		require.NoError(t, c.Err)
	}
	for _, wrong := range []persistence.Version{-1, 1, 2, 4, 7} {
		for _, types := range [][]string{{"e"}, {"e", "e"}, nil} {
			c, other := commit("x", wrong, types...), commit(fmt.Sprintf("other-%d-%d", wrong, len(types)), 0, "e")
			appendTo(t.Context(), mine, me, &first, c, other)
			requireConflict(t, c, 3)
			require.NoError(t, other.Err)
		}
	}

	// Another owner writes 4 and 5; the memory of mine says 3.
	second := claim(t, theirs, first.Epoch, "they")
	for _, c := range []*persistence.Commit{commit("x", 3, "e"), commit("x", 4, "e")} {
		appendTo(t.Context(), theirs, "they", &second, c)
		require.NoError(t, c.Err)
	}
	third := claim(t, mine, second.Epoch, me)
	for _, wrong := range []persistence.Version{3, 4, 6} {
		c := commit("x", wrong, "e")
		appendTo(t.Context(), mine, me, &third, c)
		requireConflict(t, c, 5)
	}
	good := commit("x", 5, "e")
	appendTo(t.Context(), mine, me, &third, good)
	require.NoError(t, good.Err)

	// A stream nobody has heard of, in a batch with two commits of one stream.
	a, b, gap, c := commit("y", 0, "e"), commit("y", 1, "e"), commit("z", 3, "e"), commit("y", 3, "e")
	appendTo(t.Context(), mine, me, &third, a, b, gap, c)
	require.NoError(t, a.Err)
	require.NoError(t, b.Err)
	requireConflict(t, gap, 0)
	requireConflict(t, c, 2)
	require.Equal(t, a.Offset+1, b.Offset)
}

func TestRolledBackDatabaseIsFenced(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s := open(t, dsn)
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	for _, c := range []*persistence.Commit{commit("x", 0, "e"), commit("x", 1, "e"), commit("x", 2, "e")} {
		appendTo(t.Context(), s, me, &tenure, c)
		require.NoError(t, c.Err)
	}
	// The connection lives on, so that only the store's own look can tell.
	exec(t, raw(t, dsn), `delete from es_event where pos > 1`)
	c := commit("x", 3, "e")
	appendTo(t.Context(), s, me, &tenure, c)
	var fenced *persistence.FencedError
	require.ErrorAs(t, c.Err, &fenced)
	require.Equal(t, persistence.FencedError{Partition: 0, Epoch: 1, Current: 1, Owner: me, Head: 3, StoreHead: 1}, *fenced)

	// Longer than known is no better.
	tenure.Head = 1
	exec(t, raw(t, dsn), `insert into es_event select part, 2, epoch, stream, 2, type, at, cmd, meta, payload from es_event`)
	c = commit("y", 0, "e")
	appendTo(t.Context(), s, me, &tenure, c)
	require.ErrorAs(t, c.Err, &fenced)
	require.Equal(t, persistence.FencedError{Partition: 0, Epoch: 1, Current: 1, Owner: me, Head: 1, StoreHead: 2}, *fenced)
}

func TestDamagedLogStopsTheReader(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s := open(t, dsn)
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	c := commit("x", 0, "e", "e", "e", "e", "e")
	appendTo(t.Context(), s, me, &tenure, c)
	require.NoError(t, c.Err)
	exec(t, raw(t, dsn), `delete from es_event where pos = 3`)

	_, err := s.Tail(t.Context(), []persistence.Cursor{{}}, 10)
	require.ErrorContains(t, err, "offset 4 follows 2")
	_, err = s.Tail(t.Context(), []persistence.Cursor{{After: 2}}, 1)
	require.ErrorContains(t, err, "offset 4 follows 2")
	_, err = s.Read(t.Context(), c.Stream, 1, 10)
	require.ErrorContains(t, err, "version 4 follows 2")
	_, err = s.ReadMany(t.Context(), []persistence.Stream{c.Stream}, 10)
	require.ErrorContains(t, err, "version 4 follows 2")
	events, err := s.Tail(t.Context(), []persistence.Cursor{{After: 3}, {}}, 2)
	require.NoError(t, err)
	require.Len(t, events, 4, "what is not damaged is read")
}

func TestFrozenWriterIsTerminated(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s := open(t, dsn)
	join(t, s, me)
	frozen := raw(t, dsn)
	exec(t, frozen, `begin`)
	exec(t, frozen, `select from es_partition where part = 0 for no key update`)

	start := time.Now()
	claim(t, s, 0, me)
	require.Less(t, time.Since(start), time.Second)
	_, err := frozen.Exec(t.Context(), `commit`)
	require.Error(t, err, "the frozen session was terminated")
}

func TestTerminatedAppendIsUnknownAndTheLaneRecovers(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s := open(t, dsn)
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	holder, killer := raw(t, dsn), raw(t, dsn)
	exec(t, holder, `begin`)
	exec(t, holder, `select from es_partition where part = 0 for no key update`)

	c := commit("x", 0, "e")
	var waiting sync.WaitGroup
	waiting.Go(func() { appendTo(context.Background(), s, me, &tenure, c) })
	require.Eventually(t, func() bool {
		var n int
		err := killer.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from pg_stat_activity
			where application_name like 'ingrain writer%' and wait_event_type = 'Lock' and datname = current_database()`).Scan(&n)
		return err == nil && n == 1
	}, 10*time.Second, time.Millisecond, "the append waits for the lock")
	waiting.Wait()
	require.ErrorIs(t, c.Err, persistence.ErrUnknownOutcome)
	exec(t, holder, `commit`)

	tenure = claim(t, s, tenure.Epoch, me)
	_, found, err := s.FindCommand(t.Context(), c.Stream, c.Command)
	require.NoError(t, err)
	require.False(t, found)
	appendTo(t.Context(), s, me, &tenure, c)
	c.Epoch = tenure.Epoch
	require.NoError(t, c.Err)
}

func TestRefusedCommitFailsAlone(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s := open(t, dsn)
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	exec(t, raw(t, dsn), `alter table es_event add constraint operator_whim check (type <> 'poison')`)
	a, poison, after, b := commit("x", 0, "e"), commit("y", 0, "poison"), commit("y", 1, "e"), commit("z", 0, "e")
	appendTo(t.Context(), s, me, &tenure, a, poison, after, b)
	require.NoError(t, a.Err)
	require.ErrorContains(t, poison.Err, "operator_whim")
	require.NotErrorIs(t, poison.Err, persistence.ErrUnknownOutcome)
	require.NotErrorIs(t, poison.Err, persistence.ErrUnreachable)
	requireConflict(t, after, 0)
	require.NoError(t, b.Err)
	require.Equal(t, a.Offset+1, b.Offset)
}

func TestOpensAtOnceMakeOneStore(t *testing.T) {
	dsn := postgrestest.DSN(t)
	var group sync.WaitGroup
	stores, errs := make([]*postgres.Store, 6), make([]error, 6)
	for i := range stores {
		group.Go(func() { stores[i], errs[i] = postgres.Open(context.Background(), postgres.Config{DSN: dsn}) })
	}
	group.Wait()
	for i, s := range stores {
		require.NoError(t, errs[i])
		require.Equal(t, stores[0].Meta(), s.Meta())
		require.Equal(t, postgres.DefaultPartitions, s.Meta().Partitions)
		require.NoError(t, s.Close())
	}
}

func TestStoresOfTwoSchemasAreApart(t *testing.T) {
	dsn := postgrestest.DSN(t)
	odd := postgres.Config{DSN: dsn, Schema: `odd "name"`, Partitions: 3}
	s, err := postgres.Open(t.Context(), odd)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	join(t, s, me)
	require.NotEqual(t, s.Meta().StoreID, open(t, dsn).Meta().StoreID)
	view, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, view.Partitions, 3)
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "server")
	require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755))
	server, err := postgrestest.Start(t.Context(), dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(t.Context())
	require.NoError(t, err)
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Partitions: 4})
	require.NoError(t, err)
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: "a", Cluster: "one", State: persistence.Active}))
	requireSetupError(t, s.Join(t.Context(), persistence.Node{ID: "b", Cluster: "two", State: persistence.Active}), `belongs to cluster "one"`)
	require.NoError(t, s.Close())

	refused := func(c postgres.Config, reason string) {
		t.Helper()
		s, err := postgres.Open(t.Context(), c)
		require.Nil(t, s)
		requireSetupError(t, err, reason)
		require.NotContains(t, err.Error(), "secret")
	}
	refused(postgres.Config{}, "no DSN")
	refused(postgres.Config{DSN: "postgres://u:secret@:x/"}, "cannot be parsed")
	refused(postgres.Config{DSN: "postgres://postgres:secret@" + server.Addr() + "/postgres?sslmode=disable"}, "the user or the password")
	refused(postgres.Config{DSN: server.DSN("absent")}, "no such database")
	refused(postgres.Config{DSN: "host=127.0.0.1 port=1 sslmode=disable user=u password=secret"}, "cannot be reached")
	refused(postgres.Config{DSN: dsn, Partitions: 5}, "created with 4 partitions, not 5")
	refused(postgres.Config{DSN: dsn, Partitions: 70_000}, "70000 partitions")
	refused(postgres.Config{DSN: dsn, Lanes: -1}, "-1 lanes")
	refused(postgres.Config{DSN: dsn, Schema: "a\x00b"}, "schema name")

	exec(t, raw(t, dsn), `insert into es_migration values (1000, 'from the future')`)
	refused(postgres.Config{DSN: dsn}, "its schema has version 1000")

	require.NoError(t, server.Kill9())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "standby.signal"), nil, 0o644))
	require.NoError(t, server.Restart(t.Context()))
	refused(postgres.Config{DSN: dsn}, "a standby")
}

func TestNodesFromBeforeLeasesWereKeptKeepNobodyOut(t *testing.T) {
	dsn := postgrestest.DSN(t)
	s := open(t, dsn)
	join := func(id persistence.NodeID, lease time.Duration) error {
		return s.Join(t.Context(), persistence.Node{ID: id, Cluster: "test", State: persistence.Active, Lease: lease})
	}
	require.NoError(t, join("old", time.Second))
	exec(t, raw(t, dsn), "update es_node set lease = null") // as the migration leaves it
	require.NoError(t, join("new", 3*time.Second))
	require.ErrorContains(t, join("other", time.Second), "node new has a lease of 3s, this one 1s")
	view, err := s.View(t.Context())
	require.NoError(t, err)
	leases := map[persistence.NodeID]time.Duration{}
	for _, n := range view.Nodes {
		leases[n.ID] = n.Lease
	}
	require.Equal(t, map[persistence.NodeID]time.Duration{"old": 0, "new": 3 * time.Second}, leases)
}

func requireSetupError(t *testing.T, err error, reason string) {
	t.Helper()
	var setup *persistence.SetupError
	require.ErrorAs(t, err, &setup)
	require.Equal(t, "postgres", setup.Store)
	require.ErrorContains(t, err, reason)
}

package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// A process that keeps running a build of schema 2 while others move on to a
// later one uses these statements, which go on working.
func TestNodesOfSchema2LiveOnAmongLaterOnes(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	old, err := connect(filepath.Join(dir, fileName), "journal_mode = wal")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, old.close()) })
	run := func(sql string, args ...any) {
		t.Helper()
		changed, err := old.exec(sql, args...)
		require.NoError(t, err)
		require.Equal(t, int64(1), changed, sql)
	}
	join := func(id string) {
		t.Helper()
		run(`insert into es_node (node, address, types, state, host, lock, joined_at, lease) values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing`,
			id, "127.0.0.1:1", `["account"]`, persistence.Active, "host", "lock", time.Now(), int64(1_000_000))
	}
	renew := func(id string) {
		t.Helper()
		run("update es_node set renewals = renewals + 1, state = ? where node = ? and state <> ?", persistence.Active, id, persistence.Dead)
	}
	all, err := readMigrations(migrations)
	require.NoError(t, err)
	require.NoError(t, apply(old, all[:2], 0, 1))
	run("update es_meta set cluster = ? where cluster is null", "test")
	join("old")
	renew("old")
	run("update es_partition set epoch = ?, owner = ?, released = ? where part = ?", 1, "old", false, 0)
	run(insertTenure, 0, 1, "old", time.Now())
	stream := persistence.Stream{Type: "account", ID: "1"}
	run(`insert into es_event (`+eventColumns+`) values (0, 1, 1, ?, 1, 'opened', ?, ?, null, ?)`,
		stream, time.UnixMicro(1), persistence.CommandID{1}, []byte("{}"))
	snapshot := func(version persistence.Version) {
		t.Helper()
		run(`insert into es_snapshot (stream, version, schema, at, payload) values (?, ?, ?, ?, ?)
			on conflict (stream) do update set version = excluded.version, schema = excluded.schema, at = excluded.at, payload = excluded.payload
			where excluded.version > version`, stream, version, 0, time.UnixMicro(1), []byte("old"))
	}
	snapshot(1)

	s := openAt(t, dir, defaultWALLimits)
	require.Equal(t, len(all), s.Meta().Schema)
	require.Equal(t, 1, s.Meta().Partitions)
	require.False(t, s.Meta().Copied, "nobody had noted the place")
	want := persistence.Node{
		ID: "old", Cluster: "test", Address: "127.0.0.1:1", Types: []string{"account"}, State: persistence.Active,
		Renewals: 1, Lease: time.Second, Host: "host", Lock: "lock",
	}
	look := func() persistence.View {
		t.Helper()
		view, err := s.View(ctx)
		require.NoError(t, err)
		return view
	}
	require.Equal(t, []persistence.Node{want}, look().Nodes)
	events, err := s.Read(ctx, stream, 0, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)

	history := func() persistence.History {
		t.Helper()
		histories, err := s.ReadMany(ctx, []persistence.Stream{stream}, 10)
		require.NoError(t, err)
		return histories[0]
	}
	require.Equal(t, persistence.History{Events: events}, history(), "it did not say what its last event was")
	snapshot(1)
	require.Equal(t, persistence.History{Events: events, Foreign: 1}, history(), "nor does this one")
	taken := persistence.Snapshot{
		Stream: stream, Version: 1, At: time.UnixMicro(2).UTC(), Payload: []byte("new"),
		Last: persistence.Cause{Command: events[0].Command, At: events[0].At},
	}
	require.NoError(t, s.SaveSnapshots(ctx, []persistence.Snapshot{taken}))
	require.Equal(t, persistence.History{Snapshot: &taken, Anchor: 1}, history())
	snapshot(2)
	require.Equal(t, persistence.History{Events: events, Foreign: 2}, history(), "the old build left in it what was the last event before")

	renew("old")
	join("old-2")
	fresh := persistence.Node{ID: "new", Cluster: "test", State: persistence.Active, Lease: time.Second, Weight: 4}
	require.NoError(t, s.Join(ctx, fresh))
	_, err = s.Renew(ctx, persistence.Renewal{Node: "new", State: persistence.Active, Suspects: []persistence.NodeID{"old"}})
	require.NoError(t, err)
	require.False(t, openAt(t, dir, defaultWALLimits).Meta().Copied)
	nodes := look().Nodes
	require.Len(t, nodes, 3)
	require.Equal(t, 4, nodes[0].Weight)
	require.Equal(t, []persistence.NodeID{"old"}, nodes[0].Suspects)
	want.Renewals = 2
	require.Equal(t, want, nodes[1])
	require.Equal(t, persistence.NodeID("old-2"), nodes[2].ID)

	seen := 0
	require.NoError(t, old.query(`select node, cluster, address, types, state, renewals, host, lock, lease
		from es_node, es_meta where state <> ? order by node`, func(row) error { seen++; return nil }, persistence.Dead))
	require.Equal(t, 3, seen)
	run("update es_node set state = ? where node = ? and renewals = ? and state <> ?", persistence.Dead, "new", 1, persistence.Dead)
	require.Empty(t, look().Dead, "it owned nothing")
	evicted, err := s.Evict(ctx, "old", 2)
	require.NoError(t, err)
	require.True(t, evicted)
	want.State = persistence.Dead
	require.Equal(t, []persistence.Node{want}, look().Dead)
}

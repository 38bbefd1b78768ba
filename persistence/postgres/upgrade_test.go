package postgres_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// What a build of schema 2 says to the server.
const (
	oldJoin = `insert into es_node (node, address, types, state, host, lock, lease)
		values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing`
	oldSnapshot = `insert into es_snapshot as s (stream, version, schema, at, payload) values ($1, $2, $3, $4, $5)
		on conflict (stream) do update
			set version = excluded.version, schema = excluded.schema, at = excluded.at, payload = excluded.payload
			where s.version < excluded.version`
	oldRenew = `update es_node set renewals = renewals + 1, state = $2 where node = $1 and state <> 'dead'`
	oldView  = `select n.node, n.address, n.types, n.state, n.renewals, n.host, n.lock, m.cluster,
			null::int, null::bigint, null::boolean, coalesce(n.lease, 0)
		  from es_node n, es_meta m where n.state <> 'dead'
		union all
		select p.owner, null, null, null, null, null, null, null, p.part, p.epoch, p.released, null from es_partition p`
	oldVerify = `select i.n from unnest($1::int[], $2::bigint[]) with ordinality i(part, epoch, n)
		join es_partition p on p.part = i.part and p.epoch = i.epoch where p.owner = $3 and $3 <> ''`
)

// oldNode is the session of a process that keeps running a build of schema 2,
// with the statements that it prepared.
type oldNode struct {
	t    *testing.T
	conn *pgx.Conn
}

func (o oldNode) run(sql string, args ...any) {
	o.t.Helper()
	tag, err := o.conn.Exec(o.t.Context(), sql, args...)
	require.NoError(o.t, err)
	require.Equal(o.t, int64(1), tag.RowsAffected(), sql)
}

func (o oldNode) join(id string) {
	o.t.Helper()
	o.run(oldJoin, id, "127.0.0.1:1", []string{"account"}, "active", "host", "lock", int64(1_000_000))
}

func (o oldNode) snapshot(stream string, version int64) {
	o.t.Helper()
	o.run(oldSnapshot, stream, version, 0, time.UnixMicro(1), []byte("old"))
}

func (o oldNode) renew(id string) {
	o.t.Helper()
	o.run(oldRenew, id, "active")
}

// rows returns how many rows a query has.
func (o oldNode) rows(sql string, args ...any) (n int) {
	o.t.Helper()
	rows, err := o.conn.Query(o.t.Context(), sql, args...)
	require.NoError(o.t, err)
	for rows.Next() {
		n++
	}
	require.NoError(o.t, rows.Err())
	return n
}

func (o oldNode) owns(epoch int64, id string) bool {
	o.t.Helper()
	return o.rows(oldVerify, []int32{0}, []int64{epoch}, id) == 1
}

func (o oldNode) take(seen int64, id string) {
	o.t.Helper()
	var outcome string
	require.NoError(o.t, o.conn.QueryRow(o.t.Context(), `select outcome from es_take($1, $2, $3)`, 0, seen, id).Scan(&outcome))
	require.Equal(o.t, "taken", outcome)
}

func TestNodesOfSchema2LiveOnAmongLaterOnes(t *testing.T) {
	dsn := postgrestest.DSN(t)
	old := oldNode{t, raw(t, dsn)}
	exec(t, old.conn, `create schema ingrain`)
	exec(t, old.conn, `create table es_migration (version int primary key, name text not null, at timestamptz not null default now())`)
	for i, name := range []string{"0001_store", "0002_lease"} {
		sql, err := os.ReadFile("migrations/" + name + ".sql")
		require.NoError(t, err)
		_, err = old.conn.PgConn().Exec(t.Context(), string(sql)).ReadAll()
		require.NoError(t, err)
		exec(t, old.conn, `insert into es_migration (version, name) values ($1, $2)`, i+1, name)
	}
	exec(t, old.conn, `insert into es_meta (store_id, partitions, cluster) values (gen_random_uuid(), 1, 'test')`)
	exec(t, old.conn, `insert into es_partition (part) values (0)`)
	old.join("old")
	old.renew("old")
	old.take(0, "old")
	require.True(t, old.owns(1, "old"))
	require.Equal(t, 2, old.rows(oldView))
	event := commit("1", 0, "opened")
	exec(t, old.conn, `insert into es_event (part, pos, epoch, stream, version, type, at, cmd, payload)
		values (0, 1, 1, $1, 1, 'opened', now(), gen_random_uuid(), '{}')`, event.Stream.String())
	old.snapshot(event.Stream.String(), 1)

	s := open(t, dsn)
	files, err := filepath.Glob("migrations/*.sql")
	require.NoError(t, err)
	require.Equal(t, len(files), s.Meta().Schema)
	require.False(t, s.Meta().Copied, "nobody had noted the place")
	want := persistence.Node{
		ID: "old", Cluster: "test", Address: "127.0.0.1:1", Types: []string{"account"}, State: persistence.Active,
		Renewals: 1, Lease: time.Second, Host: "host", Lock: "lock",
	}
	require.Equal(t, []persistence.Node{want}, requireNodes(t, s, 1, 0).Nodes)
	events, err := s.Read(t.Context(), event.Stream, 0, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)

	history := func() persistence.History {
		t.Helper()
		histories, err := s.ReadMany(t.Context(), []persistence.Stream{event.Stream}, 10)
		require.NoError(t, err)
		return histories[0]
	}
	require.Equal(t, persistence.History{Events: events}, history(), "it did not say what its last event was")
	old.snapshot(event.Stream.String(), 1)
	require.Equal(t, persistence.History{Events: events, Foreign: 1}, history(), "nor does this one")
	taken := persistence.Snapshot{
		Stream: event.Stream, Version: 1, At: time.UnixMicro(2).UTC(), Payload: []byte("new"),
		Last: persistence.Cause{Command: events[0].Command, At: events[0].At},
	}
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{taken}))
	require.Equal(t, persistence.History{Snapshot: &taken, Anchor: 1}, history())
	old.snapshot(event.Stream.String(), 2)
	require.Equal(t, persistence.History{Events: events, Foreign: 2}, history(), "the old build left in it what was the last event before")

	old.renew("old")
	old.join("old-2")
	require.Equal(t, 3, old.rows(oldView))
	require.True(t, old.owns(1, "old"))
	require.NoError(t, s.Join(t.Context(), persistence.Node{
		ID: "new", Cluster: "test", State: persistence.Active, Lease: time.Second, Weight: 4,
	}))
	_, err = s.Renew(t.Context(), persistence.Renewal{Node: "new", State: persistence.Active, Suspects: []persistence.NodeID{"old"}})
	require.NoError(t, err)
	require.False(t, open(t, dsn).Meta().Copied)
	nodes := requireNodes(t, s, 3, 0).Nodes
	require.Equal(t, 4, nodes[0].Weight)
	require.Equal(t, []persistence.NodeID{"old"}, nodes[0].Suspects)
	want.Renewals = 2
	require.Equal(t, want, nodes[1])
	require.Equal(t, persistence.NodeID("old-2"), nodes[2].ID)
	require.Equal(t, 4, old.rows(oldView))

	require.NoError(t, s.Release(t.Context(), 0, 1, "old", "new"))
	require.Equal(t, persistence.Offset(1), claim(t, s, 2, "new").Head)
	require.False(t, old.owns(1, "old"))
	old.take(3, "old")
	evicted, err := s.Evict(t.Context(), "old", 2)
	require.NoError(t, err)
	require.True(t, evicted)
	want.State = persistence.Dead
	require.Equal(t, []persistence.Node{want}, requireNodes(t, s, 2, 1).Dead)
}

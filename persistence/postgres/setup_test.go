package postgres_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// administered is a server with a database of its own, and a connection of the
// superuser to it.
func administered(t *testing.T) (server *postgrestest.Server, dsn string, admin *pgx.Conn) {
	t.Helper()
	server, err := postgrestest.Start(t.Context(), "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err = server.CreateDatabase(t.Context())
	require.NoError(t, err)
	admin, err = pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) }) // its server may be gone
	return server, dsn, admin
}

// What the error tells to grant is done, and then the store opens.
func TestOpenSaysWhatToGrant(t *testing.T) {
	_, dsn, admin := administered(t)
	exec(t, admin, `create role lodger login`)
	exec(t, admin, `create schema theirs`)
	exec(t, admin, `revoke connect on database ingrain_1 from public`)
	grant := func(c postgres.Config, statement string) {
		t.Helper()
		_, err := postgres.Open(t.Context(), c)
		requireSetupError(t, err, "the user lacks a permission")
		require.ErrorContains(t, err, statement)
		require.ErrorContains(t, err, "(SQLSTATE 42501)")
		exec(t, admin, statement)
	}
	opens := func(c postgres.Config) {
		t.Helper()
		s, err := postgres.Open(t.Context(), c)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
	own := postgres.Config{DSN: dsn + " user=lodger", Partitions: 1}
	grant(own, `grant connect on database "ingrain_1" to "lodger"`)
	grant(own, `grant create on database "ingrain_1" to "lodger"`)
	opens(own)
	theirs := own
	theirs.Schema = "theirs"
	grant(theirs, giveAway("theirs", "lodger"))
	opens(theirs)

	// The first node ran as somebody else, to whom all tables and functions belong.
	left := postgres.Config{DSN: dsn, Schema: `the "first"'s`, Partitions: 1}
	opens(left)
	left.DSN = own.DSN
	grant(left, giveAway(left.Schema, "lodger"))
	s, err := postgres.Open(t.Context(), left)
	require.NoError(t, err)
	join(t, s, me)
	claim(t, s, 0, me)
	require.NoError(t, s.Close())
	var others int
	require.NoError(t, admin.QueryRow(t.Context(), `select
		(select count(*) from pg_class where relnamespace = n.oid and relowner <> n.nspowner) +
		(select count(*) from pg_proc where pronamespace = n.oid and proowner <> n.nspowner)
		from pg_namespace n where nspname = $1 and nspowner = 'lodger'::regrole`, left.Schema).Scan(&others))
	require.Zero(t, others, "things in the schema that are not the user's")
}

// A user who can read and insert could open the store, and would fail as a node:
// the first claim needs more. What the error tells to grant is enough for all
// that nodes do.
func TestOpenSaysWhichGrantsNodesNeed(t *testing.T) {
	_, dsn, admin := administered(t)
	config := postgres.Config{DSN: dsn, Schema: `the "first"'s`, Partitions: 1}
	s, err := postgres.Open(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	schema := pgx.Identifier{config.Schema}.Sanitize()
	exec(t, admin, `create role "a guest" login`)
	exec(t, admin, `grant usage on schema `+schema+` to "a guest"`)
	exec(t, admin, `grant select, insert on all tables in schema `+schema+` to "a guest"`)
	exec(t, admin, `revoke all on function `+schema+`.es_leave from public`)

	config.DSN += " user='a guest'"
	_, err = postgres.Open(t.Context(), config)
	var setup *persistence.SetupError
	require.ErrorAs(t, err, &setup)
	_, list, found := strings.Cut(setup.Reason, "the user lacks a permission that nodes need: ")
	require.True(t, found, setup.Reason)
	table := func(privileges, name string) string {
		return "grant " + privileges + " on table " + schema + "." + name + ` to "a guest"`
	}
	grants := strings.Split(list, "; ")
	require.Subset(t, grants, []string{
		table("delete", "es_claim"), table("update", "es_meta"), table("update", "es_node"), table("update", "es_partition"),
		table("update, delete", "es_checkpoint"), table("update, delete", "es_snapshot"), table("update, delete", "es_timer"),
		"grant execute on function " + schema + `.es_leave(me text) to "a guest"`,
	})
	for _, statement := range grants {
		exec(t, admin, statement)
	}
	s, err = postgres.Open(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	doAllThatNodesDo(t, s)

	exec(t, admin, `revoke select on `+schema+`.es_event from "a guest"`)
	_, err = postgres.Open(t.Context(), config)
	require.ErrorContains(t, err, "need: "+table("select", "es_event"))
}

// doAllThatNodesDo calls what writes, on a store of one partition.
func doAllThatNodesDo(t *testing.T, s *postgres.Store) {
	t.Helper()
	ctx := t.Context()
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	first, second, third, steady := commit("1", 0, "opened"), commit("1", 1, "closed"), commit("1", 2, "opened"), commit("1", 3, "closed")
	streams := []persistence.Stream{first.Stream}
	name := persistence.Claim{Namespace: "name", Key: "ada"}
	timer := persistence.Timer{TimerKey: persistence.TimerKey{Stream: streams[0], Name: "reminder"}, ID: persistence.CommandID{1}, Due: time.Unix(1, 0)}
	first.Claims, first.Timers = []persistence.Claim{name}, []persistence.Timer{timer}
	second.Releases, second.Timers = first.Claims, first.Timers
	third.Cancels = []persistence.TimerKey{timer.TimerKey}
	for _, c := range []*persistence.Commit{first, second, third, steady} {
		appendTo(ctx, s, me, &tenure, c)
		require.NoError(t, c.Err)
	}
	last := persistence.Cause{Command: steady.Command, At: steady.At}
	for range 2 {
		require.NoError(t, s.SaveSnapshots(ctx, []persistence.Snapshot{{Stream: streams[0], Version: 4, Last: last, At: time.Unix(1, 0)}}))
		require.NoError(t, s.SaveCheckpoints(ctx, "p", []persistence.Cursor{{After: 1}}))
	}
	histories, err := s.ReadMany(ctx, streams, 10)
	require.NoError(t, err)
	require.NotNil(t, histories[0].Snapshot)
	require.NoError(t, s.DeleteSnapshots(ctx, streams))
	require.NoError(t, s.DeleteCheckpoints(ctx, "p"))
	_, err = s.Renew(ctx, persistence.Renewal{Node: me, State: persistence.Active})
	require.NoError(t, err)
	require.NoError(t, s.Release(ctx, 0, tenure.Epoch, me, ""))
	_, err = s.Evict(ctx, me, 0)
	require.NoError(t, err)
	require.NoError(t, s.Leave(ctx, me))
}

// giveAway is the statement of docs/operations.md, on one line, for a schema and
// a user of other names.
func giveAway(schema, user string) string {
	content, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		return err.Error()
	}
	_, block, _ := strings.Cut(string(content), "```psql\n")
	block, _, _ = strings.Cut(block, ";\n```")
	schema, user = pgx.Identifier{schema}.Sanitize(), pgx.Identifier{user}.Sanitize()
	return strings.NewReplacer(`'"ingrain"'`, "'"+strings.ReplaceAll(schema, "'", "''")+"'", `"ingrain"`, schema, `"ingrain_user"`, user).
		Replace(strings.Join(strings.Fields(block), " "))
}

func TestErrorsOfALostServerSayItOnce(t *testing.T) {
	server, _, _ := administered(t)
	// Without sslmode the driver makes two attempts at the address.
	s := open(t, strings.TrimSuffix(server.TCP("ingrain_1"), "?sslmode=disable"))
	join(t, s, me)
	require.NoError(t, server.Kill9())
	var errs [4]error
	for range 5 { // as many as there are connections of a kind, which break one by one
		commit := &persistence.Commit{
			Stream: persistence.Stream{Type: "a", ID: "b"}, Epoch: 1, Command: persistence.CommandID{1}, At: time.Now(),
			Events: []persistence.NewEvent{{Type: "added", Payload: []byte("{}")}},
		}
		s.Append(t.Context(), &persistence.Batch{
			Owner: me, Fences: []persistence.Fence{{Partition: 0, Epoch: 1}}, Commits: []*persistence.Commit{commit},
		})
		errs[0] = commit.Err
		_, errs[1] = s.View(t.Context())
		_, errs[2] = s.Read(t.Context(), commit.Stream, 0, 1)
		_, errs[3] = s.Claim(t.Context(), 0, 0, me)
	}
	for _, err := range errs {
		require.ErrorAs(t, err, new(*pgconn.ConnectError))
		require.Equal(t, 1, strings.Count(err.Error(), "connection refused"), "%v", err)
		require.NotContains(t, err.Error(), "\n")
	}
}

func TestErrorsOfTheAddressSayItOnce(t *testing.T) {
	server, _, _ := administered(t)
	for _, c := range []struct{ dsn, cause string }{
		// Without sslmode the driver tries TLS first, which this server refuses.
		{"postgres://postgres:secret@" + server.Addr() + "/postgres", "password authentication failed"},
		{server.TCP("absent"), `database "absent" does not exist`},
		{strings.TrimSuffix(server.TCP("absent"), "?sslmode=disable"), `database "absent" does not exist`},
		{"host=127.0.0.1 port=1 user=u password=secret", "connection refused"},
		{"host=no.such.host.invalid user=u password=secret", "lookup no.such.host.invalid"},
		{"postgres://postgres:postgres@" + server.Addr() + "/postgres?sslmode=require", "server refused TLS connection"},
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{DSN: c.dsn})
		requireSetupError(t, err, c.cause)
		require.Equal(t, 1, strings.Count(err.Error(), c.cause), "%v", err)
		require.NotContains(t, err.Error(), "\n")
		require.NotContains(t, err.Error(), "secret")
		if !strings.Contains(c.dsn, "sslmode=require") {
			require.NotContains(t, err.Error(), "TLS")
		}
		require.ErrorAs(t, err, new(*pgconn.ConnectError))
		if strings.Contains(c.cause, "absent") {
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.Equal(t, "3D000", pgErr.Code)
		}
	}
}

func TestStoreOutlivesItsServer(t *testing.T) {
	server, err := postgrestest.Start(t.Context(), "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(t.Context())
	require.NoError(t, err)

	s := open(t, dsn)
	join(t, s, me)
	require.NoError(t, server.Kill9())
	_, err = s.View(t.Context())
	require.Error(t, err)
	require.NoError(t, server.Restart(t.Context()))
	view, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, view.Nodes, 1)
}

func TestDatabasesOfTestsAreApart(t *testing.T) {
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: 16})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.Equal(t, 16, s.Meta().Partitions)
	require.NotEqual(t, s.Meta().StoreID, open(t, postgrestest.DSN(t)).Meta().StoreID)
}

func TestOpenNamesTheStoreItMeans(t *testing.T) {
	dsn := postgrestest.DSN(t)
	open(t, dsn)
	base, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	for partitions, reason := range map[int]string{2: "it was created with 1 partitions, not 2", -1: "-1 partitions, want 1 to 65536"} {
		_, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Partitions: partitions})
		require.EqualError(t, err, `open postgres store database "`+base.Database+`", schema "ingrain": `+reason)
		require.ErrorAs(t, err, new(*persistence.SetupError))
	}
}

func TestForeignClusterIsToldWhoseTheStoreIs(t *testing.T) {
	dsn := postgrestest.DSN(t)
	base, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	s := open(t, dsn)
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: "a", Cluster: "one", State: persistence.Active}))
	require.EqualError(t, s.Join(t.Context(), persistence.Node{ID: "b", Cluster: "two", State: persistence.Active}),
		`postgres store database "`+base.Database+`", schema "ingrain"`+`: it belongs to cluster "one", and Config.Name is "two"`)
}

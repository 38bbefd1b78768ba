package postgres_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// Every query for PostgreSQL runs as it stands on a default store, and those
// for both stores do when the search path is set. One that says so finds faults,
// and must find none.
func TestSQLInTheDocsRuns(t *testing.T) {
	dsn := postgrestest.DSN(t)
	fillAsDocumented(t, dsn)
	plain, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, plain.Close(t.Context())) }()
	conns := map[string]*pgx.Conn{"sql postgres": plain, "sql": raw(t, dsn)}

	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?ms)^```(sql(?: postgres)?)\n(.*?)^```$")
	ran := map[string]int{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, found := range block.FindAllStringSubmatch(string(content), -1) {
			kind, query := found[1], found[2]
			ran[kind]++
			rows, err := conns[kind].Query(t.Context(), query)
			require.NoError(t, err, "%s:\n%s", file, query)
			n := 0
			for rows.Next() {
				n++
			}
			require.NoError(t, rows.Err(), "%s:\n%s", file, query)
			if strings.HasPrefix(query, "-- every row is a fault") {
				require.Zero(t, n, "%s:\n%s", file, query)
			} else {
				require.NotZero(t, n, "%s:\n%s", file, query)
			}
		}
	}
	require.NotZero(t, ran["sql postgres"])
	require.NotZero(t, ran["sql"])
}

// fillAsDocumented makes a default store with what the queries ask for: an owner
// of every partition, and the stream counter/visits.
func fillAsDocumented(t *testing.T, dsn string) {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	join(t, s, me)
	for p := range persistence.Partition(postgres.DefaultPartitions) {
		_, err := s.Claim(t.Context(), p, 0, me)
		require.NoError(t, err)
	}
	stream := persistence.Stream{Type: "counter", ID: "visits"}
	home := persistence.PartitionOf(stream, postgres.DefaultPartitions)
	commit := &persistence.Commit{
		Stream: stream, Partition: home, Epoch: 1, Command: persistence.CommandID{1}, At: time.Unix(1_700_000_000, 0),
		Metadata: []byte(`{"user":"u"}`),
		Events:   []persistence.NewEvent{{Type: "added", Payload: []byte(`{"N":1}`)}, {Type: "added/2", Payload: []byte(`{"N":2}`)}},
	}
	s.Append(t.Context(), &persistence.Batch{
		Owner: me, Fences: []persistence.Fence{{Partition: home, Epoch: 1}}, Commits: []*persistence.Commit{commit},
	})
	require.NoError(t, commit.Err)
}

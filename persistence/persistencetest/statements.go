package persistencetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// statementCases say what becomes of SQL in commits. On a store that takes none,
// they say that it refuses it.
var statementCases = []testCase{
	{"TestStatementsAreWrittenWithTheirCommit", testStatementsAreWritten},
	{"TestFailedStatementFailsItsCommitAlone", testFailedStatement},
	{"TestManyFailedStatementsFailAlone", testManyFailedStatements},
}

// balance is a statement that adds a row to the read model of these tests, an
// ordinary claim by another name: the tables of the user are not ours to make. It
// fails when the key is there.
func balance(s persistence.Store, key string) persistence.Statement {
	if s.Meta().Dialect == "postgres" {
		return persistence.Statement{SQL: "insert into es_checkpoint (projection, part, pos) values ($1, $2, $3)", Args: []any{key, 0, int64(7)}}
	}
	return persistence.Statement{SQL: "insert into es_checkpoint (projection, part, pos) values (?, ?, ?)", Args: []any{key, 0, int64(7)}}
}

func stating(s persistence.Store, x persistence.Stream, expected persistence.Version, keys ...string) *persistence.Commit {
	c := commit(x, expected, "stated")
	for _, key := range keys {
		c.Statements = append(c.Statements, balance(s, key))
	}
	return c
}

func requireRow(t *testing.T, s persistence.Store, key string, there bool) {
	t.Helper()
	cursors, err := s.LoadCheckpoints(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, there, len(cursors) == 1, key)
}

// requireStatementError checks that a commit failed for its i-th statement. It
// reports false for a store without SQL, of which nothing else is asked.
func requireStatementError(t *testing.T, c *persistence.Commit, i int) {
	t.Helper()
	var failed *persistence.StatementError
	require.ErrorAs(t, c.Err, &failed)
	require.Equal(t, i, failed.Index)
	require.NotErrorIs(t, c.Err, persistence.ErrUnknownOutcome)
	require.NotErrorIs(t, c.Err, persistence.ErrUnreachable)
	require.Zero(t, c.Offset)
}

// refusesStatements checks what a store without SQL promises.
func refusesStatements(t *testing.T, s persistence.Store, o *owner) bool {
	t.Helper()
	if s.Meta().Dialect != "" {
		return false
	}
	c, neighbour := stating(s, streamIn(0, 1, 0), 0, "a"), commit(streamIn(0, 1, 1), 0, "x")
	o.append(c, neighbour)
	requireStatementError(t, c, 0)
	require.NoError(t, neighbour.Err)
	require.Empty(t, readAll(t, s, c.Stream))
	return true
}

func testStatementsAreWritten(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	if refusesStatements(t, s, o) {
		return
	}
	x, y := streamIn(0, 1, 0), streamIn(0, 1, 1)
	bare := stating(s, x, 2, "d")
	bare.Events = nil
	o.must(stating(s, x, 0, "a", "b"), commit(y, 0, "other"), stating(s, x, 1, "c"), bare)
	for _, key := range []string{"a", "b", "c", "d"} {
		requireRow(t, h.Again(t, s), key, true)
	}
	require.Len(t, readAll(t, s, x), 2)

	o.must(commit(y, 1, "again")) // an append without any goes on as before
	wrong := stating(s, x, 1, "e")
	o.append(wrong)
	requireConflict(t, wrong, 2)
	requireRow(t, s, "e", false)
}

func testFailedStatement(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	if refusesStatements(t, s, o) {
		return
	}
	x, y, z := streamIn(0, 1, 0), streamIn(0, 1, 1), streamIn(0, 1, 2)
	good, bad, after := stating(s, x, 0, "a"), stating(s, y, 0, "b", "a"), stating(s, z, 0, "c")
	bad.Claims = []persistence.Claim{claimOf("lost")}
	bad.Timers = []persistence.Timer{timerOf(y, "lost", noon)}
	behind := commit(y, 1, "on top of what failed")
	winner := stating(s, streamIn(0, 1, 3), 0)
	winner.Claims = bad.Claims
	o.append(good, bad, behind, after, winner)
	require.NoError(t, good.Err)
	requireStatementError(t, bad, 1)
	requireConflict(t, behind, 0)
	require.NoError(t, after.Err)
	require.NoError(t, winner.Err)
	require.Equal(t, good.Offset+1, after.Offset, "what failed left a gap")
	requireRow(t, s, "b", false)
	requireRow(t, s, "c", true)
	requireHolder(t, s, claimOf("lost"), &winner.Stream)
	requireTimers(t, s, nil, noon)
	require.Empty(t, readAll(t, s, y))
	require.Len(t, tailAll(t, s), 3)

	for what, statement := range map[string]persistence.Statement{
		"no such table":   {SQL: "insert into nowhere (x) values (1)"},
		"no SQL":          {SQL: "select from where"},
		"an odd argument": {SQL: balance(s, "x").SQL, Args: []any{"x", struct{ A chan int }{}, 1}},
		"too few":         {SQL: balance(s, "x").SQL, Args: []any{"x"}},
	} {
		c, neighbour := commit(y, 0, what), commit(z, persistence.Version(len(readAll(t, s, z))), "neighbour")
		c.Statements = []persistence.Statement{statement}
		o.append(c, neighbour)
		requireStatementError(t, c, 0)
		require.NoError(t, neighbour.Err, what)
	}
	o.must(stating(s, y, 0, "b"))
	requireRow(t, s, "b", true)
}

func testManyFailedStatements(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	if refusesStatements(t, s, o) {
		return
	}
	o.must(stating(s, streamIn(0, 1, 0), 0, "there"))
	var commits []*persistence.Commit
	for i := range 24 {
		key := fmt.Sprint("new-", i)
		if i%2 == 0 {
			key = "there"
		}
		commits = append(commits, stating(s, streamIn(0, 1, i+1), 0, key))
	}
	o.append(commits...)
	for i, c := range commits {
		if i%2 == 0 {
			requireStatementError(t, c, 0)
		} else {
			require.NoError(t, c.Err)
		}
	}
	require.Len(t, tailAll(t, s), 13)
	require.False(t, errors.Is(commits[1].Err, persistence.ErrUnknownOutcome))
}

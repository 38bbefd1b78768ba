package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

// TestMain lets the program start itself again from a test.
func TestMain(m *testing.M) {
	if code, isChild := runChild(); isChild {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// short is a command line for a run of a few seconds.
const short = "-for 1s -steady 0 -calm 500ms -fleet 500 -json -nodes 3"

// result is the last line of a run.
func runShort(t *testing.T, want int, more string) *outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := churn(t.Context(), strings.Fields(short+" "+more), &stdout, &stderr)
	require.Equal(t, want, code, "%s\n%s", stdout.String(), stderr.String())
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var o outcome
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &o), "the last line is the JSON")
	return &o
}

func TestNobodyNoticesThatNodesAreKilledAndFrozen(t *testing.T) {
	dir := t.TempDir()
	o := runShort(t, exitFine, "-schedule kill:500ms:hot,pause:3s:#2 -report "+dir)
	require.Zero(t, o.Violations)
	require.Greater(t, o.OK, 3000)
	require.Greater(t, o.Rejected, 50)
	require.Zero(t, o.Failed)
	require.Greater(t, o.Histories, 100)
	require.Greater(t, o.Events, 1500)
	require.Equal(t, []string{"kill:500ms:hot", "pause:3s:#2"}, o.Schedule)
	rows := map[kind]row{}
	for _, r := range o.Rows {
		rows[r.Kind] = r
		require.True(t, r.Linearizable)
		require.Positive(t, r.OK, r.Kind)
		require.Positive(t, r.Gap.Count, r.Kind)
	}
	require.Len(t, rows, 4, "calm, kill, the join after it, and pause")
	require.Positive(t, rows[kill].FirstWrite.Count)
	require.Positive(t, rows[kill].FirstRead.Count)
	require.Positive(t, rows[kill].Moves)
	require.Positive(t, rows[pause].Moves, "the frozen node's partitions were taken over")

	page, err := os.ReadFile(filepath.Join(dir, "churn.html"))
	require.NoError(t, err)
	for _, word := range []string{"no violation", "polyline", "kill", "pause", o.Command} {
		require.Contains(t, string(page), word)
	}
	require.NoDirExists(t, o.Files, "what nobody needs is removed")
}

// The checkers are no use if they cannot see what the framework prevents.
func TestClientsThatAskAgainUnderNewIdsAreFoundOut(t *testing.T) {
	o := runShort(t, exitViolations, "-schedule pause:4s:#1,kill:500ms:hot -unsafe-no-dedup -dir "+t.TempDir())
	require.Positive(t, o.Kinds[check.Duplicated], "%v", o.Kinds)
	require.NotEmpty(t, o.Examples)
}

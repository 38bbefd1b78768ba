package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

const programEnv = "INGRAIN_TRADER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if spec := os.Getenv(specEnv); spec != "" { // this test binary as a node
		os.Exit(nodeMain(spec))
	}
	if os.Getenv(programEnv) != "" { // this test binary as the whole program
		main()
	}
	os.Exit(postgrestest.Main(m))
}

// play runs the program, in this process with nodes in others, and returns what
// it printed last.
func play(ctx context.Context, t *testing.T, code int, args ...string) (summary, string) {
	t.Helper()
	var out, errs bytes.Buffer
	got := run(ctx, append(args, "-http", "127.0.0.1:0", "-json"), &out, &errs)
	require.Equal(t, code, got, "%s\n%s", out.String(), errs.String())
	var s summary
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &s), "%s\n%s", out.String(), errs.String())
	return s, errs.String()
}

func proven(t *testing.T, s summary) {
	t.Helper()
	require.Zero(t, s.Lost)
	require.Zero(t, s.Duplicated)
	require.Empty(t, s.Violated)
	require.Positive(t, s.Trades)
	require.Positive(t, s.Acknowledged)
	require.Positive(t, s.P50)
	require.GreaterOrEqual(t, s.P99, s.P50)
}

// A node is killed while it trades, and nothing is lost; the next run goes on
// from the same data.
func TestThreeNodesOnSQLiteWithOneKilled(t *testing.T) {
	data := t.TempDir()
	s, told := play(t.Context(), t, 0, "-nodes", "3", "-data", data, "-for", "6s", "-kill", "2500ms", "-robots", "12")
	proven(t, s)
	require.Equal(t, 3, s.Nodes)
	require.Equal(t, 2, s.NodesLeft)
	require.Contains(t, told, "signal: killed; the others go on")

	next, told := play(t.Context(), t, 0, "-nodes", "2", "-data", data, "-for", "1500ms", "-robots", "12")
	proven(t, next)
	require.Contains(t, told, "going on from")
	require.Greater(t, next.Events, s.Events)
	require.Equal(t, s.AllTrades+next.Trades, next.AllTrades)
	require.Greater(t, next.Checked, s.Checked)
}

func TestTwoNodesOnPostgres(t *testing.T) {
	data := t.TempDir()
	s, _ := play(t.Context(), t, 0, "-nodes", "2", "-store", "postgres", "-dsn", postgrestest.DSN(t), "-data", data, "-for", "2s", "-robots", "8")
	proven(t, s)
	require.Equal(t, 2, s.NodesLeft)
}

// An acknowledgement that the log does not keep makes the program fail.
func TestALostCommandFailsTheRun(t *testing.T) {
	data := t.TempDir()
	first, _ := play(t.Context(), t, 0, "-nodes", "1", "-data", data, "-for", "1s", "-robots", "4")
	proven(t, first)
	files, err := filepath.Glob(filepath.Join(data, "acks", "*", "*.acks"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	forged := filepath.Join(filepath.Dir(files[0]), "forged.acks")
	require.NoError(t, os.WriteFile(forged, []byte("0190a1b2-c3d4-7000-8000-000000000001 3 999999\n"), 0o600))
	s, _ := play(t.Context(), t, 1, "-nodes", "1", "-data", data, "-for", "1s", "-robots", "4")
	require.Equal(t, 1, s.Lost)
	require.Equal(t, "I12", s.Violated[0].Invariant)
}

// trading is a line of figures of a market in which something happens.
var trading = regexp.MustCompile(`(?m)^ +[1-9]\d*s +2 +[1-9]\d* `)

// The real program, interrupted at the terminal: it closes the market, checks,
// and says so.
func TestAnInterruptEndsTheRunInGoodOrder(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-data", t.TempDir(), "-nodes", "2", "-for", "0", "-robots", "4", "-http", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), programEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	var seen bytes.Buffer
	buffer := make([]byte, 4096)
	interrupted := false
	for {
		n, err := output.Read(buffer)
		seen.Write(buffer[:n])
		if !interrupted && trading.MatchString(seen.String()) {
			interrupted = true
			require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)) // as a terminal does: to all of the group
		}
		if err != nil {
			break
		}
	}
	require.NoError(t, cmd.Wait(), "%s%s", seen.String(), errs.String())
	require.Contains(t, seen.String(), "invariants violated  0")
}

func TestWrongUseIsToldByItsFlag(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for want, args := range map[string][]string{
		"-nodes 0":                               {"-nodes", "0"},
		"-robots -1":                             {"-robots", "-1"},
		`-store "mongo"`:                         {"-store", "mongo"},
		"-dsn goes with":                         {"-dsn", "host=x"},
		"-data names no folder":                  {"-data", ""},
		"-for -1s":                               {"-for", "-1s"},
		`-http "127.0.0.1:65534": leaves no`:     {"-http", "127.0.0.1:65534"},
		"-kill -1s":                              {"-kill", "-1s"},
		"-kill needs":                            {"-nodes", "1", "-kill", "1s"},
		"-kill 5s: want less":                    {"-kill", "5s", "-for", "5s"},
		`-http "nowhere"`:                        {"-http", "nowhere"},
		"unexpected argument":                    {"now"},
		"-no-such-flag":                          {"-no-such-flag"},
		"node-1: -http " + taken.Addr().String(): {"-data", t.TempDir(), "-http", taken.Addr().String()},
		"-data " + file:                          {"-data", file},
		"open postgres store":                    {"-data", t.TempDir(), "-store", "postgres", "-dsn", "host=127.0.0.1 port=1 user=x dbname=x connect_timeout=2"},
	} {
		t.Run(want, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var out, errs bytes.Buffer
			require.Equal(t, 2, run(ctx, args, &out, &errs))
			require.Contains(t, errs.String(), want)
			require.NotContains(t, out.String(), "acknowledged")
		})
	}
}

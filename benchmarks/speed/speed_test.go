package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the program start itself again from a test.
func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	os.Exit(m.Run())
}

// TestEveryFigureIsMeasured runs the program on samples too short to mean
// anything: the run checks itself that the stores hold what was acknowledged.
func TestEveryFigureIsMeasured(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	profile := filepath.Join(dir, "cpu")
	code := run(t.Context(), []string{
		"-json", "-report", dir, "-for", "200ms", "-pairs", "1", "-aggregates", "20000", "-cpuprofile", profile,
	}, &stdout, &stderr)
	require.Zero(t, code, "%s\n%s", stdout.String(), stderr.String())

	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var got struct {
		Figures []struct {
			Name, Unit, Command string
			Value               float64
			Baseline, Goal      *float64
			Ratio               *float64
			RatioMin            *float64 `json:"ratio_min"`
			RatioMax            *float64 `json:"ratio_max"`
			Met                 *bool
		}
		Machine struct {
			Cores    int
			Postgres string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &got), "the last line is the JSON")

	var expected, measured []string
	for _, g := range groups {
		expected = append(expected, g.figures...)
	}
	for _, f := range got.Figures {
		measured = append(measured, f.Name)
		require.Positive(t, f.Value, f.Name)
		require.NotEmpty(t, f.Unit, f.Name)
		require.Contains(t, f.Command, f.Name)
		require.Equal(t, f.Goal == nil, f.Met == nil, f.Name)
		require.Equal(t, f.Baseline == nil, f.Ratio == nil, f.Name)
		if f.Ratio != nil {
			require.Positive(t, *f.Baseline, f.Name)
			require.LessOrEqual(t, *f.RatioMin, *f.Ratio, f.Name)
			require.GreaterOrEqual(t, *f.RatioMax, *f.Ratio, f.Name)
		}
	}
	require.ElementsMatch(t, expected, measured)
	require.Positive(t, got.Machine.Cores)
	require.NotEmpty(t, got.Machine.Postgres)

	page, err := os.ReadFile(filepath.Join(dir, "speed.html"))
	require.NoError(t, err)
	for _, name := range expected {
		require.Contains(t, string(page), name)
	}
	for _, outside := range []string{"http:", "https:", "<script", "<link", "src="} {
		require.NotContains(t, string(page), outside, "the page stands alone")
	}
	written, err := os.Stat(profile)
	require.NoError(t, err)
	require.Positive(t, written.Size())
}

func TestMistakesInTheFlagsAreErrors(t *testing.T) {
	for _, args := range [][]string{
		{"-run", "["}, {"-run", "no such figure"}, {"-for", "0s"}, {"-pairs", "0"}, {"-nonsense"}, {"argument"},
	} {
		var stdout, stderr bytes.Buffer
		require.NotZero(t, run(t.Context(), args, &stdout, &stderr), args)
		require.NotEmpty(t, stderr.String(), args)
	}
}

func TestAMissedGoalIsAnErrorOnlyWhenStrict(t *testing.T) {
	f := figure{Name: "f", Goal: ratioAtLeast(2), Of: samples{1, 3, 2}, Base: samples{1, 1, 1}}
	require.NoError(t, f.settle())
	require.True(t, *f.Met)
	require.Equal(t, []float64{2, 1, 3}, []float64{*f.Ratio, *f.RatioMin, *f.RatioMax})

	f = figure{Name: "f", Goal: ratioAtMost(1.2), Of: samples{3, 1}, Base: samples{1, 1}}
	require.NoError(t, f.settle())
	require.True(t, f.missed())
	require.Equal(t, 1, (&result{Figures: []*figure{&f}}).missed())

	f = figure{Name: "f", Goal: valueAtMost(10), Of: samples{11}}
	require.NoError(t, f.settle())
	require.True(t, f.missed())

	f = figure{Name: "f", Of: samples{11}, Base: samples{1, 2}}
	require.Error(t, f.settle(), "samples without a partner")
	f = figure{Name: "f", Of: samples{11}, Base: samples{0}}
	require.Error(t, f.settle(), "a ratio to nothing")
}

func TestTheMarkdownTableHasARowForEveryFigure(t *testing.T) {
	full := &figure{
		Name: "full", Unit: "commands/s", Goal: ratioAtLeast(2), Of: samples{1, 3, 2}, Base: samples{1, 1, 1}, cpu: samples{1}, baseCPU: samples{4},
	}
	bare := &figure{Name: "bare", Unit: "bytes", Goal: valueAtMost(10), Of: samples{11}}
	require.NoError(t, full.settle())
	require.NoError(t, bare.settle())
	var out bytes.Buffer
	(&result{Figures: []*figure{full, bare}, Machine: &machine{Cores: 2}}).markdown(&out)
	require.Contains(t, out.String(), `
| figure | value | baseline | ratio, median (min-max) | by CPU | goal | met |
|---|---|---|---|---|---|---|
| `+"`full`"+` | 2.00 commands/s | 1.00 commands/s | 2.00x (1.00-3.00) | 4.00x | ≥ 2.00x | yes |
| `+"`bare`"+` | 11.0 bytes |  |  |  | ≤ 10.0 | no |
`)
}

func TestWrongResultsDoNotCount(t *testing.T) {
	b := newBookings(nil, 0, 3)
	b.acked[0].Store(2)
	b.acked[1].Store(1)
	good := map[string]int64{accountID(0): 2, accountID(1): 1}
	require.NoError(t, compare(good, b))
	require.ErrorContains(t, compare(map[string]int64{accountID(0): 2}, b), "1 commands were acknowledged")
	require.ErrorContains(t, compare(map[string]int64{accountID(0): 3, accountID(1): 1}, b), "has 3 events")
	require.ErrorContains(t, compare(map[string]int64{accountID(0): 2, accountID(1): 1, "x": 1}, b), "3 accounts in the store")
}

// TestAStallIsFeltByAllThatAreDue holds one of the first calls up: those behind
// it are not delayed, and its own latency counts from when it was due.
func TestAStallIsFeltByAllThatAreDue(t *testing.T) {
	release := make(chan struct{})
	const stall = 50 * time.Millisecond
	time.AfterFunc(stall, func() { close(release) })
	latencies, err := openLoop(t.Context(), 30*time.Millisecond, 1000, func(int) error {
		<-release
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, latencies)
	require.GreaterOrEqual(t, percentile(latencies, 0), stall-30*time.Millisecond, "nobody was answered before the release")
	require.IsNonDecreasing(t, latencies)
}

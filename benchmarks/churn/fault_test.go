package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// draw takes n faults of a schedule.
func draw(s *schedule, n int) []string {
	var all []string
	for range n {
		f, ok := s.next()
		if !ok {
			break
		}
		all = append(all, f.String())
	}
	return all
}

func everyKind(t *testing.T) []fault {
	all, err := parseFaults(strings.ReplaceAll(kindList(), " ", ""))
	require.NoError(t, err)
	require.Len(t, all, len(kinds))
	return all
}

func TestTheSameSeedDrawsTheSameFaults(t *testing.T) {
	schedules := map[string]bool{}
	for seed := range uint64(20) {
		one := draw(newSchedule(seed, everyKind(t), time.Second, time.Minute), 100)
		again := draw(newSchedule(seed, everyKind(t), time.Second, time.Minute), 100)
		require.Equal(t, one, again)
		schedules[strings.Join(one, ",")] = true
	}
	require.Len(t, schedules, 20, "other seeds draw others")
}

func TestEveryRoundHasEveryKindOnce(t *testing.T) {
	s := newSchedule(1, everyKind(t), time.Second, time.Minute)
	for range 5 {
		seen := map[kind]int{}
		for range kinds {
			f, ok := s.next()
			require.True(t, ok)
			seen[f.Kind]++
		}
		require.Len(t, seen, len(kinds))
	}
}

// What a run prints can be given to -schedule and is the same then.
func TestAPrintedScheduleIsReadBack(t *testing.T) {
	printed := draw(newSchedule(3, everyKind(t), time.Second, 10*time.Minute), 200)
	read, err := parseFaults(strings.Join(printed, ","))
	require.NoError(t, err)
	require.Equal(t, printed, draw(exactly(read, time.Second, 10*time.Minute), 1000))
}

func TestWhatIsSaidIsNotDrawn(t *testing.T) {
	faults, err := parseFaults("pause:1.5s:#2, kill:hot,cut-peers:in:reset:3s:#1,cut-store:both:2s:#3")
	require.NoError(t, err)
	for seed := range uint64(10) {
		for range 3 {
			for _, f := range draw(newSchedule(seed, faults, time.Second, time.Minute), len(faults)) {
				switch name, rest, _ := strings.Cut(f, ":"); name {
				case "pause":
					require.Equal(t, "1.5s:#2", rest)
				case "kill":
					require.True(t, strings.HasSuffix(rest, ":hot"), f)
				case "cut-peers":
					require.Equal(t, "3s:in:reset:#1", rest)
				case "cut-store":
					require.Equal(t, "2s:both:#3", rest)
				}
			}
		}
	}
}

func TestPausesAreThoseThatMatterToALease(t *testing.T) {
	pauses := []fault{{Kind: pause}}
	for length, want := range map[time.Duration][]time.Duration{
		20 * time.Second: {500 * time.Millisecond, 1500 * time.Millisecond},
		time.Minute:      {500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second},
		time.Hour:        {500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second, 30 * time.Second},
	} {
		s, seen := newSchedule(1, pauses, time.Second, length), map[time.Duration]bool{}
		for range 200 {
			f, _ := s.next()
			seen[f.For] = true
		}
		require.Len(t, seen, len(want))
		for _, d := range want {
			require.True(t, seen[d], "%s in %s", d, length)
		}
	}
}

func TestWrongCommandLinesAreRefused(t *testing.T) {
	for line, why := range map[string]string{
		"-faults boom":                             `fault "boom": want one of`,
		"-faults kill:soon":                        `"soon" is neither a duration`,
		"-faults pause:#0":                         "count from #1",
		"-faults store-kill":                       "fault store-kill needs -store postgres",
		"-faults cut-store":                        "fault cut-store needs -store postgres",
		"-schedule cut-both":                       "fault cut-both needs -store postgres",
		"-faults kill -nodes 1":                    "needs at least 2 nodes",
		"-faults flap -world direct":               "needs links that can be cut",
		"-store mysql":                             "want sqlite or postgres",
		"-world moon":                              "want direct, proxies or namespaces",
		"-nodes 0":                                 "-nodes 0",
		"-lease 10ms":                              "-lease at least 100ms",
		"-rate 1":                                  "-rate must be at least 10",
		"-mix register=0":                          "no workload has a share",
		"-mix register":                            "want a workload and its share",
		"-mix boom=3":                              "want a workload and its share",
		"-mix idle=1 -fleet 0":                     "needs a -fleet",
		"-unsafe-no-fence -no-cache":               "one baseline at a time",
		"-no-cache -lock-per-command":              "one baseline at a time",
		"go":                                       "unknown arguments: go",
		"-faults none -for -1s":                    "must not be negative",
		"-faults none -partitions -1":              "-partitions at least 1",
		"-faults none -recovery 0s":                "-recovery",
		"-faults none -nodes 2 -seed 1 -world xyz": "want direct",
	} {
		var stderr bytes.Buffer
		_, err := parse(strings.Fields(line), &stderr)
		require.ErrorContains(t, err, why, line)
		require.Equal(t, exitBroken, churn(t.Context(), strings.Fields(line), &bytes.Buffer{}, &stderr), line)
	}
}

func TestDefaultsFollowFromWhatIsAskedFor(t *testing.T) {
	ask := func(line string) *options {
		o, err := parse(strings.Fields(line), &bytes.Buffer{})
		require.NoError(t, err, line)
		return o
	}
	o := ask("")
	require.Equal(t, "direct", o.world)
	require.Equal(t, 16, o.partitions)
	require.Equal(t, 100_000, o.fleet)
	require.Positive(t, o.seed)
	require.Equal(t, fmt.Sprintf("go run ./benchmarks/churn -seed %d", o.seed), strings.Join(strings.Fields(o.command), " "))
	require.Equal(t, "proxies", ask("-faults flap").world)
	require.Equal(t, "proxies", ask("-store postgres -faults none -schedule cut-store").world)
	require.Equal(t, 32, ask("-store postgres").partitions)
	require.Zero(t, ask("-mix register=1").fleet)
	require.Equal(t, "go run ./benchmarks/churn -seed 4", ask("-seed 4").command)
	require.Empty(t, ask("-faults none").faults)

	help, err := parse([]string{"-h"}, &bytes.Buffer{})
	require.NoError(t, err)
	require.Nil(t, help)
}

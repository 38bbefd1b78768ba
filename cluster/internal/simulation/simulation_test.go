package simulation

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/internal/simulated"
)

var (
	first    = flag.Uint64("seed", 0, "run this seed alone; 0 for many")
	from     = flag.Uint64("from", 1, "the first of many seeds")
	count    = flag.Int("seeds", 500, "how many seeds")
	progress = flag.Duration("progress", 0, "print a line this often, and one of JSON at the end; 0 for never")
	lines    = flag.Int("lines", 60, "how much of a failed run's history is printed; -1 for all")
	off      = flag.String("off", "", "switch off a rule: fence, head-check, in-flight-wait, hold, check-after-compute, dedup, epoch-bump")
)

func TestMain(m *testing.M) {
	flag.Parse()
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1) // between the runs, so that a run does not depend on it
	debug.SetMemoryLimit(2 << 30)
	os.Exit(m.Run())
}

// collect is called after each run.
func collect(n int) {
	if n%16 == 15 {
		runtime.GC()
	}
}

// rules are the switches by name, with the kinds of violation that each rule
// keeps away.
var rules = []struct {
	name    string
	without Rules
	kinds   []Kind
}{
	{"fence", Rules{Fence: true}, []Kind{BrokenLog}},
	{"head-check", Rules{HeadCheck: true}, []Kind{Phantom, Lost}},
	{"in-flight-wait", Rules{InFlightWait: true}, []Kind{NotLinearizable, BrokenLog}},
	{"hold", Rules{Rules: simulated.Rules{Hold: true}}, []Kind{NotLinearizable}},
	{"check-after-compute", Rules{Rules: simulated.Rules{CheckAfterCompute: true}}, []Kind{NotLinearizable}},
	{"dedup", Rules{Rules: simulated.Rules{Dedup: true}}, []Kind{Twice}},
	{"epoch-bump", Rules{Rules: simulated.Rules{EpochBump: true}}, []Kind{Undone}},
}

func switchedOff(t *testing.T) Rules {
	if *off == "" {
		return Rules{}
	}
	for _, r := range rules {
		if r.name == *off {
			return r.without
		}
	}
	t.Fatalf("no rule is called %q", *off)
	return Rules{}
}

func TestSeeds(t *testing.T) {
	without := switchedOff(t)
	if *first != 0 {
		r := Run(t, *first, without)
		report(t, r)
		fmt.Println(strings.Join(r.History[max(0, len(r.History)-max(*lines, 0)):], "\n"))
		if *lines < 0 {
			fmt.Println(strings.Join(r.History, "\n"))
		}
		fmt.Printf("seed %d: digest %016x, disturbed %t, %d lines, %.1f simulated seconds, %v\n",
			r.Seed, r.Digest, r.Disturbed, len(r.History), r.Took.Seconds(), r.Tally)
		return
	}
	begun, printed := time.Now(), time.Now()
	sum, failed := map[string]int{}, []uint64{}
	var simulated time.Duration
	for i := range *count {
		r := Run(t, *from+uint64(i), without)
		for what, n := range r.Tally {
			sum[what] += n
		}
		simulated += r.Took
		if len(r.Violations) > 0 {
			failed = append(failed, r.Seed)
			report(t, r)
		}
		collect(i)
		if *progress > 0 && time.Since(printed) >= *progress {
			printed = time.Now()
			fmt.Printf("%d seeds, %.1f a second, %d failed\n", i+1, float64(i+1)/time.Since(begun).Seconds(), len(failed))
		}
	}
	if *count >= enough && without == (Rules{}) {
		requireEvents(t, sum, *count)
	}
	rate := float64(*count) / time.Since(begun).Seconds()
	if *progress > 0 {
		line, err := json.Marshal(map[string]any{
			"from": *from, "seeds": *count, "failed": failed, "seconds": time.Since(begun).Seconds(), "seeds_per_second": rate,
			"simulated_seconds": simulated.Seconds(), "tally": sum,
		})
		require.NoError(t, err)
		fmt.Println(string(line))
	}
	t.Logf("%d seeds, %.1f a second, %.0f simulated seconds: %v", *count, rate, simulated.Seconds(), sum)
}

// enough is how many seeds must have shown everything that can happen.
const enough = 500

// requireEvents fails the test if hardly anything happened in so many runs: they
// would prove nothing.
func requireEvents(t *testing.T, sum map[string]int, seeds int) {
	for what, least := range map[string]float64{ // of each run, on average
		"replies done": 20, "replies seen": 30, "rejections": 10, "replies unknown": 5, "remote calls": 50, "sent twice": 2,
		"takeovers": 5, "handovers": 2, "evictions": 1, "rejoins": 1, "held": 5, "barriers": 3, "fenced": 0.3,
		"unknown appends": 1, "duplicates": 3, "lookups": 0.05, "parked": 0.5, "relayed": 3, "passed on": 1, "redirected": 0.3, "warmed": 0.5,
		"pauses": 2, "freezes": 1, "crashes": 1, "leaves": 0.3, "cuts": 1, "breaks": 0.3, "stalls": 0.3, "rollbacks": 0.05,
		"commits rolled back": 0.05, "lock waits": 0.1, "requests late": 1, "answers lost": 1, "snapshots": 2, "passivations": 5,
	} {
		require.GreaterOrEqual(t, float64(sum[what]), least*float64(seeds), "%s in %d runs", what, seeds)
	}
}

// report fails the test for what a run has shown.
func report(t *testing.T, r *Result) {
	if len(r.Violations) == 0 {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, digest %016x, disturbed %t:\n", r.Seed, r.Digest, r.Disturbed)
	tail := r.History
	if *lines >= 0 {
		tail = tail[max(0, len(tail)-*lines):]
	}
	for _, line := range tail {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	for _, v := range r.Violations[:min(len(r.Violations), 20)] {
		fmt.Fprintf(&b, "%s: %s\n", v.Kind, v.Text)
	}
	fmt.Fprintf(&b, "again: go test ./cluster/internal/simulation -run TestSeeds -seed %d\n", r.Seed)
	t.Error(b.String())
}

// TestEachRuleIsNeeded switches off one safety rule after the other: the suite
// must find out, or it would not notice the rule's loss.
func TestEachRuleIsNeeded(t *testing.T) {
	const most = 2000
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			begun := time.Now()
			for i := range most {
				r := Run(t, *from+uint64(i), rule.without)
				collect(i)
				if r.Has(rule.kinds...) {
					t.Logf("seed %d, the %dth, after %.1f s: %v", r.Seed, i+1, time.Since(begun).Seconds(), r.Violations[0])
					return
				}
			}
			t.Fatalf("without the rule, %d seeds show no violation of the kinds %v", most, rule.kinds)
		})
	}
}

// TestASeedReplays compares two runs of each seed. They must be equal, and only one
// that the operating system has disturbed may be repeated.
func TestASeedReplays(t *testing.T) {
	const seeds, most = 40, 10
	again := 0
	for i := range seeds {
		seed := uint64(1000 + i)
		one, other := Run(t, seed, Rules{}), Run(t, seed, Rules{})
		for runs := 2; one.Digest != other.Digest && (one.Disturbed || other.Disturbed) && runs < most; runs++ {
			again++
			if one.Disturbed {
				one = other
			}
			other = Run(t, seed, Rules{})
		}
		if one.Digest != other.Digest {
			t.Errorf("seed %d: %s", seed, parting(one, other))
		}
		collect(i)
	}
	t.Logf("%d seeds, %d runs repeated after a disturbance", seeds, again)
}

// parting says where two histories part.
func parting(one, other *Result) string {
	n := 0
	for n < min(len(one.History), len(other.History)) && one.History[n] == other.History[n] {
		n++
	}
	line := func(r *Result) string {
		if n == len(r.History) {
			return "the end"
		}
		return r.History[n]
	}
	return fmt.Sprintf("line %d of the history is %q, and in another run %q (disturbed: %t, %t)", n+1, line(one), line(other), one.Disturbed, other.Disturbed)
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

// sums are what many runs came to, made in slices and added up from the lines
// that -json printed.
type sums struct {
	runs, early                   int
	seconds                       float64
	ok, rejected, unknown, failed int
	events, histories, calls      int
	kinds                         map[check.Kind]int
	rows                          map[kind]*sumRow
	commands                      []string
}

// sumRow is what all faults of a kind came to, in all runs. Of percentiles only
// the worst can be told.
type sumRow struct {
	times, operations, unanswered   int
	lost, duplicated, stale, others int
	nonlinear                       int // runs in which no order explained what was seen
	moves, minimum                  int
	fenced                          float64
	gap, write, read, recovery      spread
}

// lineLimit bounds a line of JSON.
const lineLimit = 64 << 20

// add takes in the lines of a file that are results of runs; others are skipped,
// since -json prints them after everything else.
func (s *sums) add(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, lineLimit)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var o outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			return err
		}
		if o.Baseline != (baseline{}) {
			return fmt.Errorf("%s: a run of a baseline says nothing about the framework", o.Command)
		}
		s.run(&o)
	}
	return lines.Err()
}

func (s *sums) run(o *outcome) {
	if s.rows == nil {
		s.rows, s.kinds = map[kind]*sumRow{}, map[check.Kind]int{}
	}
	s.runs++
	if o.Early {
		s.early++
	}
	s.seconds += o.Seconds
	s.ok, s.rejected, s.unknown, s.failed = s.ok+o.OK, s.rejected+o.Rejected, s.unknown+o.Unknown, s.failed+o.Failed
	s.events, s.histories, s.calls = s.events+o.Events, s.histories+o.Histories, s.calls+o.Calls
	for k, n := range o.Kinds {
		s.kinds[k] += n
	}
	s.commands = append(s.commands, o.Command)
	for i := range o.Rows {
		r := &o.Rows[i]
		sum := s.rows[r.Kind]
		if sum == nil {
			sum = &sumRow{}
			s.rows[r.Kind] = sum
		}
		sum.times += r.Times
		sum.operations += r.OK + r.Rejected + r.Unknown + r.Failed
		sum.unanswered += r.Unknown + r.Failed
		sum.lost, sum.duplicated, sum.stale, sum.others = sum.lost+r.Lost, sum.duplicated+r.Duplicated, sum.stale+r.Stale, sum.others+r.OtherViolations
		if !r.Linearizable {
			sum.nonlinear++
		}
		sum.moves, sum.minimum, sum.fenced = sum.moves+r.Moves, sum.minimum+max(r.Minimum, 0), sum.fenced+r.Fenced
		sum.gap, sum.recovery = sum.gap.worst(r.Gap), sum.recovery.worst(r.Recovery)
		sum.write, sum.read = sum.write.worst(r.FirstWrite), sum.read.worst(r.FirstRead)
	}
}

// worst of two spreads, number by number.
func (s spread) worst(other spread) spread {
	return spread{s.Count + other.Count, max(s.P50, other.P50), max(s.P99, other.P99), max(s.Max, other.Max)}
}

// print writes the sums in Markdown.
func (s *sums) print(w io.Writer) {
	var broken []string
	for k, n := range s.kinds {
		broken = append(broken, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(broken)
	verdict := "no violation"
	if len(broken) > 0 {
		verdict = "VIOLATIONS: " + strings.Join(broken, ", ")
	}
	fmt.Fprintf(w, "%d runs, %.1f h (%d ended early): %d ok, %d rejected, %d unknown, %d failed; %d events in the logs; %d calls in %d histories; %s\n\n",
		s.runs, s.seconds/3600, s.early, s.ok, s.rejected, s.unknown, s.failed, s.events, s.calls, s.histories, verdict)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	line := func(cells ...string) { fmt.Fprintf(t, "| %s |\n", strings.Join(cells, "\t| ")) }
	line("fault", "times", "operations", "unknown or failed", "lost", "duplicated", "stale", "not linearizable", "other", "fenced", "moves/minimum", "worst gap, ms", "worst first write", "worst first read", "worst recovery")
	line(strings.Split(strings.Repeat("---,", 15), ",")[:15]...)
	var order []string
	for k := range s.rows {
		order = append(order, string(k))
	}
	slices.Sort(order)
	of := func(p spread) string {
		if p.Count == 0 {
			return "-"
		}
		return ms(p.Max)
	}
	for _, k := range order {
		r := s.rows[kind(k)]
		n := strconv.Itoa
		line(k, n(r.times), n(r.operations), n(r.unanswered), n(r.lost), n(r.duplicated), n(r.stale), n(r.nonlinear), n(r.others),
			fmt.Sprintf("%.0f", r.fenced), fmt.Sprintf("%d/%d", r.moves, r.minimum), of(r.gap), of(r.write), of(r.read), of(r.recovery))
	}
	_ = t.Flush() // the writer's errors show in its next use
	fmt.Fprintln(w)
	for _, c := range s.commands {
		fmt.Fprintf(w, "    %s\n", c)
	}
}

// sumUp adds up files of results.
func sumUp(files []string, stdout io.Writer) error {
	if len(files) == 0 {
		return errors.New("-sum: no file of results given")
	}
	var s sums
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(s.add(file), file.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.print(stdout)
	return nil
}

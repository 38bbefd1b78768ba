package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// safetyHead, timeHead and workHead are the columns of the three tables.
var (
	safetyHead = []string{
		"fault", "times", "ok", "rejected", "unknown", "failed", "lost", "duplicated", "stale", "linearizable", "other",
	}
	workHead = []string{"fault", "moves", "minimum", "fenced", "held", "barriers", "forwards", "retries", "loads"}
	timeHead = []string{
		"fault", "gap ms p50/p99/max", "first write", "first read", "recovery", "shares equal", "before/s", "during/s", "after/s",
	}
)

func (r *row) safety() []string {
	linearizable := "yes"
	if !r.Linearizable {
		linearizable = "NO"
	}
	n := func(v int) string { return fmt.Sprint(v) }
	return []string{
		string(r.Kind), n(r.Times), n(r.OK), n(r.Rejected), n(r.Unknown), n(r.Failed), n(r.Lost), n(r.Duplicated), n(r.Stale),
		linearizable, n(r.OtherViolations),
	}
}

// work is what the nodes did.
func (r *row) work() []string {
	minimum := "-"
	if r.Minimum >= 0 {
		minimum = fmt.Sprint(r.Minimum)
	}
	f := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	return []string{
		string(r.Kind), fmt.Sprint(r.Moves), minimum, f(r.Fenced), f(r.Held), f(r.Barriers), f(r.Forwards), f(r.Retries), f(r.Loads),
	}
}

func (r *row) times() []string {
	return []string{
		string(r.Kind), r.Gap.String(), r.FirstWrite.String(), r.FirstRead.String(), r.Recovery.String(), r.Settled.String(),
		fmt.Sprintf("%.0f", r.Before), fmt.Sprintf("%.0f", r.During), fmt.Sprintf("%.0f", r.After),
	}
}

// bad says that something was violated.
func (r *row) bad() bool {
	return r.Lost+r.Duplicated+r.Stale+r.OtherViolations > 0 || !r.Linearizable
}

// verdict is the outcome in a sentence.
func (o *outcome) verdict() string {
	if o.Violations == 0 {
		return fmt.Sprintf("no violation: %d operations, 0 lost, 0 duplicated, 0 stale, %d histories linearizable", o.operations(), o.Histories)
	}
	var kinds []string
	for _, k := range o.Report.Kinds() {
		kinds = append(kinds, fmt.Sprintf("%d %s", o.Kinds[k], k))
	}
	return fmt.Sprintf("%d VIOLATIONS: %s", o.Violations, strings.Join(kinds, ", "))
}

func (o *outcome) operations() int { return o.OK + o.Rejected + o.Unknown + o.Failed }

func (o *outcome) table(w io.Writer) {
	grid := func(head []string, line func(*row) []string) {
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, strings.Join(head, "\t")+"\t")
		for i := range o.Rows {
			fmt.Fprintln(t, strings.Join(line(&o.Rows[i]), "\t")+"\t")
		}
		_ = t.Flush() // the writer's errors show in its next use
	}
	grid(safetyHead, (*row).safety)
	grid(timeHead, (*row).times)
	grid(workHead, (*row).work)
	if len(o.Figures) > 0 {
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range o.Figures {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.What, f.Value, f.Goal, f.verdict())
		}
		_ = t.Flush()
	}
	if lines := o.reasons(); len(lines) > 0 {
		fmt.Fprintf(w, "\nwhat was not answered:\n")
		for _, line := range lines {
			fmt.Fprintln(w, "  ", line)
		}
	}
	fmt.Fprintf(w, "\n%d ok, %d rejected, %d unknown, %d failed, %d not asked; %d took more than one attempt; %d events in the log; %d calls in %d histories\n",
		o.OK, o.Rejected, o.Unknown, o.Failed, o.Shed, o.Retried, o.Events, o.Calls, o.Histories)
	if forced := o.Counters["Store.Forced"]; forced > 0 {
		fmt.Fprintf(w, "%.0f appends of deposed owners were written all the same\n", forced)
	}
	fmt.Fprintln(w, "faults:", strings.Join(o.Schedule, ","))
	for _, trouble := range o.Trouble {
		fmt.Fprintln(w, trouble)
	}
	for _, example := range o.Examples {
		fmt.Fprintln(w, example)
	}
	fmt.Fprintln(w, o.verdict())
}

func (f *figure) verdict() string {
	if f.Met {
		return "met"
	}
	return "missed"
}

// reasons are why operations were not answered, the most frequent first.
func (o *outcome) reasons() []string {
	var keys []string
	for key := range o.Reasons {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := o.Reasons[b] - o.Reasons[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var lines []string
	for _, key := range keys[:min(len(keys), 12)] {
		lines = append(lines, fmt.Sprintf("%6d  %s", o.Reasons[key], key))
	}
	return lines
}

// writeJSON writes one line.
func (o *outcome) writeJSON(w io.Writer) error { return json.NewEncoder(w).Encode(o) }

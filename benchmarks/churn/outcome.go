package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

// outcome is what a run found out. Durations are in milliseconds.
type outcome struct {
	Command    string
	Seed       uint64
	Schedule   []string
	Store      string
	World      string
	Nodes      int
	Partitions int
	Lease      float64
	Seconds    float64
	Cores      int
	Baseline   baseline

	OK, Rejected, Unknown, Failed, Shed, Retried int
	Commands                                     uint64 // those that may change something
	Events                                       int    // in the log
	Histories, Calls                             int    // checked for linearizability

	Early      bool // not all that was asked for was done
	Violations int
	Kinds      map[check.Kind]int
	Report     check.Report `json:"-"`
	Examples   []string     // of violations
	Rows       []row
	Figures    []figure
	Steady     []steadySample
	Speed      *speed `json:",omitempty"`
	Reasons    map[string]int
	Trouble    []string // what did not go as it should, but broke no promise
	Counters   map[string]float64
	Files      string

	begin   int64
	tally   tally
	records []*record
}

// row is what all faults of a kind came to.
type row struct {
	Kind  kind
	Times int

	OK, Rejected, Unknown, Failed int
	Lost, Duplicated, Stale       int
	OtherViolations               int
	Linearizable                  bool

	Gap                   spread // of each partition in each fault
	FirstWrite, FirstRead spread // of each partition that lost its owner
	Recovery, Settled     spread // of each fault
	Latency               spread // p50, p99 and the worst, medians of the faults

	Before, During, After float64 // operations answered a second
	Moves, Minimum        int     // Minimum is -1 when there is no telling

	Fenced, Held, Barriers, Retries, Loads float64
	Forwards                               float64
	// Broken counts aggregates that had to be loaded again because a commit failed.
	Broken float64
}

// spread is a distribution.
type spread struct {
	Count         int
	P50, P99, Max float64 // ms
}

func spreadOf(values []time.Duration) spread {
	sorted := sortedDurations(values)
	return spread{len(sorted), millis(percentile(sorted, 0.5)), millis(percentile(sorted, 0.99)), millis(percentile(sorted, 1))}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (s spread) String() string {
	if s.Count == 0 {
		return "-"
	}
	return fmt.Sprintf("%s/%s/%s", ms(s.P50), ms(s.P99), ms(s.Max))
}

// ms prints milliseconds.
func ms(v float64) string {
	switch {
	case v >= 9.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 0.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// The violations that have a column of their own, and those that say that no
// order explains what was seen.
var (
	lostKinds       = []check.Kind{check.Lost}
	duplicatedKinds = []check.Kind{check.Duplicated}
	staleKinds      = []check.Kind{check.Stale, check.Dual}
	linearKinds     = []check.Kind{check.Nonlinear, check.Unchecked}
	otherKinds      = []check.Kind{check.Phantom, check.Misplaced, check.Claimed, check.Gap, check.Epoch, check.Owner, check.Foreign, check.Dead, check.Crashed}
)

func (h *harness) outcome(found *findings, counters map[string]float64, events int) *outcome {
	o := &outcome{
		Command: h.o.command, Seed: h.o.seed, Store: h.o.store, World: h.o.world, Nodes: h.o.nodes, Partitions: h.o.partitions,
		Lease: millis(h.o.lease), Seconds: time.Since(h.begin).Seconds(), Cores: runtime.NumCPU(), Baseline: h.o.baseline,
		OK: found.Tally.OK, Rejected: found.Tally.Rejected, Unknown: found.Tally.Unknown, Failed: found.Tally.Failed,
		Shed: found.Tally.Shed, Retried: found.Tally.Retried, Commands: found.Commands, Events: events,
		Histories: found.Keys, Calls: found.Steps, Violations: found.Report.Total(), Kinds: found.Report.Counts, Report: found.Report,
		Steady: h.steady, Speed: h.speed, Reasons: found.Reasons, Trouble: h.trouble, Counters: counters, Files: h.dir, Early: h.early,
		begin: found.Begin, tally: found.Tally, records: h.records,
	}
	for _, v := range found.Report.Kept {
		o.Examples = append(o.Examples, fmt.Sprintf("%s%s: %s", v.Kind, o.during(v.At), v.Detail))
	}
	byKind := map[kind][]*record{}
	var order []kind
	for _, r := range h.records {
		if r.kind() != calm && !r.Undoes {
			o.Schedule = append(o.Schedule, r.Fault.String())
		}
		if byKind[r.kind()] == nil {
			order = append(order, r.kind())
		}
		byKind[r.kind()] = append(byKind[r.kind()], r)
	}
	for _, k := range order {
		o.Rows = append(o.Rows, o.row(k, byKind[k]))
	}
	o.Figures = o.figures(h.o)
	return o
}

// during says in which fault something happened.
func (o *outcome) during(at int64) string {
	for _, r := range o.records {
		if at >= r.Begin && at <= r.End && r.kind() != calm {
			return fmt.Sprintf(" (%s of %s, %s after it struck)", r.kind(), r.Target, brief(time.Duration(at-r.Struck)))
		}
	}
	if at == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s after the clients began)", brief(time.Duration(at-o.begin)))
}

func (o *outcome) row(k kind, records []*record) row {
	out := row{Kind: k, Times: len(records), Linearizable: true}
	var gaps, writes, reads, recoveries, settled, p50, p99, worst []time.Duration
	for _, r := range records {
		w := &r.Window
		out.OK, out.Rejected, out.Unknown, out.Failed = out.OK+w.OK, out.Rejected+w.Rejected, out.Unknown+w.Unknown, out.Failed+w.Failed
		out.Lost += o.Report.Between(r.Begin, r.End, lostKinds...)
		out.Duplicated += o.Report.Between(r.Begin, r.End, duplicatedKinds...)
		out.Stale += o.Report.Between(r.Begin, r.End, staleKinds...)
		out.OtherViolations += o.Report.Between(r.Begin, r.End, otherKinds...)
		out.Linearizable = out.Linearizable && o.Report.Between(r.Begin, r.End, linearKinds...) == 0
		gaps = slices.AppendSeq(gaps, maps.Values(w.Gaps))
		writes, reads = append(writes, w.FirstWrite...), append(reads, w.FirstRead...)
		if k != calm {
			recoveries, settled = append(recoveries, r.Recovery), append(settled, r.Settled)
		}
		p50, p99, worst = append(p50, w.Median), append(p99, w.Tail), append(worst, w.Worst)
		const beside = int64(1500 * time.Millisecond)
		out.Before += o.throughput(r.Begin-beside, r.Begin) / float64(len(records))
		out.During += o.throughput(r.Struck, r.End) / float64(len(records))
		out.After += o.throughput(r.End, r.End+beside) / float64(len(records))
		out.Moves += r.Moves
		if r.Minimum < 0 {
			out.Minimum = -1
		} else if out.Minimum >= 0 {
			out.Minimum += r.Minimum
		}
		out.Fenced += r.Counters["Store.Fenced"]
		out.Held += r.Counters["Node.Host.Held"]
		out.Barriers += r.Counters["Node.Host.Barriers"]
		out.Loads += r.Counters["Node.Host.Loads"]
		out.Broken += r.Counters["Node.Host.Broken"]
		out.Retries += r.Counters["Node.Retries"]
		out.Forwards += r.Counters["Node.Parked"]
	}
	out.Gap, out.FirstWrite, out.FirstRead = spreadOf(gaps), spreadOf(writes), spreadOf(reads)
	out.Recovery, out.Settled = spreadOf(recoveries), spreadOf(settled)
	middle := func(values []time.Duration) float64 { return millis(percentile(sortedDurations(values), 0.5)) }
	out.Latency = spread{len(records), middle(p50), middle(p99), middle(worst)}
	return out
}

// throughput is how many operations were answered a second, between two moments.
func (o *outcome) throughput(from, to int64) float64 {
	from, to = max(from-o.begin, 0), min(to-o.begin, int64(len(o.tally.Answered))*tallySlot)
	if to <= from {
		return 0
	}
	sum := 0.0
	for slot := from / tallySlot; slot*tallySlot < to; slot++ {
		covered := min(to, (slot+1)*tallySlot) - max(from, slot*tallySlot)
		sum += float64(o.tally.Answered[slot]) * float64(covered) / float64(tallySlot)
	}
	return sum * float64(time.Second) / float64(to-from)
}

// figure is one of those that are to be reached.
type figure struct {
	What  string
	Value string
	Goal  string
	Met   bool
}

// figures are the promises about time, for a lease of a second.
func (o *outcome) figures(opts *options) []figure {
	var figures []figure
	add := func(what string, met bool, goal, format string, args ...any) {
		figures = append(figures, figure{what, fmt.Sprintf(format, args...), goal, met})
	}
	lease, quiet := millis(opts.lease), ""
	for _, r := range o.Rows {
		if r.Kind == calm {
			quiet = fmt.Sprintf(" (without fault %s)", r.Gap)
		}
	}
	for _, r := range o.Rows {
		switch r.Kind {
		case kill:
			write, read := 1.3*lease, 0.2*lease
			if !opts.noProof && runtime.GOOS == "linux" {
				write, read = 0.3*lease, 0.3*lease
			}
			add("kill to first acknowledged write, p50/p99/max", r.FirstWrite.P99 <= write, fmt.Sprintf("p99 ≤ %s ms", ms(write)), "%s ms", r.FirstWrite)
			add("kill to first read, p50/p99/max", r.FirstRead.P99 <= read, fmt.Sprintf("p99 ≤ %s ms", ms(read)), "%s ms", r.FirstRead)
		case leave, join, roll, scale:
			add(string(r.Kind)+": commands failed or unknown", r.Failed+r.Unknown == 0, "0", "%d", r.Failed+r.Unknown)
			add(string(r.Kind)+": gap of a partition, p50/p99/max", r.Gap.P99 <= 20, "p99 ≤ 20 ms", "%s ms%s", r.Gap, quiet)
		case storeKill:
			add("store-kill: service back after the server accepts, p50/p99/max", r.Recovery.Max <= 2000, "≤ 2000 ms", "%s ms", r.Recovery)
			add("store-kill: aggregates loaded again", r.Broken == 0, "0", "%.0f", r.Broken)
		}
		if r.Kind == join || r.Kind == leave || r.Kind == kill {
			add(string(r.Kind)+": moves to the minimum", float64(r.Moves) <= 1.1*float64(r.Minimum), "≤ 1.1x", "%d/%d", r.Moves, r.Minimum)
		}
	}
	if len(o.Steady) == 2 && o.Steady[0].Leases > 0 {
		ratio := o.Steady[1].Leases / o.Steady[0].Leases
		add("lease statements a second at 10x the load, to those at 1x", ratio <= 1.05, "≤ 1.05x", "%.2fx (%.1f and %.1f)", ratio, o.Steady[1].Leases, o.Steady[0].Leases)
	}
	if o.Speed != nil {
		add(o.Speed.Name+": operations a second at full speed, beside this", o.Speed.loses(), "it loses", "%.0f beside %.0f (%.2fx)",
			o.Speed.Baseline, o.Speed.This, o.Speed.Baseline/o.Speed.This)
	}
	return figures
}

// missed says that a baseline did not show what it is there to show.
func (o *outcome) missed() string {
	switch {
	case o.Baseline.unsafe() && o.Violations == 0:
		return "an unsafe baseline without a violation: either nothing went wrong in this run, or the checkers are blind"
	case o.Speed != nil && !o.Speed.loses():
		return "the baseline is not slower"
	}
	return ""
}

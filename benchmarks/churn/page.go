package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/report"
)

// writePage writes the report and returns its path.
func (o *outcome) writePage(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "churn.html")
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	if err := o.page().Write(file); err != nil {
		file.Close()
		return "", err
	}
	return path, file.Close()
}

func (o *outcome) page() *report.Page {
	p := &report.Page{
		Title: "Churn",
		Lead: "Nodes and the store were killed, frozen and cut off while clients kept sending. What the clients were told was then laid " +
			"beside what the store holds.",
		Facts: []report.Fact{
			{Name: "Verdict", Value: o.verdict()},
			{Name: "Set-up", Value: fmt.Sprintf("%d nodes, %s, %d partitions, L = %s ms, links: %s, %d cores", o.Nodes, o.Store, o.Partitions, ms(o.Lease), o.World, o.Cores)},
			{Name: "Run", Value: fmt.Sprintf("%s, %.0f s, seed %d", time.Now().UTC().Format("2006-01-02 15:04 UTC"), o.Seconds, o.Seed)},
			{Name: "Operations", Value: fmt.Sprintf("%d ok, %d rejected, %d unknown, %d failed; %d events in the log", o.OK, o.Rejected, o.Unknown, o.Failed, o.Events)},
			{Name: "Linearizability", Value: fmt.Sprintf("%d calls in %d histories", o.Calls, o.Histories)},
		},
	}
	bands, ticks := o.bands(), o.ticks()
	p.Add("Time line", report.Timeline{
		Caption: "Operations answered a second, in tenths of a second; peaks after an outage are cut off. Shaded: from the moment a fault struck until every partition took commands and shares were equal.",
		Ticks:   ticks, Bands: bands, Unit: "/s", Names: true, To: o.end(), Limit: 4 * o.usual(), Series: []report.Series{o.answered()},
	})
	p.Add("", report.Timeline{
		Caption: "Latency of the operations answered in each second.", Ticks: ticks, Bands: bands, Unit: "ms", To: o.end(), Log: true,
		Series: []report.Series{o.latency("p99", o.tally.Tail), o.latency("p50", o.tally.Median)},
	})
	safety := report.Table{Caption: "Operations that ended during the faults, and violations by the time their caller was answered.", Head: append(append([]string{}, safetyHead...), "")}
	times := report.Table{Caption: "All times in ms, p50/p99/max. Gap: a partition's longest time without an answer while somebody waited. First write, first read: from the fault to an answer of another owner.", Head: timeHead}
	work := report.Table{Caption: "Partitions that changed hands beside the fewest possible; appends refused because of their epoch; replies held back; round trips in place of a lease; calls that waited for their partition's next owner; attempts after the first; aggregates loaded.", Head: workHead}
	safety.Numeric, times.Numeric, work.Numeric = columns(safetyHead), columns(timeHead), columns(workHead)
	for i := range o.Rows {
		r := &o.Rows[i]
		mark, word := report.Good, "safe"
		if r.bad() {
			mark, word = report.Bad, "violated"
		}
		safety.Rows = append(safety.Rows, report.Row{Cells: append(r.safety(), word), Mark: mark})
		times.Rows = append(times.Rows, report.Row{Cells: r.times()})
		work.Rows = append(work.Rows, report.Row{Cells: r.work()})
	}
	p.Add("Safety, by fault", safety)
	p.Add("Time, by fault", times)
	p.Add("What the nodes did, by fault", work)
	if len(o.Figures) > 0 {
		figures := report.Table{Head: []string{"Figure", "Value", "Goal", ""}, Numeric: []int{1, 2}}
		for _, f := range o.Figures {
			mark := report.Good
			if !f.Met {
				mark = report.Bad
			}
			figures.Rows = append(figures.Rows, report.Row{Cells: []string{f.What, f.Value, f.Goal, f.verdict()}, Mark: mark})
		}
		p.Add("Figures to reach", figures)
	}
	if len(o.Examples) > 0 {
		p.Add("Violations", report.Code(strings.Join(o.Examples, "\n")))
	}
	if len(o.Trouble) > 0 {
		p.Add("What did not go as it should", report.Code(strings.Join(o.Trouble, "\n")))
	}
	if lines := o.reasons(); len(lines) > 0 {
		p.Add("What was not answered", report.Code(strings.Join(lines, "\n")))
	}
	p.Add("Again", report.Code(o.Command+"\n\nfaults: "+strings.Join(o.Schedule, ",")))
	return p
}

// columns are all but the first.
func columns(head []string) []int {
	var all []int
	for i := 1; i < len(head); i++ {
		all = append(all, i)
	}
	return all
}

// end is when the last operation was answered, on the time line.
func (o *outcome) end() float64 { return float64(len(o.tally.Answered)) / 10 }

// usual is the median of what was answered a second.
func (o *outcome) usual() float64 {
	if len(o.tally.Answered) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(o.tally.Answered))
	return float64(sorted[len(sorted)/2]) * 10
}

// seconds is a moment on the time line.
func (o *outcome) seconds(at int64) float64 { return float64(at-o.begin) / float64(time.Second) }

func (o *outcome) bands() []report.Band {
	var bands []report.Band
	for _, r := range o.records {
		if r.kind() == calm {
			continue
		}
		bad := o.Report.Between(r.Begin, r.End, o.Report.Kinds()...) > 0
		bands = append(bands, report.Band{From: o.seconds(r.Struck), To: o.seconds(r.End), Name: string(r.kind()), Bad: bad})
	}
	return bands
}

func (o *outcome) ticks() []report.Tick {
	length := len(o.tally.Answered) / 10
	step := 1
	for _, s := range []int{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200} {
		if step = s; length/s <= 12 {
			break
		}
	}
	var ticks []report.Tick
	for at := 0; at <= length; at += step {
		ticks = append(ticks, report.Tick{At: float64(at), Label: fmt.Sprintf("%d s", at)})
	}
	return ticks
}

// answered is throughput over time, thinned out to what a plot can show.
func (o *outcome) answered() report.Series {
	s := report.Series{Name: "answered"}
	every := max(1, len(o.tally.Answered)/1000)
	for i := 0; i+every <= len(o.tally.Answered); i += every {
		sum := 0
		for _, n := range o.tally.Answered[i : i+every] {
			sum += int(n)
		}
		s.X = append(s.X, float64(i)/10)
		s.Y = append(s.Y, float64(sum)*10/float64(every))
	}
	return s
}

func (o *outcome) latency(name string, micros []int32) report.Series {
	s := report.Series{Name: name}
	for i, v := range micros {
		if v > 0 {
			s.X = append(s.X, float64(i)+0.5)
			s.Y = append(s.Y, float64(v)/1000)
		}
	}
	return s
}

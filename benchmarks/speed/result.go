package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/report"
)

// result is what a run found out.
type result struct {
	Figures []*figure `json:"figures"`
	Machine *machine  `json:"machine"`
	Seconds float64   `json:"seconds"`
}

func (r *result) missed() int {
	n := 0
	for _, f := range r.Figures {
		if f.missed() {
			n++
		}
	}
	return n
}

// json writes one line.
func (r *result) json(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

func (r *result) table(w io.Writer) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tvalue\tunit\tbaseline\tratio\tmin-max\tby CPU\tgoal\t")
	for _, f := range r.Figures {
		baseline, ratio, spread, byCPU := f.comparison()
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			f.Name, amount(f.Value), f.Unit, baseline, ratio, spread, byCPU, f.Goal, f.verdict())
	}
	if err := t.Flush(); err != nil {
		return
	}
	fmt.Fprintln(w)
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%s: %s%s\n", f.Name, f.What, f.beside())
	}
	fmt.Fprintf(w, "\n%s; %.0f %% of the machine went to other programs; %.0f s\n", r.Machine, 100*r.Machine.Others, r.Seconds)
}

// markdown writes the table of docs/figures.md, and under it where and when.
func (r *result) markdown(w io.Writer) {
	fmt.Fprint(w, "\n| figure | value | baseline | ratio, median (min-max) | by CPU | goal | met |\n|---|---|---|---|---|---|---|\n")
	for _, f := range r.Figures {
		baseline, ratio, spread, byCPU := f.comparison()
		if baseline != "" {
			baseline += " " + f.Unit
			ratio += " (" + spread + ")"
		}
		met := map[string]string{"met": "yes", "missed": "no"}[f.verdict()]
		cells := []string{"`" + f.Name + "`", amount(f.Value) + " " + f.Unit, baseline, ratio, byCPU, f.Goal.String(), met}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintf(w, "\n%s; %s; %.0f %% of the machine went to other programs; %.0f s.\n",
		r.Machine.begin.UTC().Format("2006-01-02"), r.Machine, 100*r.Machine.Others, r.Seconds)
}

// comparison is the baseline, the ratio, its spread, and what it is by
// processor time, as text.
func (f *figure) comparison() (baseline, ratio, spread, byCPU string) {
	if f.Ratio == nil {
		return "", "", "", ""
	}
	if f.ByCPU != nil {
		byCPU = amount(*f.ByCPU) + "x"
	}
	return amount(*f.Baseline), amount(*f.Ratio) + "x", amount(*f.RatioMin) + "-" + amount(*f.RatioMax), byCPU
}

func (f *figure) beside() string {
	text := ""
	if f.Than != "" {
		text = "; beside " + f.Than
	}
	if f.Note != "" {
		text += "; " + f.Note
	}
	return text
}

// writePage writes the report and returns its path.
func (r *result) writePage(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "speed.html")
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	if err := r.page().Write(file); err != nil {
		file.Close()
		return "", err
	}
	return path, file.Close()
}

func (r *result) page() *report.Page {
	p := &report.Page{
		Title: "Speed",
		Lead: "Each figure stands beside a baseline that does the same without the framework. Both were measured in turn, " +
			"several times, in one run on one machine. The ratios are what to look at.",
		Facts: []report.Fact{
			{Name: "Machine", Value: r.Machine.String()},
			{Name: "Busy with other programs", Value: fmt.Sprintf("%.0f %% of the processor time during the samples", 100*r.Machine.Others)},
			{Name: "Run", Value: fmt.Sprintf("%s, %.0f s", time.Now().UTC().Format("2006-01-02 15:04 UTC"), r.Seconds)},
			{Name: "Goals missed", Value: fmt.Sprintf("%d of %d", r.missed(), r.goals())},
		},
	}
	goals := report.Bullets{Caption: "Where 1 is the goal: the median as a bar, the pairs as dots. Right of the line is met."}
	table := report.Table{Head: []string{"Figure", "Value", "Baseline", "Ratio", "Min-max", "By CPU", "Goal", ""}, Numeric: []int{1, 2, 3, 4, 5, 6}}
	for _, f := range r.Figures {
		baseline, ratio, spread, byCPU := f.comparison()
		table.Rows = append(table.Rows, report.Row{
			Cells: []string{f.What, amount(f.Value) + " " + f.Unit, baseline, ratio, spread, byCPU, f.Goal.String(), f.verdict()}, Mark: f.mark(),
		})
		if f.Goal != nil {
			goals.Rows = append(goals.Rows, f.bullet())
		}
	}
	if len(goals.Rows) > 0 {
		p.Add("Goals", goals)
	}
	p.Add("Figures", table)
	for _, f := range r.Figures {
		if f.Base != nil {
			p.Add(f.Name, f.bars())
		}
		if f.curves != nil {
			lines := report.Lines{
				Caption: "Latency at each quantile, all samples together", XTicks: quantileTicks, YUnit: "us", Log: true,
			}
			for _, c := range f.curves {
				lines.Series = append(lines.Series, report.Series{Name: c.name, X: nines(), Y: c.micros})
			}
			p.Add("Latency distribution", lines)
		}
	}
	commands := make([]string, len(r.Figures))
	for i, f := range r.Figures {
		commands[i] = f.Command
	}
	p.Add("To measure one again", report.Code(strings.Join(commands, "\n")))
	return p
}

func (r *result) goals() int {
	n := 0
	for _, f := range r.Figures {
		if f.Goal != nil {
			n++
		}
	}
	return n
}

func (f *figure) mark() report.Mark {
	switch {
	case f.Met == nil:
		return report.Plain
	case *f.Met:
		return report.Good
	}
	return report.Bad
}

// bullet shows how far a figure is from its goal.
func (f *figure) bullet() report.Bullet {
	scale := func(v float64) float64 {
		if f.Goal.atMost {
			return f.Goal.bound / v
		}
		return v / f.Goal.bound
	}
	values, middle := f.Of, f.Value
	if !f.Goal.value {
		values, middle = f.ratios(), *f.Ratio
	}
	b := report.Bullet{Name: f.Name, Value: scale(middle), Mark: f.mark(), Goal: f.Goal.String()}
	if f.Goal.value {
		b.Text = amount(f.Value) + " " + f.Unit
	} else {
		b.Text = amount(*f.Ratio) + "x"
	}
	for _, v := range values {
		b.Dots = append(b.Dots, scale(v))
	}
	return b
}

// bars shows the samples themselves.
func (f *figure) bars() report.Bars {
	return report.Bars{Caption: f.What + f.beside(), Unit: f.Unit, Format: amount, Rows: []report.Bar{
		{Name: "this", Value: f.Value, Dots: f.Of}, {Name: "baseline", Value: *f.Baseline, Dots: f.Base, Base: true},
	}}
}

// nines is the number of nines of each quantile, which spreads the tail.
func nines() []float64 {
	x := make([]float64, len(quantileSteps))
	for i := range x {
		x[i] = float64(i) * 0.05
	}
	return x
}

var quantileTicks = []report.Tick{{At: 0, Label: "min"}, {At: 0.301, Label: "p50"}, {At: 1, Label: "p90"}, {At: 2, Label: "p99"}, {At: 3, Label: "p99.9"}}

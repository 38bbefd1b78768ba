package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// figure is one number beside its baseline, both measured in turn, several
// times, in this run.
type figure struct {
	Name string `json:"name"`
	// What is measured, and against what, in a line each.
	What string  `json:"what"`
	Unit string  `json:"unit"`
	Than string  `json:"baseline_what,omitempty"`
	Goal *goal   `json:"-"`
	Note string  `json:"note,omitempty"`
	Of   samples `json:"-"` // of the thing itself
	Base samples `json:"-"` // of the baseline, in the same order

	cpu, baseCPU samples // processor time of each command, everything counted, us
	curves       []curve // latencies, to be drawn

	// What the samples come to: medians, and the ratio of the pairs.
	Value    float64  `json:"value"`
	Baseline *float64 `json:"baseline"`
	Ratio    *float64 `json:"ratio"`
	RatioMin *float64 `json:"ratio_min"`
	RatioMax *float64 `json:"ratio_max"`
	// ByCPU is the ratio that processor time alone gives: steadier than Ratio
	// on a machine that others use as well.
	ByCPU   *float64 `json:"ratio_by_cpu"`
	Goals   *float64 `json:"goal"`
	GoalIs  string   `json:"goal_is,omitempty"`
	Met     *bool    `json:"met"`
	Command string   `json:"command"`
}

// samples of one contender, one for each round.
type samples []float64

// rates fills a figure with how much was done in a second, and at what cost.
func (f *figure) rates(of, base []sample) *figure {
	f.Of, f.Base = each(of, sample.rate), each(base, sample.rate)
	f.cpu, f.baseCPU = each(of, sample.allMicros), each(base, sample.allMicros)
	return f
}

// curve is the latency at each quantile of quantileSteps.
type curve struct {
	name   string
	micros []float64
}

// quantileSteps are close together where it matters, near 1.
var quantileSteps = func() (steps []float64) {
	for nines := 0.0; nines <= 3; nines += 0.05 {
		steps = append(steps, 1-math.Pow(10, -nines))
	}
	return steps
}()

// quantiles of all samples together.
func quantiles(taken []sample) []float64 {
	var all []time.Duration
	for _, s := range taken {
		all = append(all, s.latencies...)
	}
	slices.Sort(all)
	micros := make([]float64, len(quantileSteps))
	for i, q := range quantileSteps {
		micros[i] = float64(percentile(all, q).Nanoseconds()) / 1e3
	}
	return micros
}

// goal is what a figure should reach: its ratio, or its value.
type goal struct {
	value   bool // of the value, not the ratio
	atMost  bool
	bound   float64
	decimal int // digits to print
}

func ratioAtLeast(bound float64) *goal { return &goal{bound: bound, decimal: 2} }
func ratioAtMost(bound float64) *goal  { return &goal{bound: bound, decimal: 2, atMost: true} }
func valueAtLeast(bound float64) *goal { return &goal{bound: bound, value: true} }
func valueAtMost(bound float64) *goal  { return &goal{bound: bound, value: true, atMost: true} }

func (g *goal) String() string {
	if g == nil {
		return ""
	}
	sign := "≥"
	if g.atMost {
		sign = "≤"
	}
	if g.value {
		return fmt.Sprintf("%s %s", sign, amount(g.bound))
	}
	return fmt.Sprintf("%s %.*fx", sign, g.decimal, g.bound)
}

func (g *goal) met(value, ratio float64) bool {
	if !g.value {
		value = ratio
	}
	if g.atMost {
		return value <= g.bound
	}
	return value >= g.bound
}

// settle computes what the samples come to.
func (f *figure) settle() error {
	if len(f.Of) == 0 || f.Base != nil && len(f.Base) != len(f.Of) {
		return fmt.Errorf("figure %s: %d samples beside %d of the baseline", f.Name, len(f.Of), len(f.Base))
	}
	f.Value = median(f.Of)
	ratio := math.NaN()
	if f.Base != nil {
		ratios := f.ratios()
		ratio = median(ratios)
		base, least, most := median(f.Base), slices.Min(ratios), slices.Max(ratios)
		f.Baseline, f.Ratio, f.RatioMin, f.RatioMax = &base, &ratio, &least, &most
	}
	if f.cpu != nil && median(f.cpu) > 0 {
		byCPU := median(f.baseCPU) / median(f.cpu)
		f.ByCPU = &byCPU
	}
	if f.Goal != nil {
		met := f.Goal.met(f.Value, ratio)
		f.Goals, f.GoalIs, f.Met = &f.Goal.bound, f.Goal.String(), &met
	}
	for _, v := range []float64{f.Value, cmp.Or(ratio, 0)} {
		if f.Base != nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
			return fmt.Errorf("figure %s: nothing was measured: %v beside %v", f.Name, f.Of, f.Base)
		}
	}
	return nil
}

// ratios of the pairs: each sample to the baseline's of the same round.
func (f *figure) ratios() samples {
	ratios := make(samples, len(f.Of))
	for i := range f.Of {
		ratios[i] = f.Of[i] / f.Base[i]
	}
	return ratios
}

func (f *figure) missed() bool { return f.Met != nil && !*f.Met }

func (f *figure) verdict() string {
	switch {
	case f.Met == nil:
		return ""
	case *f.Met:
		return "met"
	}
	return "missed"
}

func median(s samples) float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// amount prints a number with three digits that count.
func amount(v float64) string {
	switch a := math.Abs(v); {
	case a >= 999.5e3:
		return fmt.Sprintf("%.4g M", v/1e6)
	case a >= 9995:
		return fmt.Sprintf("%.4g k", v/1e3)
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

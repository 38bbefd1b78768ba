package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// width of every plot, in the units of its SVG.
const width = 1000

// Bullets shows for each row how a value stands to its goal, which is 1.
type Bullets struct {
	Caption string
	Rows    []Bullet
}

// Bullet is a row: the value as a bar from 1, and the samples behind it. All of
// them are multiples of the goal, where more is better.
type Bullet struct {
	Name, Text, Goal string
	Value            float64
	Dots             []float64
	Mark             Mark
}

// The scale of Bullets is logarithmic and ends here; what lies outside is drawn
// at its end.
const bulletLow, bulletHigh = 0.1, 10.0

func (p Bullets) write(b *strings.Builder) {
	const left, right, row, top = 240, width - 210, 30, 26
	x := func(v float64) float64 {
		v = min(max(v, bulletLow), bulletHigh)
		return left + (right-left)*math.Log(v/bulletLow)/math.Log(bulletHigh/bulletLow)
	}
	height := float64(top + row*len(p.Rows) + 24)
	open(b, p.Caption, height)
	for _, tick := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10} {
		class := "grid"
		if tick == 1 {
			class = "goal"
		}
		fmt.Fprintf(b, "<line class=%q x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.0f\"/>\n", class, x(tick), x(tick), top-4, height-24)
		text(b, "soft mid", x(tick), height-6, fmt.Sprintf("%gx", tick))
	}
	text(b, "mid", x(1), 14, "goal")
	for i, r := range p.Rows {
		y := float64(top + row*i + row/2)
		text(b, "end", left-14, y+4, r.Name)
		from, to := min(x(1), x(r.Value)), max(x(1), x(r.Value))
		fmt.Fprintf(b, "<rect class=\"bar %s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"12\" rx=\"2\"/>\n", r.Mark.class(), from, y-6, max(to-from, 1))
		for _, d := range r.Dots {
			dot(b, r.Mark.class(), x(d), y)
		}
		text(b, r.Mark.class(), right+14, y+4, r.Mark.sign()+r.Text)
		text(b, "soft end", width, y+4, r.Goal)
	}
	shut(b)
}

// Bars compares amounts that begin at 0.
type Bars struct {
	Caption string
	Unit    string
	Format  func(float64) string // default %.4g
	Rows    []Bar
}

// Bar is an amount and the samples behind it.
type Bar struct {
	Name  string
	Value float64
	Dots  []float64
	Base  bool // drawn in the colour of baselines
}

func (p Bars) write(b *strings.Builder) {
	const left, right, row = 110, width - 190, 28
	most := 0.0
	for _, r := range p.Rows {
		most = max(most, r.Value, slices.Max(append(slices.Clone(r.Dots), 0)))
	}
	if most <= 0 {
		most = 1
	}
	format := p.Format
	if format == nil {
		format = func(v float64) string { return fmt.Sprintf("%.4g", v) }
	}
	x := func(v float64) float64 { return left + (right-left)*v/most }
	open(b, p.Caption, float64(row*len(p.Rows)+6))
	for i, r := range p.Rows {
		y, class := float64(row*i+row/2+2), "this"
		if r.Base {
			class = "base"
		}
		text(b, "soft end", left-12, y+4, r.Name)
		fmt.Fprintf(b, "<rect class=\"bar %s\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"16\" rx=\"2\"/>\n", class, left, y-8, max(x(r.Value)-left, 1))
		for _, d := range r.Dots {
			dot(b, class, x(d), y)
		}
		text(b, "", right+14, y+4, format(r.Value)+" "+p.Unit)
	}
	shut(b)
}

// Lines draws curves over a common axis.
type Lines struct {
	Caption string
	XTicks  []Tick
	YUnit   string
	Log     bool // the vertical axis is logarithmic
	Series  []Series
}

// Tick is a mark on the horizontal axis.
type Tick struct {
	At    float64
	Label string
}

// Series is a curve. X and Y are equally long.
type Series struct {
	Name string
	X, Y []float64
}

func (p Lines) write(b *strings.Builder) {
	const left, right, top, bottom, height = 70, width - 150, 10, 270, 300
	lowX, highX, lowY, highY := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, s := range p.Series {
		for i := range s.X {
			lowX, highX = min(lowX, s.X[i]), max(highX, s.X[i])
			lowY, highY = min(lowY, s.Y[i]), max(highY, s.Y[i])
		}
	}
	if !(highX > lowX) {
		highX = lowX + 1
	}
	scale := func(v float64) float64 { return v }
	var ticks []float64
	if p.Log {
		scale = func(v float64) float64 { return math.Log10(max(v, 1e-9)) }
		ticks = logTicks(lowY, highY)
	} else {
		lowY = 0
		ticks = linearTicks(highY)
	}
	if n := len(ticks); n > 0 {
		lowY, highY = min(lowY, ticks[0]), max(highY, ticks[n-1])
	}
	if !(highY > lowY) {
		highY = lowY + 1
	}
	x := func(v float64) float64 { return left + (right-left)*(v-lowX)/(highX-lowX) }
	y := func(v float64) float64 {
		return bottom - (bottom-top)*(scale(v)-scale(lowY))/(scale(highY)-scale(lowY))
	}
	open(b, p.Caption, height)
	for _, t := range ticks {
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", left, right, y(t), y(t))
		text(b, "soft end", left-8, y(t)+4, fmt.Sprintf("%g %s", t, p.YUnit))
	}
	for _, t := range p.XTicks {
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", x(t.At), x(t.At), top, bottom)
		text(b, "soft mid", x(t.At), bottom+20, t.Label)
	}
	ends := make([]float64, 0, len(p.Series))
	for i, s := range p.Series {
		points := make([]string, len(s.X))
		for j := range s.X {
			points[j] = fmt.Sprintf("%.1f,%.1f", x(s.X[j]), y(s.Y[j]))
		}
		fmt.Fprintf(b, "<polyline class=\"line s%d\" points=\"%s\"/>\n", i%3, strings.Join(points, " "))
		if len(s.Y) == 0 {
			continue
		}
		end := y(s.Y[len(s.Y)-1])
		for slices.ContainsFunc(ends, func(e float64) bool { return math.Abs(e-end) < 15 }) {
			end += 15
		}
		ends = append(ends, end)
		text(b, fmt.Sprintf("s%d", i%3), right+10, end+4, s.Name)
	}
	shut(b)
}

// logTicks are 1, 2 and 5 times the powers of ten around a range.
func logTicks(low, high float64) []float64 {
	if low <= 0 || math.IsInf(low, 0) || math.IsInf(high, 0) {
		return nil
	}
	var ticks []float64
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, m := range []float64{1, 2, 5} {
			if t := m * math.Pow(10, e); t >= low/2.5 && t <= high*2.5 {
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

// linearTicks are about five round numbers from 0.
func linearTicks(high float64) []float64 {
	if high <= 0 || math.IsInf(high, 0) {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, m := range []float64{0.1, 0.2, 0.5, 1} {
		if high/(step*m) <= 6 {
			step *= m
			break
		}
	}
	var ticks []float64
	for t := 0.0; t < high+step; t += step {
		ticks = append(ticks, t)
	}
	return ticks
}

func open(b *strings.Builder, caption string, height float64) {
	b.WriteString("<figure>")
	if caption != "" {
		fmt.Fprintf(b, "<figcaption>%s</figcaption>", html.EscapeString(caption))
	}
	fmt.Fprintf(b, "\n<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=%q>\n", width, height, html.EscapeString(caption))
}

func shut(b *strings.Builder) { b.WriteString("</svg></figure>\n") }

func text(b *strings.Builder, class string, x, y float64, s string) {
	fmt.Fprintf(b, "<text class=%q x=\"%.1f\" y=\"%.1f\">%s</text>\n", class, x, y, html.EscapeString(s))
}

func dot(b *strings.Builder, class string, x, y float64) {
	fmt.Fprintf(b, "<circle class=\"dot %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>\n", class, x, y)
}

package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Timeline draws curves over time, and marks the stretches in which something
// was the matter.
type Timeline struct {
	Caption string
	Ticks   []Tick
	Bands   []Band
	To      float64 // the end of time, so that several plots have one axis; at least what there is
	Unit    string
	Log     bool // the vertical axis is logarithmic
	// Limit, when not 0, is where the vertical axis ends: what lies above is cut
	// off, so that a peak does not flatten the rest.
	Limit  float64
	Names  bool // the bands' names stand above them; their titles have them anyhow
	Series []Series
}

// Band is a stretch of time with a name.
type Band struct {
	From, To float64
	Name     string
	Bad      bool // what must not happen did
}

func (p Timeline) write(b *strings.Builder) {
	const left, right, depth = 84, width - 80, 230
	top := 10.0
	if p.Names {
		for _, band := range p.Bands { // they stand at an angle of 40 degrees
			top = max(top, 20+4.7*float64(len(band.Name)))
		}
	}
	bottom := top + depth
	height := bottom + 30
	highX, lowY, highY := max(p.To, 1), math.Inf(1), math.Inf(-1)
	for _, s := range p.Series {
		for i := range s.X {
			highX = max(highX, s.X[i])
			lowY, highY = min(lowY, s.Y[i]), max(highY, s.Y[i])
		}
	}
	for _, band := range p.Bands {
		highX = max(highX, band.To)
	}
	if p.Limit > 0 {
		highY = min(highY, p.Limit)
	}
	scale := func(v float64) float64 { return v }
	var ticks []float64
	if p.Log {
		scale = func(v float64) float64 { return math.Log10(max(v, 1e-9)) }
		ticks = decades(lowY, highY)
	} else {
		lowY = 0
		ticks = linearTicks(highY)
	}
	if n := len(ticks); n > 0 {
		lowY, highY = min(lowY, ticks[0]), max(highY, ticks[n-1])
	}
	if !(highY > lowY) || math.IsInf(lowY, 0) {
		lowY, highY = 0.1, 1
	}
	x := func(v float64) float64 { return left + (right-left)*v/highX }
	y := func(v float64) float64 {
		return max(bottom-depth*(scale(v)-scale(lowY))/(scale(highY)-scale(lowY)), top)
	}
	open(b, p.Caption, height)
	end := math.Inf(-1) // of the names so far
	for _, band := range p.Bands {
		class := "band"
		if band.Bad {
			class = "band bad"
		}
		from := x(band.From)
		fmt.Fprintf(b, "<rect class=%q x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%s</title></rect>\n",
			class, from, top, max(x(band.To)-from, 1.5), bottom-top, html.EscapeString(fmt.Sprintf("%s, %.1f s to %.1f s", band.Name, band.From, band.To)))
		if p.Names && from > end { // names that would overlap are left to the titles
			fmt.Fprintf(b, "<text class=\"soft\" transform=\"translate(%.1f %.1f) rotate(-40)\">%s</text>\n", from+4, top-6, html.EscapeString(band.Name))
			end = from + 16
		}
	}
	for _, t := range ticks {
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", left, right, y(t), y(t))
		text(b, "soft end", left-8, y(t)+4, fmt.Sprintf("%g %s", t, p.Unit))
	}
	for _, t := range p.Ticks {
		text(b, "soft mid", x(t.At), bottom+20, t.Label)
	}
	for i, s := range p.Series {
		points := make([]string, len(s.X))
		for j := range s.X {
			points[j] = fmt.Sprintf("%.1f,%.1f", x(s.X[j]), y(s.Y[j]))
		}
		fmt.Fprintf(b, "<polyline class=\"line thin s%d\" points=\"%s\"/>\n", i%3, strings.Join(points, " "))
		if n := len(s.Y); n > 0 {
			text(b, fmt.Sprintf("s%d", i%3), right+10, min(max(y(s.Y[n-1])+4, top+10), bottom-4), s.Name)
		}
	}
	shut(b)
}

// decades are the powers of ten around a range.
func decades(low, high float64) []float64 {
	if low <= 0 || math.IsInf(low, 0) || math.IsInf(high, 0) {
		return nil
	}
	var ticks []float64
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		ticks = append(ticks, math.Pow(10, e))
	}
	return ticks
}

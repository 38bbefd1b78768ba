package report_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/report"
)

func TestTimelineMarksItsBands(t *testing.T) {
	html := page(t, report.Timeline{
		Caption: "time", Unit: "/s", Names: true, Ticks: []report.Tick{{At: 0, Label: "0 s"}, {At: 5, Label: "5 s"}},
		Bands: []report.Band{
			{From: 1, To: 2, Name: "kill <9>"}, {From: 1.001, To: 2, Name: "hidden by the one before"}, {From: 4, To: 5, Name: "cut", Bad: true},
		},
		Series: []report.Series{{Name: "answered", X: []float64{0, 5}, Y: []float64{0, 1000}}},
	})
	require.Contains(t, html, "kill &lt;9&gt;, 1.0 s to 2.0 s")
	require.Equal(t, 1, strings.Count(html, `class="band bad"`))
	require.Equal(t, 2, strings.Count(html, "rotate(-40)"), "names that would overlap are left to the titles")
	require.Equal(t, 3, strings.Count(html, "<title>")-1, "the page has one, and every band")
}

func TestTimelinesOfNothingAreNoFaults(t *testing.T) {
	html := page(t, report.Timeline{}, report.Timeline{Log: true}, report.Timeline{Series: []report.Series{{}}},
		report.Timeline{Log: true, Series: []report.Series{{X: []float64{1}, Y: []float64{3}}}, Bands: []report.Band{{From: 3, To: 3}}})
	require.NotContains(t, html, "NaN")
	require.NotContains(t, html, "Inf")
}

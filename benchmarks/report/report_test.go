package report_test

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/report"
)

func page(t *testing.T, blocks ...report.Block) string {
	t.Helper()
	p := &report.Page{Title: "A <title>", Lead: "lead", Facts: []report.Fact{{Name: "fact", Value: "value & more"}}}
	for _, b := range blocks {
		p.Add("heading", b)
	}
	var b strings.Builder
	require.NoError(t, p.Write(&b))
	return b.String()
}

func TestEveryBlockIsWellFormed(t *testing.T) {
	html := page(t,
		report.Text("text < text"), report.Code("a && b"),
		report.Table{Caption: "table", Head: []string{"a", "b"}, Numeric: []int{1}, Rows: []report.Row{{Cells: []string{"<x>", "1"}, Mark: report.Bad}}},
		report.Bullets{Caption: "bullets", Rows: []report.Bullet{{Name: "n", Value: 100, Dots: []float64{0, 1}, Mark: report.Good}}},
		report.Bars{Caption: "bars", Unit: "us", Rows: []report.Bar{{Name: "n", Value: 3, Dots: []float64{2, 4}}, {Base: true}}},
		report.Lines{
			Caption: "lines", Log: true, XTicks: []report.Tick{{At: 1, Label: "one"}},
			Series: []report.Series{{Name: "a", X: []float64{0, 1}, Y: []float64{1, 100}}, {Name: "b", X: []float64{0, 1}, Y: []float64{1, 100}}},
		},
		report.Lines{Series: []report.Series{{X: []float64{0, 1}, Y: []float64{1, 3}}}},
	)
	require.NotContains(t, html, "<title>A <")
	require.Contains(t, html, "value &amp; more")
	body := html[strings.Index(html, "<main>") : strings.Index(html, "</main>")+len("</main>")]
	decoder := xml.NewDecoder(strings.NewReader(body))
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
	}
}

func TestPlotsOfNothingAreNoFaults(t *testing.T) {
	html := page(t, report.Bars{}, report.Bullets{}, report.Table{}, report.Lines{Log: true},
		report.Lines{Series: []report.Series{{}}}, report.Bars{Rows: []report.Bar{{Value: 0}}})
	require.NotContains(t, html, "NaN")
	require.NotContains(t, html, "Inf")
}

func TestWhatLiesOutsideTheScaleIsDrawnAtItsEnd(t *testing.T) {
	html := page(t, report.Bullets{Rows: []report.Bullet{{Value: math.Inf(1), Dots: []float64{0, 1e9}}}})
	require.NotContains(t, html, "Inf")
	require.NotContains(t, html, "NaN")
}

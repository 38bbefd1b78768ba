package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/ingrain-go/ingrain/examples/trader/check"
)

// summary is what a run comes to. Its JSON is the program's last line with
// -json; fields are added to it, never changed.
type summary struct {
	Nodes     int     `json:"nodes"`
	NodesLeft int     `json:"nodes_left"` // at the end
	Store     string  `json:"store"`
	Seconds   float64 `json:"seconds"` // of trading

	// Of this run, as clients saw it.
	Commands     int64   `json:"commands"`
	Acknowledged int64   `json:"acknowledged"`
	Rejected     int64   `json:"rejected"`
	NotDone      int64   `json:"not_done"`
	Unknown      int64   `json:"unknown"`
	Trades       int     `json:"trades"`
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`

	// Of all runs on this data, as the log has it.
	Events    int `json:"events"`
	AllTrades int `json:"all_trades"`
	// Checked acknowledgements, Lost of them.
	Checked    int               `json:"checked"`
	Lost       int               `json:"lost"`
	Duplicated int               `json:"duplicated"`
	Violated   []check.Violation `json:"violated"`
}

// right reports whether the market is proven right.
func (s *summary) right() bool { return s.Lost == 0 && s.Duplicated == 0 && len(s.Violated) == 0 }

func (s *summary) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(s)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(table)
	row("nodes", "%d started, %d at the end", s.Nodes, s.NodesLeft)
	row("commands", "%d in %.1f s over %s", s.Commands, s.Seconds, s.Store)
	row("acknowledged", "%d", s.Acknowledged)
	row("rejected", "%d by the rules of the market", s.Rejected)
	row("not done, unknown", "%d, %d", s.NotDone, s.Unknown)
	row("latency", "p50 %.1f ms, p99 %.1f ms", s.P50, s.P99)
	row("trades", "%d", s.Trades)
	row("checked", "%d events with %d trades, %d acknowledgements, of all runs on this data", s.Events, s.AllTrades, s.Checked)
	row("lost", "%d", s.Lost)
	row("duplicated", "%d", s.Duplicated)
	row("invariants violated", "%d", len(s.Violated))
	for _, v := range s.Violated {
		row("", "%s", v)
	}
	return table.Flush()
}

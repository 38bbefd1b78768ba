package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/check"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/persistence"
)

// audit reads the store's log as it grows, with a handle of its own, and knows
// where the nodes keep what they were promised.
type audit struct {
	store   persistence.Store
	checker *check.Checker
	acks    string
	before  int // trades that were there when the run began
}

func newAudit(store persistence.Store, acks string) *audit {
	return &audit{store: store, checker: check.New(store.Meta().Partitions), acks: acks}
}

// page is how many events of one partition are read at once.
const page = 1000

// catchUp reads what is new, and not what comes while it reads: a busy market
// would never let it go.
func (a *audit) catchUp(ctx context.Context) error {
	for {
		events, err := a.store.Tail(ctx, a.checker.Cursors(), page)
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		for i := range events {
			a.checker.Add(&events[i])
		}
		if len(events) < page { // then no partition has more
			return nil
		}
	}
}

// begin marks the start of a run.
func (a *audit) begin() { a.before = a.checker.Trades() }

// trades of this run.
func (a *audit) trades() int { return a.checker.Trades() - a.before }

// quiet waits until everything that was begun is finished and nothing new
// happens. It reports whether that came about.
func (a *audit) quiet(ctx context.Context, patience time.Duration) (bool, error) {
	const look, calm = 100 * time.Millisecond, 5
	tick := time.NewTicker(look)
	defer tick.Stop()
	still := 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		before := a.checker.Events()
		if err := a.catchUp(ctx); err != nil {
			return false, err
		}
		if still++; a.checker.Pending() > 0 || a.checker.Events() != before {
			still = 0
		}
		if still >= calm {
			return true, nil
		}
	}
	return false, nil
}

// conclude checks everything and sums up.
func (a *audit) conclude(ctx context.Context, o *options, fleet *fleet, took time.Duration) (*summary, error) {
	acknowledged := 0
	err := check.ReadAcks(a.acks, func(ack check.Ack) {
		acknowledged++
		a.checker.Acknowledged(ack)
	})
	if err != nil {
		return nil, err
	}
	if err := a.live(ctx, fleet); err != nil {
		return nil, err
	}
	r := a.checker.Report()
	f := fleet.total()
	if o.store == storePostgres && o.dsn == "" {
		// The store ends with the run, and with it what this is about.
		if err := os.RemoveAll(a.acks); err != nil {
			return nil, fmt.Errorf("remove acknowledgements: %w", err)
		}
	}
	return &summary{
		Nodes: o.nodes, NodesLeft: len(fleet.alive()), Store: o.store, Seconds: float64(took.Milliseconds()) / 1000,
		Commands: f.Commands, Acknowledged: f.Acknowledged, Rejected: f.Rejected, NotDone: f.NotDone, Unknown: f.Unknown,
		Trades: a.trades(), P50: milliseconds(f.Latency.Quantile(0.50)), P99: milliseconds(f.Latency.Quantile(0.99)),
		Events: r.Events, AllTrades: r.Trades, Checked: acknowledged,
		Lost: r.Lost, Duplicated: r.Duplicated, Violated: r.Violations,
	}, nil
}

// live asks a node for the books as the aggregates in memory have them, and
// compares them with the log (I16).
func (a *audit) live(ctx context.Context, fleet *fleet) error {
	for _, c := range fleet.alive() {
		for _, company := range market.Companies {
			var seen []book.Rester
			if err := fetch(ctx, "http://"+c.peer.HTTP+"/api/books/"+company.ID+"/orders", &seen); err != nil {
				return fmt.Errorf("ask %s for book %s: %w", c.name, company.ID, err)
			}
			a.checker.Live(company.ID, seen)
		}
	}
	return nil
}

func fetch(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*stopPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return json.Unmarshal(body, into)
}

package check

import (
	"fmt"
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/persistence"
)

// fold evolves the aggregate itself, to be compared with the model (I16).
func (c *Checker) fold(d *aggregate.Definition, stream persistence.Stream, event any) {
	instance := c.folds[stream]
	if instance == nil {
		instance = d.NewInstance()
		c.folds[stream] = instance
	}
	defer func() {
		if p := recover(); p != nil {
			c.found.add("I16", "%s cannot evolve by its log: %v", stream, p)
		}
	}()
	instance.Evolve(event)
}

// folded compares aggregates and models.
func (c *Checker) folded() {
	for _, id := range sortedKeys(c.books) {
		resters, _ := book.Resters{}.Answer(*state(c, book.Books, id)) // a book that is not open has none
		c.Live(id, resters)
	}
	for _, id := range sortedKeys(c.portfolios) {
		if got, want := sum(state(c, portfolio.Portfolios, id)), c.portfolios[id].sum(); got != want {
			c.found.add("I16", "portfolio %s is %s, its log says %s", id, got, want)
		}
	}
}

// state is what the aggregate itself made of the events that its model has seen.
func state[S any](c *Checker, typ *aggregate.Type[S], id string) *S {
	return c.folds[persistence.Stream{Type: typ.Name(), ID: id}].State().(*S)
}

// Live compares the open orders that somebody sees in a book, in priority order
// and bids first, with those that follow from the log (I16). It is for the end
// of a run, when all events were added.
func (c *Checker) Live(id string, seen []book.Rester) {
	b := c.books[id]
	if b == nil {
		c.found.add("I16", "book %s is not in the log", id)
		return
	}
	want := slices.Concat(b.open(book.Buy), b.open(book.Sell))
	if slices.Equal(seen, want) {
		return
	}
	for i := range max(len(seen), len(want)) {
		if i >= len(seen) || i >= len(want) || seen[i] != want[i] {
			c.found.add("I16", "book %s shows %d orders, its log has %d; they differ at place %d", id, len(seen), len(want), i)
			return
		}
	}
}

func sum(p *portfolio.Portfolio) string {
	open, shares := map[string]int64{}, map[string]int64{}
	for id, r := range p.Orders {
		open[string(id)] = int64(r.Remaining)
	}
	for id, h := range p.Holdings {
		shares[string(id)+" available"], shares[string(id)+" reserved"] = int64(h.Available), int64(h.Reserved)
	}
	return summary(int64(p.Available), int64(p.Reserved), shares, open)
}

func (l *ledger) sum() string {
	open, shares := map[string]int64{}, map[string]int64{}
	for id, r := range l.open {
		open[string(id)] = r.remaining
	}
	for id, s := range l.shares {
		shares[id+" available"], shares[id+" reserved"] = s.available, s.reserved
	}
	return summary(l.available, l.reserved, shares, open)
}

// summary leaves out what is zero; maps are printed in the order of their keys.
func summary(available, reserved int64, shares, open map[string]int64) string {
	for id, n := range shares {
		if n == 0 {
			delete(shares, id)
		}
	}
	return fmt.Sprintf("cash %d+%d, shares %v, open %v", available, reserved, shares, open)
}

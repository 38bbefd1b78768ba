package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
)

// due is a step that one aggregate owes another: caused in one stream, done in
// another, once each. Since partitions are read in no order between them, the
// doing may be seen before the cause.
type due struct {
	kind      kind
	book      string
	portfolio string
	number    int64
}

func (d due) String() string {
	return fmt.Sprintf("%s %d between book %q and portfolio %q", d.kind, d.number, d.book, d.portfolio)
}

type kind string

const (
	opening    kind = "opening"   // user -> portfolio
	placement  kind = "placement" // portfolio -> book
	allotment  kind = "allotment" // book -> portfolio, as are the others
	settlement kind = "settlement"
	release    kind = "release"
)

// terms are what cause and doing must agree on.
type terms struct {
	order, side           string
	price, quantity, cash int64
	trade                 int64
}

// claim is the half of a due that was seen.
type claim struct {
	terms terms
	// times counts causes up and doings down.
	times int
}

// owe notes the cause of a step, pay its doing.
func (c *Checker) owe(d due, t terms) { c.meet(d, t, 1) }
func (c *Checker) pay(d due, t terms) { c.meet(d, t, -1) }

func (c *Checker) meet(d due, t terms, direction int) {
	had, ok := c.dues[d]
	if !ok {
		c.dues[d] = claim{terms: t, times: direction}
		return
	}
	if had.times+direction == 0 {
		c.agree(d, had.terms, t)
		delete(c.dues, d)
		return
	}
	had.times += direction
	c.dues[d] = had
}

// agree compares the terms of cause and doing.
func (c *Checker) agree(d due, a, b terms) {
	if d.kind == placement && (a.side == "" || b.side == "") {
		a.side, a.price, b.side, b.price = "", 0, "", 0 // a refusal does not repeat them
	}
	if a == b {
		return
	}
	switch d.kind {
	case settlement:
		c.found.add("I4", "%s: %+v and %+v", d, a, b)
		if a.cash != b.cash {
			c.found.add("I1", "%s moves %d cents and %d cents", d, a.cash, b.cash)
		}
		if a.quantity != b.quantity {
			c.found.add("I2", "%s moves %d shares and %d shares", d, a.quantity, b.quantity)
		}
	case allotment:
		c.found.add("I2", "%s: %d shares and %d shares", d, a.quantity, b.quantity)
	default:
		c.found.add("I9", "%s: %+v and %+v", d, a, b)
	}
}

// outstanding reports what was never met, or met too often.
func (c *Checker) outstanding() {
	inOrder := slices.SortedFunc(maps.Keys(c.dues), func(a, b due) int { return cmp.Compare(a.String(), b.String()) })
	for _, d := range inOrder {
		had := c.dues[d]
		if had.times > 0 {
			c.found.add("I11", "%s was not carried out", d)
		}
		switch {
		case d.kind == settlement && had.times > 0:
			c.found.add("I4", "trade %d of book %s did not settle for %s", had.terms.trade, d.book, d.portfolio)
		case d.kind == settlement:
			c.found.add("I4", "%s, order %s: settled %d times more than it traded", d, had.terms.order, -had.times)
		case d.kind == allotment && had.times < 0:
			c.found.add("I2", "%s: received %d times more than allotted", d, -had.times)
		case d.kind == opening && had.times < 0:
			c.found.add("I1", "portfolio %s: opened, with first cash, %d times more than its user signed up", d.portfolio, -had.times)
		case had.times < 0:
			c.found.add("I9", "%s, order %s: done %d times more than caused", d, had.terms.order, -had.times)
		}
	}
}

// conservation checks that money and shares are neither made nor lost (I1, I2).
//
// Every event's own effect was checked against what caused it when both were
// seen, so that the sums hold at every position of the log; here is the sum at
// its end, with what is still in flight.
func (c *Checker) conservation() {
	var cash int64
	shares := map[string]int64{}
	for _, l := range c.portfolios {
		cash += l.available + l.reserved
		for id, s := range l.shares {
			shares[id] += s.available + s.reserved
		}
	}
	for d, had := range c.dues {
		if had.times != 1 {
			continue
		}
		switch {
		case d.kind == settlement && had.terms.side == "sell": // to be paid, and to give
			cash += had.terms.cash
			shares[d.book] -= had.terms.quantity
		case d.kind == settlement:
			cash -= had.terms.cash
			shares[d.book] += had.terms.quantity
		case d.kind == allotment:
			shares[d.book] += had.terms.quantity
		}
	}
	if want := c.deposits - c.taken; cash != want {
		c.found.add("I1", "portfolios and settlements in flight hold %d cents, deposits less withdrawals are %d", cash, want)
	}
	for _, id := range sortedKeys(c.books) {
		if want := int64(c.books[id].allotted); shares[id] != want {
			c.found.add("I2", "portfolios and settlements in flight hold %d shares of %s, %d were allotted", shares[id], id, want)
		}
		delete(shares, id)
	}
	for _, id := range sortedKeys(shares) {
		if n := shares[id]; n != 0 {
			c.found.add("I2", "portfolios hold %d shares of %s, which has no book", n, id)
		}
	}
}

// reservations checks that what is reserved is for the open orders (I9).
func (c *Checker) reservations() {
	for _, id := range sortedKeys(c.portfolios) {
		l := c.portfolios[id]
		for _, o := range sortedKeys(l.open) {
			r := l.open[o]
			b := c.books[r.book]
			if b == nil || b.orders[book.OrderID(o)] == nil {
				c.found.add("I9", "portfolio %s reserves for order %s, which is not open in book %s", id, o, r.book)
				continue
			}
			open := b.orders[book.OrderID(o)]
			if string(open.portfolio) != id || int64(open.remaining) != r.remaining ||
				int64(open.price) != r.limit || string(open.side) != string(r.side) {
				c.found.add("I9", "portfolio %s reserves %s %d at %d for order %s, the book has %s %d at %d of %s",
					id, r.side, r.remaining, r.limit, o, open.side, open.remaining, open.price, open.portfolio)
			}
		}
	}
	for _, id := range sortedKeys(c.books) {
		b := c.books[id]
		for _, o := range sortedKeys(b.orders) {
			open := b.orders[o]
			l := c.portfolios[string(open.portfolio)]
			if l == nil || l.open[portfolio.OrderID(o)] == nil {
				c.found.add("I9", "book %s: order %s is open without a reservation of %s", id, o, open.portfolio)
			}
		}
	}
}

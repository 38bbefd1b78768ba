package check

import (
	"container/heap"

	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/persistence"
)

// bookModel is a book as the checker understands it: two heaps of open orders.
type bookModel struct {
	orders  map[book.OrderID]*order   // open
	placed  map[book.OrderID]struct{} // ever
	sides   map[book.Side]*queue
	arrived int64
	trades  int64

	shares, allotted book.Quantity
	command          persistence.CommandID // of the last event
}

type order struct {
	id        book.OrderID
	portfolio book.PortfolioID
	side      book.Side
	price     book.Price
	remaining book.Quantity
	arrival   int64
	command   persistence.CommandID
	closed    bool
}

// queue is a heap with the order of highest priority on top. Closed orders are
// dropped when they come up.
type queue []*order

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if a.price != b.price {
		return (a.price > b.price) == (a.side == book.Buy)
	}
	return a.arrival < b.arrival
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*order)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return x
}

// top is the open order of highest priority, nil when there is none.
func (q *queue) top() *order {
	for q.Len() > 0 && (*q)[0].closed {
		heap.Pop(q)
	}
	if q.Len() == 0 {
		return nil
	}
	return (*q)[0]
}

func newBookModel() *bookModel {
	return &bookModel{
		orders: map[book.OrderID]*order{},
		placed: map[book.OrderID]struct{}{},
		sides:  map[book.Side]*queue{book.Buy: {}, book.Sell: {}},
	}
}

func (c *Checker) book(e *persistence.Event, decoded any) {
	id := e.Stream.ID
	b := c.books[id]
	if b == nil {
		b = newBookModel()
		c.books[id] = b
	}
	if e.Command != b.command {
		b.uncrossed(c, id)
		b.command = e.Command
	}
	switch event := decoded.(type) {
	case book.Opened:
		if b.shares != 0 {
			c.found.add("I2", "book %s is opened again, with %d shares after %d", id, event.Shares, b.shares)
		}
		b.shares = event.Shares
	case book.Allotted:
		b.allotted += event.Quantity
		if b.allotted > b.shares {
			c.found.add("I2", "book %s: %d shares allotted of %d", id, b.allotted, b.shares)
		}
		c.owe(due{allotment, id, string(event.Portfolio), event.Notice}, terms{quantity: int64(event.Quantity)})
	case book.OrderPlaced:
		b.place(c, e, event)
	case book.OrderRefused:
		c.pay(due{placement, id, string(event.Portfolio), event.Number}, terms{order: string(event.Order), quantity: int64(event.Quantity)})
		c.owe(due{release, id, string(event.Portfolio), event.Notice}, terms{order: string(event.Order), quantity: int64(event.Quantity)})
	case book.Traded:
		c.trades++
		b.trade(c, e, event)
	case book.OrderCancelled:
		o := b.orders[event.Order]
		if o == nil {
			c.found.add("I5", "book %s: order %s is cancelled and was not open", id, event.Order)
		} else {
			if o.portfolio != event.Portfolio {
				c.found.add("I5", "book %s: order %s of %s is cancelled as one of %s", id, event.Order, o.portfolio, event.Portfolio)
			}
			if o.remaining != event.Unfilled {
				c.found.add("I5", "book %s: order %s is cancelled with %d unfilled, its trades leave %d", id, event.Order, event.Unfilled, o.remaining)
			}
			b.close(o)
		}
		c.owe(due{release, id, string(event.Portfolio), event.Notice}, terms{order: string(event.Order), quantity: int64(event.Unfilled)})
	}
}

func (b *bookModel) place(c *Checker, e *persistence.Event, event book.OrderPlaced) {
	c.pay(due{placement, e.Stream.ID, string(event.Portfolio), event.Number}, terms{
		order: string(event.Order), side: string(event.Side), price: int64(event.Price), quantity: int64(event.Quantity),
	})
	if _, again := b.placed[event.Order]; again {
		c.duplicate("order "+string(event.Order), "book %s: order %s is placed again", e.Stream.ID, event.Order)
	}
	b.placed[event.Order] = struct{}{}
	q := b.sides[event.Side]
	if q == nil || event.Quantity <= 0 || event.Price <= 0 {
		c.found.add("I5", "book %s: order %s is %q %d at %d", e.Stream.ID, event.Order, event.Side, event.Quantity, event.Price)
		return
	}
	b.arrived++
	o := &order{
		id: event.Order, portfolio: event.Portfolio, side: event.Side, price: event.Price, remaining: event.Quantity,
		arrival: b.arrived, command: e.Command,
	}
	b.orders[o.id] = o
	heap.Push(q, o)
}

func (b *bookModel) trade(c *Checker, e *persistence.Event, t book.Traded) {
	id := e.Stream.ID
	b.trades++
	if t.Number != b.trades {
		c.found.add("I5", "book %s: trade %d follows trade %d", id, t.Number, b.trades-1)
		b.trades = t.Number
	}
	cash := int64(t.Price) * int64(t.Quantity)
	for side, p := range map[book.Side]book.Party{book.Buy: t.Buyer(), book.Sell: t.Seller()} {
		c.owe(due{settlement, id, string(p.Portfolio), p.Notice}, terms{
			order: string(p.Order), side: string(side), quantity: int64(t.Quantity), cash: cash, trade: t.Number,
		})
	}
	if t.Made.Portfolio == t.Took.Portfolio {
		c.found.add("I14", "book %s, trade %d: %s trades with himself", id, t.Number, t.Made.Portfolio)
	}
	maker, taker := b.orders[t.Made.Order], b.orders[t.Took.Order]
	for _, p := range []book.Party{t.Made, t.Took} {
		o := b.orders[p.Order]
		switch {
		case o == nil:
			c.found.add("I5", "book %s, trade %d: order %s is not open", id, t.Number, p.Order)
		case o.portfolio != p.Portfolio:
			c.found.add("I5", "book %s, trade %d: order %s is of %s, not of %s", id, t.Number, p.Order, o.portfolio, p.Portfolio)
		case t.Quantity <= 0 || t.Quantity > o.remaining:
			c.found.add("I5", "book %s, trade %d: %d of order %s, which has %d left", id, t.Number, t.Quantity, p.Order, o.remaining)
		}
	}
	if maker == nil || taker == nil {
		return
	}
	b.priority(c, e, t, maker, taker)
	for _, o := range []*order{maker, taker} {
		if o.remaining -= t.Quantity; o.remaining <= 0 {
			b.close(o)
		}
	}
}

// priority checks whose turn it was, and the price.
func (b *bookModel) priority(c *Checker, e *persistence.Event, t book.Traded, maker, taker *order) {
	id := e.Stream.ID
	switch {
	case maker.side == taker.side || taker.side != t.Taker:
		c.found.add("I7", "book %s, trade %d: %s took from %s, and is called %s", id, t.Number, taker.side, maker.side, t.Taker)
		return
	case taker.command != e.Command || taker.arrival != b.arrived:
		c.found.add("I7", "book %s, trade %d: order %s did not come with this command", id, t.Number, taker.id)
	}
	if top := b.sides[maker.side].top(); top != maker {
		c.found.add("I7", "book %s, trade %d: order %s trades at %d before order %s at %d", id, t.Number, maker.id, maker.price, top.id, top.price)
	}
	within := taker.side == book.Buy && t.Price <= taker.price || taker.side == book.Sell && t.Price >= taker.price
	if t.Price != maker.price || !within {
		c.found.add("I8", "book %s, trade %d: at %d, resting at %d, limit %d", id, t.Number, t.Price, maker.price, taker.price)
	}
}

func (b *bookModel) close(o *order) {
	o.closed = true
	delete(b.orders, o.id)
}

// uncrossed checks the book between two commands.
func (b *bookModel) uncrossed(c *Checker, id string) {
	bid, ask := b.sides[book.Buy].top(), b.sides[book.Sell].top()
	if bid != nil && ask != nil && bid.price >= ask.price {
		c.found.add("I6", "book %s is crossed: bid %d of order %s, ask %d of order %s", id, bid.price, bid.id, ask.price, ask.id)
	}
}

// open lists the open orders of a side by priority.
func (b *bookModel) open(side book.Side) []book.Rester {
	var out []book.Rester
	rest := append(queue(nil), *b.sides[side]...)
	for rest.top() != nil {
		o := heap.Pop(&rest).(*order)
		out = append(out, book.Rester{Order: o.id, Portfolio: o.portfolio, Side: o.side, Price: o.price, Remaining: o.remaining})
	}
	return out
}

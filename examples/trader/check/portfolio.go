package check

import (
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/persistence"
)

// ledger is a portfolio as the checker understands it. Amounts are moved as the
// events say; what they should be is computed beside it from the reservations.
type ledger struct {
	available, reserved int64
	owed                int64 // the sum of remaining times limit over the buying orders
	shares              map[string]*stock
	open                map[portfolio.OrderID]*reservation
}

type stock struct{ available, reserved, owed int64 }

type reservation struct {
	book      string
	side      portfolio.Side
	limit     int64
	remaining int64
}

func (l *ledger) stock(book string) *stock {
	s := l.shares[book]
	if s == nil {
		s = &stock{}
		l.shares[book] = s
	}
	return s
}

func (c *Checker) portfolio(e *persistence.Event, decoded any) {
	id := e.Stream.ID
	l := c.portfolios[id]
	if l == nil {
		l = &ledger{shares: map[string]*stock{}, open: map[portfolio.OrderID]*reservation{}}
		c.portfolios[id] = l
	}
	at := ""
	switch event := decoded.(type) {
	case portfolio.Opened:
		l.available += int64(event.Cash)
		c.deposits += int64(event.Cash)
		c.pay(due{kind: opening, portfolio: id}, terms{})
	case portfolio.Deposited:
		l.available += int64(event.Cents)
		c.deposits += int64(event.Cents)
		c.positive(e, int64(event.Cents))
	case portfolio.Withdrawn:
		l.available -= int64(event.Cents)
		c.taken += int64(event.Cents)
		c.positive(e, int64(event.Cents))
	case portfolio.Received:
		at = string(event.Book)
		l.stock(at).available += int64(event.Quantity)
		c.pay(due{allotment, at, id, event.Notice}, terms{quantity: int64(event.Quantity)})
	case portfolio.Reserved:
		at = string(event.Book)
		c.reserved(l, e, event)
	case portfolio.Settled:
		at = string(event.Book)
		c.settled(l, e, event)
	case portfolio.Released:
		at = string(event.Book)
		c.released(l, e, event)
	}
	c.sound(l, e, at)
}

func (c *Checker) positive(e *persistence.Event, cents int64) {
	if cents <= 0 {
		c.found.add("I1", "%s, event %d: %s of %d cents", e.Stream, e.Version, e.Type, cents)
	}
}

func (c *Checker) reserved(l *ledger, e *persistence.Event, event portfolio.Reserved) {
	id, at := e.Stream.ID, string(event.Book)
	c.owe(due{placement, at, id, event.Number}, terms{
		order: string(event.Order), side: string(event.Side), price: int64(event.Limit), quantity: int64(event.Quantity),
	})
	c.request(id, event)
	if l.open[event.Order] != nil {
		c.found.add("I3", "portfolio %s: order %s is reserved again", id, event.Order)
		return
	}
	l.open[event.Order] = &reservation{book: at, side: event.Side, limit: int64(event.Limit), remaining: int64(event.Quantity)}
	if event.Side == portfolio.Buy {
		l.available -= int64(event.Cash)
		l.reserved += int64(event.Cash)
		l.owed += int64(event.Limit) * int64(event.Quantity)
	} else {
		s := l.stock(at)
		s.available -= int64(event.Quantity)
		s.reserved += int64(event.Quantity)
		s.owed += int64(event.Quantity)
	}
}

// request checks that one request of a client made one order (I12).
func (c *Checker) request(owner string, event portfolio.Reserved) {
	key := request{owner, event.Request}
	if event.Request == "" {
		key.id = "order " + string(event.Order)
	}
	if had, again := c.requests[key]; again {
		c.duplicate("request "+owner+" "+key.id, "request %s of %s made order %s and order %s", key.id, owner, had, event.Order)
	}
	c.requests[key] = event.Order
	if event.Request == "" {
		return
	}
	asked, err := aggregate.ParseCommandID(event.Request)
	if err != nil || portfolio.NewOrderID(owner, asked).String() != string(event.Order) {
		c.found.add("I12", "order %s of %s is not the one that request %s makes", event.Order, owner, event.Request)
	}
}

func (c *Checker) settled(l *ledger, e *persistence.Event, event portfolio.Settled) {
	id, at := e.Stream.ID, string(event.Book)
	c.pay(due{settlement, at, id, event.Notice}, terms{
		order: string(event.Order), side: string(event.Side), quantity: int64(event.Quantity), cash: int64(event.Cash), trade: event.Trade,
	})
	s := l.stock(at)
	if event.Side == portfolio.Buy {
		l.reserved -= int64(event.Cash) + int64(event.Returned)
		l.available += int64(event.Returned)
		s.available += int64(event.Quantity)
	} else {
		l.available += int64(event.Cash)
		s.reserved -= int64(event.Quantity)
	}
	c.reduce(l, e, event.Order, at, event.Side, int64(event.Quantity))
}

func (c *Checker) released(l *ledger, e *persistence.Event, event portfolio.Released) {
	id, at := e.Stream.ID, string(event.Book)
	c.pay(due{release, at, id, event.Notice}, terms{order: string(event.Order), quantity: int64(event.Quantity)})
	if event.Side == portfolio.Buy {
		l.reserved -= int64(event.Cash)
		l.available += int64(event.Cash)
	} else {
		s := l.stock(at)
		s.reserved -= int64(event.Quantity)
		s.available += int64(event.Quantity)
	}
	c.reduce(l, e, event.Order, at, event.Side, int64(event.Quantity))
	if l.open[event.Order] != nil {
		c.found.add("I9", "portfolio %s: order %s keeps a reservation after its end", id, event.Order)
	}
}

// reduce takes a quantity off an order's reservation.
func (c *Checker) reduce(l *ledger, e *persistence.Event, id portfolio.OrderID, at string, side portfolio.Side, quantity int64) {
	r := l.open[id]
	if r == nil || r.book != at || r.side != side || quantity <= 0 || quantity > r.remaining {
		c.found.add("I3", "%s, event %d: %s takes %d from order %s, for which that is not reserved", e.Stream, e.Version, e.Type, quantity, id)
		return
	}
	if r.side == portfolio.Buy {
		l.owed -= quantity * r.limit
	} else {
		l.stock(at).owed -= quantity
	}
	if r.remaining -= quantity; r.remaining == 0 {
		delete(l.open, id)
	}
}

// sound checks a portfolio after an event (I3), as far as the event touched it.
func (c *Checker) sound(l *ledger, e *persistence.Event, at string) {
	if l.available < 0 || l.reserved < 0 {
		c.found.add("I3", "%s, event %d: %d available, %d reserved", e.Stream, e.Version, l.available, l.reserved)
	}
	if l.reserved != l.owed {
		c.found.add("I3", "%s, event %d: %d reserved, its orders reserve %d", e.Stream, e.Version, l.reserved, l.owed)
	}
	if at == "" {
		return
	}
	s := l.stock(at)
	if s.available < 0 || s.reserved < 0 || s.reserved != s.owed {
		c.found.add("I3", "%s, event %d: of %s %d available, %d reserved, its orders reserve %d",
			e.Stream, e.Version, at, s.available, s.reserved, s.owed)
	}
}

package book

import "github.com/ingrain-go/ingrain/aggregate"

// What a book refuses to do.
var (
	ErrTerms      = aggregate.Reject("invalid-terms", "a book needs a company name, and shares, tick and lot above zero and within the limits")
	ErrOpen       = aggregate.Reject("already-open", "the book is open under other terms")
	ErrNotOpen    = aggregate.Reject("unknown-book", "there is no such book")
	ErrExhausted  = aggregate.Reject("shares-exhausted", "the company has not that many shares left")
	ErrQuantity   = aggregate.Reject("invalid-quantity", "the quantity is not above zero, over the limit, or no multiple of the lot")
	ErrPrice      = aggregate.Reject("invalid-price", "the price is not above zero, over the limit, or no multiple of the tick")
	ErrNoOrder    = aggregate.Reject("order-not-open", "there is no such open order")
	ErrNotYours   = aggregate.Reject("not-your-order", "the order belongs to another portfolio")
	ErrOutOfOrder = aggregate.Reject("out-of-order", "an earlier order of the portfolio has not arrived")
	ErrPortfolio  = aggregate.Reject("invalid-portfolio", "the portfolio id is empty or too long")
)

// Open opens the book. Opening it again under the same terms changes nothing.
type Open struct {
	Company string
	Shares  Quantity
	Tick    Price
	Lot     Quantity
}

// Decide checks the terms.
func (c Open) Decide(b Book) ([]Event, error) {
	switch {
	case c.Company == "" || len(c.Company) > MaxText,
		c.Shares <= 0 || c.Shares > MaxQuantity,
		c.Tick <= 0 || c.Tick > MaxPrice,
		c.Lot <= 0 || c.Lot > c.Shares:
		return nil, ErrTerms
	case b.Company == "":
		return []Event{Opened(c)}, nil
	case b.Company != c.Company || b.Shares != c.Shares || b.Tick != c.Tick || b.Lot != c.Lot:
		return nil, ErrOpen
	}
	return nil, nil
}

// Allot gives a portfolio its first shares. It happens once for a portfolio; a
// second time changes nothing.
type Allot struct {
	Portfolio PortfolioID
	Quantity  Quantity
}

// Decide keeps what is allotted within the company's shares.
func (c Allot) Decide(b Book) ([]Event, error) {
	switch {
	case b.Company == "":
		return nil, ErrNotOpen
	case !isID(string(c.Portfolio)):
		return nil, ErrPortfolio
	case c.Quantity <= 0 || c.Quantity > MaxQuantity || c.Quantity%b.Lot != 0:
		return nil, ErrQuantity
	}
	link := b.Links[c.Portfolio]
	if link.Allotted {
		return nil, nil
	}
	if c.Quantity > b.Shares-b.Allotted {
		return nil, ErrExhausted
	}
	return []Event{Allotted{Portfolio: c.Portfolio, Notice: link.Notices + 1, Quantity: c.Quantity}}, nil
}

// Cancel takes what is left of an order out of the book. The book decides the
// race between a cancellation and a fill.
type Cancel struct {
	Order     OrderID
	Portfolio PortfolioID
}

// Decide wants an open order of the portfolio.
func (c Cancel) Decide(b Book) ([]Event, error) {
	order, _, ok := b.find(c.Order)
	switch {
	case !ok:
		return nil, ErrNoOrder
	case order.Portfolio != c.Portfolio:
		return nil, ErrNotYours
	}
	return []Event{OrderCancelled{
		Order: c.Order, Portfolio: c.Portfolio, Notice: b.Links[c.Portfolio].Notices + 1,
		Unfilled: order.Remaining, Reason: Requested,
	}}, nil
}

// Place puts an order into the book: the Number-th that its portfolio sends
// here. A number the book has had changes nothing, whatever became of the
// order. An order that cannot be taken is refused by an event, not by an error,
// so that there is one answer for ever and the portfolio can rely on it.
type Place struct {
	Order     OrderID
	Portfolio PortfolioID
	Number    int64
	Side      Side
	Price     Price
	Quantity  Quantity
}

// Decide matches the order against the other side of the book. It wants a
// portfolio to which the book can send its notices.
func (c Place) Decide(b Book) ([]Event, error) {
	switch link := b.Links[c.Portfolio]; {
	case !isID(string(c.Portfolio)):
		return nil, ErrPortfolio
	case c.Number <= link.Orders:
		return nil, nil
	case c.Number > link.Orders+1:
		return nil, ErrOutOfOrder
	}
	if reason := c.refusal(&b); reason != "" {
		return []Event{OrderRefused{
			Order: c.Order, Portfolio: c.Portfolio, Number: c.Number, Notice: b.Links[c.Portfolio].Notices + 1,
			Quantity: c.Quantity, Reason: reason,
		}}, nil
	}
	return c.match(&b), nil
}

// isID reports whether a text survives every codec and can address an aggregate.
func isID(s string) bool { return len(s) <= MaxText && aggregate.CheckID(s) == nil }

func (c Place) refusal(b *Book) Reason {
	_, known := b.Open[c.Order]
	switch {
	case b.Company == "":
		return UnknownBook
	case !isID(string(c.Order)) || known:
		return BadOrderID
	case c.Side != Buy && c.Side != Sell:
		return BadSide
	case c.Price <= 0 || c.Price > MaxPrice || c.Price%b.Tick != 0:
		return BadPrice
	case c.Quantity <= 0 || c.Quantity > MaxQuantity || c.Quantity%b.Lot != 0:
		return BadQuantity
	}
	return ""
}

// match walks the other side from its best order on, and changes nothing.
func (c Place) match(b *Book) []Event {
	events := []Event{OrderPlaced(c)}
	remaining, own := c.Quantity, b.Links[c.Portfolio].Notices
	sent := map[PortfolioID]int64{}
	trades := b.Trades
	cancel := func(reason Reason) []Event {
		return append(events, OrderCancelled{
			Order: c.Order, Portfolio: c.Portfolio, Notice: own + 1, Unfilled: remaining, Reason: reason,
		})
	}
	levels := *b.side(c.Side.Opposite())
	for i := len(levels) - 1; i >= 0 && c.Side.crosses(c.Price, levels[i].Price); i-- {
		for _, maker := range levels[i].Orders {
			switch {
			case remaining == 0:
				return events
			case maker.Portfolio == c.Portfolio:
				return cancel(SelfTrade)
			case trades-b.Trades == MaxTrades:
				return cancel(TooManyTrades)
			}
			quantity := min(remaining, maker.Remaining)
			remaining -= quantity
			trades++
			own++
			sent[maker.Portfolio]++
			events = append(events, Traded{
				Number: trades, Price: levels[i].Price, Quantity: quantity, Taker: c.Side,
				Made: Party{Order: maker.ID, Portfolio: maker.Portfolio, Notice: b.Links[maker.Portfolio].Notices + sent[maker.Portfolio]},
				Took: Party{Order: c.Order, Portfolio: c.Portfolio, Notice: own},
			})
		}
	}
	return events
}

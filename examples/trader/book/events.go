package book

// Opened says that the company is traded from now on.
type Opened struct {
	Company string
	Shares  Quantity
	Tick    Price
	Lot     Quantity
}

// Evolve opens the book.
func (e Opened) Evolve(b *Book) {
	b.Company, b.Shares, b.Tick, b.Lot = e.Company, e.Shares, e.Tick, e.Lot
}

// Allotted says that a portfolio was given its first shares. It is a notice.
type Allotted struct {
	Portfolio PortfolioID
	Notice    int64
	Quantity  Quantity
}

// Evolve counts the shares.
func (e Allotted) Evolve(b *Book) {
	b.Allotted += e.Quantity
	b.link(e.Portfolio, func(l *Link) { l.Notices, l.Allotted = e.Notice, true })
}

// OrderPlaced says that an order was taken. Its trades follow, and then what is
// left of it rests in the book, unless it was cancelled.
type OrderPlaced struct {
	Order     OrderID
	Portfolio PortfolioID
	Number    int64
	Side      Side
	Price     Price
	Quantity  Quantity
}

// Evolve lets the order rest.
func (e OrderPlaced) Evolve(b *Book) {
	b.link(e.Portfolio, func(l *Link) { l.Orders = e.Number })
	b.rest(e.Side, e.Price, Resting{ID: e.Order, Portfolio: e.Portfolio, Remaining: e.Quantity})
}

// OrderRefused says that an order was not taken, for good. It is a notice.
type OrderRefused struct {
	Order          OrderID
	Portfolio      PortfolioID
	Number, Notice int64
	Quantity       Quantity
	Reason         Reason
}

// Evolve remembers the numbers.
func (e OrderRefused) Evolve(b *Book) {
	b.link(e.Portfolio, func(l *Link) { l.Orders, l.Notices = e.Number, e.Notice })
}

// Reason says why an order was refused or cancelled.
type Reason string

// Why orders are refused, and why they are cancelled.
const (
	UnknownBook Reason = "unknown-book"
	BadOrderID  Reason = "invalid-order-id"
	BadSide     Reason = "invalid-side"
	BadPrice    Reason = "invalid-price"
	BadQuantity Reason = "invalid-quantity"

	Requested     Reason = "requested"
	SelfTrade     Reason = "self-trade"
	TooManyTrades Reason = "too-many-trades"
)

// Traded says that two orders met, at the price of the one that was there
// first. It is a notice to both portfolios.
type Traded struct {
	Number   int64 // of the trade in its book, dense from 1
	Price    Price
	Quantity Quantity
	Taker    Side // of the order that came second
	Made     Party
	Took     Party
}

// Party is one side of a trade.
type Party struct {
	Order     OrderID
	Portfolio PortfolioID
	Notice    int64
}

// Buyer returns the side that pays.
func (e Traded) Buyer() Party {
	if e.Taker == Buy {
		return e.Took
	}
	return e.Made
}

// Seller returns the side that delivers.
func (e Traded) Seller() Party {
	if e.Taker == Buy {
		return e.Made
	}
	return e.Took
}

// Evolve fills both orders.
func (e Traded) Evolve(b *Book) {
	b.Trades = e.Number
	for _, p := range []Party{e.Made, e.Took} {
		b.take(p.Order, e.Quantity)
		b.link(p.Portfolio, func(l *Link) { l.Notices = p.Notice })
	}
	if len(b.Recent) >= recent {
		b.Recent = append(b.Recent[:0], b.Recent[len(b.Recent)-recent+1:]...)
	}
	b.Recent = append(b.Recent, Trade{Number: e.Number, Price: e.Price, Quantity: e.Quantity, Taker: e.Taker})
}

// OrderCancelled says that what was left of an order is out of the book. It is
// a notice.
type OrderCancelled struct {
	Order     OrderID
	Portfolio PortfolioID
	Notice    int64
	Unfilled  Quantity
	Reason    Reason
}

// Evolve removes the order.
func (e OrderCancelled) Evolve(b *Book) {
	b.take(e.Order, e.Unfilled)
	b.link(e.Portfolio, func(l *Link) { l.Notices = e.Notice })
}

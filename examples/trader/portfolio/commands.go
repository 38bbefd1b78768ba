package portfolio

import "github.com/ingrain-go/ingrain/aggregate"

// What a portfolio refuses to do.
var (
	ErrNotOpen     = aggregate.Reject("unknown-portfolio", "there is no such portfolio")
	ErrOwner       = aggregate.Reject("invalid-owner", "the owner's id is empty or too long, or not the one the portfolio was opened for")
	ErrAmount      = aggregate.Reject("invalid-amount", "the amount is not above zero")
	ErrTooMuch     = aggregate.Reject("deposit-limit", "the portfolio may not hold that much from deposits")
	ErrCash        = aggregate.Reject("insufficient-cash", "not enough cash available")
	ErrShares      = aggregate.Reject("insufficient-shares", "not enough shares available")
	ErrOrder       = aggregate.Reject("invalid-order", "an order needs an id, a book, a side, and a limit and a quantity above zero and within the limits")
	ErrTooManyOpen = aggregate.Reject("too-many-open-orders", "too many orders are open")
	ErrOutOfOrder  = aggregate.Reject("out-of-order", "an earlier notice of the book has not arrived")
	ErrReservation = aggregate.Reject("reservation-mismatch", "the notice does not fit the order's reservation")
	ErrDifferent   = aggregate.Reject("order-differs", "an order of this id is open with other terms")
	ErrNotice      = aggregate.Reject("invalid-notice", "a notice has a number above zero and a book")
)

// Open opens the portfolio with cash to begin with. Opening it again changes
// nothing.
type Open struct {
	Owner string
	Cash  Cents
}

// Decide checks owner and cash.
func (c Open) Decide(p Portfolio) ([]Event, error) {
	switch {
	case !isID(c.Owner), p.Owner != "" && p.Owner != c.Owner:
		return nil, ErrOwner
	case p.Owner != "":
		return nil, nil
	case c.Cash < 0:
		return nil, ErrAmount
	case c.Cash > MaxDeposits:
		return nil, ErrTooMuch
	}
	return []Event{Opened(c)}, nil
}

// Deposit brings cash in.
type Deposit struct{ Cents Cents }

// Decide keeps deposits within [MaxDeposits].
func (c Deposit) Decide(p Portfolio) ([]Event, error) {
	switch {
	case p.Owner == "":
		return nil, ErrNotOpen
	case c.Cents <= 0:
		return nil, ErrAmount
	case p.Deposits > 0 && c.Cents > MaxDeposits-p.Deposits, c.Cents > MaxDeposits:
		return nil, ErrTooMuch
	}
	return []Event{Deposited(c)}, nil
}

// Withdraw takes cash out that is not reserved.
type Withdraw struct{ Cents Cents }

// Decide leaves no debt.
func (c Withdraw) Decide(p Portfolio) ([]Event, error) {
	switch {
	case p.Owner == "":
		return nil, ErrNotOpen
	case c.Cents <= 0:
		return nil, ErrAmount
	case c.Cents > p.Available:
		return nil, ErrCash
	}
	return []Event{Withdrawn(c)}, nil
}

// Reserve sets aside what an order can cost, and thereby sends the order to its
// book. Asking again for an order that is open changes nothing.
type Reserve struct {
	Order OrderID
	// Request is the client's own id of what he asked for.
	Request  string
	Book     BookID
	Side     Side
	Quantity Quantity
	Limit    Cents
}

// Decide wants the cash at the limit price, or the shares, to be available.
func (c Reserve) Decide(p Portfolio) ([]Event, error) {
	cash, fits := worth(c.Limit, c.Quantity)
	switch {
	case p.Owner == "":
		return nil, ErrNotOpen
	case !isID(string(c.Order)), !isID(string(c.Book)), c.Request != "" && !isID(c.Request),
		c.Side != Buy && c.Side != Sell,
		c.Limit <= 0 || c.Limit > MaxPrice, c.Quantity <= 0 || c.Quantity > MaxQuantity, !fits:
		return nil, ErrOrder
	}
	if r, open := p.Orders[c.Order]; open {
		if r.Book != c.Book || r.Side != c.Side || r.Limit != c.Limit || r.Remaining > c.Quantity {
			return nil, ErrDifferent
		}
		return nil, nil
	}
	switch {
	case len(p.Orders) >= MaxOpen:
		return nil, ErrTooManyOpen
	case c.Side == Buy && cash > p.Available:
		return nil, ErrCash
	case c.Side == Sell && c.Quantity > p.Holdings[c.Book].Available:
		return nil, ErrShares
	}
	e := Reserved{
		Order: c.Order, Request: c.Request, Book: c.Book, Number: p.Links[c.Book].Orders + 1,
		Side: c.Side, Quantity: c.Quantity, Limit: c.Limit,
	}
	if c.Side == Buy {
		e.Cash = cash
	}
	return []Event{e}, nil
}

// isID reports whether a text survives every codec and can address an aggregate.
func isID(s string) bool { return len(s) <= MaxText && aggregate.CheckID(s) == nil }

// Settle carries out this portfolio's side of a trade, by notice of the book.
type Settle struct {
	Book     BookID
	Notice   int64
	Trade    int64
	Order    OrderID
	Quantity Quantity
	Price    Cents
}

// Decide wants the reservation to cover the trade, in quantity and in price.
func (c Settle) Decide(p Portfolio) ([]Event, error) {
	if had, err := p.notice(c.Book, c.Notice); had || err != nil {
		return nil, err
	}
	r, open := p.Orders[c.Order]
	cash, fits := worth(c.Price, c.Quantity)
	switch {
	case !open, !fits, r.Book != c.Book, c.Quantity <= 0, c.Quantity > r.Remaining, c.Price <= 0,
		r.Side == Buy && c.Price > r.Limit, r.Side == Sell && c.Price < r.Limit:
		return nil, ErrReservation
	}
	e := Settled{
		Book: c.Book, Notice: c.Notice, Trade: c.Trade, Order: c.Order, Side: r.Side,
		Quantity: c.Quantity, Cash: cash,
	}
	if r.Side == Buy {
		e.Returned = Cents(c.Quantity) * (r.Limit - c.Price)
	}
	return []Event{e}, nil
}

// Release ends the reservation of an order, by notice of the book, which says
// how much of it was not filled and never will be.
type Release struct {
	Book     BookID
	Notice   int64
	Order    OrderID
	Unfilled Quantity
}

// Decide wants book and portfolio to agree on what is left of the order.
func (c Release) Decide(p Portfolio) ([]Event, error) {
	if had, err := p.notice(c.Book, c.Notice); had || err != nil {
		return nil, err
	}
	r, open := p.Orders[c.Order]
	if !open || r.Book != c.Book || r.Remaining != c.Unfilled {
		return nil, ErrReservation
	}
	e := Released{Book: c.Book, Notice: c.Notice, Order: c.Order, Side: r.Side, Quantity: c.Unfilled}
	if r.Side == Buy {
		e.Cash = Cents(c.Unfilled) * r.Limit
	}
	return []Event{e}, nil
}

// Receive takes in the first shares of a company, by notice of the book.
type Receive struct {
	Book     BookID
	Notice   int64
	Quantity Quantity
}

// Decide checks the notice.
func (c Receive) Decide(p Portfolio) ([]Event, error) {
	if had, err := p.notice(c.Book, c.Notice); had || err != nil {
		return nil, err
	}
	if c.Quantity <= 0 || c.Quantity > MaxQuantity {
		return nil, ErrAmount
	}
	return []Event{Received(c)}, nil
}

// notice sorts a notice: had before, next, or too early.
func (p *Portfolio) notice(book BookID, number int64) (had bool, err error) {
	last := p.Links[book].Notices
	switch {
	case !isID(string(book)) || number <= 0:
		return false, ErrNotice
	case number <= last:
		return true, nil
	case number > last+1:
		return false, ErrOutOfOrder
	}
	return false, nil
}

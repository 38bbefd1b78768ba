// Package portfolio is a trader's account: cash, shares, and what of both is
// reserved for his open orders.
//
// Every order has its own reservation, made at its limit price before the order
// goes to the book, and ended by what the book then says of it, in as many
// parts as there are trades. Nothing is ever reserved twice, settled twice or
// below zero.
//
// Package book says how a portfolio and a book talk: through two numbered
// sequences, of orders and of notices.
package portfolio

import (
	"crypto/sha256"
	"math/bits"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Limits of what a portfolio takes. Sums cannot overflow: all the cash that is
// ever deposited fits an int64 up to nine million portfolios, and so does what
// any one of them can earn.
const (
	MaxPrice    Cents    = 1_000_000_000
	MaxQuantity Quantity = 1_000_000_000
	// MaxDeposits is how much cash can be brought into one portfolio, less what
	// was taken out.
	MaxDeposits Cents = 1_000_000_000_000
	// MaxOpen is how many orders a portfolio may have open.
	MaxOpen = 1000
	// MaxText bounds names and ids, in bytes.
	MaxText = 64
)

// The words of a portfolio.
type (
	// Cents is money.
	Cents int64
	// Quantity is in shares.
	Quantity int64
	// OrderID is made by whoever wants the order, see [NewOrderID].
	OrderID string
	// BookID names the book of a company.
	BookID string
	// Side is Buy or Sell.
	Side string
)

// The sides of an order.
const (
	Buy  Side = "buy"
	Sell Side = "sell"
)

// NewOrderID makes the id of the order that an owner asks for by one request,
// the same one each time he asks. The order's id is also the id of the command
// that reserves for it, so that a request sent twice has one effect.
func NewOrderID(owner string, request aggregate.CommandID) aggregate.CommandID {
	h := sha256.New()
	h.Write([]byte(owner))
	h.Write([]byte{0})
	h.Write(request[:])
	id := aggregate.CommandID(h.Sum(nil)[:16])
	copy(id[:6], request[:6]) // the time of the request
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // RFC 9562
	return id
}

// Portfolio is the state. The zero value is a portfolio that was not opened.
type Portfolio struct {
	Owner string
	// Available can be spent; Reserved cannot, and equals the sum over Orders.
	Available, Reserved Cents
	// Deposits is what was brought in, less what was taken out.
	Deposits Cents
	Holdings map[BookID]Holding
	// Orders holds the reservations of the orders that are open.
	Orders map[OrderID]Reservation
	// Links holds the two numbers for every book.
	Links map[BookID]Link
}

// Holding is the shares of one company.
type Holding struct{ Available, Reserved Quantity }

// Reservation is what is set aside for what is left of an order: Remaining
// times Limit cents to buy, Remaining shares to sell.
type Reservation struct {
	Book      BookID
	Side      Side
	Limit     Cents
	Remaining Quantity
}

// Link is what a portfolio knows of its correspondence with a book.
type Link struct {
	// Orders is the number of the last order sent, Notices that of the last
	// notice received.
	Orders, Notices int64
}

// Event is an event of a portfolio.
type Event = aggregate.Event[Portfolio]

// Portfolios is the aggregate type. The id is the owner's.
var Portfolios = aggregate.Define("portfolio",
	aggregate.Accepts[Open]("open"),
	aggregate.Accepts[Deposit]("deposit"),
	aggregate.Accepts[Withdraw]("withdraw"),
	aggregate.Accepts[Reserve]("reserve"),
	aggregate.Accepts[Settle]("settle"),
	aggregate.Accepts[Release]("release"),
	aggregate.Accepts[Receive]("receive"),
	aggregate.Records[Opened]("opened"),
	aggregate.Records[Deposited]("deposited"),
	aggregate.Records[Withdrawn]("withdrawn"),
	aggregate.Records[Reserved]("reserved"),
	aggregate.Records[Settled]("settled"),
	aggregate.Records[Released]("released"),
	aggregate.Records[Received]("received"),
	aggregate.Answers[Statement]("statement"),
)

// worth is price times quantity; ok is false when it does not fit.
func worth(price Cents, quantity Quantity) (Cents, bool) {
	if price < 0 || quantity < 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(price), uint64(quantity))
	return Cents(lo), hi == 0 && lo <= 1<<63-1
}

func (p *Portfolio) holding(id BookID, available, reserved Quantity) {
	if p.Holdings == nil {
		p.Holdings = make(map[BookID]Holding)
	}
	h := p.Holdings[id]
	h.Available += available
	h.Reserved += reserved
	p.Holdings[id] = h
}

func (p *Portfolio) link(id BookID, change func(*Link)) {
	if p.Links == nil {
		p.Links = make(map[BookID]Link)
	}
	l := p.Links[id]
	change(&l)
	p.Links[id] = l
}

// reduce takes a quantity off an order's reservation and ends it at zero.
func (p *Portfolio) reduce(id OrderID, quantity Quantity) {
	r := p.Orders[id]
	if r.Remaining -= quantity; r.Remaining > 0 {
		p.Orders[id] = r
	} else {
		delete(p.Orders, id)
	}
}

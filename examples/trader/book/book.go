// Package book is the order book of one company: a limit order market with
// price-time priority.
//
// Orders match at the price of the resting order, best price first and, at the
// same price, oldest first. An order may be filled in parts. A trader never
// trades with himself: when the next match of an incoming order would be an
// order of the same portfolio, what is left of the incoming order is cancelled
// (the rule called "cancel newest").
//
// A book and a portfolio talk through two numbered sequences without holes. A
// portfolio numbers the orders it sends to a book, and a book numbers the
// notices it owes a portfolio: trades, refusals, cancellations, allotments.
// Each side acts on the next number only, ignores the ones it had, and so needs
// to remember one integer to make any repetition harmless for ever.
package book

import (
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Limits of what a book takes. Price times quantity stays far below the end of
// an int64.
const (
	MaxPrice    Price    = 1_000_000_000
	MaxQuantity Quantity = 1_000_000_000
	// MaxTrades bounds what one order can set off at once. What is left of an
	// order that reaches it is cancelled.
	MaxTrades = 500
	// MaxText bounds names and ids, in bytes.
	MaxText = 64
)

// The words of a book.
type (
	// Price is in cents for one share.
	Price int64
	// Quantity is in shares.
	Quantity int64
	// OrderID is made by whoever wants the order, before anybody else sees it.
	OrderID string
	// PortfolioID names the account that an order is for.
	PortfolioID string
	// Side is Buy or Sell.
	Side string
)

// The sides of a book.
const (
	Buy  Side = "buy"
	Sell Side = "sell"
)

// Opposite is the side an order trades with.
func (s Side) Opposite() Side {
	if s == Buy {
		return Sell
	}
	return Buy
}

// crosses reports whether an order of this side and limit trades at a price.
func (s Side) crosses(limit, price Price) bool {
	if s == Buy {
		return limit >= price
	}
	return limit <= price
}

// better reports whether price a comes before price b on this side.
func (s Side) better(a, b Price) bool {
	if s == Buy {
		return a > b
	}
	return a < b
}

// Book is the state. The zero value is a book that was not opened.
type Book struct {
	Company string
	// Shares is how many may be allotted in all, Allotted how many were.
	Shares, Allotted Quantity
	// Tick and Lot divide every price and every quantity.
	Tick Price
	Lot  Quantity

	// Bids and Asks hold the resting orders, the best level last.
	Bids, Asks []Level
	// Open finds an order's level.
	Open map[OrderID]Spot
	// Links holds the two numbers for every portfolio that was ever here.
	Links map[PortfolioID]Link

	Trades int64   // how many there were; also the number of the last one
	Recent []Trade // the last few, oldest first
}

// Level is all resting orders at one price, oldest first. It is never empty.
type Level struct {
	Price  Price
	Orders []Resting
}

// Resting is an order in the book.
type Resting struct {
	ID        OrderID
	Portfolio PortfolioID
	Remaining Quantity
}

// Spot says where in the book an order rests.
type Spot struct {
	Side  Side
	Price Price
}

// Link is what a book knows of its correspondence with a portfolio.
type Link struct {
	// Orders is the number of the last order received, Notices that of the last
	// notice sent.
	Orders, Notices int64
	// Allotted says that the portfolio had its first shares.
	Allotted bool
}

// Trade is one line of the tape.
type Trade struct {
	Number   int64    `json:"number"`
	Price    Price    `json:"price"`
	Quantity Quantity `json:"quantity"`
	Taker    Side     `json:"taker"`
}

// recent is how many trades a book keeps for its tape.
const recent = 30

// Event is an event of a book.
type Event = aggregate.Event[Book]

// Books is the aggregate type. The id is the company's short name.
var Books = aggregate.Define("book",
	aggregate.Accepts[Open]("open"),
	aggregate.Accepts[Allot]("allot"),
	aggregate.Accepts[Place]("place"),
	aggregate.Accepts[Cancel]("cancel"),
	aggregate.Records[Opened]("opened"),
	aggregate.Records[Allotted]("allotted"),
	aggregate.Records[OrderPlaced]("order-placed"),
	aggregate.Records[OrderRefused]("order-refused"),
	aggregate.Records[Traded]("traded"),
	aggregate.Records[OrderCancelled]("order-cancelled"),
	aggregate.Answers[Ladder]("ladder"),
	aggregate.Answers[Resters]("resters"),
	aggregate.Snapshots[Book](aggregate.SnapshotPolicy{Every: 2000, Bytes: 1 << 20}),
)

func (b *Book) side(s Side) *[]Level {
	if s == Buy {
		return &b.Bids
	}
	return &b.Asks
}

// level finds the place of a price on a side, where it is or would be.
func level(levels []Level, side Side, price Price) (int, bool) {
	return slices.BinarySearchFunc(levels, price, func(l Level, p Price) int {
		switch {
		case l.Price == p:
			return 0
		case side.better(p, l.Price):
			return -1
		}
		return 1
	})
}

func (b *Book) rest(side Side, price Price, order Resting) {
	levels := b.side(side)
	i, found := level(*levels, side, price)
	if !found {
		*levels = slices.Insert(*levels, i, Level{Price: price})
	}
	(*levels)[i].Orders = append((*levels)[i].Orders, order)
	if b.Open == nil {
		b.Open = make(map[OrderID]Spot)
	}
	b.Open[order.ID] = Spot{Side: side, Price: price}
}

// take reduces an order and removes it when nothing is left.
func (b *Book) take(id OrderID, quantity Quantity) {
	place, ok := b.Open[id]
	if !ok {
		return
	}
	levels := b.side(place.Side)
	i, found := level(*levels, place.Side, place.Price)
	if !found {
		return
	}
	l := &(*levels)[i]
	n := slices.IndexFunc(l.Orders, func(r Resting) bool { return r.ID == id })
	if n < 0 {
		return
	}
	if l.Orders[n].Remaining -= quantity; l.Orders[n].Remaining > 0 {
		return
	}
	delete(b.Open, id)
	if l.Orders = slices.Delete(l.Orders, n, n+1); len(l.Orders) == 0 {
		*levels = slices.Delete(*levels, i, i+1)
	}
}

// find returns an open order.
func (b *Book) find(id OrderID) (Resting, Spot, bool) {
	place, ok := b.Open[id]
	if !ok {
		return Resting{}, Spot{}, false
	}
	levels := *b.side(place.Side)
	i, _ := level(levels, place.Side, place.Price)
	for _, r := range levels[i].Orders {
		if r.ID == id {
			return r, place, true
		}
	}
	return Resting{}, Spot{}, false
}

func (b *Book) link(id PortfolioID, change func(*Link)) {
	if b.Links == nil {
		b.Links = make(map[PortfolioID]Link)
	}
	l := b.Links[id]
	change(&l)
	b.Links[id] = l
}

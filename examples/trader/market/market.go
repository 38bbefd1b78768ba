// Package market is what is traded here, and how one comes to trade it.
package market

import (
	"context"
	"errors"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/users"
)

// Company is one that is traded.
type Company struct {
	// ID is its short name and the id of its book.
	ID    string
	Terms book.Open
	// Start is the price that robots begin around.
	Start book.Price
}

// Companies are all of them.
var Companies = []Company{
	{"philips", book.Open{Company: "Philips", Shares: 1_000_000, Tick: 5, Lot: 1}, 10_00},
	{"shell", book.Open{Company: "Shell", Shares: 1_000_000, Tick: 10, Lot: 5}, 50_00},
	{"bp", book.Open{Company: "BP", Shares: 1_000_000, Tick: 25, Lot: 10}, 150_00},
}

// What everybody begins with.
const (
	Welcome portfolio.Cents = 250_000_00
	Shares  book.Quantity   = 2_000
)

// Aggregates are the types of the market.
func Aggregates() []aggregate.Any {
	return []aggregate.Any{users.Users, portfolio.Portfolios, book.Books}
}

// Find returns the company of an id.
func Find(id string) (Company, bool) {
	for _, c := range Companies {
		if c.ID == id {
			return c, true
		}
	}
	return Company{}, false
}

// Open opens all books. Doing it again, on any node, changes nothing.
func Open(ctx context.Context, gateway aggregate.Gateway) error {
	for _, c := range Companies {
		if _, err := book.Books.Ref(gateway, c.ID).Send(ctx, c.Terms); err != nil {
			return fmt.Errorf("open book %s: %w", c.ID, err)
		}
	}
	return nil
}

// Join signs a user up, opens his portfolio and gives him his first shares. It
// can be repeated after any failure. Who has the name already keeps it: known
// says that somebody did.
//
// The settlement would open the portfolio by itself, and does so if this
// process ends half way.
func Join(ctx context.Context, gateway aggregate.Gateway, name string) (id string, known bool, err error) {
	id, err = users.ID(name)
	if err != nil {
		return "", false, err
	}
	_, err = users.Users.Ref(gateway, id).Send(ctx, users.SignUp{Name: name})
	if known = errors.Is(err, users.ErrTaken); err != nil && !known {
		return id, known, err
	}
	if _, err := portfolio.Portfolios.Ref(gateway, id).Send(ctx, portfolio.Open{Owner: id, Cash: Welcome}); err != nil {
		return id, known, err
	}
	for _, c := range Companies {
		_, err := book.Books.Ref(gateway, c.ID).Send(ctx, book.Allot{Portfolio: book.PortfolioID(id), Quantity: Shares})
		if err != nil && !errors.Is(err, book.ErrExhausted) { // who comes late buys his shares
			return id, known, err
		}
	}
	return id, known, nil
}

// Order is what somebody wants. Request is his own id of it, a UUID of version
// 7: the same request is the same order, however often it is sent.
type Order struct {
	User     string
	Request  aggregate.CommandID
	Book     string
	Side     portfolio.Side
	Price    portfolio.Cents
	Quantity portfolio.Quantity
}

// Place reserves for an order, which thereby is on its way to its book.
func Place(ctx context.Context, gateway aggregate.Gateway, o Order) (portfolio.OrderID, aggregate.Receipt, error) {
	id := portfolio.NewOrderID(o.User, o.Request)
	receipt, err := portfolio.Portfolios.Ref(gateway, o.User).Send(ctx, portfolio.Reserve{
		Order: portfolio.OrderID(id.String()), Request: o.Request.String(), Book: portfolio.BookID(o.Book),
		Side: o.Side, Quantity: o.Quantity, Limit: o.Price,
	}, aggregate.WithCommandID(id))
	return portfolio.OrderID(id.String()), receipt, err
}

// Cancel takes an order out of its book.
func Cancel(
	ctx context.Context, gateway aggregate.Gateway, user, bookID string, order portfolio.OrderID, options ...aggregate.Option,
) (aggregate.Receipt, error) {
	return book.Books.Ref(gateway, bookID).Send(ctx,
		book.Cancel{Order: book.OrderID(order), Portfolio: book.PortfolioID(user)}, options...)
}

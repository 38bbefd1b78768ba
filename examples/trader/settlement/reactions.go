// Package settlement carries orders from portfolios to books, and what became of
// them from books to portfolios.
//
// It keeps nothing of its own but a cursor for each partition. Every step is
// caused by one durable event and is one command, whose id follows from the
// event, to an aggregate that recognises a step it has had:
//
//	user signed up        ->  portfolio: open, with first cash
//	portfolio reserved    ->  book: place the order
//	book traded           ->  buyer's portfolio: settle; seller's portfolio: settle
//	book refused/cancelled->  portfolio: release what is left
//	book allotted         ->  portfolio: receive the shares
//
// So a step may be lost in a crash and taken again by the partition's next
// owner, or be taken by two owners at once, and still counts once. What must
// hold for that is the order: the steps between one portfolio and one book are
// numbered, and none is begun before the one before it is acknowledged.
package settlement

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/users"
	"github.com/ingrain-go/ingrain/persistence"
)

// Reaction is one command that one event causes.
type Reaction struct {
	// Lane names the correspondence that the command belongs to: commands of
	// one lane are sent in the order of their events, each after the one before
	// it was acknowledged.
	Lane string
	// ID is the command's id. It follows from the event, so that a reaction
	// repeated is the same command.
	ID aggregate.CommandID
	// Metadata goes with the command: it continues the event's correlation.
	Metadata aggregate.Metadata

	send func(context.Context, aggregate.Gateway, ...aggregate.Option) (aggregate.Receipt, error)
}

// Send delivers the command.
func (r *Reaction) Send(ctx context.Context, gateway aggregate.Gateway) error {
	_, err := r.send(aggregate.WithMetadata(ctx, r.Metadata), gateway, aggregate.WithCommandID(r.ID))
	return err
}

// SendAnew delivers the command under a fresh id, for when the reaction's own is
// older than the runtime accepts. The numbers in the command still keep it from
// having a second effect.
func (r *Reaction) SendAnew(ctx context.Context, gateway aggregate.Gateway) error {
	_, err := r.send(aggregate.WithMetadata(ctx, r.Metadata), gateway)
	return err
}

// Reactions returns what an event causes, nothing for most. It is pure: the
// same event causes the same reactions. welcome is the cash that a new user's
// portfolio is opened with. An error says that the event cannot be read.
func Reactions(e *persistence.Event, welcome portfolio.Cents) ([]Reaction, error) {
	decoded, err := decode(e)
	if decoded == nil || err != nil {
		return nil, err
	}
	self := e.Stream.ID
	switch event := decoded.(type) {
	case users.SignedUp:
		return []Reaction{to(e, 0, portfolio.Portfolios, self, portfolio.Open{Owner: self, Cash: welcome})}, nil
	case portfolio.Reserved:
		r := to(e, 0, book.Books, string(event.Book), book.Place{
			Order: book.OrderID(event.Order), Portfolio: book.PortfolioID(self), Number: event.Number,
			Side: book.Side(event.Side), Price: book.Price(event.Limit), Quantity: book.Quantity(event.Quantity),
		})
		r.Lane = self + "/" + r.Lane
		return []Reaction{r}, nil
	case book.Allotted:
		return []Reaction{to(e, 0, portfolio.Portfolios, string(event.Portfolio), portfolio.Receive{
			Book: portfolio.BookID(self), Notice: event.Notice, Quantity: portfolio.Quantity(event.Quantity),
		})}, nil
	case book.OrderRefused:
		return []Reaction{release(e, event.Portfolio, event.Notice, event.Order, event.Quantity)}, nil
	case book.OrderCancelled:
		return []Reaction{release(e, event.Portfolio, event.Notice, event.Order, event.Unfilled)}, nil
	case book.Traded:
		return []Reaction{settle(e, 0, event, event.Buyer()), settle(e, 1, event, event.Seller())}, nil
	}
	return nil, nil
}

func settle(e *persistence.Event, step byte, t book.Traded, side book.Party) Reaction {
	return to(e, step, portfolio.Portfolios, string(side.Portfolio), portfolio.Settle{
		Book: portfolio.BookID(e.Stream.ID), Notice: side.Notice, Trade: t.Number, Order: portfolio.OrderID(side.Order),
		Quantity: portfolio.Quantity(t.Quantity), Price: portfolio.Cents(t.Price),
	})
}

func release(e *persistence.Event, p book.PortfolioID, notice int64, order book.OrderID, unfilled book.Quantity) Reaction {
	return to(e, 0, portfolio.Portfolios, string(p), portfolio.Release{
		Book: portfolio.BookID(e.Stream.ID), Notice: notice, Order: portfolio.OrderID(order), Unfilled: portfolio.Quantity(unfilled),
	})
}

func to[S any](e *persistence.Event, step byte, typ *aggregate.Type[S], id string, command aggregate.Command[S]) Reaction {
	return Reaction{
		Lane: typ.Name() + "/" + id, ID: commandID(e, step), Metadata: caused(e),
		send: func(ctx context.Context, g aggregate.Gateway, options ...aggregate.Option) (aggregate.Receipt, error) {
			return typ.Ref(g, id).Send(ctx, command, options...)
		},
	}
}

// decode reads the events that cause something, and returns nil for the others.
func decode(e *persistence.Event) (any, error) {
	var definition *aggregate.Definition
	switch e.Stream.Type + " " + e.Type {
	case "user signed-up":
		definition = users.Users.Definition()
	case "portfolio reserved":
		definition = portfolio.Portfolios.Definition()
	case "book traded", "book order-cancelled", "book order-refused", "book allotted":
		definition = book.Books.Definition()
	default:
		return nil, nil
	}
	decoded, err := eventsourcing.DecodeEvent(definition, e.Type, e.Payload)
	if err != nil {
		return nil, fmt.Errorf("read event %d of %s: %w", e.Version, e.Stream, err)
	}
	return decoded, nil
}

// commandID makes the id of an event's step-th command: the event's time, and a
// hash of the event's place.
func commandID(e *persistence.Event, step byte) aggregate.CommandID {
	h := sha256.Sum256(fmt.Appendf(nil, "settlement %s %d %d", e.Stream, e.Version, step))
	id := aggregate.CommandID(h[:16])
	at := uint64(e.At.UnixMilli())
	for i := range 6 {
		id[i] = byte(at >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // RFC 9562
	return id
}

// caused continues what the event is part of.
func caused(e *persistence.Event) aggregate.Metadata {
	m, err := eventsourcing.DecodeMetadata(e.Metadata)
	if err != nil {
		m = aggregate.Metadata{} // of a form that we do not know: a new chain begins
	}
	if m.Correlation == "" {
		m.Correlation = aggregate.CommandID(e.Command).String()
	}
	m.Causation = fmt.Sprintf("%s@%d", e.Stream, e.Version)
	return m
}

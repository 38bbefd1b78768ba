// Package robots trades without end and without sense: each robot is a user who
// places orders around the price he sees, and cancels some of them.
package robots

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/figures"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
)

const (
	// pause is how long a robot thinks between two commands, on average.
	pause = 15 * time.Millisecond
	// A robot keeps up to maxOpen orders open, and looks at the market and at
	// himself every lookEvery commands.
	maxOpen   = 20
	lookEvery = 10
	// patience bounds one attempt. A command that was not done, or whose
	// outcome is not known, is attempted so often.
	patience = 5 * time.Second
	attempts = 6
)

// Config says which robots. All fields but Logger are needed.
type Config struct {
	Gateway aggregate.Gateway
	Desk    *figures.Desk
	// Names of the users, one robot each.
	Names  []string
	Logger *slog.Logger
}

// Crew is a number of robots at work. [Start] makes one.
type Crew struct {
	cancel context.CancelFunc
	robots sync.WaitGroup
}

// Start lets the robots join the market and trade until Stop.
func Start(config Config) *Crew {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Crew{cancel: cancel}
	for _, name := range config.Names {
		r := &robot{config: config, name: name, rnd: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
		c.robots.Go(func() { r.run(ctx) })
	}
	return c
}

// Stop lets every robot finish the command he is at, and waits for that. A
// command whose outcome stays unknown takes as long as the robot's patience.
// Stopping twice is harmless.
func (c *Crew) Stop() {
	c.cancel()
	c.robots.Wait()
}

type robot struct {
	config Config
	name   string
	rnd    *rand.Rand

	company   market.Company
	price     book.Price // in the middle of the market, as last seen
	statement portfolio.View
}

func (r *robot) run(ctx context.Context) {
	for !r.join(ctx) {
		if !r.think(ctx, 20*pause) {
			return
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		if n%lookEvery == 0 && !r.look(ctx) {
			if !r.think(ctx, 20*pause) {
				return
			}
			n = -1
			continue
		}
		r.act(ctx)
		if !r.think(ctx, pause) {
			return
		}
	}
}

func (r *robot) join(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, _, err := market.Join(ctx, r.config.Gateway, r.name)
	if err != nil && !errors.Is(err, context.Canceled) {
		r.config.Logger.Warn("robot could not join, trying again", "robot", r.name, "error", err)
	}
	return err == nil
}

// look chooses a company and asks for its prices and for his own portfolio.
func (r *robot) look(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r.company = market.Companies[r.rnd.IntN(len(market.Companies))]
	view, err := aggregate.Ask(ctx, book.Books.Ref(r.config.Gateway, r.company.ID), book.Ladder{Depth: 1})
	if err != nil {
		return false
	}
	r.price = middle(view, r.company.Start)
	r.statement, err = aggregate.Ask(ctx, portfolio.Portfolios.Ref(r.config.Gateway, r.name), portfolio.Statement{})
	return err == nil
}

func middle(v book.View, start book.Price) book.Price {
	switch {
	case len(v.Bids) > 0 && len(v.Asks) > 0:
		return (v.Bids[0].Price + v.Asks[0].Price) / 2
	case len(v.Tape) > 0:
		return v.Tape[0].Price
	case len(v.Bids) > 0:
		return v.Bids[0].Price
	case len(v.Asks) > 0:
		return v.Asks[0].Price
	}
	return start
}

func (r *robot) act(ctx context.Context) {
	open := r.statement.Orders
	if len(open) >= maxOpen || len(open) > 0 && r.rnd.IntN(6) == 0 {
		n := r.rnd.IntN(len(open))
		r.do(ctx, r.cancelling(open[n]))
		r.statement.Orders = append(open[:n:n], open[n+1:]...)
		return
	}
	order := r.order()
	if r.do(ctx, r.placing(order)) {
		r.statement.Orders = append(open, portfolio.Order{
			ID:   portfolio.OrderID(portfolio.NewOrderID(r.name, order.Request).String()),
			Book: portfolio.BookID(order.Book), Side: order.Side, Limit: order.Price, Remaining: order.Quantity,
		})
	}
}

// order is a few ticks around the middle; the more he has of a company, the
// rather he sells.
func (r *robot) order() market.Order {
	c := r.company
	var available portfolio.Quantity
	for _, h := range r.statement.Holdings {
		if string(h.Book) == c.ID {
			available = h.Available
		}
	}
	side := portfolio.Buy
	if r.rnd.Int64N(2*int64(market.Shares)) < int64(available) {
		side = portfolio.Sell
	}
	away := book.Price(r.rnd.NormFloat64()*3 + 1.5) // ticks from the middle, below zero to trade at once
	price := r.price / c.Terms.Tick
	if side == portfolio.Buy {
		price -= away
	} else {
		price += away
	}
	price = max(price, 1) * c.Terms.Tick
	return market.Order{
		User: r.name, Request: aggregate.NewCommandID(), Book: c.ID, Side: side,
		Price: portfolio.Cents(price), Quantity: portfolio.Quantity(c.Terms.Lot) * portfolio.Quantity(1+r.rnd.IntN(12)),
	}
}

type command func(context.Context) (aggregate.Receipt, error)

func (r *robot) placing(o market.Order) command {
	return func(ctx context.Context) (aggregate.Receipt, error) {
		_, receipt, err := market.Place(ctx, r.config.Gateway, o)
		return receipt, err
	}
}

func (r *robot) cancelling(o portfolio.Order) command {
	id := aggregate.WithCommandID(aggregate.NewCommandID())
	return func(ctx context.Context) (aggregate.Receipt, error) {
		return market.Cancel(ctx, r.config.Gateway, r.name, string(o.Book), o.ID, id)
	}
}

// do sends one command, and sends it again under the same id when it was not
// done or its outcome is not known. It goes on when the crew stops: a command begun is
// finished. It reports whether the command was acknowledged.
func (r *robot) do(ctx context.Context, c command) bool {
	ctx = aggregate.WithMetadata(context.WithoutCancel(ctx), aggregate.Metadata{User: r.name})
	_, err := r.config.Desk.Run(ctx, func(ctx context.Context) (receipt aggregate.Receipt, err error) {
		for range attempts {
			try, cancel := context.WithTimeout(ctx, patience)
			receipt, err = c(try)
			cancel()
			if kind := aggregate.KindOf(err); kind != aggregate.KindUnknown && kind != aggregate.KindNotDone {
				break
			}
		}
		return receipt, err
	})
	switch aggregate.KindOf(err) {
	case aggregate.KindNone:
		return true
	case aggregate.KindRejected: // insufficient cash, or filled before it could be cancelled: part of trading
	default:
		r.config.Logger.Warn("robot's command failed", "robot", r.name, "error", err)
	}
	return false
}

// think waits for about a time. It reports whether to go on.
func (r *robot) think(ctx context.Context, mean time.Duration) bool {
	timer := time.NewTimer(mean/2 + time.Duration(r.rnd.Int64N(int64(mean))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Names are those of the robots of one node: every nodes-th of all of them.
func Names(robots, node, nodes int) []string {
	var names []string
	for n := node; n < robots; n += nodes {
		names = append(names, fmt.Sprintf("robot-%02d", n+1))
	}
	return names
}

package settlement_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/check"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/markettest"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/settlement"
	"github.com/ingrain-go/ingrain/examples/trader/users"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

var names = []string{"ann", "bob", "cid", "dan", "eve", "fay"}

// trade makes a world with random orders in it, settled.
func trade(t *testing.T, seed uint64) *markettest.World {
	rnd := rand.New(rand.NewPCG(seed, 3))
	w := markettest.New(t)
	require.NoError(t, market.Open(t.Context(), w))
	for _, name := range names {
		_, _, err := market.Join(t.Context(), w, name)
		require.NoError(t, err)
	}
	w.Settle()
	for range 150 {
		user := names[rnd.IntN(len(names))]
		c := market.Companies[rnd.IntN(len(market.Companies))]
		side := []portfolio.Side{portfolio.Buy, portfolio.Sell}[rnd.IntN(2)]
		price := c.Start + c.Terms.Tick*book.Price(rnd.IntN(7)-3)
		if rnd.IntN(20) == 0 {
			price++ // off the tick: the book will refuse it
		}
		_, receipt, err := market.Place(t.Context(), w, market.Order{
			User: user, Request: aggregate.NewCommandID(), Book: c.ID, Side: side,
			Price: portfolio.Cents(price), Quantity: portfolio.Quantity(c.Terms.Lot) * portfolio.Quantity(1+rnd.IntN(9)),
		})
		require.NoError(t, err)
		require.Equal(t, 1, receipt.Events)
		if rnd.IntN(3) == 0 {
			w.Settle()
		}
		if rnd.IntN(5) == 0 {
			statement, err := aggregate.Ask(t.Context(), portfolio.Portfolios.Ref(w, user), portfolio.Statement{})
			require.NoError(t, err)
			for _, o := range statement.Orders {
				_, err := market.Cancel(t.Context(), w, user, string(o.Book), o.ID)
				require.True(t, err == nil || aggregate.KindOf(err) == aggregate.KindRejected)
			}
		}
	}
	w.Settle()
	return w
}

func verdict(log []persistence.Event, partitions int) check.Report {
	c := check.New(partitions)
	for i := range log {
		c.Add(&log[i])
	}
	return c.Report()
}

func TestEverythingThatHappensSettles(t *testing.T) {
	for seed := range uint64(10) {
		w := trade(t, seed)
		r := verdict(w.Log, markettest.Partitions)
		require.Empty(t, r.Violations)
		require.Positive(t, r.Trades)
	}
}

// A new owner of a partition begins at the last cursor that was saved: it
// repeats steps, in order, of which each has happened or happens next.
func TestStepsTakenAgainHaveNoEffect(t *testing.T) {
	for _, again := range []func(*markettest.World, int){(*markettest.World).React, (*markettest.World).ReactAnew} {
		w := trade(t, 77)
		before := len(w.Log)
		for from := 0; from < before; from += 37 {
			for n := from; n < before; n++ {
				again(w, n)
			}
		}
		require.Len(t, w.Log, before)
	}
}

func TestReactionsArePure(t *testing.T) {
	w := trade(t, 5)
	ids := map[aggregate.CommandID]bool{}
	for i := range w.Log {
		a, err := settlement.Reactions(&w.Log[i], markettest.Welcome)
		require.NoError(t, err)
		b, err := settlement.Reactions(&w.Log[i], markettest.Welcome)
		require.NoError(t, err)
		require.Len(t, b, len(a))
		for n := range a {
			require.Equal(t, a[n].ID, b[n].ID)
			require.Equal(t, a[n].Lane, b[n].Lane)
			require.False(t, ids[a[n].ID], "two steps have one id")
			ids[a[n].ID] = true
			_, err := aggregate.ParseCommandID(a[n].ID.String())
			require.NoError(t, err)
			require.Equal(t, w.Log[i].At.UnixMilli(), a[n].ID.Time().UnixMilli())
			require.Equal(t, fmt.Sprintf("%s@%d", w.Log[i].Stream, w.Log[i].Version), a[n].Metadata.Causation)
		}
	}
}

func TestAnUnreadableEventIsAnError(t *testing.T) {
	e := persistence.Event{Stream: persistence.Stream{Type: "book", ID: "shell"}, Type: "traded", Payload: []byte("{")}
	_, err := settlement.Reactions(&e, 0)
	require.ErrorContains(t, err, "book/shell")
	e.Type = "order-placed" // causes nothing, so it need not be read
	reactions, err := settlement.Reactions(&e, 0)
	require.NoError(t, err)
	require.Empty(t, reactions)
}

// tail reads all that is new in the store.
func tail(t *testing.T, store persistence.Store, c *check.Checker) {
	for {
		events, err := store.Tail(t.Context(), c.Cursors(), 500)
		require.NoError(t, err)
		if len(events) == 0 {
			return
		}
		for i := range events {
			c.Add(&events[i])
		}
	}
}

var quiet = slog.New(slog.DiscardHandler)

// startNode starts a node of one, with the market's aggregates on it.
func startNode(t *testing.T) (*cluster.Node, persistence.Store) {
	store, err := memory.Open(memory.Config{Partitions: 8})
	require.NoError(t, err)
	node, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: market.Aggregates(), Logger: quiet, LockDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Stop(context.Background())) })
	require.NoError(t, node.Ready(t.Context()))
	return node, store
}

// startSettler looks after every partition of the store.
func startSettler(store persistence.Store, gateway aggregate.Gateway) *settlement.Settler {
	return settlement.Start(settlement.Config{
		Store: store, Name: "settlement", Gateway: gateway, Welcome: market.Welcome, Logger: quiet,
		Owned: func() []persistence.Partition { return []persistence.Partition{0, 1, 2, 3, 4, 5, 6, 7} },
	})
}

// otherTime is a gateway whose clock no command id agrees with.
type otherTime struct{ seen chan aggregate.CommandID }

func (g otherTime) Deliver(ctx context.Context, r *aggregate.Request) (aggregate.Response, error) {
	select {
	case g.seen <- r.Command:
	case <-ctx.Done():
	}
	return aggregate.Response{}, aggregate.Invalid(aggregate.ReasonCommandTooOld, nil)
}

func TestAStepTooOldForItsIDIsSentUnderAFreshOneAndThenParked(t *testing.T) {
	node, store := startNode(t)
	_, err := users.Users.Ref(node, "ann").Send(t.Context(), users.SignUp{Name: "ann"})
	require.NoError(t, err)
	gateway := otherTime{make(chan aggregate.CommandID)}
	s := startSettler(store, gateway)
	defer func() { require.NoError(t, s.Stop(context.Background())) }()
	own, fresh := <-gateway.seen, <-gateway.seen
	require.NotEqual(t, own, fresh)
	require.Eventually(t, func() bool { return s.Stats().Parked == 1 }, 10*time.Second, time.Millisecond,
		"the step is not listed as parked")
	require.Zero(t, s.Stats().Steps)
}

// Settlers come and go, two at a time look after the same partitions, and each
// trade settles once.
func TestSettlersMayBeKilledAndDoubled(t *testing.T) {
	node, store := startNode(t)
	start := func() *settlement.Settler { return startSettler(store, node) }
	stop := func(s *settlement.Settler) { require.NoError(t, s.Stop(context.Background())) }

	require.NoError(t, market.Open(t.Context(), node))
	for _, name := range names {
		_, _, err := market.Join(t.Context(), node, name)
		require.NoError(t, err)
	}
	rnd := rand.New(rand.NewPCG(1, 4))
	for range 8 {
		settlers := []*settlement.Settler{start(), start()}
		for range 40 {
			c := market.Companies[rnd.IntN(len(market.Companies))]
			_, _, err := market.Place(t.Context(), node, market.Order{
				User: names[rnd.IntN(len(names))], Request: aggregate.NewCommandID(), Book: c.ID,
				Side:     []portfolio.Side{portfolio.Buy, portfolio.Sell}[rnd.IntN(2)],
				Price:    portfolio.Cents(c.Start + c.Terms.Tick*book.Price(rnd.IntN(5)-2)),
				Quantity: portfolio.Quantity(c.Terms.Lot) * portfolio.Quantity(1+rnd.IntN(5)),
			})
			require.True(t, err == nil || aggregate.KindOf(err) == aggregate.KindRejected, "%v", err)
		}
		for _, s := range settlers {
			stop(s)
		}
	}
	last := start()
	defer stop(last)
	c := check.New(8)
	require.Eventually(t, func() bool {
		tail(t, store, c)
		return c.Pending() == 0 && c.Events() > 0
	}, 20*time.Second, 20*time.Millisecond, "the market did not become quiet")
	r := c.Report()
	require.Empty(t, r.Violations)
	require.Positive(t, r.Trades)
	require.Zero(t, last.Stats().Parked)
}

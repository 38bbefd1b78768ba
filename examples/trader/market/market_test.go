package market_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/markettest"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/users"
)

func TestTheMarketCanBeOpenedByEveryNode(t *testing.T) {
	require.NoError(t, aggregate.Validate(market.Aggregates()...))
	w := markettest.New(t)
	require.NoError(t, market.Open(t.Context(), w))
	opened := len(w.Log)
	require.Equal(t, len(market.Companies), opened)
	require.NoError(t, market.Open(t.Context(), w))
	require.Len(t, w.Log, opened)
	for _, c := range market.Companies {
		require.Zero(t, c.Start%c.Terms.Tick)
		require.Zero(t, market.Shares%c.Terms.Lot)
	}
}

func TestJoiningCanBeRepeatedAndGivesOnce(t *testing.T) {
	w := markettest.New(t)
	require.NoError(t, market.Open(t.Context(), w))
	id, known, err := market.Join(t.Context(), w, "Ann")
	require.NoError(t, err)
	require.Equal(t, "ann", id)
	require.False(t, known)
	w.Settle()
	joined := len(w.Log)
	_, known, err = market.Join(t.Context(), w, "ANN")
	require.NoError(t, err)
	require.True(t, known)
	w.Settle()
	require.Len(t, w.Log, joined)
	view, err := aggregate.Ask(t.Context(), portfolio.Portfolios.Ref(w, "ann"), portfolio.Statement{})
	require.NoError(t, err)
	require.Equal(t, market.Welcome, view.Available)
	require.Len(t, view.Holdings, len(market.Companies))
	_, _, err = market.Join(t.Context(), w, "no name")
	require.ErrorIs(t, err, users.ErrName)
}

func TestARequestSentTwiceIsOneOrder(t *testing.T) {
	w := markettest.New(t)
	require.NoError(t, market.Open(t.Context(), w))
	_, _, err := market.Join(t.Context(), w, "ann")
	require.NoError(t, err)
	w.Settle()
	o := market.Order{User: "ann", Request: aggregate.NewCommandID(), Book: "shell", Side: portfolio.Buy, Price: 5000, Quantity: 10}
	id, first, err := market.Place(t.Context(), w, o)
	require.NoError(t, err)
	again, second, err := market.Place(t.Context(), w, o)
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.False(t, first.Duplicate)
	require.True(t, second.Duplicate)
	w.Settle()
	_, err = market.Cancel(t.Context(), w, "bob", "shell", id)
	require.ErrorIs(t, err, book.ErrNotYours)
	_, err = market.Cancel(t.Context(), w, "ann", "shell", id)
	require.NoError(t, err)
	w.Settle()
	_, third, err := market.Place(t.Context(), w, o) // even after its end
	require.NoError(t, err)
	require.True(t, third.Duplicate)
}

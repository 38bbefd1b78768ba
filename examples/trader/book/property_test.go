package book

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// reference matches orders in the plainest way that can be written: it keeps a
// list and searches all of it for the best order, again for every trade.
type reference struct {
	open    []Rester // in the order of arrival
	notices map[PortfolioID]int64
	trades  int64
}

func (r *reference) notice(p PortfolioID) int64 {
	r.notices[p]++
	return r.notices[p]
}

// best is the order that an incoming one must trade with next, -1 for none.
func (r *reference) best(side Side, limit Price) int {
	best := -1
	for i, o := range r.open {
		crosses := side == Buy && o.Side == Sell && o.Price <= limit || side == Sell && o.Side == Buy && o.Price >= limit
		if !crosses {
			continue
		}
		if best < 0 || side == Buy && o.Price < r.open[best].Price || side == Sell && o.Price > r.open[best].Price {
			best = i
		}
	}
	return best
}

func (r *reference) place(p Place) []any {
	events := []any{OrderPlaced(p)}
	remaining := p.Quantity
	for remaining > 0 {
		i := r.best(p.Side, p.Price)
		if i < 0 {
			r.open = append(r.open, Rester{p.Order, p.Portfolio, p.Side, p.Price, remaining})
			break
		}
		maker := &r.open[i]
		if maker.Portfolio == p.Portfolio {
			return append(events, OrderCancelled{p.Order, p.Portfolio, r.notice(p.Portfolio), remaining, SelfTrade})
		}
		quantity := min(remaining, maker.Remaining)
		r.trades++
		events = append(events, Traded{
			Number: r.trades, Price: maker.Price, Quantity: quantity, Taker: p.Side,
			Made: Party{maker.Order, maker.Portfolio, r.notice(maker.Portfolio)},
			Took: Party{p.Order, p.Portfolio, r.notice(p.Portfolio)},
		})
		remaining -= quantity
		if maker.Remaining -= quantity; maker.Remaining == 0 {
			r.open = slices.Delete(r.open, i, i+1)
		}
	}
	return events
}

func (r *reference) cancel(c Cancel) []any {
	i := slices.IndexFunc(r.open, func(o Rester) bool { return o.Order == c.Order && o.Portfolio == c.Portfolio })
	if i < 0 {
		return nil
	}
	o := r.open[i]
	r.open = slices.Delete(r.open, i, i+1)
	return []any{OrderCancelled{o.Order, o.Portfolio, r.notice(o.Portfolio), o.Remaining, Requested}}
}

// sorted lists the open orders as [Resters] does.
func (r *reference) sorted() []Rester {
	out := slices.Clone(r.open)
	slices.SortStableFunc(out, func(a, b Rester) int {
		switch {
		case a.Side != b.Side && a.Side == Buy:
			return -1
		case a.Side != b.Side:
			return 1
		case a.Side == Buy:
			return int(b.Price - a.Price)
		}
		return int(a.Price - b.Price)
	})
	return out
}

func TestTheBookMatchesLikeThePlainestMatcher(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			definition := Books.Definition()
			live, ref := definition.NewInstance(), &reference{notices: map[PortfolioID]int64{}}
			live.Evolve(Opened{Company: "c", Shares: 1000, Tick: 1, Lot: 1})
			numbers := map[PortfolioID]int64{}
			var orders []Cancel
			limits := map[OrderID]OrderPlaced{}
			var last OrderPlaced
			for range 600 {
				var command any
				var want []any
				if rnd.IntN(10) < 3 && len(orders) > 0 {
					c := orders[rnd.IntN(len(orders))]
					command, want = c, ref.cancel(c)
				} else {
					p := PortfolioID(fmt.Sprintf("p%d", rnd.IntN(6)))
					numbers[p]++
					place := Place(placed(p, numbers[p], []Side{Buy, Sell}[rnd.IntN(2)], Price(1+rnd.IntN(12)), Quantity(1+rnd.IntN(20))))
					orders = append(orders, Cancel{place.Order, p})
					command, want = place, ref.place(place)
				}
				got, err := live.Decide(command)
				if want == nil {
					require.ErrorIs(t, err, ErrNoOrder)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, want, got)
				for _, e := range got {
					live.Evolve(e)
					switch e := e.(type) {
					case OrderPlaced:
						limits[e.Order], last = e, e
					case Traded:
						maker, taker := limits[e.Made.Order], limits[e.Took.Order]
						require.Equal(t, maker.Price, e.Price)                // I8
						require.NotEqual(t, maker.Portfolio, taker.Portfolio) // I14
						require.Equal(t, last.Order, e.Took.Order)
						maker.Quantity -= e.Quantity
						taker.Quantity -= e.Quantity
						limits[maker.Order], limits[taker.Order] = maker, taker
						require.GreaterOrEqual(t, maker.Quantity, Quantity(0)) // I5
						require.GreaterOrEqual(t, taker.Quantity, Quantity(0))
					}
				}
				again, err := live.Decide(command)
				require.Empty(t, again, "repeated: %v", err)

				state := *live.State().(*Book)
				resters, err := Resters{}.Answer(state)
				require.NoError(t, err)
				require.Equal(t, ref.sorted(), resters)
				if n, m := len(state.Bids), len(state.Asks); n > 0 && m > 0 {
					require.Less(t, state.Bids[n-1].Price, state.Asks[m-1].Price) // I6
				}
			}
			require.Positive(t, ref.trades)
		})
	}
}

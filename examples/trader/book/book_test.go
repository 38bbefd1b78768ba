package book

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

var opened = Opened{Company: "Philips", Shares: 10_000, Tick: 5, Lot: 10}

// placed is the n-th order of a portfolio, under an id that says so.
func placed(p PortfolioID, n int64, side Side, price Price, quantity Quantity) OrderPlaced {
	return OrderPlaced{Order: id(p, n), Portfolio: p, Number: n, Side: side, Price: price, Quantity: quantity}
}

func id(p PortfolioID, n int64) OrderID { return OrderID(fmt.Sprintf("%s-%d", p, n)) }

func party(p PortfolioID, n, notice int64) Party {
	return Party{Order: id(p, n), Portfolio: p, Notice: notice}
}

func given(t *testing.T, events ...Event) *aggregatetest.Scenario[Book] {
	return aggregatetest.For(t, Books).Given(opened).Given(events...)
}

func TestABookIsOpenedOnce(t *testing.T) {
	aggregatetest.For(t, Books).
		When(Open(opened)).Then(opened).
		When(Open(opened)).ThenNothing().
		When(Open{Company: "Shell", Shares: 10_000, Tick: 5, Lot: 10}).ThenRejected(ErrOpen)
	for _, terms := range []Open{
		{Shares: 1, Tick: 1, Lot: 1}, {Company: "x", Tick: 1, Lot: 1}, {Company: "x", Shares: 1, Lot: 1},
		{Company: "x", Shares: 1, Tick: 1}, {Company: "x", Shares: MaxQuantity + 1, Tick: 1, Lot: 1},
		{Company: "x", Shares: 1, Tick: MaxPrice + 1, Lot: 1}, {Company: "x", Shares: 1, Tick: 1, Lot: 2},
	} {
		aggregatetest.For(t, Books).When(terms).ThenRejected(ErrTerms)
	}
}

func TestSharesAreAllottedOncePerPortfolioAndNeverBeyondTheCompanys(t *testing.T) {
	given(t).
		When(Allot{"ann", 9_990}).Then(Allotted{"ann", 1, 9_990}).
		When(Allot{"ann", 10}).ThenNothing().
		When(Allot{"bob", 20}).ThenRejected(ErrExhausted).
		When(Allot{"bob", 10}).Then(Allotted{"bob", 1, 10}).
		When(Allot{"cid", 5}).ThenRejected(ErrQuantity).
		When(Allot{"cid", -10}).ThenRejected(ErrQuantity).
		When(Allot{"", 10}).ThenRejected(ErrPortfolio)
	aggregatetest.For(t, Books).When(Allot{"ann", 10}).ThenRejected(ErrNotOpen)
}

func TestOrdersAtOnePriceMatchOldestFirst(t *testing.T) {
	given(t, placed("ann", 1, Sell, 100, 30), placed("bob", 1, Sell, 100, 30)).
		When(Place(placed("cid", 1, Buy, 100, 40))).Then(
		placed("cid", 1, Buy, 100, 40),
		Traded{Number: 1, Price: 100, Quantity: 30, Taker: Buy, Made: party("ann", 1, 1), Took: party("cid", 1, 1)},
		Traded{Number: 2, Price: 100, Quantity: 10, Taker: Buy, Made: party("bob", 1, 1), Took: party("cid", 1, 2)},
	).When(Cancel{id("bob", 1), "bob"}).Then(
		OrderCancelled{Order: id("bob", 1), Portfolio: "bob", Notice: 2, Unfilled: 20, Reason: Requested})
}

func TestTheBetterPriceMatchesFirstAtTheRestingPrice(t *testing.T) {
	given(t, placed("ann", 1, Buy, 95, 10), placed("bob", 1, Buy, 105, 10), placed("cid", 1, Buy, 100, 10)).
		When(Place(placed("dan", 1, Sell, 100, 30))).Then(
		placed("dan", 1, Sell, 100, 30),
		Traded{Number: 1, Price: 105, Quantity: 10, Taker: Sell, Made: party("bob", 1, 1), Took: party("dan", 1, 1)},
		Traded{Number: 2, Price: 100, Quantity: 10, Taker: Sell, Made: party("cid", 1, 1), Took: party("dan", 1, 2)},
	).When(Place(placed("eve", 1, Buy, 100, 10))).Then(
		placed("eve", 1, Buy, 100, 10),
		Traded{Number: 3, Price: 100, Quantity: 10, Taker: Buy, Made: party("dan", 1, 3), Took: party("eve", 1, 1)})
}

func TestAPartFilledOrderKeepsItsPlace(t *testing.T) {
	given(t, placed("ann", 1, Sell, 100, 30), placed("bob", 1, Sell, 100, 10)).
		When(Place(placed("cid", 1, Buy, 100, 10))).Then(
		placed("cid", 1, Buy, 100, 10),
		Traded{Number: 1, Price: 100, Quantity: 10, Taker: Buy, Made: party("ann", 1, 1), Took: party("cid", 1, 1)},
	).When(Place(placed("cid", 2, Buy, 100, 30))).Then(
		placed("cid", 2, Buy, 100, 30),
		Traded{Number: 2, Price: 100, Quantity: 20, Taker: Buy, Made: party("ann", 1, 2), Took: party("cid", 2, 2)},
		Traded{Number: 3, Price: 100, Quantity: 10, Taker: Buy, Made: party("bob", 1, 1), Took: party("cid", 2, 3)})
}

func TestNobodyTradesWithHimself(t *testing.T) {
	given(t, placed("ann", 1, Sell, 100, 10), placed("bob", 1, Sell, 100, 10), placed("cid", 1, Sell, 105, 10)).
		When(Place(placed("bob", 2, Buy, 105, 30))).Then(
		placed("bob", 2, Buy, 105, 30),
		Traded{Number: 1, Price: 100, Quantity: 10, Taker: Buy, Made: party("ann", 1, 1), Took: party("bob", 2, 1)},
		OrderCancelled{Order: id("bob", 2), Portfolio: "bob", Notice: 2, Unfilled: 20, Reason: SelfTrade})
}

func TestOneOrderSetsOffABoundedNumberOfTrades(t *testing.T) {
	var makers []Event
	for n := range MaxTrades + 1 {
		makers = append(makers, placed(PortfolioID(fmt.Sprintf("p%d", n)), 1, Sell, 100, 10))
	}
	instance := Books.Definition().NewInstance()
	instance.Evolve(opened)
	for _, e := range makers {
		instance.Evolve(e)
	}
	events, err := instance.Decide(Place(placed("cid", 1, Buy, 100, 10*(MaxTrades+1))))
	require.NoError(t, err)
	require.Len(t, events, MaxTrades+2)
	require.Equal(t, OrderCancelled{
		Order: id("cid", 1), Portfolio: "cid", Notice: MaxTrades + 1, Unfilled: 10, Reason: TooManyTrades,
	}, events[len(events)-1])
}

func TestAnOrderThatArrivesAgainHasNoEffect(t *testing.T) {
	order := placed("ann", 1, Sell, 100, 10)
	given(t, order).
		When(Place(order)).ThenNothing().
		When(Cancel{order.Order, "ann"}).Then(
		OrderCancelled{Order: order.Order, Portfolio: "ann", Notice: 1, Unfilled: 10, Reason: Requested}).
		When(Place(order)).ThenNothing().
		When(Place(placed("ann", 3, Sell, 100, 10))).ThenRejected(ErrOutOfOrder)
}

func TestAnImpossibleOrderIsRefusedForGood(t *testing.T) {
	refused := func(p Place, reason Reason) OrderRefused {
		return OrderRefused{Order: p.Order, Portfolio: p.Portfolio, Number: 1, Notice: 1, Quantity: p.Quantity, Reason: reason}
	}
	cases := map[Reason][]Place{
		BadPrice: {Place(placed("ann", 1, Buy, 0, 10)), Place(placed("ann", 1, Buy, -5, 10)),
			Place(placed("ann", 1, Buy, 101, 10)), Place(placed("ann", 1, Buy, MaxPrice+5, 10))},
		BadQuantity: {Place(placed("ann", 1, Buy, 100, 0)), Place(placed("ann", 1, Buy, 100, -10)),
			Place(placed("ann", 1, Buy, 100, 15)), Place(placed("ann", 1, Buy, 100, MaxQuantity+10))},
		BadSide:    {Place(placed("ann", 1, "both", 100, 10))},
		BadOrderID: {{Portfolio: "ann", Number: 1, Side: Buy, Price: 100, Quantity: 10}},
	}
	for reason, places := range cases {
		for _, p := range places {
			given(t).When(p).Then(refused(p, reason)).When(p).ThenNothing()
		}
	}
	p := Place(placed("ann", 1, Buy, 100, 10))
	aggregatetest.For(t, Books).When(p).Then(refused(p, UnknownBook)).
		When(Open(opened)).Then(opened).
		When(p).ThenNothing()
	taken := Place{Order: id("bob", 1), Portfolio: "ann", Number: 1, Side: Buy, Price: 100, Quantity: 10}
	given(t, placed("bob", 1, Buy, 100, 10)).When(taken).Then(refused(taken, BadOrderID))
}

func TestAnOrderNeedsAPortfolioThatCanBeTold(t *testing.T) {
	for _, p := range []PortfolioID{"", "a\x00", PortfolioID(make([]byte, MaxText+1))} {
		given(t).When(Place{Order: "o", Portfolio: p, Number: 1, Side: Buy, Price: 100, Quantity: 10}).ThenRejected(ErrPortfolio)
	}
}

func TestOnlyTheOwnerCancelsAndOnlyWhatIsOpen(t *testing.T) {
	given(t, placed("ann", 1, Sell, 100, 10), placed("bob", 1, Buy, 90, 10)).
		When(Cancel{id("ann", 1), "bob"}).ThenRejected(ErrNotYours).
		When(Cancel{id("ann", 2), "ann"}).ThenRejected(ErrNoOrder).
		When(Place(placed("bob", 2, Buy, 100, 10))).Then(
		placed("bob", 2, Buy, 100, 10),
		Traded{Number: 1, Price: 100, Quantity: 10, Taker: Buy, Made: party("ann", 1, 1), Took: party("bob", 2, 1)},
	).When(Cancel{id("ann", 1), "ann"}).ThenRejected(ErrNoOrder)
}

func TestTheLadderShowsLevelsBestFirst(t *testing.T) {
	s := given(t, placed("ann", 1, Buy, 95, 10), placed("bob", 1, Buy, 90, 20), placed("cid", 1, Buy, 95, 30),
		placed("ann", 2, Sell, 105, 10), placed("bob", 2, Sell, 100, 10))
	aggregatetest.Ask(s, Ladder{Depth: 1}).Answers(View{
		Company: "Philips", Shares: 10_000, Tick: 5, Lot: 10,
		Bids: []Rung{{95, 40, 2}}, Asks: []Rung{{100, 10, 1}},
	})
	aggregatetest.Ask(s, Resters{}).Answers([]Rester{
		{id("ann", 1), "ann", Buy, 95, 10}, {id("cid", 1), "cid", Buy, 95, 30}, {id("bob", 1), "bob", Buy, 90, 20},
		{id("bob", 2), "bob", Sell, 100, 10}, {id("ann", 2), "ann", Sell, 105, 10},
	})
	aggregatetest.Ask(aggregatetest.For(t, Books), Ladder{}).Rejected(ErrNotOpen)
}

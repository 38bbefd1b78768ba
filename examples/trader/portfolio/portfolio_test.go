package portfolio

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

func given(t *testing.T, events ...Event) *aggregatetest.Scenario[Portfolio] {
	return aggregatetest.For(t, Portfolios).
		Given(Opened{Owner: "ann", Cash: 10_000}, Received{Book: "shell", Notice: 1, Quantity: 50}).
		Given(events...)
}

var (
	buy  = Reserve{Order: "b", Request: "r1", Book: "shell", Side: Buy, Quantity: 30, Limit: 100}
	sell = Reserve{Order: "s", Request: "r2", Book: "shell", Side: Sell, Quantity: 30, Limit: 100}

	buying  = Reserved{Order: "b", Request: "r1", Book: "shell", Number: 1, Side: Buy, Quantity: 30, Limit: 100, Cash: 3_000}
	selling = Reserved{Order: "s", Request: "r2", Book: "shell", Number: 1, Side: Sell, Quantity: 30, Limit: 100}
)

func holds(t *testing.T, available, reserved Cents, shares Holding) func(Portfolio) {
	return func(p Portfolio) {
		t.Helper()
		require.Equal(t, available, p.Available)
		require.Equal(t, reserved, p.Reserved)
		require.Equal(t, shares, p.Holdings["shell"])
	}
}

func TestAPortfolioIsOpenedOnce(t *testing.T) {
	aggregatetest.For(t, Portfolios).
		When(Deposit{1}).ThenRejected(ErrNotOpen).
		When(Withdraw{1}).ThenRejected(ErrNotOpen).
		When(buy).ThenRejected(ErrNotOpen).
		When(Open{"", 1}).ThenRejected(ErrOwner).
		When(Open{"ann", -1}).ThenRejected(ErrAmount).
		When(Open{"ann", MaxDeposits + 1}).ThenRejected(ErrTooMuch).
		When(Open{"ann", 500}).Then(Opened{"ann", 500}).
		When(Open{"ann", 500}).ThenNothing().
		When(Open{"bob", 500}).ThenRejected(ErrOwner)
}

func TestCashNeverGoesBelowZeroNorBeyondTheLimit(t *testing.T) {
	given(t).
		When(Withdraw{10_001}).ThenRejected(ErrCash).
		When(Withdraw{0}).ThenRejected(ErrAmount).
		When(Withdraw{-1}).ThenRejected(ErrAmount).
		When(Withdraw{10_000}).Then(Withdrawn{10_000}).
		When(Deposit{-1}).ThenRejected(ErrAmount).
		When(Deposit{MaxDeposits}).Then(Deposited{MaxDeposits}).
		When(Deposit{1}).ThenRejected(ErrTooMuch)
}

func TestABuyerReservesCashAtHisLimit(t *testing.T) {
	given(t).
		When(buy).Then(buying).
		State(holds(t, 7_000, 3_000, Holding{50, 0})).
		When(buy).ThenNothing().
		When(Withdraw{7_001}).ThenRejected(ErrCash).
		When(Reserve{Order: "b", Book: "shell", Side: Buy, Quantity: 30, Limit: 101}).ThenRejected(ErrDifferent).
		When(Reserve{Order: "c", Book: "shell", Side: Buy, Quantity: 71, Limit: 100}).ThenRejected(ErrCash).
		When(Reserve{Order: "c", Book: "bp", Side: Buy, Quantity: 70, Limit: 100}).
		Then(Reserved{Order: "c", Book: "bp", Number: 1, Side: Buy, Quantity: 70, Limit: 100, Cash: 7_000})
}

func TestASellerReservesShares(t *testing.T) {
	given(t).
		When(sell).Then(selling).
		State(holds(t, 10_000, 0, Holding{20, 30})).
		When(Reserve{Order: "c", Book: "shell", Side: Sell, Quantity: 21, Limit: 100}).ThenRejected(ErrShares).
		When(Reserve{Order: "c", Book: "bp", Side: Sell, Quantity: 1, Limit: 100}).ThenRejected(ErrShares)
}

func TestAnImpossibleOrderIsRejected(t *testing.T) {
	long := string(make([]byte, MaxText+1))
	for name, change := range map[string]func(*Reserve){
		"no id":             func(r *Reserve) { r.Order = "" },
		"long id":           func(r *Reserve) { r.Order = OrderID(long) },
		"no book":           func(r *Reserve) { r.Book = "" },
		"book with NUL":     func(r *Reserve) { r.Book = "a\x00" },
		"no side":           func(r *Reserve) { r.Side = "" },
		"long request":      func(r *Reserve) { r.Request = long },
		"zero price":        func(r *Reserve) { r.Limit = 0 },
		"negative price":    func(r *Reserve) { r.Limit = -100 },
		"high price":        func(r *Reserve) { r.Limit = MaxPrice + 1 },
		"zero quantity":     func(r *Reserve) { r.Quantity = 0 },
		"negative quantity": func(r *Reserve) { r.Quantity = -30 },
		"high quantity":     func(r *Reserve) { r.Quantity = MaxQuantity + 1 },
		"overflow":          func(r *Reserve) { r.Quantity, r.Limit = 1<<62, 1<<62 },
	} {
		t.Run(name, func(t *testing.T) {
			r := buy
			change(&r)
			given(t).When(r).ThenRejected(ErrOrder)
		})
	}
}

func TestABuyerGetsTheDifferenceToHisLimitBack(t *testing.T) {
	first := Settle{Book: "shell", Notice: 2, Trade: 7, Order: "b", Quantity: 10, Price: 90}
	given(t, buying).
		When(first).Then(Settled{Book: "shell", Notice: 2, Trade: 7, Order: "b", Side: Buy, Quantity: 10, Cash: 900, Returned: 100}).
		State(holds(t, 7_100, 2_000, Holding{60, 0})).
		When(first).ThenNothing().
		When(Settle{Book: "shell", Notice: 3, Trade: 8, Order: "b", Quantity: 20, Price: 100}).
		Then(Settled{Book: "shell", Notice: 3, Trade: 8, Order: "b", Side: Buy, Quantity: 20, Cash: 2_000}).
		State(holds(t, 7_100, 0, Holding{80, 0})).
		State(func(p Portfolio) { require.Empty(t, p.Orders) }).
		When(first).ThenNothing()
}

func TestASellerIsPaidTheTradePrice(t *testing.T) {
	given(t, selling).
		When(Settle{Book: "shell", Notice: 2, Trade: 7, Order: "s", Quantity: 10, Price: 120}).
		Then(Settled{Book: "shell", Notice: 2, Trade: 7, Order: "s", Side: Sell, Quantity: 10, Cash: 1_200}).
		State(holds(t, 11_200, 0, Holding{20, 20}))
}

func TestANoticeCountsOnceAndInTurn(t *testing.T) {
	release := Release{Book: "shell", Notice: 2, Order: "b", Unfilled: 30}
	given(t, buying).
		When(Settle{Book: "shell", Notice: 3, Trade: 1, Order: "b", Quantity: 10, Price: 90}).ThenRejected(ErrOutOfOrder).
		When(Settle{Book: "shell", Notice: 0, Trade: 1, Order: "b", Quantity: 10, Price: 90}).ThenRejected(ErrNotice).
		When(release).Then(Released{Book: "shell", Notice: 2, Order: "b", Side: Buy, Quantity: 30, Cash: 3_000}).
		State(holds(t, 10_000, 0, Holding{50, 0})).
		When(release).ThenNothing().
		When(Receive{Book: "shell", Notice: 1, Quantity: 50}).ThenNothing().
		When(Receive{Book: "bp", Notice: 1, Quantity: 0}).ThenRejected(ErrAmount)
}

func TestANoticeMustFitItsReservation(t *testing.T) {
	for name, c := range map[string]aggregate.Command[Portfolio]{
		"unknown order":   Settle{Book: "shell", Notice: 2, Order: "x", Quantity: 10, Price: 90},
		"too much":        Settle{Book: "shell", Notice: 2, Order: "b", Quantity: 31, Price: 90},
		"nothing":         Settle{Book: "shell", Notice: 2, Order: "b", Quantity: 0, Price: 90},
		"over the limit":  Settle{Book: "shell", Notice: 2, Order: "b", Quantity: 10, Price: 101},
		"under the limit": Settle{Book: "shell", Notice: 2, Order: "s", Quantity: 10, Price: 99},
		"another book":    Settle{Book: "bp", Notice: 1, Order: "b", Quantity: 10, Price: 90},
		"another rest":    Release{Book: "shell", Notice: 2, Order: "b", Unfilled: 29},
		"nothing to end":  Release{Book: "shell", Notice: 2, Order: "x", Unfilled: 29},
	} {
		t.Run(name, func(t *testing.T) {
			second := selling
			second.Number = 2
			given(t, buying, second).When(c).ThenRejected(ErrReservation)
		})
	}
}

func TestTooManyOpenOrdersAreRejected(t *testing.T) {
	instance := Portfolios.Definition().NewInstance()
	instance.Evolve(Opened{Owner: "ann", Cash: MaxDeposits})
	for n := range MaxOpen {
		events, err := instance.Decide(Reserve{Order: OrderID(fmt.Sprint(n)), Book: "shell", Side: Buy, Quantity: 1, Limit: 1})
		require.NoError(t, err)
		instance.Evolve(events[0])
	}
	_, err := instance.Decide(Reserve{Order: "one more", Book: "shell", Side: Buy, Quantity: 1, Limit: 1})
	require.ErrorIs(t, err, ErrTooManyOpen)
}

func TestTheStatementListsEverything(t *testing.T) {
	aggregatetest.Ask(given(t, buying), Statement{}).Answers(View{
		Owner: "ann", Available: 7_000, Reserved: 3_000,
		Holdings: []Stock{{"shell", 50, 0}}, Orders: []Order{{"b", "shell", Buy, 100, 30}},
	})
	aggregatetest.Ask(aggregatetest.For(t, Portfolios), Statement{}).Rejected(ErrNotOpen)
}

func TestOneRequestIsOneOrder(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	request, other := aggregate.CommandIDAt(at), aggregate.CommandIDAt(at)
	id := NewOrderID("ann", request)
	require.Equal(t, id, NewOrderID("ann", request))
	require.NotEqual(t, id, NewOrderID("bob", request))
	require.NotEqual(t, id, NewOrderID("ann", other))
	require.Equal(t, at, id.Time())
	parsed, err := aggregate.ParseCommandID(id.String())
	require.NoError(t, err)
	require.Equal(t, id, parsed)
}

// Whatever is asked of a portfolio, in whatever order: nothing is negative, what
// is reserved is what the open orders reserve, and money comes and goes only by
// deposits, withdrawals and trades.
func TestNoSequenceOfCommandsBreaksTheSums(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		instance := Portfolios.Definition().NewInstance()
		instance.Evolve(Opened{Owner: "ann", Cash: 10_000})
		var traded Cents
		books := []BookID{"shell", "bp"}
		for range 2_000 {
			order, b := OrderID(fmt.Sprint(rnd.IntN(20))), books[rnd.IntN(2)]
			quantity, price := Quantity(rnd.IntN(12)), Cents(rnd.IntN(100))
			p := instance.State().(*Portfolio)
			notice := p.Links[b].Notices + int64(rnd.IntN(3))
			command := []any{
				Deposit{Cents(rnd.IntN(1000) - 100)}, Withdraw{Cents(rnd.IntN(1000) - 100)},
				Reserve{Order: order, Book: b, Side: []Side{Buy, Sell}[rnd.IntN(2)], Quantity: quantity, Limit: price},
				Settle{Book: b, Notice: notice, Order: order, Quantity: quantity, Price: price},
				Release{Book: b, Notice: notice, Order: order, Unfilled: p.Orders[order].Remaining},
				Receive{Book: b, Notice: notice, Quantity: quantity},
			}[rnd.IntN(6)]
			events, err := instance.Decide(command)
			if err != nil {
				require.Equal(t, aggregate.KindRejected, aggregate.KindOf(err))
				continue
			}
			for _, e := range events {
				instance.Evolve(e)
				if s, ok := e.(Settled); ok && s.Side == Buy {
					traded -= s.Cash
				} else if ok {
					traded += s.Cash
				}
			}
			var cash Cents
			shares := map[BookID]Quantity{}
			for _, r := range p.Orders {
				require.Positive(t, r.Remaining)
				if r.Side == Buy {
					cash += Cents(r.Remaining) * r.Limit
				} else {
					shares[r.Book] += r.Remaining
				}
			}
			require.Equal(t, cash, p.Reserved)
			require.GreaterOrEqual(t, p.Available, Cents(0))
			require.Equal(t, p.Deposits+traded, p.Available+p.Reserved)
			for id, h := range p.Holdings {
				require.Equal(t, shares[id], h.Reserved)
				require.GreaterOrEqual(t, h.Available, Quantity(0))
			}
		}
	}
}

package check_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/check"
	"github.com/ingrain-go/ingrain/examples/trader/markettest"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/users"
	"github.com/ingrain-go/ingrain/persistence"
)

// market is a world with a bit of everything in its log:
//
//	ann sells 50 at 100, bob sells 50 at 105, cid sells 30 at 100
//	dan buys 120 at 110: takes ann's 50, cid's 30 and 40 of bob's
//	dan's second order meets nothing at 90 and is cancelled
//	bob buys at 105 into his own order and is stopped; his 10 stay
//	eve's price is off the tick and is refused
//	bob withdraws, ann deposits
func market(t *testing.T) *markettest.World {
	w := markettest.New(t)
	markettest.Send(w, book.Books, "shell", book.Open{Company: "Shell", Shares: 1000, Tick: 5, Lot: 1})
	for _, name := range []string{"ann", "bob", "cid", "dan", "eve"} {
		markettest.Send(w, users.Users, name, users.SignUp{Name: name})
		w.Settle()
		markettest.Send(w, book.Books, "shell", book.Allot{Portfolio: book.PortfolioID(name), Quantity: 100})
	}
	w.Settle()
	place := func(user string, side portfolio.Side, quantity portfolio.Quantity, limit portfolio.Cents) portfolio.OrderID {
		id := w.Order(user, "shell", side, quantity, limit)
		w.Settle()
		return id
	}
	place("ann", portfolio.Sell, 50, 100)
	place("bob", portfolio.Sell, 50, 105)
	place("cid", portfolio.Sell, 30, 100)
	place("dan", portfolio.Buy, 120, 110)
	resting := place("dan", portfolio.Buy, 10, 90)
	markettest.Send(w, book.Books, "shell", book.Cancel{Order: book.OrderID(resting), Portfolio: "dan"})
	place("bob", portfolio.Buy, 5, 105)
	place("eve", portfolio.Buy, 5, 101)
	place("eve", portfolio.Buy, 7, 95)
	markettest.Send(w, portfolio.Portfolios, "bob", portfolio.Withdraw{Cents: 100})
	markettest.Send(w, portfolio.Portfolios, "ann", portfolio.Deposit{Cents: 100})
	w.Settle()
	return w
}

func run(log []persistence.Event, receipts []aggregate.Receipt) check.Report {
	c := check.New(markettest.Partitions)
	for i := range log {
		c.Add(&log[i])
	}
	for _, r := range receipts {
		c.Acknowledged(check.Ack{Command: r.Command, Partition: r.Partition, Offset: r.Offset})
	}
	return c.Report()
}

func TestAGoodLogPasses(t *testing.T) {
	w := market(t)
	r := run(w.Log, w.Receipts)
	require.Empty(t, r.Violations)
	require.Equal(t, len(w.Log), r.Events)
	require.Equal(t, 3, r.Trades)
	require.Zero(t, r.Lost)
	require.Zero(t, r.Duplicated)
}

func TestThePartitionsMayBeReadInAnyOrder(t *testing.T) {
	w := market(t)
	for seed := range uint64(20) {
		order := rand.New(rand.NewPCG(seed, 0)).Perm(markettest.Partitions)
		log := slices.Clone(w.Log)
		slices.SortStableFunc(log, func(a, b persistence.Event) int { return order[a.Partition] - order[b.Partition] })
		require.Empty(t, run(log, w.Receipts).Violations)
	}
}

// edit changes an event's payload.
func edit[E any](t *testing.T, e *persistence.Event, change func(*E)) {
	t.Helper()
	var decoded E
	require.NoError(t, json.Unmarshal(e.Payload, &decoded))
	change(&decoded)
	payload, err := json.Marshal(decoded)
	require.NoError(t, err)
	e.Payload = payload
}

// renumber makes offsets and versions dense again after events were added,
// removed or moved, so that only the other invariants can notice.
func renumber(log []persistence.Event) {
	offsets := map[persistence.Partition]persistence.Offset{}
	versions := map[persistence.Stream]persistence.Version{}
	for i := range log {
		e := &log[i]
		offsets[e.Partition]++
		versions[e.Stream]++
		e.Offset, e.Version = offsets[e.Partition], versions[e.Stream]
	}
}

var (
	shell = persistence.Stream{Type: "book", ID: "shell"}
	dan   = persistence.Stream{Type: "portfolio", ID: "dan"}
	ann   = persistence.Stream{Type: "portfolio", ID: "ann"}
	eve   = persistence.Stream{Type: "portfolio", ID: "eve"}
)

func fresh() persistence.CommandID { return persistence.CommandID(aggregate.NewCommandID()) }

func remove(w *markettest.World, n int) {
	w.Log = slices.Delete(w.Log, n, n+1)
	renumber(w.Log)
}

// again lets an event happen a second time, by another command.
func again(w *markettest.World, n int) {
	e := w.Log[n]
	e.Command = fresh()
	w.Log = append(w.Log, e)
	renumber(w.Log)
}

// neighbour is another stream of the same type in the same partition.
func neighbour(s persistence.Stream) persistence.Stream {
	for n := 0; ; n++ {
		other := persistence.Stream{Type: s.Type, ID: fmt.Sprint("nobody-", n)}
		if persistence.PartitionOf(other, markettest.Partitions) == persistence.PartitionOf(s, markettest.Partitions) {
			return other
		}
	}
}

func TestADoctoredLogFails(t *testing.T) {
	for _, c := range []struct {
		invariant, name string
		doctor          func(t *testing.T, w *markettest.World)
	}{
		{"I1", "a seller is paid too much", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(ann, "settled", 0)], func(e *portfolio.Settled) { e.Cash++ })
		}},
		{"I1", "a deposit is negative", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(ann, "deposited", 0)], func(e *portfolio.Deposited) { e.Cents = -5 })
		}},
		{"I1", "a buyer gets more back than he should", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(dan, "settled", 0)], func(e *portfolio.Settled) { e.Cash -= 10; e.Returned += 10 })
		}},
		{"I1", "money comes from nowhere", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(dan, "released", 0)], func(e *portfolio.Released) { e.Cash++ })
			edit(t, &w.Log[w.Find(dan, "settled", 0)], func(e *portfolio.Settled) { e.Cash-- })
		}},
		{"I1", "a portfolio is opened twice", func(_ *testing.T, w *markettest.World) { again(w, w.Find(ann, "opened", 0)) }},
		{"I1", "a portfolio is opened for nobody", func(_ *testing.T, w *markettest.World) {
			remove(w, w.Find(persistence.Stream{Type: "user", ID: "ann"}, "signed-up", 0))
		}},
		{"I2", "a company is opened twice", func(_ *testing.T, w *markettest.World) { again(w, w.Find(shell, "opened", 0)) }},
		{"I2", "a buyer receives too many shares", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(dan, "settled", 0)], func(e *portfolio.Settled) { e.Quantity++ })
		}},
		{"I2", "more shares arrive than were allotted", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(ann, "received", 0)], func(e *portfolio.Received) { e.Quantity++ })
		}},
		{"I2", "a company allots more than it has", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "opened", 0)], func(e *book.Opened) { e.Shares = 499 })
		}},
		{"I2", "an allotment arrives twice", func(_ *testing.T, w *markettest.World) { again(w, w.Find(ann, "received", 0)) }},
		{"I3", "more is reserved than the order costs", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(dan, "reserved", 0)], func(e *portfolio.Reserved) { e.Cash++ })
		}},
		{"I3", "somebody spends what he does not have", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(persistence.Stream{Type: "portfolio", ID: "bob"}, "withdrawn", 0)], func(e *portfolio.Withdrawn) { e.Cents = 100_000_000 })
		}},
		{"I3", "shares are sold that are not there", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(ann, "received", 0)], func(e *portfolio.Received) { e.Quantity = 40 })
		}},
		{"I4", "a side of a trade does not settle", func(_ *testing.T, w *markettest.World) { remove(w, w.Find(ann, "settled", 0)) }},
		{"I4", "a side of a trade settles twice", func(_ *testing.T, w *markettest.World) { again(w, w.Find(dan, "settled", 0)) }},
		{"I4", "a settlement has no trade", func(_ *testing.T, w *markettest.World) { remove(w, w.Find(shell, "traded", 2)) }},
		{"I5", "an order trades more than its quantity", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-placed", 0)], func(e *book.OrderPlaced) { e.Quantity = 49 })
		}},
		{"I5", "a filled order trades again", func(_ *testing.T, w *markettest.World) { again(w, w.Find(shell, "traded", 0)) }},
		{"I5", "a cancellation forgets a trade", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-cancelled", 0)], func(e *book.OrderCancelled) { e.Unfilled-- })
		}},
		{"I5", "an order is cancelled as another's", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-cancelled", 0)], func(e *book.OrderCancelled) { e.Portfolio = "eve" })
		}},
		{"I6", "orders that should trade rest", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-placed", -1+count(w.Log, "order-placed"))], func(e *book.OrderPlaced) { e.Price = 105 })
		}},
		{"I7", "a worse price trades first", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-placed", 0)], func(e *book.OrderPlaced) { e.Price = 105 })
		}},
		{"I7", "a younger order trades first", func(t *testing.T, w *markettest.World) {
			first, third := &w.Log[w.Find(shell, "traded", 0)], &w.Log[w.Find(shell, "traded", 1)]
			first.Payload, third.Payload = third.Payload, first.Payload
		}},
		{"I7", "an old order takes", func(_ *testing.T, w *markettest.World) {
			w.Log[w.Find(shell, "traded", 2)].Command = fresh()
		}},
		{"I8", "a trade is not at the resting price", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "traded", 0)], func(e *book.Traded) { e.Price = 105 })
		}},
		{"I8", "a trade is beyond the taker's limit", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-placed", 3)], func(e *book.OrderPlaced) { e.Price = 100 })
		}},
		{"I9", "a cancelled order keeps its reservation", func(_ *testing.T, w *markettest.World) { remove(w, w.Find(dan, "released", 0)) }},
		{"I9", "a reservation ends too early", func(t *testing.T, w *markettest.World) {
			n := w.Find(eve, "reserved", 1)
			var e portfolio.Reserved
			require.NoError(t, json.Unmarshal(w.Log[n].Payload, &e))
			payload, err := json.Marshal(portfolio.Released{Book: "shell", Notice: 3, Order: e.Order, Side: e.Side, Quantity: e.Quantity, Cash: e.Cash})
			require.NoError(t, err)
			release := w.Log[n]
			release.Type, release.Payload, release.Command = "released", payload, fresh()
			w.Log = append(w.Log, release)
			renumber(w.Log)
		}},
		{"I9", "an order is placed that nobody reserved for", func(_ *testing.T, w *markettest.World) { remove(w, w.Find(eve, "reserved", 1)) }},
		{"I9", "an order is placed on other terms", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-placed", -1+count(w.Log, "order-placed"))], func(e *book.OrderPlaced) { e.Quantity++ })
		}},
		{"I11", "a user never gets a portfolio", func(_ *testing.T, w *markettest.World) { remove(w, w.Find(ann, "opened", 0)) }},
		{"I11", "an order never reaches its book", func(_ *testing.T, w *markettest.World) {
			remove(w, w.Find(shell, "order-placed", -1+count(w.Log, "order-placed")))
		}},
		{"I12", "an acknowledged command is not in the log", func(_ *testing.T, w *markettest.World) {
			w.Log = w.Log[:len(w.Log)-1]
		}},
		{"I12", "an acknowledged command is elsewhere in the log", func(_ *testing.T, w *markettest.World) { w.Receipts[3].Offset++ }},
		{"I12", "a command has its effect twice", func(_ *testing.T, w *markettest.World) {
			w.Log = append(w.Log, w.Log[w.Find(ann, "opened", 0)])
			renumber(w.Log)
		}},
		{"I12", "a command has an effect on two aggregates", func(_ *testing.T, w *markettest.World) {
			w.Log[w.Find(ann, "opened", 0)].Command = w.Log[w.Find(dan, "opened", 0)].Command
		}},
		{"I12", "a command has an effect on two aggregates, one right after the other", func(_ *testing.T, w *markettest.World) {
			at := w.Find(ann, "opened", 0)
			second := w.Log[at]
			second.Stream = neighbour(ann)
			first := second
			first.Command = fresh()
			w.Log = slices.Insert(slices.Insert(w.Log, at+1, second), at, first)
			w.Receipts = nil // they would be elsewhere
			renumber(w.Log)
		}},
		{"I12", "an order comes to its book again after its end", func(_ *testing.T, w *markettest.World) {
			again(w, w.Find(shell, "order-placed", 0))
		}},
		{"I12", "a request makes two orders", func(t *testing.T, w *markettest.World) {
			var first portfolio.Reserved
			require.NoError(t, json.Unmarshal(w.Log[w.Find(eve, "reserved", 0)].Payload, &first))
			edit(t, &w.Log[w.Find(eve, "reserved", 1)], func(e *portfolio.Reserved) { e.Request = first.Request })
		}},
		{"I12", "an order is not its request's", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(eve, "reserved", 1)], func(e *portfolio.Reserved) { e.Request = aggregate.NewCommandID().String() })
		}},
		{"I14", "somebody trades with himself", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "traded", 0)], func(e *book.Traded) { e.Made.Portfolio = e.Took.Portfolio })
		}},
		{"I15", "an epoch goes back", func(_ *testing.T, w *markettest.World) { w.Log[w.Find(shell, "traded", 0)].Epoch = 2 }},
		{"I15", "there is no epoch", func(_ *testing.T, w *markettest.World) { w.Log[0].Epoch = 0 }},
		{"I15", "an offset is missing", func(_ *testing.T, w *markettest.World) { w.Log = slices.Delete(w.Log, 5, 6) }},
		{"I15", "a version is missing", func(_ *testing.T, w *markettest.World) { w.Log[w.Find(ann, "settled", 0)].Version++ }},
		{"I15", "an event is in another's partition", func(_ *testing.T, w *markettest.World) {
			e := &w.Log[len(w.Log)-1]
			e.Partition = (e.Partition + 1) % markettest.Partitions
			renumber(w.Log)
		}},
		{"I15", "an event has no command", func(_ *testing.T, w *markettest.World) { w.Log[0].Command = persistence.CommandID{} }},
		{"I15", "an event cannot be read", func(_ *testing.T, w *markettest.World) { w.Log[0].Payload = []byte("{") }},
		{"I15", "an event is of an unknown kind", func(_ *testing.T, w *markettest.World) { w.Log[0].Type = "vanished" }},
		{"I16", "a book's own state is another", func(t *testing.T, w *markettest.World) {
			// The model keeps what the order asked for, the aggregate finds
			// no order of that name and fills nothing.
			edit(t, &w.Log[w.Find(shell, "traded", 0)], func(e *book.Traded) { e.Made.Order = "nobody's" })
		}},
		{"I16", "a portfolio's own state is another", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(ann, "settled", 0)], func(e *portfolio.Settled) { e.Book = "bp" })
		}},
	} {
		t.Run(c.invariant+" "+c.name, func(t *testing.T) {
			w := market(t)
			c.doctor(t, w)
			r := run(w.Log, w.Receipts)
			var found []string
			for _, v := range r.Violations {
				found = append(found, v.Invariant)
				require.Positive(t, v.Count)
				require.NotEmpty(t, v.Examples)
			}
			require.Contains(t, found, c.invariant, "%v", r.Violations)
		})
	}
}

func count(log []persistence.Event, typ string) (n int) {
	for _, e := range log {
		if e.Type == typ {
			n++
		}
	}
	return n
}

func TestLostAndDuplicatedAreCounted(t *testing.T) {
	w := market(t)
	promised := aggregate.Receipt{Command: aggregate.NewCommandID(), Partition: 1, Offset: 3}
	nothing := aggregate.Receipt{Command: aggregate.NewCommandID()} // acknowledged without an event
	w.Log = append(w.Log, w.Log[w.Find(ann, "opened", 0)])
	renumber(w.Log)
	r := run(w.Log, append(w.Receipts[:5:5], promised, nothing))
	require.Equal(t, 1, r.Lost)
	require.Equal(t, 1, r.Duplicated)
}

func TestALiveBookThatDiffersFails(t *testing.T) {
	w := market(t)
	report := func(seen []book.Rester) []check.Violation {
		c := check.New(markettest.Partitions)
		for i := range w.Log {
			c.Add(&w.Log[i])
		}
		c.Live("shell", seen)
		return c.Report().Violations
	}
	seen, err := aggregate.Ask(t.Context(), book.Books.Ref(w, "shell"), book.Resters{})
	require.NoError(t, err)
	require.NotEmpty(t, seen)
	require.Empty(t, report(seen))
	unknown := check.New(markettest.Partitions)
	unknown.Live("shell", seen)
	require.Contains(t, unknown.Report().Violations[0].Examples[0], "book shell is not in the log")
	for _, wrong := range [][]book.Rester{nil, seen[1:], append(seen[:len(seen):len(seen)], seen[0])} {
		found := report(wrong)
		require.Len(t, found, 1)
		require.Equal(t, "I16", found[0].Invariant)
	}
}

func TestPendingCountsWhatIsUnderWay(t *testing.T) {
	w := market(t)
	w.Order("dan", "shell", portfolio.Buy, 1, 95)
	c := check.New(markettest.Partitions)
	for i := range w.Log {
		c.Add(&w.Log[i])
	}
	require.Equal(t, 1, c.Pending())
	seen := len(w.Log)
	w.Settle()
	for i := range w.Log[seen:] {
		c.Add(&w.Log[seen+i])
	}
	require.Zero(t, c.Pending())
}

package check_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/markettest"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
)

// Several checks watch over one invariant, and each has something of its own to
// say: none is there only because another one finds the same.
func TestEachCheckFindsWhatItIsFor(t *testing.T) {
	for _, c := range []struct {
		invariant, says string
		doctor          func(t *testing.T, w *markettest.World)
	}{
		{"I1", "moves 5000 cents and 5001 cents", paidTooMuch},
		{"I1", "cents, deposits less withdrawals are", paidTooMuch},
		{"I2", "moves 50 shares and 51 shares", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(dan, "settled", 0)], func(e *portfolio.Settled) { e.Quantity++ })
		}},
		{"I2", `allotment 1 between book "shell" and portfolio "ann": 100 shares and 101 shares`, receivedTooMuch},
		{"I2", "shares of shell, 500 were allotted", receivedTooMuch},
		{"I2", "received 1 times more than allotted", func(_ *testing.T, w *markettest.World) { again(w, w.Find(ann, "received", 0)) }},
		{"I2", "hold 100 shares of bp, which has no book", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(eve, "received", 0)], func(e *portfolio.Received) { e.Book = "bp" })
		}},
		{"I3", "is reserved again", func(_ *testing.T, w *markettest.World) { again(w, w.Find(eve, "reserved", 1)) }},
		{"I3", "for which that is not reserved", func(_ *testing.T, w *markettest.World) { again(w, w.Find(dan, "settled", 0)) }},
		{"I4", `settlement 2 between book "shell" and portfolio "ann": {`, paidTooMuch},
		{"I5", "order nobody's is cancelled and was not open", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-cancelled", 0)], func(e *book.OrderCancelled) { e.Order = "nobody's" })
		}},
		{"I5", `is "up" 7 at 95`, func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "order-placed", -1+count(w.Log, "order-placed"))], func(e *book.OrderPlaced) { e.Side = "up" })
		}},
		{"I5", "trade 7 follows trade 1", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "traded", 1)], func(e *book.Traded) { e.Number = 7 })
		}},
		{"I5", "order nobody's is not open", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "traded", 0)], func(e *book.Traded) { e.Made.Order = "nobody's" })
		}},
		{"I5", "is of ann, not of eve", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "traded", 0)], func(e *book.Traded) { e.Made.Portfolio = "eve" })
		}},
		{"I7", "buy took from sell, and is called sell", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(shell, "traded", 0)], func(e *book.Traded) { e.Taker = book.Sell })
		}},
		{"I9", `placement 2 between book "shell" and portfolio "eve": {`, placedOnOtherTerms},
		{"I9", "the book has buy 8 at 95 of eve", placedOnOtherTerms},
		{"I9", "done 1 times more than caused", neverReserved},
		{"I9", "is open without a reservation of eve", neverReserved},
		{"I9", "keeps a reservation after its end", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(dan, "released", 0)], func(e *portfolio.Released) { e.Quantity-- })
		}},
		{"I12", "of eve made order", func(t *testing.T, w *markettest.World) {
			edit(t, &w.Log[w.Find(eve, "reserved", 1)], func(e *portfolio.Reserved) { e.Order, e.Request = e.Order+"x", "" })
			again(w, w.Find(eve, "reserved", 1))
		}},
		{"I15", "no such aggregate type in this market", func(_ *testing.T, w *markettest.World) { w.Log[0].Stream.Type = "vanished" }},
		{"I15", "is in partition 99 of 8", func(_ *testing.T, w *markettest.World) { w.Log[len(w.Log)-1].Partition = 99 }},
		{"I15", ": offset ", func(_ *testing.T, w *markettest.World) { w.Log[len(w.Log)-1].Offset += 3 }},
		{"I16", "book shell shows 0 orders", func(_ *testing.T, w *markettest.World) { remove(w, w.Find(shell, "opened", 0)) }},
	} {
		t.Run(c.invariant+" "+c.says, func(t *testing.T) {
			w := market(t)
			c.doctor(t, w)
			var said []string
			for _, v := range run(w.Log, w.Receipts).Violations {
				if v.Invariant == c.invariant {
					said = v.Examples
				}
			}
			require.Contains(t, strings.Join(said, "\n"), c.says)
		})
	}
}

func paidTooMuch(t *testing.T, w *markettest.World) {
	edit(t, &w.Log[w.Find(ann, "settled", 0)], func(e *portfolio.Settled) { e.Cash++ })
}

func receivedTooMuch(t *testing.T, w *markettest.World) {
	edit(t, &w.Log[w.Find(ann, "received", 0)], func(e *portfolio.Received) { e.Quantity++ })
}

func placedOnOtherTerms(t *testing.T, w *markettest.World) {
	edit(t, &w.Log[w.Find(shell, "order-placed", -1+count(w.Log, "order-placed"))], func(e *book.OrderPlaced) { e.Quantity++ })
}

func neverReserved(_ *testing.T, w *markettest.World) { remove(w, w.Find(eve, "reserved", 1)) }

package check

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// goodBook is three payments, each ending in one of the ways there are.
func goodBook() []Money {
	return []Money{
		{Step: StepOrdered, Payment: 1, Wallet: "a", To: "b", Amount: 60},
		{Step: StepTaken, Payment: 1, Wallet: "a", Amount: 60},
		{Step: StepGiven, Payment: 1, Wallet: "b", Amount: 60},
		{Step: StepOver, Payment: 1, End: Paid},
		{Step: StepOrdered, Payment: 2, Wallet: "a", To: "c", Amount: 40},
		{Step: StepTaken, Payment: 2, Wallet: "a", Amount: 40},
		{Step: StepReturned, Payment: 2, Wallet: "a", Amount: 40},
		{Step: StepOver, Payment: 2, End: Returned},
		{Step: StepOrdered, Payment: 3, Wallet: "a", To: "c", Amount: 41},
		{Step: StepOver, Payment: 3, End: Refused},
	}
}

func judged(events []Money) (*Book, *Report) {
	b, report := NewBook(100), &Report{}
	for _, m := range events {
		b.Add(m)
	}
	b.Check(report)
	return b, report
}

func TestBookPassesWhatIsRight(t *testing.T) {
	b, report := judged(goodBook())
	require.Zero(t, report.Total(), "%v", report.Kept)
	require.Zero(t, b.Open())
	require.Equal(t, 3, b.Payments())
}

func TestBookFindsWhatIsPlanted(t *testing.T) {
	without := func(i int) func([]Money) []Money {
		return func(e []Money) []Money { return append(e[:i:i], e[i+1:]...) }
	}
	twice := func(i int) func([]Money) []Money {
		return func(e []Money) []Money { return append(e, e[i]) }
	}
	change := func(i int, f func(*Money)) func([]Money) []Money {
		return func(e []Money) []Money { f(&e[i]); return e }
	}
	for name, c := range map[string]struct {
		plant func([]Money) []Money
		want  []Kind
	}{
		"taken twice":          {twice(1), []Kind{Effect, Unbalanced, Overdrawn}},
		"given twice":          {twice(2), []Kind{Effect, Unbalanced}},
		"never given":          {without(2), []Kind{Effect, Unbalanced}},
		"returned and given":   {func(e []Money) []Money { return append(e, Money{Step: StepGiven, Payment: 2, Wallet: "c", Amount: 40}) }, []Kind{Effect, Unbalanced}},
		"never ends":           {without(3), []Kind{Open}},
		"ends twice":           {twice(3), []Kind{Open}},
		"refused, but taken":   {func(e []Money) []Money { return append(e, Money{Step: StepTaken, Payment: 3, Wallet: "c", Amount: 41}) }, []Kind{Effect, Unbalanced}},
		"given to another":     {change(2, func(m *Money) { m.Wallet = "x" }), []Kind{Effect}},
		"returned to another":  {change(6, func(m *Money) { m.Wallet = "x" }), []Kind{Effect}},
		"another amount":       {change(2, func(m *Money) { m.Amount = 61 }), []Kind{Effect, Unbalanced}},
		"more than the credit": {change(1, func(m *Money) { m.Amount = 101 }), []Kind{Effect, Unbalanced, Overdrawn}},
		"nobody ordered it":    {without(0), []Kind{Effect}},
		"an end of no kind":    {change(9, func(m *Money) { m.End = "lost" }), []Kind{Open}},
	} {
		t.Run(name, func(t *testing.T) {
			_, report := judged(c.plant(goodBook()))
			require.ElementsMatch(t, c.want, report.Kinds(), "%v", report.Kept)
		})
	}
}

func TestBookCountsWhatIsOpen(t *testing.T) {
	b, _ := judged(goodBook()[:9])
	require.Equal(t, 1, b.Open())
}

package check

import (
	"cmp"
	"slices"
)

// MoneyStep is what happens to the money of a payment.
type MoneyStep uint8

// The steps.
const (
	StepOrdered  MoneyStep = iota + 1 // somebody wants it
	StepTaken                         // out of the wallet that pays
	StepGiven                         // into the one that is paid
	StepReturned                      // into the one that paid, because the other refused
	StepOver                          // the process has ended
)

// End is how a payment ended.
type End string

// The ends.
const (
	Paid     End = "paid"
	Returned End = "returned"
	Refused  End = "refused" // nothing happened
)

// Money is one event of a payment.
type Money struct {
	Step    MoneyStep
	At      int64
	Wallet  string
	To      string // of an order
	Payment int64
	Amount  int64
	End     End // of StepOver
}

// Book follows payments, event by event. Those of one wallet come in their order.
//
//	every wallet ..... never below its credit             (overdrawn)
//	every payment .... ends, once                         (open)
//	                   each effect of that end, once      (effect)
//	all together ..... no money comes or goes             (unbalanced)
type Book struct {
	credit   int64
	balances map[string]int64
	payments map[int64]*entry
	open     int
	early    []Violation
}

type entry struct {
	number                        int64
	ordered, taken, given, back   int
	overs                         int
	end                           End
	from, to, takenFrom, gave, bk string
	amount, out, in               int64
	at                            int64
}

// NewBook makes a book of wallets that may be overdrawn by a credit.
func NewBook(credit int64) *Book {
	return &Book{credit: credit, balances: map[string]int64{}, payments: map[int64]*entry{}}
}

// Add takes one event in.
func (b *Book) Add(m Money) {
	p := b.payments[m.Payment]
	if p == nil {
		p = &entry{number: m.Payment}
		b.payments[m.Payment] = p
	}
	was := p.isOpen()
	p.at = max(p.at, m.At)
	switch m.Step {
	case StepOrdered:
		p.ordered++
		p.from, p.to, p.amount = m.Wallet, m.To, m.Amount
	case StepTaken:
		p.taken++
		p.takenFrom, p.out = m.Wallet, p.out+m.Amount
		b.move(m, -m.Amount)
	case StepGiven:
		p.given++
		p.gave, p.in = m.Wallet, p.in+m.Amount
		b.move(m, m.Amount)
	case StepReturned:
		p.back++
		p.bk, p.in = m.Wallet, p.in+m.Amount
		b.move(m, m.Amount)
	case StepOver:
		p.overs++
		p.end = m.End
	}
	if is := p.isOpen(); is != was {
		if is {
			b.open++
		} else {
			b.open--
		}
	}
}

func (b *Book) move(m Money, by int64) {
	b.balances[m.Wallet] += by
	if by < 0 && b.balances[m.Wallet] < -b.credit && len(b.early) < keep {
		b.early = append(b.early, Violation{Kind: Overdrawn, At: m.At, Detail: m.Wallet + " is overdrawn"})
	}
}

func (p *entry) isOpen() bool { return p.ordered > 0 && p.overs == 0 }

// Open is how many payments were ordered and have not ended.
func (b *Book) Open() int { return b.open }

// Payments is how many there are.
func (b *Book) Payments() int { return len(b.payments) }

// Check reports what is wrong when all is over.
func (b *Book) Check(report *Report) {
	for _, v := range b.early {
		report.Add(v)
	}
	var total int64
	for _, balance := range b.balances {
		total += balance
	}
	if total != 0 {
		report.addf(Unbalanced, 0, "all wallets together have %d, not 0", total)
	}
	all := make([]*entry, 0, len(b.payments))
	for _, p := range b.payments {
		all = append(all, p)
	}
	slices.SortFunc(all, func(x, y *entry) int { return cmp.Compare(x.number, y.number) })
	for _, p := range all {
		p.check(report)
	}
}

// check holds a payment against how it ended.
func (p *entry) check(report *Report) {
	if p.ordered == 0 {
		report.addf(Effect, p.at, "payment %d happened, and nobody had ordered it", p.number)
		return
	}
	if p.overs != 1 {
		report.addf(Open, p.at, "payment %d ended %d times", p.number, p.overs)
		return
	}
	taken, given, back := 0, 0, 0
	switch p.end {
	case Paid:
		taken, given = 1, 1
	case Returned:
		taken, back = 1, 1
	case Refused:
	default:
		report.addf(Open, p.at, "payment %d ended as %q", p.number, p.end)
		return
	}
	if p.taken != taken || p.given != given || p.back != back {
		report.addf(Effect, p.at, "payment %d is %s: taken %d times, given %d times, returned %d times", p.number, p.end, p.taken, p.given, p.back)
		return
	}
	wrong := taken > 0 && (p.takenFrom != p.from || p.out != p.amount || p.in != p.amount) ||
		given > 0 && p.gave != p.to || back > 0 && p.bk != p.from
	if wrong {
		report.addf(Effect, p.at, "payment %d of %d from %s to %s took %d from %q and put %d into %q", p.number, p.amount, p.from, p.to,
			p.out, p.takenFrom, p.in, p.gave+p.bk)
	}
}

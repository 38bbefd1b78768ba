package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// The workload transfer: wallets, which order payments to each other, and the
// process manager that carries them out. Every wallet has a credit, so that all
// balances together are zero at all times but while money is on its way; and each
// seventeenth wallet takes no money, so that some has to go back.
//
//	ordered ─▶ begun ─▶ taken ─▶ paid ─▶ given ─▶ over
//	                      │                └ refused ─▶ reversed ─▶ returned ─▶ over
//	                      └ refused, or too late ─▶ over
const (
	walletCredit = 100
	walletCount  = 200
	// paymentTime is how long a payment may take to begin.
	paymentTime = 3 * time.Second
)

type wallet struct {
	Balance int64
	activation
}

type walletEvent = aggregate.Event[wallet]

var (
	errNoCredit = aggregate.Reject("no-credit", "the credit does not suffice")
	errNoThanks = aggregate.Reject("no-thanks", "the wallet takes no money")
)

type order struct {
	Payment int64
	To      string
	Amount  int64
	Until   time.Time
}

func (c order) Decide(wallet) ([]walletEvent, error) { return []walletEvent{ordered(c)}, nil }
func (order) Answer(s wallet) (seen, error)          { return s.answer(s.Balance) }
func (c takeOut) Decide(s wallet) ([]walletEvent, error) {
	if s.Balance+walletCredit < c.Amount {
		return nil, errNoCredit
	}
	return []walletEvent{takenOut(c)}, nil
}

type ordered struct {
	Payment int64
	To      string
	Amount  int64
	Until   time.Time
}

func (ordered) Evolve(s *wallet) { s.note() }

type takeOut struct{ Payment, Amount int64 }

type takenOut struct{ Payment, Amount int64 }

func (e takenOut) Evolve(s *wallet) {
	s.note()
	s.Balance -= e.Amount
}

type putIn struct {
	Payment, Amount int64
	Back, Refused   bool
}

func (c putIn) Decide(wallet) ([]walletEvent, error) {
	if c.Refused && !c.Back {
		return nil, errNoThanks
	}
	return []walletEvent{cameIn{c.Payment, c.Amount, c.Back}}, nil
}

type cameIn struct {
	Payment, Amount int64
	Back            bool
}

func (e cameIn) Evolve(s *wallet) {
	s.note()
	s.Balance += e.Amount
}

type contents struct{}

func (contents) Answer(s wallet) (seen, error) { return s.answer(s.Balance) }

var wallets = aggregate.Define("wallet",
	aggregate.Accepts[order]("order"), aggregate.Accepts[takeOut]("take-out"), aggregate.Accepts[putIn]("put-in"),
	aggregate.Records[ordered]("ordered"), aggregate.Records[takenOut]("taken-out"), aggregate.Records[cameIn]("put-in"),
	aggregate.Answers[contents]("contents"))

// payment is the state of the process manager.
type payment struct {
	Number   int64
	From, To string
	Amount   int64
	Phase    string
	Late     bool
}

type paymentEvent = aggregate.Event[payment]

// The phases of a payment.
const (
	phaseTaking  = "taking"
	phaseGiving  = "giving"
	phaseReturns = "returns"
)

type begin struct {
	Number   int64
	From, To string
	Amount   int64
	Until    time.Time
}

func (c begin) Decide(p payment) ([]paymentEvent, error) {
	if p.Phase != "" {
		return nil, nil
	}
	return []paymentEvent{begun(c)}, nil
}

type begun struct {
	Number   int64
	From, To string
	Amount   int64
	Until    time.Time
}

func (e begun) Evolve(p *payment) {
	*p = payment{Number: e.Number, From: e.From, To: e.To, Amount: e.Amount, Phase: phaseTaking}
}

func (e begun) Sends() []aggregate.Outgoing[payment] {
	return []aggregate.Outgoing[payment]{
		aggregate.To[payment](wallets, e.From, takeOut{e.Number, e.Amount}).OnDone(proceed{}).OnRejected(refused),
	}
}

func (e begun) Timers() []aggregate.Timer[payment] {
	return []aggregate.Timer[payment]{{Name: "until", Due: e.Until, Command: tooLate{}}}
}

func refused(*aggregate.Rejection) aggregate.Command[payment] { return giveBack{} }

type proceed struct{}

func (proceed) Decide(p payment) ([]paymentEvent, error) {
	switch {
	case p.Phase == phaseTaking && p.Late:
		return []paymentEvent{reversed{p.Number, p.From, p.Amount}}, nil
	case p.Phase == phaseTaking:
		return []paymentEvent{paid{p.Number, p.To, p.Amount}}, nil
	case p.Phase == phaseGiving:
		return []paymentEvent{over{check.Paid}}, nil
	case p.Phase == phaseReturns:
		return []paymentEvent{over{check.Returned}}, nil
	}
	return nil, nil
}

type giveBack struct{}

func (giveBack) Decide(p payment) ([]paymentEvent, error) {
	switch p.Phase {
	case phaseTaking:
		return []paymentEvent{over{check.Refused}}, nil
	case phaseGiving:
		return []paymentEvent{reversed{p.Number, p.From, p.Amount}}, nil
	}
	return nil, nil
}

type tooLate struct{}

func (tooLate) Decide(p payment) ([]paymentEvent, error) {
	if p.Phase != phaseTaking || p.Late {
		return nil, nil
	}
	return []paymentEvent{lapsed{}}, nil
}

type lapsed struct{}

func (lapsed) Evolve(p *payment) { p.Late = true }

type paid struct {
	Number int64
	To     string
	Amount int64
}

func (paid) Evolve(p *payment) { p.Phase = phaseGiving }
func (paid) Cancels() []string { return []string{"until"} }
func (e paid) Sends() []aggregate.Outgoing[payment] {
	return []aggregate.Outgoing[payment]{
		aggregate.To[payment](wallets, e.To, putIn{Payment: e.Number, Amount: e.Amount, Refused: takesNothing(e.To)}).
			OnDone(proceed{}).OnRejected(refused),
	}
}

type reversed struct {
	Number int64
	From   string
	Amount int64
}

func (reversed) Evolve(p *payment) { p.Phase = phaseReturns }
func (e reversed) Sends() []aggregate.Outgoing[payment] {
	return []aggregate.Outgoing[payment]{
		aggregate.To[payment](wallets, e.From, putIn{Payment: e.Number, Amount: e.Amount, Back: true}).OnDone(proceed{}),
	}
}

type over struct{ End check.End }

func (e over) Evolve(p *payment) { p.Phase = string(e.End) }

var payments = aggregate.Define("payment",
	aggregate.Accepts[begin]("begin"), aggregate.Accepts[proceed]("proceed"), aggregate.Accepts[giveBack]("give-back"),
	aggregate.Accepts[tooLate]("too-late"),
	aggregate.Records[begun]("begun"), aggregate.Records[lapsed]("lapsed"), aggregate.Records[paid]("paid"),
	aggregate.Records[reversed]("reversed"), aggregate.Records[over]("over"),
	aggregate.Reacts(wallets, func(e ordered, from aggregate.Origin) (string, aggregate.Command[payment]) {
		return strconv.FormatInt(e.Payment, 10), begin{Number: e.Payment, From: from.ID, To: e.To, Amount: e.Amount, Until: e.Until}
	}),
	aggregate.Ended(func(p payment) bool {
		return p.Phase == string(check.Paid) || p.Phase == string(check.Returned) || p.Phase == string(check.Refused)
	}))

func walletID(n int64) string { return fmt.Sprint("w-", n%walletCount) }

// takesNothing says of one wallet in seventeen that it refuses money.
func takesNothing(id string) bool {
	n, err := strconv.ParseInt(id[len("w-"):], 10, 64)
	return err == nil && n%17 == 0
}

// orderOf makes the order of a payment by its number. Most are small.
func orderOf(number int64, now time.Time) order {
	return order{Payment: number, To: walletID(number * 7919), Amount: 1 + number%60, Until: now.Add(paymentTime)}
}

// moneyOf tells the checker what an event means for it; false for nothing.
func moneyOf(e *persistence.Event) (check.Money, bool, error) {
	var d *aggregate.Definition
	switch e.Stream.Type {
	case wallets.Name():
		d = wallets.Definition()
	case payments.Name():
		d = payments.Definition()
	}
	if d == nil || eventsourcing.IsOutcome(e.Type) {
		return check.Money{}, false, nil
	}
	value, err := eventsourcing.DecodeEvent(d, e.Type, e.Payload)
	if err != nil {
		return check.Money{}, false, err
	}
	m := check.Money{At: e.At.UnixNano(), Wallet: e.Stream.ID}
	switch v := value.(type) {
	case ordered:
		m.Step, m.Payment, m.Amount = check.StepOrdered, v.Payment, v.Amount
		m.To = v.To
	case takenOut:
		m.Step, m.Payment, m.Amount = check.StepTaken, v.Payment, v.Amount
	case cameIn:
		m.Step, m.Payment, m.Amount = check.StepGiven, v.Payment, v.Amount
		if v.Back {
			m.Step = check.StepReturned
		}
	case over:
		m.Step, m.Wallet, m.End = check.StepOver, "", v.End
		m.Payment, err = strconv.ParseInt(e.Stream.ID, 10, 64)
	default:
		return check.Money{}, false, nil
	}
	return m, true, err
}

// paymentsPatience is how long payments may take to end after the last fault.
const paymentsPatience = 60 * time.Second

// ledger reads the payments in the log as they go on.
type ledger struct {
	read    func(cursors []persistence.Cursor) ([]persistence.Event, error)
	cursors []persistence.Cursor
	book    *check.Book
}

func newLedger(partitions int, read func([]persistence.Cursor) ([]persistence.Event, error)) *ledger {
	l := &ledger{read: read, cursors: make([]persistence.Cursor, partitions), book: check.NewBook(walletCredit)}
	for p := range l.cursors {
		l.cursors[p].Partition = persistence.Partition(p)
	}
	return l
}

// follow reads what is new.
func (l *ledger) follow() error {
	for {
		events, err := l.read(l.cursors)
		if err != nil || len(events) == 0 {
			return err
		}
		for i := range events {
			e := &events[i]
			l.cursors[e.Partition].After = e.Offset
			m, is, err := moneyOf(e)
			if err != nil {
				return err
			}
			if is {
				l.book.Add(m)
			}
		}
	}
}

// settlePayments waits until every payment has ended, and returns the book of
// them; what has not ended in time is a violation that the book finds.
func (h *harness) settlePayments(ctx context.Context) (*check.Book, error) {
	const page = 2048
	l := newLedger(h.o.partitions, func(cursors []persistence.Cursor) ([]persistence.Event, error) {
		return h.store.Tail(ctx, cursors, page)
	})
	begin := time.Now()
	for {
		if err := l.follow(); err != nil {
			return nil, fmt.Errorf("read the payments: %w", err)
		}
		open := l.book.Open()
		if open == 0 || time.Since(begin) > paymentsPatience {
			h.say("%d payments, %d of them not over after %s", l.book.Payments(), open, brief(time.Since(begin)))
			return l.book, nil
		}
		if err := pauseFor(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

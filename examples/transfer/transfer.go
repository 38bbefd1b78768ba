// Package transfer is a process manager: it takes money from one account and puts
// it into another, or back if the other refuses it.
//
//	Ordered ─▶ debiting ─ withdrawn ─▶ crediting ─ deposited ─▶ completed
//	              │ refused               │ refused, or overdue
//	              ▼                       ▼
//	            failed                 refunding ─ deposited ─▶ refunded
package transfer

import (
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/transfer/bank"
)

// Phase is where a transfer stands.
type Phase string

// The phases. The last three are ends.
const (
	Debiting  Phase = "debiting"
	Crediting Phase = "crediting"
	Refunding Phase = "refunding"
	Completed Phase = "completed"
	Failed    Phase = "failed"
	Refunded  Phase = "refunded"
)

// Transfer is the state of one transfer.
type Transfer struct {
	ID, From, To string
	Cents        int64
	Phase        Phase
	Overdue      bool
}

// Event happens to a transfer.
type Event = aggregate.Event[Transfer]

// Begin is the first input, caused by the order.
type Begin struct {
	ID, From, To string
	Cents        int64
	Until        time.Time
}

// Decide implements aggregate.Command.
func (c Begin) Decide(t Transfer) ([]Event, error) {
	if t.Phase != "" {
		return nil, nil // another order has taken the name
	}
	return []Event{Begun(c)}, nil
}

// Begun withdraws, and sets the time by which that must be done.
type Begun struct {
	ID, From, To string
	Cents        int64
	Until        time.Time
}

// Evolve implements aggregate.Event.
func (e Begun) Evolve(t *Transfer) {
	*t = Transfer{ID: e.ID, From: e.From, To: e.To, Cents: e.Cents, Phase: Debiting}
}

// Sends implements aggregate.Sender.
func (e Begun) Sends() []aggregate.Outgoing[Transfer] {
	return []aggregate.Outgoing[Transfer]{
		aggregate.To[Transfer](bank.Accounts, e.From, bank.Withdraw{Cents: e.Cents, Reason: e.ID}).
			OnDone(Debit{}).OnRejected(refuse),
	}
}

// Timers implements aggregate.Scheduler.
func (e Begun) Timers() []aggregate.Timer[Transfer] {
	return []aggregate.Timer[Transfer]{{Name: "until", Due: e.Until, Command: Expire{}}}
}

func refuse(r *aggregate.Rejection) aggregate.Command[Transfer] { return Refuse{Code: r.Code} }

// Expire is sent by the timer: it is too late to begin the credit.
type Expire struct{}

// Decide implements aggregate.Command.
func (Expire) Decide(t Transfer) ([]Event, error) {
	if t.Phase != Debiting || t.Overdue {
		return nil, nil
	}
	return []Event{Expired{}}, nil
}

// Expired lets the money go back as soon as it has come.
type Expired struct{}

// Evolve implements aggregate.Event.
func (Expired) Evolve(t *Transfer) { t.Overdue = true }

// Debit is what follows on the withdrawal.
type Debit struct{}

// Decide implements aggregate.Command.
func (Debit) Decide(t Transfer) ([]Event, error) {
	switch {
	case t.Phase != Debiting:
		return nil, nil
	case t.Overdue:
		return []Event{Reversed{ID: t.ID, From: t.From, Cents: t.Cents, Code: "overdue"}}, nil
	}
	return []Event{Debited{ID: t.ID, To: t.To, Cents: t.Cents}}, nil
}

// Debited deposits.
type Debited struct {
	ID, To string
	Cents  int64
}

// Evolve implements aggregate.Event.
func (Debited) Evolve(t *Transfer) { t.Phase = Crediting }

// Cancels implements aggregate.Canceler.
func (Debited) Cancels() []string { return []string{"until"} }

// Sends implements aggregate.Sender.
func (e Debited) Sends() []aggregate.Outgoing[Transfer] {
	return []aggregate.Outgoing[Transfer]{
		aggregate.To[Transfer](bank.Accounts, e.To, bank.Deposit{Cents: e.Cents, Reason: e.ID}).
			OnDone(Finish{}).OnRejected(refuse),
	}
}

// Refuse is what follows when an account said no.
type Refuse struct{ Code string }

// Decide implements aggregate.Command.
func (c Refuse) Decide(t Transfer) ([]Event, error) {
	switch t.Phase {
	case Debiting:
		return []Event{GivenUp(c)}, nil
	case Crediting:
		return []Event{Reversed{ID: t.ID, From: t.From, Cents: t.Cents, Code: c.Code}}, nil
	}
	return nil, nil
}

// GivenUp ends a transfer of which nothing has happened.
type GivenUp struct{ Code string }

// Evolve implements aggregate.Event.
func (GivenUp) Evolve(t *Transfer) { t.Phase = Failed }

// Cancels implements aggregate.Canceler.
func (GivenUp) Cancels() []string { return []string{"until"} }

// Reversed sends the money back. A refund is not refused: nobody expects it.
type Reversed struct {
	ID, From string
	Cents    int64
	Code     string
}

// Evolve implements aggregate.Event.
func (Reversed) Evolve(t *Transfer) { t.Phase = Refunding }

// Sends implements aggregate.Sender.
func (e Reversed) Sends() []aggregate.Outgoing[Transfer] {
	return []aggregate.Outgoing[Transfer]{
		aggregate.To[Transfer](bank.Accounts, e.From, bank.Deposit{Cents: e.Cents, Reason: e.ID, Refund: true}).OnDone(Finish{}),
	}
}

// Finish is what follows on the last deposit.
type Finish struct{}

// Decide implements aggregate.Command.
func (Finish) Decide(t Transfer) ([]Event, error) {
	switch t.Phase {
	case Crediting:
		return []Event{Done{Phase: Completed}}, nil
	case Refunding:
		return []Event{Done{Phase: Refunded}}, nil
	}
	return nil, nil
}

// Done ends a transfer.
type Done struct{ Phase Phase }

// Evolve implements aggregate.Event.
func (e Done) Evolve(t *Transfer) { t.Phase = e.Phase }

// Status reads a transfer.
type Status struct{}

// Answer implements aggregate.Query.
func (Status) Answer(t Transfer) (Transfer, error) { return t, nil }

// Transfers is the type.
var Transfers = aggregate.Define("bank-transfer",
	aggregate.Accepts[Begin]("begin"), aggregate.Accepts[Debit]("debit"), aggregate.Accepts[Refuse]("refuse"),
	aggregate.Accepts[Finish]("finish"), aggregate.Accepts[Expire]("expire"),
	aggregate.Records[Begun]("begun"), aggregate.Records[Debited]("debited"), aggregate.Records[GivenUp]("given-up"),
	aggregate.Records[Reversed]("reversed"), aggregate.Records[Expired]("expired"), aggregate.Records[Done]("done"),
	aggregate.Answers[Status]("status"),
	aggregate.Reacts(bank.Accounts, func(e bank.Ordered, from aggregate.Origin) (string, aggregate.Command[Transfer]) {
		return e.Transfer, Begin{ID: e.Transfer, From: from.ID, To: e.To, Cents: e.Cents, Until: e.Until}
	}),
	aggregate.Ended(func(t Transfer) bool {
		return t.Phase == Completed || t.Phase == Failed || t.Phase == Refunded
	}))

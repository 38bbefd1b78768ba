// Package bank keeps accounts. It knows nothing of transfers but that somebody
// may order one.
package bank

import (
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Account is the state of an account, which exists from its first deposit.
type Account struct {
	Cents  int64
	Closed bool
}

// Event happens to an account.
type Event = aggregate.Event[Account]

// What an account says no to.
var (
	ErrInsufficientFunds = aggregate.Reject("insufficient-funds", "the balance does not suffice")
	ErrClosed            = aggregate.Reject("account-closed", "the account is closed")
)

// Deposit puts money in. A refund is taken even by a closed account.
type Deposit struct {
	Cents  int64
	Reason string
	Refund bool
}

// Decide implements aggregate.Command.
func (c Deposit) Decide(a Account) ([]Event, error) {
	if a.Closed && !c.Refund {
		return nil, ErrClosed
	}
	return []Event{Deposited{Cents: c.Cents, Reason: c.Reason}}, nil
}

// Deposited is the event.
type Deposited struct {
	Cents  int64
	Reason string
}

// Evolve implements aggregate.Event.
func (e Deposited) Evolve(a *Account) { a.Cents += e.Cents }

// Withdraw takes money out.
type Withdraw struct {
	Cents  int64
	Reason string
}

// Decide implements aggregate.Command.
func (c Withdraw) Decide(a Account) ([]Event, error) {
	switch {
	case a.Closed:
		return nil, ErrClosed
	case c.Cents > a.Cents:
		return nil, ErrInsufficientFunds
	}
	return []Event{Withdrawn(c)}, nil
}

// Withdrawn is the event.
type Withdrawn struct {
	Cents  int64
	Reason string
}

// Evolve implements aggregate.Event.
func (e Withdrawn) Evolve(a *Account) { a.Cents -= e.Cents }

// Order asks for a transfer to another account, which is to begin its credit
// before a moment.
type Order struct {
	Transfer string
	To       string
	Cents    int64
	Until    time.Time
}

// Decide implements aggregate.Command.
func (c Order) Decide(a Account) ([]Event, error) {
	if a.Closed {
		return nil, ErrClosed
	}
	return []Event{Ordered(c)}, nil
}

// Ordered is the event. Whoever transfers money hears it.
type Ordered struct {
	Transfer string
	To       string
	Cents    int64
	Until    time.Time
}

// Evolve implements aggregate.Event.
func (Ordered) Evolve(*Account) {}

// Close lets the account take part in nothing any more but refunds.
type Close struct{}

// Decide implements aggregate.Command.
func (Close) Decide(a Account) ([]Event, error) {
	if a.Closed {
		return nil, nil
	}
	return []Event{Closed{}}, nil
}

// Closed is the event.
type Closed struct{}

// Evolve implements aggregate.Event.
func (Closed) Evolve(a *Account) { a.Closed = true }

// Balance reads the cents.
type Balance struct{}

// Answer implements aggregate.Query.
func (Balance) Answer(a Account) (int64, error) { return a.Cents, nil }

// Accounts is the type.
var Accounts = aggregate.Define("bank-account",
	aggregate.Accepts[Deposit]("deposit"), aggregate.Accepts[Withdraw]("withdraw"),
	aggregate.Accepts[Order]("order"), aggregate.Accepts[Close]("close"),
	aggregate.Records[Deposited]("deposited"), aggregate.Records[Withdrawn]("withdrawn"),
	aggregate.Records[Ordered]("ordered"), aggregate.Records[Closed]("closed"),
	aggregate.Answers[Balance]("balance"))

// Package misuse is what the compiler refuses. A comment on a line says what it
// says about that line; the test compiles this file and compares.
package misuse

import (
	"context"

	"github.com/ingrain-go/ingrain/aggregate"
)

type account struct{ Cents int64 }

type withdraw struct{ Cents int64 }

func (c withdraw) Decide(a account) ([]aggregate.Event[account], error) {
	return []aggregate.Event[account]{withdrawn(c)}, nil
}

type withdrawn struct{ Cents int64 }

func (e withdrawn) Evolve(a *account) { a.Cents -= e.Cents }

// forgotten has no Evolve.
type forgotten struct{}

// readOnly evolves a copy of the state.
type readOnly struct{}

func (readOnly) Evolve(a account) {}

// deposited evolves by pointer.
type deposited struct{ Cents int64 }

func (e *deposited) Evolve(a *account) { a.Cents += e.Cents }

type balance struct{}

func (balance) Answer(a account) (int64, error) { return a.Cents, nil }

type order struct{ Open bool }

type place struct{}

func (place) Decide(order) ([]aggregate.Event[order], error) {
	return []aggregate.Event[order]{withdrawn{}}, nil // ERROR "withdrawn does not implement aggregate.Event\[order\]"
}

type placed struct{}

func (placed) Evolve(o *order) { o.Open = true }

type isOpen struct{}

func (isOpen) Answer(o order) (bool, error) { return o.Open, nil }

var accounts = aggregate.Define("account",
	aggregate.Accepts[withdraw]("withdraw"),
	aggregate.Records[withdrawn]("withdrawn"),
	aggregate.Records[*deposited]("deposited"),
	aggregate.Answers[balance]("balance"),
)

var (
	_ = aggregate.Records[forgotten, account]("forgotten") // ERROR "forgotten does not (implement|satisfy) .*missing method Evolve"
	_ = aggregate.Records[readOnly, account]("read-only")  // ERROR "wrong type for method Evolve"
	_ = aggregate.Records[deposited, account]("deposited") // ERROR "method Evolve has pointer receiver"
	_ = aggregate.Accepts[balance, account]("balance")     // ERROR "missing method Decide"
	_ = aggregate.Answers[withdraw, account, int64]("w")   // ERROR "missing method Answer"
	_ = aggregate.Define("account",
		aggregate.Records[withdrawn]("withdrawn"),
		aggregate.Records[placed]("placed"), // ERROR "does not match|cannot use"
	)
	_ = aggregate.Records[withdrawn]("withdrawn", aggregate.From(1, func() withdrawn { return withdrawn{} })) // ERROR "does not match"
)

func use(ctx context.Context, gateway aggregate.Gateway) {
	alice := accounts.Ref(gateway, "alice")
	_, _ = alice.Send(ctx, place{})                // ERROR "place does not implement aggregate.Command\[account\]"
	_, _ = alice.Send(ctx, balance{})              // ERROR "missing method Decide"
	_, _ = alice.Send(ctx, withdrawn{})            // ERROR "missing method Decide"
	_, _ = aggregate.Ask(ctx, alice, isOpen{})     // ERROR "does not match|wrong type for method Answer"
	_, _, _ = aggregate.Do(ctx, alice, withdraw{}) // ERROR "withdraw.* does not match inferred type aggregate.CommandQuery"
	var name string
	name, _ = aggregate.Ask(ctx, alice, balance{})               // ERROR "cannot (use|assign).*string"
	_, _ = aggregate.Ask[account, string](ctx, alice, balance{}) // ERROR "wrong type for method Answer"
	_ = name
}

package aggregate_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

type account struct{ Cents int64 }
type event = aggregate.Event[account]

type withdraw struct{ Cents int64 }

func (c withdraw) Decide(a account) ([]event, error) {
	if c.Cents > a.Cents {
		return nil, errInsufficientFunds
	}
	return []event{withdrawn(c)}, nil
}

// Answer makes withdraw a command that answers.
func (withdraw) Answer(a account) (int64, error) { return a.Cents, nil }

var errInsufficientFunds = aggregate.Reject("insufficient-funds", "insufficient funds")

type withdrawn struct{ Cents int64 }

func (e withdrawn) Evolve(a *account) { a.Cents -= e.Cents }

type deposited struct{ Cents int64 }

func (e *deposited) Evolve(a *account) { a.Cents += e.Cents }

type depositedV1 struct{ Dollars int64 }

type balance struct{}

func (balance) Answer(a account) (int64, error) { return a.Cents, nil }

var accounts = aggregate.Define("account",
	aggregate.Accepts[withdraw]("withdraw"),
	aggregate.Records[withdrawn]("withdrawn"),
	aggregate.Records[*deposited]("deposited", aggregate.From(1, func(v1 depositedV1) *deposited {
		return &deposited{Cents: v1.Dollars * 100}
	})),
	aggregate.Answers[balance]("balance"),
	aggregate.Reads[account](aggregate.Strict),
)

// inMemory is the smallest gateway: one instance, no store.
type inMemory struct{ instance aggregate.Instance }

func (g inMemory) Deliver(_ context.Context, r *aggregate.Request) (aggregate.Response, error) {
	response := aggregate.Response{Receipt: aggregate.Receipt{Command: r.Command}}
	if r.Message.Kind() == aggregate.KindCommand {
		events, err := g.instance.Decide(r.Value)
		if err != nil {
			return response, aggregate.AsRejection(err)
		}
		for _, e := range events {
			g.instance.Evolve(e)
		}
		response.Receipt.Events = len(events)
	}
	if r.Answer {
		var err error
		if response.Answer, err = g.instance.Answer(r.Message, r.Value); err != nil {
			return response, aggregate.AsRejection(err)
		}
	}
	return response, nil
}

func TestTypesAreInferredFromTheParts(t *testing.T) {
	require.NoError(t, aggregate.Validate(accounts))
	ctx, instance := t.Context(), accounts.Definition().NewInstance()
	instance.Evolve(&deposited{Cents: 700})
	alice := accounts.Ref(inMemory{instance}, "alice")

	receipt, err := alice.Send(ctx, withdraw{Cents: 500})
	require.NoError(t, err)
	require.Equal(t, 1, receipt.Events)

	cents, err := aggregate.Ask(ctx, alice, balance{})
	require.NoError(t, err)
	require.Equal(t, int64(200), cents)

	cents, _, err = aggregate.Do(ctx, alice, withdraw{Cents: 150})
	require.NoError(t, err)
	require.Equal(t, int64(50), cents)

	_, err = alice.Send(ctx, withdraw{Cents: 51})
	require.ErrorIs(t, err, errInsufficientFunds)
	require.Equal(t, aggregate.KindRejected, aggregate.KindOf(err))
}

package aggregatetest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

type Account struct {
	Cents   int64
	History []int64
}

type Event = aggregate.Event[Account]

type Deposit struct{ Cents int64 }

func (c Deposit) Decide(Account) ([]Event, error) {
	if c.Cents == 0 {
		return nil, nil
	}
	return []Event{&Deposited{c.Cents}}, nil
}

type Withdraw struct{ Cents int64 }

func (c Withdraw) Decide(a Account) ([]Event, error) {
	if c.Cents > a.Cents {
		return nil, ErrInsufficientFunds.With("account", "current")
	}
	return []Event{Withdrawn(c)}, nil
}

// Answer makes Withdraw a command that answers.
func (Withdraw) Answer(a Account) (int64, error) { return a.Cents, nil }

var (
	ErrInsufficientFunds = aggregate.Reject("insufficient-funds", "insufficient funds")
	ErrNoHistory         = aggregate.Reject("no-history", "nothing has happened yet")
)

type Deposited struct{ Cents int64 }

func (e *Deposited) Evolve(a *Account) { a.add(e.Cents) }

type depositedV1 struct{ Dollars int64 }

type depositedV2 struct{ Amount string }

type Withdrawn struct{ Cents int64 }

func (e Withdrawn) Evolve(a *Account) { a.add(-e.Cents) }

func (a *Account) add(cents int64) {
	a.Cents += cents
	a.History = append(a.History, cents)
}

type Balance struct{}

func (Balance) Answer(a Account) (int64, error) { return a.Cents, nil }

type History struct{}

func (History) Answer(a Account) ([]int64, error) {
	if len(a.History) == 0 {
		return nil, ErrNoHistory
	}
	return append([]int64(nil), a.History...), nil
}

var Accounts = aggregate.Define("account",
	aggregate.Accepts[Deposit]("deposit"),
	aggregate.Accepts[Withdraw]("withdraw"),
	aggregate.Records[*Deposited]("deposited",
		aggregate.From(1, func(v1 depositedV1) *Deposited { return &Deposited{v1.Dollars * 100} }),
		aggregate.From(2, func(v2 depositedV2) *Deposited { return &Deposited{int64(len(v2.Amount))} })),
	aggregate.Records[Withdrawn]("withdrawn"),
	aggregate.Answers[Balance]("balance"),
	aggregate.Answers[History]("history"),
)

// A domain test reads like a story.
func ExampleFor() {
	test := func(t *testing.T) { // a test function of your own
		account := aggregatetest.For(t, Accounts).
			Given(&Deposited{700}).
			When(Withdraw{500}).Then(Withdrawn{500}).
			When(Withdraw{500}).ThenRejected(ErrInsufficientFunds).
			When(Deposit{0}).ThenNothing()

		aggregatetest.Ask(account, Balance{}).Answers(200)
		aggregatetest.Do(account, Withdraw{150}).Answers(50).Then(Withdrawn{150})
	}
	_ = test
}

func TestAStoryOfAnAccount(t *testing.T) {
	account := aggregatetest.For(t, Accounts).
		Given(&Deposited{700}).
		When(Withdraw{500}).Then(Withdrawn{500}).
		State(func(a Account) { require.Equal(t, int64(200), a.Cents) }).
		When(Withdraw{500}).ThenRejected(ErrInsufficientFunds).
		When(Withdraw{500}).ThenRejected(ErrInsufficientFunds.With("account", "current")).
		When(Deposit{0}).ThenNothing()
	require.Equal(t, aggregate.Version(2), account.Version())

	aggregatetest.Ask(account, Balance{}).Answers(200).
		When(Deposit{50}).Then(&Deposited{50})
	aggregatetest.Do(account, Withdraw{150}).Answers(100).Then(Withdrawn{150})
	aggregatetest.Do(account, Withdraw{101}).ThenRejected(ErrInsufficientFunds)
	aggregatetest.Ask(account, History{}).AnswersWith(func(h []int64) {
		require.Equal(t, []int64{700, -500, 50, -150}, h)
	})
}

func TestOldFormsOfAnEventAreRead(t *testing.T) {
	aggregatetest.For(t, Accounts).
		GivenStored("deposited", 1, []byte(`{"Dollars":7}`)).
		GivenStored("deposited", 2, []byte(`{"Amount":"xxx"}`)).
		GivenStored("deposited", 3, []byte(`{"Cents":5}`)).
		State(func(a Account) { require.Equal(t, []int64{700, 3, 5}, a.History) }).
		When(Withdraw{708}).Then(Withdrawn{708})
}

func TestAQueryMayRefuse(t *testing.T) {
	aggregatetest.Ask(aggregatetest.For(t, Accounts), History{}).Rejected(ErrNoHistory)
}

package transfer

import (
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
	"github.com/ingrain-go/ingrain/examples/transfer/bank"
)

var (
	until    = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	ordered  = bank.Ordered{Transfer: "t1", To: "bob", Cents: 5, Until: until}
	begun    = Begun{ID: "t1", From: "alice", To: "bob", Cents: 5, Until: until}
	debited  = Debited{ID: "t1", To: "bob", Cents: 5}
	withdraw = aggregate.To[Transfer](bank.Accounts, "alice", bank.Withdraw{Cents: 5, Reason: "t1"})
	deposit  = aggregate.To[Transfer](bank.Accounts, "bob", bank.Deposit{Cents: 5, Reason: "t1"})
	refund   = aggregate.To[Transfer](bank.Accounts, "alice", bank.Deposit{Cents: 5, Reason: "t1", Refund: true})
)

func TestMoneyMovesWhenBothAgree(t *testing.T) {
	s := aggregatetest.For(t, Transfers)
	aggregatetest.Hear(s, bank.Accounts, "alice", ordered).Reaches("t1").
		Sends(withdraw).SetsTimers(aggregate.Timer[Transfer]{Name: "until", Due: until, Command: Expire{}}).Then(begun).
		WhenDone().Sends(deposit).CancelsTimers("until").Then(debited).Ended(false).
		WhenDone().Sends().Then(Done{Phase: Completed}).Ended(true).
		When(Expire{}).ThenRejected(aggregate.ErrEnded)
}

func TestNothingHappensWhenTheFirstRefuses(t *testing.T) {
	aggregatetest.For(t, Transfers).Given(begun).
		WhenRejected(bank.ErrInsufficientFunds).Sends().Then(GivenUp{Code: "insufficient-funds"}).Ended(true)
}

func TestMoneyGoesBackWhenTheSecondRefuses(t *testing.T) {
	aggregatetest.For(t, Transfers).Given(begun).
		WhenDone().Then(debited).
		WhenRejected(bank.ErrClosed).Sends(refund).Then(Reversed{ID: "t1", From: "alice", Cents: 5, Code: "account-closed"}).
		WhenDone().Then(Done{Phase: Refunded}).Ended(true)
}

func TestMoneyGoesBackWhenItIsTooLate(t *testing.T) {
	aggregatetest.For(t, Transfers).Given(begun).
		When(Expire{}).Sends().Then(Expired{}).
		When(Expire{}).ThenNothing().
		WhenDone().Sends(refund).Then(Reversed{ID: "t1", From: "alice", Cents: 5, Code: "overdue"}).
		WhenDone().Then(Done{Phase: Refunded}).Ended(true)
}

func TestAnOrderUnderATakenNameIsNone(t *testing.T) {
	s := aggregatetest.For(t, Transfers).Given(begun)
	aggregatetest.Hear(s, bank.Accounts, "carol", ordered).Sends().ThenNothing()
}

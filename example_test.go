package ingrain_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
	"github.com/ingrain-go/ingrain/persistence/postgres"
)

// The documents show stretches of this file; docs_test.go compares them.

type Account struct{ Cents int64 }

type AccountEvent = aggregate.Event[Account]

type Deposit struct {
	Cents  int64
	Source string
}

func (c Deposit) Decide(Account) ([]AccountEvent, error) {
	return []AccountEvent{Deposited(c)}, nil
}

type Withdraw struct{ Cents int64 }

func (c Withdraw) Decide(a Account) ([]AccountEvent, error) {
	if c.Cents > a.Cents {
		return nil, ErrInsufficientFunds.With("missing", fmt.Sprint(c.Cents-a.Cents))
	}
	return []AccountEvent{Withdrawn(c)}, nil
}

// Answer makes Withdraw a command that answers, on the state it leaves.
func (Withdraw) Answer(a Account) (int64, error) { return a.Cents, nil }

var ErrInsufficientFunds = aggregate.Reject("insufficient-funds", "insufficient funds")

// Deposited is the third form of this event.
type Deposited struct {
	Cents  int64
	Source string
}

func (e Deposited) Evolve(a *Account) { a.Cents += e.Cents }

type depositedV1 struct{ Dollars int64 }

type depositedV2 struct{ Cents int64 }

type Withdrawn struct{ Cents int64 }

func (e Withdrawn) Evolve(a *Account) { a.Cents -= e.Cents }

type Balance struct{}

func (Balance) Answer(a Account) (int64, error) { return a.Cents, nil }

var Accounts = aggregate.Define("account",
	aggregate.Accepts[Deposit]("deposit"),
	aggregate.Accepts[Withdraw]("withdraw"),
	aggregate.Records[Deposited]("deposited", // new ones are stored as "deposited/3"
		aggregate.From(1, func(v1 depositedV1) depositedV2 { return depositedV2{Cents: 100 * v1.Dollars} }),
		aggregate.From(2, func(v2 depositedV2) Deposited { return Deposited{Cents: v2.Cents, Source: "counter"} })),
	aggregate.Records[Withdrawn]("withdrawn"),
	aggregate.Answers[Balance]("balance"),
	aggregate.Snapshots[Account](aggregate.SnapshotPolicy{Every: 100, Schema: 2}),
)

func TestEveryFormOfDepositedIsRead(t *testing.T) {
	for version, cents := range map[int]int64{1: 700, 2: 750, 3: 900} {
		stored, err := os.ReadFile(fmt.Sprintf("testdata/account/deposited-%d.json", version))
		require.NoError(t, err)
		account := aggregatetest.For(t, Accounts).GivenStored("deposited", version, stored)
		aggregatetest.Ask(account, Balance{}).Answers(cents)
	}
}

func TestAnAccountIsNeverOverdrawn(t *testing.T) {
	account := aggregatetest.For(t, Accounts).
		Given(Deposited{Cents: 700, Source: "wire"}).
		When(Withdraw{Cents: 500}).Then(Withdrawn{Cents: 500}).
		When(Withdraw{Cents: 500}).ThenRejected(ErrInsufficientFunds.With("missing", "300"))

	aggregatetest.Ask(account, Balance{}).Answers(200)
	aggregatetest.Do(account, Withdraw{Cents: 150}).Answers(50).Then(Withdrawn{Cents: 150})
}

func Example() {
	ctx := context.Background()
	node, _ := exampleNode()
	alice := Accounts.Ref(node, "alice")

	receipt, _ := alice.Send(ctx, Deposit{Cents: 700, Source: "wire"})
	fmt.Println("version", receipt.Version, "duplicate", receipt.Duplicate)

	left, _, _ := aggregate.Do(ctx, alice, Withdraw{Cents: 500})
	fmt.Println("left", left)

	_, err := alice.Send(ctx, Withdraw{Cents: 500})
	fmt.Println(aggregate.KindOf(err), errors.Is(err, ErrInsufficientFunds), cluster.SafeToRetry(err))

	_, err = alice.Send(ctx, Deposit{Cents: 1}, aggregate.ExpectVersion(1))
	fmt.Println(errors.Is(err, aggregate.ErrVersion))
	// Output:
	// version 1 duplicate false
	// left 200
	// rejected true false
	// true
}

// Pay shows what a caller does with each kind of error.
func Pay(ctx context.Context, account aggregate.Ref[Account], id aggregate.CommandID, cents int64) (string, error) {
	_, err := account.Send(ctx, Withdraw{Cents: cents}, aggregate.WithCommandID(id))
	switch aggregate.KindOf(err) {
	case aggregate.KindNone:
		return "paid", nil
	case aggregate.KindRejected: // the domain said no, and nothing happened
		return "refused: " + err.Error(), nil
	case aggregate.KindNotDone: // nothing happened; it may be tried later, even under another id
		return "", err
	case aggregate.KindUnknown: // keep the id, and ask again with it: it is paid once at most
		return "", err
	default: // KindInvalid: the request will never be right; a mistake in the program
		return "", err
	}
}

func TestAPaymentIsMadeOnceHoweverOftenItIsAsked(t *testing.T) {
	node, _ := exampleNode()
	bob := Accounts.Ref(node, "bob")
	_, err := bob.Send(t.Context(), Deposit{Cents: 700})
	require.NoError(t, err)
	id := aggregate.NewCommandID()
	for range 3 {
		said, err := Pay(t.Context(), bob, id, 500)
		require.NoError(t, err)
		require.Equal(t, "paid", said)
	}
	said, err := Pay(t.Context(), bob, aggregate.NewCommandID(), 500)
	require.NoError(t, err)
	require.Equal(t, "refused: insufficient funds", said)
	balance, err := aggregate.Ask(t.Context(), bob, Balance{})
	require.NoError(t, err)
	require.EqualValues(t, 200, balance)
}

func TestMetadataIsStoredWithTheEvents(t *testing.T) {
	node, store := exampleNode()
	ctx := aggregate.WithMetadata(t.Context(), aggregate.Metadata{User: "bob", Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
	_, err := Accounts.Ref(node, "carol").Send(ctx, Deposit{Cents: 1})
	require.NoError(t, err)

	events, err := store.Read(ctx, persistence.Stream{Type: "account", ID: "carol"}, 0, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Contains(t, string(events[0].Metadata), `"user":"bob"`)
	require.Equal(t, "deposited/3", events[0].Type)
}

func TestAnAppendWhoseAnswerIsLostHasOneEffect(t *testing.T) {
	node, store := exampleNode()
	var lost sync.Once
	store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		fault := persistencetest.Fault{}
		lost.Do(func() { fault.Outcome = persistencetest.LostAnswer })
		return fault
	})
	defer store.Heal()

	dave := Accounts.Ref(node, "dave")
	before := node.Stats().Host.Unknown
	_, err := dave.Send(t.Context(), Deposit{Cents: 700})
	require.NoError(t, err)
	require.Equal(t, before+1, node.Stats().Host.Unknown)
	balance, err := aggregate.Ask(t.Context(), dave, Balance{})
	require.NoError(t, err)
	require.EqualValues(t, 700, balance)
}

// Serve runs a node until ctx ends, and hands its partitions over before it
// goes.
func Serve(ctx context.Context, dsn, listen string) (err error) {
	store, err := postgres.Open(ctx, postgres.Config{DSN: dsn})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	node, err := cluster.Start(ctx, &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{Accounts}, Listen: listen,
	})
	if err != nil {
		return err
	}

	<-ctx.Done() // SIGTERM, by signal.NotifyContext
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return node.Stop(stopping)
}

func TestServeSaysWhatIsWrongWithTheAddress(t *testing.T) {
	err := Serve(t.Context(), "postgres://localhost:99999/x", "127.0.0.1:0")
	require.ErrorAs(t, err, new(*persistence.SetupError))
}

// exampleNode is the node of all examples and tests of this package: the race
// detector allows one in a process, see CONTRIBUTING.md. TestMain stops it.
var exampleNode = sync.OnceValues(func() (*cluster.Node, *persistencetest.Faulty) {
	mem, err := memory.Open(memory.Config{})
	if err != nil {
		panic(err)
	}
	store := persistencetest.WithFaults(mem)
	node, err := cluster.Start(context.Background(), &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{Accounts}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	stopExampleNode = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return errors.Join(node.Stop(ctx), store.Close())
	}
	return node, store
})

var stopExampleNode = func() error { return nil }

func TestMain(m *testing.M) {
	code := m.Run()
	if err := stopExampleNode(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

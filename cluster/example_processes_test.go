package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/examples/transfer"
	"github.com/ingrain-go/ingrain/examples/transfer/bank"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

func startBank(ctx context.Context, store persistence.Store) (*cluster.Node, error) {
	return cluster.Start(ctx, &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{bank.Accounts, transfer.Transfers},
	})
}

// listStuck prints what waits for an operator.
func listStuck(ctx context.Context, node *cluster.Node) error {
	var after persistence.DeadLetterKey
	for {
		letters, err := node.ParkedProcesses(ctx, "bank-transfer", after, 100)
		if err != nil || len(letters) == 0 {
			return err
		}
		for _, l := range letters {
			if l.Attempts > 0 { // the others stand behind it
				fmt.Println(l.Sequence, l.Type, l.Cause)
			}
			after = l.DeadLetterKey
		}
	}
}

func resumeOrSkip(ctx context.Context, node *cluster.Node) error {
	// the program was mended: try it again
	err := node.ResumeProcess(ctx, "bank-transfer", "sends of bank-transfer/t1")
	if err != nil { // it will never work: count it as rejected, and let the process compensate
		err = node.SkipProcess(ctx, "bank-transfer", "sends of bank-transfer/t1")
	}
	return err
}

// unfinished lists the transfers that have begun and not ended.
func unfinished(ctx context.Context, node *cluster.Node) (ids []string, err error) {
	for id, err := range node.OpenProcesses(ctx, transfer.Transfers) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func Example_processes() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := payOnce(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: alice has 70, bob has 30, 0 transfers are open
}

func payOnce(ctx context.Context) (err error) {
	store, err := memory.Open(memory.Config{})
	if err != nil {
		return err
	}
	node, err := startBank(ctx, store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Stop(ctx), store.Close()) }()
	alice, bob := bank.Accounts.Ref(node, "alice"), bank.Accounts.Ref(node, "bob")
	if _, err := alice.Send(ctx, bank.Deposit{Cents: 100}); err != nil {
		return err
	}
	if _, err := alice.Send(ctx, bank.Order{Transfer: "t1", To: "bob", Cents: 30, Until: time.Now().Add(time.Minute)}); err != nil {
		return err
	}
	for {
		t, err := aggregate.Ask(ctx, transfer.Transfers.Ref(node, "t1"), transfer.Status{})
		if err != nil {
			return err
		}
		if t.Phase == transfer.Completed {
			break
		}
	}
	a, errA := aggregate.Ask(ctx, alice, bank.Balance{})
	b, errB := aggregate.Ask(ctx, bob, bank.Balance{})
	open, errOpen := unfinished(ctx, node)
	fmt.Printf("alice has %d, bob has %d, %d transfers are open\n", a, b, len(open))
	return errors.Join(errA, errB, errOpen)
}

var _ = []any{listStuck, resumeOrSkip}

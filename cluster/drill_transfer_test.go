package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/examples/transfer"
	"github.com/ingrain-go/ingrain/examples/transfer/bank"
)

// wish is what the ops of the bank are asked to do.
type wish struct {
	Account string
	Order   bank.Order
	Cents   int64
	Command aggregate.CommandID
}

// bankProgram is a node with accounts and the process manager of transfers.
var bankProgram = clustertest.Program{
	Name:       "bank",
	Aggregates: []aggregate.Any{bank.Accounts, transfer.Transfers},
	Ops: map[string]clustertest.Op{
		"deposit": clustertest.Do(func(ctx context.Context, n *cluster.Node, w wish) (aggregate.Receipt, error) {
			return bank.Accounts.Ref(n, w.Account).Send(ctx, bank.Deposit{Cents: w.Cents}, aggregate.WithCommandID(w.Command))
		}),
		"order": clustertest.Do(func(ctx context.Context, n *cluster.Node, w wish) (aggregate.Receipt, error) {
			return bank.Accounts.Ref(n, w.Account).Send(ctx, w.Order, aggregate.WithCommandID(w.Command))
		}),
		"close": clustertest.Do(func(ctx context.Context, n *cluster.Node, w wish) (aggregate.Receipt, error) {
			return bank.Accounts.Ref(n, w.Account).Send(ctx, bank.Close{}, aggregate.WithCommandID(w.Command))
		}),
		"balance": clustertest.Do(func(ctx context.Context, n *cluster.Node, id string) (int64, error) {
			return aggregate.Ask(ctx, bank.Accounts.Ref(n, id), bank.Balance{})
		}),
		"status": clustertest.Do(func(ctx context.Context, n *cluster.Node, id string) (transfer.Transfer, error) {
			return aggregate.Ask(ctx, transfer.Transfers.Ref(n, id), transfer.Status{})
		}),
	},
}

// TestDrillTransfers kills two of four nodes, one after the other, while money is
// on its way between accounts.
func TestDrillTransfers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, where clustertest.Store) {
		const accounts, transfers, money = 20, 200, 100
		settings := spec(t, where)
		settings.Program = bankProgram.Name
		nodes := clustertest.LaunchAll(t, 4, settings)
		settled(t, nodes...)
		alive := balance(nodes...)
		ask := func(op string, w wish) error {
			ctx := within(t, clientPatience)
			w.Command = aggregate.NewCommandID()
			for {
				attempt, cancel := context.WithTimeout(ctx, attemptPatience)
				_, err := alive.call(attempt, op, w, nil)
				cancel()
				switch kind := aggregate.KindOf(err); {
				case err == nil, kind == aggregate.KindRejected, kind == aggregate.KindInvalid, ctx.Err() != nil:
					return err
				}
			}
		}
		for i := range accounts {
			require.NoError(t, ask("deposit", wish{Account: fmt.Sprint("a", i), Cents: money}))
		}
		require.NoError(t, ask("close", wish{Account: "a0"}))
		var clients sync.WaitGroup
		begun := make(chan struct{}, transfers)
		for c := range 10 {
			clients.Go(func() {
				for i := c; i < transfers; i += 10 {
					o := bank.Order{Transfer: fmt.Sprint("t", i), To: fmt.Sprint("a", (i*7)%accounts), Cents: int64(1 + i%45), Until: time.Now().Add(time.Hour)}
					if err := ask("order", wish{Account: fmt.Sprint("a", 1+i%(accounts-1)), Order: o}); err != nil {
						t.Errorf("order %s: %v", o.Transfer, err)
					}
					begun <- struct{}{}
				}
			})
		}
		for _, victim := range nodes[:2] {
			for range transfers / 4 {
				<-begun
			}
			alive.drop(victim)
			victim.Kill()
		}
		clients.Wait()
		store, err := where.Open(within(t, patience))
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		ctx := within(t, 2*patience)
		ends := map[transfer.Phase]int{}
		for i := range transfers {
			var s transfer.Transfer
			require.Eventually(t, func() bool {
				_, err := alive.call(ctx, "status", fmt.Sprint("t", i), &s)
				return err == nil && transfer.Transfers.Definition().Ended(&s)
			}, 2*patience, 10*time.Millisecond, "transfer %d is to end", i)
			ends[s.Phase]++
		}
		t.Logf("ends: %v", ends)
		require.Len(t, ends, 3, "every end occurs")
		var total int64
		for i := range accounts {
			var cents int64
			_, err := alive.call(ctx, "balance", fmt.Sprint("a", i), &cents)
			require.NoError(t, err)
			require.GreaterOrEqual(t, cents, int64(0))
			total += cents
		}
		require.EqualValues(t, accounts*money, total, "no money comes or goes")
		moved := map[string]int{}
		reader := eventsourcing.NewReader(eventsourcing.ReaderConfig{Store: store, Aggregates: bankProgram.Aggregates})
		for e, err := range reader.All(ctx, nil, eventsourcing.Filter{Aggregates: []string{"bank-account"}}) {
			require.NoError(t, err)
			switch v := e.Value.(type) {
			case bank.Withdrawn:
				moved["out "+v.Reason]++
			case bank.Deposited:
				if v.Reason != "" {
					moved["in "+v.Reason]++
				}
			}
		}
		require.Len(t, moved, 2*(transfers-ends[transfer.Failed]))
		for what, times := range moved {
			require.Equal(t, 1, times, what)
		}
		for id, err := range eventsourcing.OpenProcesses(ctx, store, transfer.Transfers) {
			require.NoError(t, err)
			require.Fail(t, "it is listed as open", id)
		}
	})
}

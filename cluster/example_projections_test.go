package cluster_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// Guests is a read model: how often each visitor was anywhere.
type Guests struct{ Visits map[string]int }

func newGuests() *Guests { return &Guests{Visits: map[string]int{}} }

func guestsView() *eventsourcing.View[Guests] {
	return eventsourcing.NewView(eventsourcing.Settings{Name: "guests"}, newGuests,
		eventsourcing.On(visits, func(_ context.Context, g *Guests, e Visited, _ eventsourcing.Fact) error {
			g.Visits[e.Name]++
			return nil
		}))
}

// A view is on every node, in memory. Whoever has a receipt waits until the view
// has seen it, on whatever node he asks.
func ExampleWaitFor() {
	ctx := context.Background()
	store, err := memory.Open(memory.Config{Partitions: 8})
	if err != nil {
		fmt.Println(err)
		return
	}
	guests := guestsView()
	node, err := cluster.Start(ctx, &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{visits}, Projections: []eventsourcing.Projection{guests},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = node.Stop(ctx) }()

	receipt, err := visits.Ref(node, "museum").Send(ctx, Visit{Name: "bob"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := cluster.WaitFor(ctx, node, "guests", receipt); err != nil {
		fmt.Println(err)
		return
	}
	guests.Read(func(g *Guests) { fmt.Println(g.Visits["bob"]) })
	// Output: 1
}

// guestsTable is a table in the store's own database.
func guestsTable() *eventsourcing.Table {
	schema := eventsourcing.Schema{
		Create: func(ctx context.Context, tx *eventsourcing.Tx) error {
			_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+tx.Name("guests")+" (name TEXT PRIMARY KEY, visits BIGINT NOT NULL)")
			return err
		},
		Drop: func(ctx context.Context, tx *eventsourcing.Tx) error {
			_, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+tx.Name("guests"))
			return err
		},
	}
	return eventsourcing.NewTable(eventsourcing.Settings{Name: "guest-table"}, schema,
		eventsourcing.On(visits, func(ctx context.Context, tx *eventsourcing.Tx, e Visited, _ eventsourcing.Fact) error {
			_, err := tx.Exec(ctx, `INSERT INTO `+tx.Name("guests")+` AS g (name, visits) VALUES ($1, 1)
				ON CONFLICT (name) DO UPDATE SET visits = g.visits + 1`, e.Name)
			return err
		}))
}

// mailer sends mails.
type mailer interface {
	Send(ctx context.Context, id, to, text string) error
}

// thanks is a reaction: it writes to whoever was here.
func thanks(m mailer) *eventsourcing.Reaction {
	return eventsourcing.NewReaction(eventsourcing.Settings{Name: "thanks", FromNow: true, Parallel: 4}, m,
		eventsourcing.On(visits, func(ctx context.Context, m mailer, e Visited, f eventsourcing.Fact) error {
			id := fmt.Sprintf("thanks-%d-%d", f.Partition, f.Offset) // the same if it is handled again
			return m.Send(ctx, id, e.Name, "Thank you for your visit.")
		}))
}

// present is a local projection: whoever has the reply of this node sees it here.
func present(seen func(name string)) *eventsourcing.Local {
	return eventsourcing.NewLocal(eventsourcing.Settings{Name: "present"}, seen,
		eventsourcing.On(visits, func(_ context.Context, seen func(string), e Visited, _ eventsourcing.Fact) error {
			seen(e.Name)
			return nil
		}))
}

// guestBook is an inline projection: a row in the command's own transaction.
func guestBook() *eventsourcing.Inline {
	return eventsourcing.NewInline(eventsourcing.Settings{Name: "guest-book"},
		eventsourcing.Writes(visits, func(e Visited, f eventsourcing.Fact) []persistence.Statement {
			return []persistence.Statement{{
				SQL: "INSERT INTO guest_book (place, nr, name) VALUES ($1, $2, $3)", Args: []any{f.ID, int64(f.Version), e.Name},
			}}
		}))
}

// mend shows what an operator does about dead letters.
func mend(ctx context.Context, node *cluster.Node) error {
	letters, err := node.DeadLetters(ctx, "thanks", persistence.DeadLetterKey{}, 100)
	if err != nil {
		return err
	}
	for _, l := range letters {
		fmt.Println(l.Sequence, l.Partition, l.Offset, l.Attempts, l.Cause)
	}
	if err := node.RetryDeadLetters(ctx, "thanks", "visits/museum"); err != nil {
		return node.SkipDeadLetter(ctx, "thanks", "visits/museum")
	}
	return nil
}

// rebuild shows its progress.
func rebuild(ctx context.Context, node *cluster.Node) error {
	return node.Rebuild(ctx, "guest-table", func(p eventsourcing.RebuildProgress) {
		fmt.Printf("\r%d of %d", p.Done, p.Total)
	})
}

var _ = []any{guestsTable, thanks, present, guestBook, mend, rebuild}

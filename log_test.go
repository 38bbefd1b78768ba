package ingrain_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/archive"
	"github.com/ingrain-go/ingrain/persistence/memory"
	sqlitestore "github.com/ingrain-go/ingrain/persistence/sqlite"
)

type Customer struct{ Street string }

type Move struct{ Street string }

func (c Move) Decide(Customer) ([]aggregate.Event[Customer], error) {
	return []aggregate.Event[Customer]{Moved(c)}, nil
}

type Moved struct{ Street string }

func (e Moved) Evolve(c *Customer) { c.Street = e.Street }

func audit(ctx context.Context, node *cluster.Node, store persistence.Store, id string) error {
	reader := eventsourcing.NewReader(eventsourcing.ReaderConfig{
		Store: store, Aggregates: []aggregate.Any{Customers}, Vault: node.Vault(), Unknown: eventsourcing.Park,
	})
	for recorded, err := range reader.Stream(ctx, "customer", id, 0) {
		if err != nil {
			return err
		}
		fmt.Println(recorded.At, recorded.Event, recorded.Value, recorded.Err)
	}
	moved := eventsourcing.Filter{Aggregates: []string{"customer"}, Events: []string{"moved"}}
	for recorded, err := range reader.All(ctx, nil, moved) { // of all customers, by time
		if err != nil {
			return err
		}
		fmt.Println(recorded.At, recorded.ID, recorded.Value)
	}
	return nil
}

func export(ctx context.Context, store persistence.Store, file *os.File) (archive.Summary, error) {
	var goOn *archive.State
	if info, err := file.Stat(); err == nil && info.Size() > 0 { // interrupted, or of yesterday
		if goOn, err = archive.Scan(ctx, file); err != nil {
			return archive.Summary{}, err
		}
		if err := file.Truncate(goOn.Length); err != nil {
			return archive.Summary{}, err
		}
		if _, err := file.Seek(goOn.Length, io.SeekStart); err != nil {
			return archive.Summary{}, err
		}
	}
	return archive.Export(ctx, store, file, goOn, nil)
}

func bringIn(ctx context.Context, to persistence.Store, file io.Reader) error {
	summary, err := archive.Import(ctx, to, file, nil)
	if err != nil {
		return err // run it again: it goes on from where it was
	}
	fmt.Println(summary.Events, "events,", summary.Hash)
	return nil
}

func deleteCustomer(ctx context.Context, node *cluster.Node, id string) error {
	version, err := node.Erase(ctx, "customer", id)
	if err != nil {
		return err // of kind unknown: call it again
	}
	fmt.Println("erased", version, "events")
	return nil
}

var Customers = aggregate.Define("customer",
	aggregate.Accepts[Move]("move"), aggregate.Records[Moved]("moved"),
	aggregate.Sealed[Customer](func(id string) string { return id }))

func forget(ctx context.Context, node *cluster.Node, store persistence.Store, person string) error {
	if err := node.Forget(ctx, person); err != nil {
		return err
	}
	proof, err := eventsourcing.VerifyForgotten(ctx, store, store, []aggregate.Any{Customers}, person)
	if err == nil && !proof.Forgotten {
		err = fmt.Errorf("something is left: %+v", proof)
	}
	return err
}

// TestTheLogIsYours runs what docs/log.md shows.
func TestTheLogIsYours(t *testing.T) {
	store, err := memory.Open(memory.Config{})
	require.NoError(t, err)
	node, err := cluster.Start(t.Context(), &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{Customers}, KeyFresh: 100 * time.Millisecond,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Stop(context.Background())) })
	for _, id := range []string{"ada", "bob"} {
		_, err := Customers.Ref(node, id).Send(t.Context(), Move{Street: "Secret Street"})
		require.NoError(t, err)
	}
	require.NoError(t, audit(t.Context(), node, store, "ada"))
	require.NoError(t, forget(t.Context(), node, store, "ada"))
	_, err = Customers.Ref(node, "ada").Send(t.Context(), Move{Street: "Elsewhere"})
	require.ErrorContains(t, err, "forgotten")
	require.NoError(t, deleteCustomer(t.Context(), node, "bob"))

	file, err := os.Create(filepath.Join(t.TempDir(), "log.jsonl"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	first, err := export(t.Context(), store, file)
	require.NoError(t, err)
	_, err = file.Seek(0, io.SeekStart)
	require.NoError(t, err)
	again, err := export(t.Context(), store, file)
	require.NoError(t, err)
	require.Equal(t, first, again)
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.NotContains(t, string(text), "Secret Street")
	to, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, to.Close()) })
	require.NoError(t, bringIn(t.Context(), to, bytes.NewReader(text)))
}

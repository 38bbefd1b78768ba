package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// sums is a view: what each counter has, and how many events made it so.
type sums map[string]tally

type tally struct {
	N      int
	Events int
}

// projected are the projections of a child process.
var projected struct {
	view  *eventsourcing.View[sums]
	table *eventsourcing.Table
	store persistence.Store
}

// projectionProgram is a node with a view and a table.
var projectionProgram = clustertest.Program{
	Name:       "projections",
	Aggregates: program.Aggregates,
	Projections: func(store persistence.Store) []eventsourcing.Projection {
		projected.store = store
		projected.view = eventsourcing.NewView(eventsourcing.Settings{Name: "sums"}, func() *sums { return &sums{} },
			eventsourcing.On(counters, func(_ context.Context, v *sums, e added, f eventsourcing.Fact) error {
				of := (*v)[f.ID]
				(*v)[f.ID] = tally{of.N + e.N, of.Events + 1}
				return nil
			}))
		projected.table = eventsourcing.NewTable(eventsourcing.Settings{Name: "rows", Parallel: 2}, rowSchema,
			eventsourcing.On(counters, addRow))
		return []eventsourcing.Projection{projected.view, projected.table}
	},
	Ops: map[string]clustertest.Op{
		"add": clustertest.Do(doAdd), "total": clustertest.Do(doTotal),
		"view": clustertest.Do(func(context.Context, *cluster.Node, struct{}) (out sums, _ error) {
			projected.view.Read(func(v *sums) {
				out = make(sums, len(*v))
				for id, of := range *v {
					out[id] = of
				}
			})
			return out, nil
		}),
		"table": clustertest.Do(func(context.Context, *cluster.Node, struct{}) (string, error) {
			return projected.table.Name("sums"), nil
		}),
		"wait": clustertest.Do(func(ctx context.Context, n *cluster.Node, w waitOrder) (struct{}, error) {
			return struct{}{}, cluster.WaitFor(ctx, n, w.Projection, w.Receipt)
		}),
		"rebuild": clustertest.Do(func(ctx context.Context, n *cluster.Node, name string) ([]eventsourcing.RebuildProgress, error) {
			var told []eventsourcing.RebuildProgress
			err := n.Rebuild(ctx, name, func(p eventsourcing.RebuildProgress) { told = append(told, p) })
			return told, err
		}),
		"projections": clustertest.Do(func(_ context.Context, n *cluster.Node, _ struct{}) ([]eventsourcing.Progress, error) {
			return n.Projections(), nil
		}),
	},
}

type waitOrder struct {
	Projection string
	Receipt    aggregate.Receipt
}

var rowSchema = eventsourcing.Schema{
	Create: func(ctx context.Context, tx *eventsourcing.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+tx.Name("sums")+" (id TEXT PRIMARY KEY, n BIGINT NOT NULL, events BIGINT NOT NULL)")
		return err
	},
	Drop: func(ctx context.Context, tx *eventsourcing.Tx) error {
		_, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+tx.Name("sums"))
		return err
	},
}

func addRow(ctx context.Context, tx *eventsourcing.Tx, e added, f eventsourcing.Fact) error {
	name := tx.Name("sums")
	sql := "INSERT INTO " + name + " (id, n, events) VALUES ($1, $2, 1) ON CONFLICT (id) DO UPDATE SET n = " + name + ".n + excluded.n, events = " + name + ".events + 1"
	if projected.store.Meta().Dialect == "sqlite" {
		sql = strings.NewReplacer("$1", "?", "$2", "?").Replace(sql)
	}
	_, err := tx.Exec(ctx, sql, f.ID, e.N)
	return err
}

func projecting(t *testing.T, store clustertest.Store) clustertest.Spec {
	s := spec(t, store)
	s.Program = projectionProgram.Name
	return s
}

// folded is what the log makes of the counters, and the place of its last event
// in each partition.
func folded(t *testing.T, where clustertest.Store) (sums, []aggregate.Receipt) {
	t.Helper()
	ctx := within(t, patience)
	store, err := where.Open(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	log, err := clustertest.ReadLog(ctx, store)
	require.NoError(t, err)
	want, last := sums{}, map[persistence.Partition]persistence.Offset{}
	for _, e := range log.Events {
		last[e.Partition] = max(last[e.Partition], e.Offset)
		if e.Stream.Type == "counter" {
			of := want[e.Stream.ID]
			want[e.Stream.ID] = tally{of.N + 1, of.Events + 1}
		}
	}
	var receipts []aggregate.Receipt
	for p, offset := range last {
		receipts = append(receipts, aggregate.Receipt{Partition: aggregate.Partition(p), Offset: aggregate.Offset(offset)})
	}
	return want, receipts
}

// tableRows reads an SQL table of a store.
func tableRows(t *testing.T, where clustertest.Store, name string) sums {
	t.Helper()
	ctx := within(t, patience)
	store, err := where.Open(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	got := sums{}
	require.NoError(t, store.Advance(ctx, persistence.Step{Projection: "reader"}, func(ctx context.Context, tx persistence.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id, n, events FROM "+name)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id string
			var of tally
			if err := rows.Scan(&id, &of.N, &of.Events); err != nil {
				return errors.Join(err, rows.Close())
			}
			got[id] = of
		}
		return rows.Close()
	}))
	return got
}

// requireProjected waits until all nodes have projected the log, and compares
// the read models with its fold.
func requireProjected(t *testing.T, where clustertest.Store, nodes ...*clustertest.Process) {
	t.Helper()
	ctx := within(t, patience)
	want, last := folded(t, where)
	for _, n := range nodes {
		for _, r := range last {
			require.NoError(t, n.Call(ctx, "wait", waitOrder{"sums", r}, nil), "on %s", n.Name())
			require.NoError(t, n.Call(ctx, "wait", waitOrder{"rows", r}, nil), "on %s", n.Name())
		}
		var view sums
		require.NoError(t, n.Call(ctx, "view", nil, &view))
		require.Equal(t, want, view, "the view of %s", n.Name())
	}
	var name string
	require.NoError(t, nodes[0].Call(ctx, "table", nil, &name))
	require.Equal(t, want, tableRows(t, where, name), "each event once")
}

func TestProjectionsUnderKillsAndMoves(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		s := projecting(t, store)
		nodes := clustertest.LaunchAll(t, 3, s)
		settled(t, nodes...)
		oldEnough(t, nodes...)
		all := balance(nodes...)
		c := startClients(t, true, all)
		for round := range 3 {
			c.progress(200)
			nodes[0].Kill()
			all.drop(nodes[0])
			settled(t, nodes[1:]...)
			c.progress(100)
			joined := clustertest.Launch(t, fmt.Sprint("joined", round), s)
			settled(t, nodes[1], nodes[2], joined)
			all.add(joined)
			c.progress(100)
			all.drain(nodes[1])
			require.NoError(t, nodes[1].Terminate())
			replaced := clustertest.Launch(t, fmt.Sprint("replaced", round), s)
			all.add(replaced)
			nodes = []*clustertest.Process{nodes[2], joined, replaced}
			settled(t, nodes...)
		}
		c.progress(100)
		c.end(store, nodes...)
		requireProjected(t, store, nodes...)
	})
}

func TestRebuildUnderLoad(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		nodes := clustertest.LaunchAll(t, 2, projecting(t, store))
		settled(t, nodes...)
		c := startClients(t, true, balance(nodes...))
		c.progress(500)
		ctx := within(t, patience)
		var rebuilding sync.WaitGroup
		for _, name := range []string{"rows", "sums"} {
			rebuilding.Go(func() {
				var told []eventsourcing.RebuildProgress
				if err := nodes[1].Call(ctx, "rebuild", name, &told); err != nil {
					t.Errorf("rebuild %s: %v", name, err)
					return
				}
				last := told[len(told)-1]
				if last.Total < 500 || last.Done < last.Total-1000 {
					t.Errorf("rebuild %s told of %+v", name, told)
				}
			})
		}
		rebuilding.Wait()
		c.progress(200)
		c.end(store, nodes...)
		for _, n := range nodes {
			require.Eventually(t, func() bool {
				var name string
				return n.Call(ctx, "table", nil, &name) == nil && name == "sums_2"
			}, patience, 10*time.Millisecond, "all nodes read the next generation")
		}
		requireProjected(t, store, nodes...)
		opened, err := store.Open(ctx)
		require.NoError(t, err)
		defer func() { require.NoError(t, opened.Close()) }()
		old, err := opened.LoadCheckpoints(ctx, "rows@1")
		require.NoError(t, err)
		require.Empty(t, old, "the old progress is gone")
	})
}

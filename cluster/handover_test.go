package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

// ward keeps one caller busy for every partition, in the child itself, until it
// is told to stop.
type ward struct {
	mu   sync.Mutex
	stop context.CancelFunc
}

var wards ward

// acked is one acknowledged command of a ward.
type acked struct {
	Command   aggregate.CommandID
	Partition aggregate.Partition
	From, To  int64 // Unix nanoseconds: all processes share the machine's clock
}

type watch struct {
	Acked  []acked
	Errors []string
}

// perPartition is how many aggregates of each partition a ward's caller uses.
const perPartition = 8

func doWatch(ctx context.Context, n *cluster.Node, _ struct{}) (watch, error) {
	until, cancel := context.WithCancel(ctx)
	defer cancel()
	wards.mu.Lock()
	wards.stop = cancel
	wards.mu.Unlock()
	ids := make([][]string, len(n.Partitions()))
	for i, short := 0, len(ids); short > 0; i++ {
		id := fmt.Sprint("ward-", i)
		p := persistence.PartitionOf(persistence.Stream{Type: "counter", ID: id}, len(ids))
		if len(ids[p]) < perPartition {
			if ids[p] = append(ids[p], id); len(ids[p]) == perPartition {
				short--
			}
		}
	}
	var result watch
	var mu sync.Mutex
	var callers sync.WaitGroup
	for _, mine := range ids {
		callers.Go(func() {
			var own watch
			for i := 0; until.Err() == nil; i++ {
				a := acked{Command: aggregate.NewCommandID(), From: time.Now().UnixNano()}
				call, cancel := context.WithTimeout(ctx, callPatience)
				receipt, err := counters.Ref(n, mine[i%perPartition]).Send(call, add{N: 1}, aggregate.WithCommandID(a.Command))
				cancel()
				if err != nil {
					own.Errors = append(own.Errors, fmt.Sprintf("%s: %v", mine[i%perPartition], err))
					continue
				}
				a.To, a.Partition = time.Now().UnixNano(), receipt.Partition
				own.Acked = append(own.Acked, a)
			}
			mu.Lock()
			defer mu.Unlock()
			result.Acked = append(result.Acked, own.Acked...)
			result.Errors = append(result.Errors, own.Errors...)
		})
	}
	callers.Wait()
	return result, nil
}

func doUnwatch(context.Context, *cluster.Node, struct{}) (struct{}, error) {
	wards.mu.Lock()
	defer wards.mu.Unlock()
	wards.stop()
	return struct{}{}, nil
}

// watches are the wards of several children.
type watches struct {
	t    *testing.T
	over sync.WaitGroup
	mu   sync.Mutex
	all  []acked
	errs []string
}

// begin starts a child's ward, and returns when it is busy.
func (w *watches) begin(c *clustertest.Process) {
	w.t.Helper()
	ctx := within(w.t, 4*patience)
	w.over.Go(func() {
		var result watch
		err := c.Call(ctx, "watch", struct{}{}, &result)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.errs = append(w.errs, fmt.Sprintf("child %s: %v", c.Name(), err))
		}
		w.all = append(w.all, result.Acked...)
		w.errs = append(w.errs, result.Errors...)
	})
	require.Eventually(w.t, func() bool {
		stats := c.Stats(ctx)
		return stats.Local+stats.Remote > 20*partitions
	}, patience, 5*time.Millisecond, "child %s sends commands", c.Name())
}

// end stops a child's ward: its clients go elsewhere before it stops.
func (w *watches) end(c *clustertest.Process) {
	w.t.Helper()
	require.NoError(w.t, c.Call(within(w.t, patience), "unwatch", struct{}{}, nil))
}

// gapLimit bounds the longest silence of a partition that moves. It is generous,
// because the machine that runs the tests may be busy: the log line has the
// figures.
const gapLimit = 3 * time.Second

// Nodes leave, come back, and are restarted one after the other, and no caller
// notices anything but the time it takes.
func TestGracefulMovesFailNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		s := spec(t, store)
		children := clustertest.LaunchAll(t, 3, s)
		settled(t, children...)
		w := &watches{t: t}
		for _, c := range children[1:] {
			w.begin(c)
		}
		var parked, warmed uint64
		for round := range 4 { // the first leaves and comes back before it has clients; then all are restarted
			i := max(round-1, 0)
			if round > 0 {
				w.end(children[i])
			}
			require.NoError(t, children[i].Terminate())
			settled(t, slices.Concat(children[:i], children[i+1:])...)
			children[i] = clustertest.Launch(t, fmt.Sprint(children[i].Name(), round), s)
			settled(t, children...)
			w.begin(children[i])
		}
		ctx := within(t, patience)
		for _, c := range children {
			stats := c.Stats(ctx)
			parked += stats.Parked
			warmed += stats.Host.Warmed
			require.Zero(t, stats.Takeovers, "child %s took nothing by force", c.Name())
			w.end(c)
		}
		w.over.Wait()
		require.Empty(t, w.errs)
		gaps, usual, calls := w.measure(store)
		t.Logf("%d commands, %d moves: gap p50 %s, p99 %s, max %s; between moves p50 %s, p99 %s; calls p50 %s, p99 %s, max %s; %d parked, %d warmed",
			len(w.all), len(gaps), at(gaps, 0.5), at(gaps, 0.99), at(gaps, 1), at(usual, 0.5), at(usual, 0.99),
			at(calls, 0.5), at(calls, 0.99), at(calls, 1), parked, warmed)
		require.GreaterOrEqual(t, len(gaps), partitions, "partitions have moved")
		require.Less(t, at(gaps, 1), gapLimit)
		require.NotZero(t, warmed)
	})
}

// measure holds the acknowledged commands against the log: everyone is in it
// once, and nothing else. It returns, sorted, how long partitions were silent when
// they changed hands, how long between two acknowledgements otherwise, and how
// long callers waited.
func (w *watches) measure(where clustertest.Store) (gaps, usual, calls []time.Duration) {
	w.t.Helper()
	ctx := within(w.t, patience)
	store, err := where.Open(ctx)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, store.Close()) }()
	log, err := clustertest.ReadLog(ctx, store)
	require.NoError(w.t, err)
	require.Len(w.t, log.Events, len(w.all), "every event was acknowledged")
	told := make(map[persistence.CommandID]int64, len(w.all))
	for _, a := range w.all {
		require.Equal(w.t, 1, log.Has(a.Command), "command %s", a.Command)
		told[persistence.CommandID(a.Command)] = a.To
		calls = append(calls, time.Duration(a.To-a.From))
	}
	for i, e := range log.Events[:len(log.Events)-1] { // a partition's events stand next to each other
		next := log.Events[i+1]
		if e.Partition != next.Partition {
			continue
		}
		silence := time.Duration(told[next.Command] - told[e.Command])
		if e.Epoch != next.Epoch {
			gaps = append(gaps, silence)
		} else {
			usual = append(usual, silence)
		}
	}
	slices.Sort(gaps)
	slices.Sort(usual)
	slices.Sort(calls)
	return gaps, usual, calls
}

// at is a quantile of sorted times.
func at(sorted []time.Duration, quantile float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(quantile*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

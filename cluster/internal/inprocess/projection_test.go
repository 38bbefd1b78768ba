package inprocess_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// totals is a read model: what each counter has, and what was seen of it.
type totals struct {
	n        map[string]int
	versions map[string]aggregate.Version
	wrong    []string
	late     []time.Duration
}

func newTotals() *totals {
	return &totals{n: map[string]int{}, versions: map[string]aggregate.Version{}}
}

func (v *totals) add(id string, n int, version aggregate.Version) {
	if v.versions[id]+1 != version {
		v.wrong = append(v.wrong, fmt.Sprintf("%s: version %d after %d", id, version, v.versions[id]))
	}
	v.versions[id] = version
	v.n[id] += n
}

func totalsView() *eventsourcing.View[totals] {
	return eventsourcing.NewView(eventsourcing.Settings{Name: "totals"}, newTotals,
		eventsourcing.On(counters, func(_ context.Context, v *totals, e added, f eventsourcing.Fact) error {
			v.add(f.ID, e.N, f.Version)
			v.late = append(v.late, time.Since(f.At))
			return nil
		}))
}

func TestEveryViewIsTheFoldOfTheLogWithTenPercentOfThePushesLost(t *testing.T) {
	views := make([]*eventsourcing.View[totals], 4)
	with := func(i int, c *cluster.Config) {
		views[i] = totalsView()
		c.Projections = []eventsourcing.Projection{views[i]}
	}
	h := build(t, 3, with)
	var pushes, lost atomic.Int64
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		if len(m.Envelope.Events) == 0 || m.Calls+m.Replies > 0 || len(m.Envelope.Moved)+len(m.Envelope.Rows) > 0 {
			return clustertest.Fate{}
		}
		pushes.Add(1)
		drop := rand.IntN(10) == 0
		if drop {
			lost.Add(1)
		}
		return clustertest.Fate{Drop: drop}
	})
	const counted, rounds = 40, 50
	first := slices.Clone(h.nodes)
	var writers sync.WaitGroup
	receipts := make([]aggregate.Receipt, counted)
	joined := make(chan struct{})
	for w := range counted {
		writers.Go(func() {
			for i := range rounds {
				r, err := counters.Ref(first[(w+i)%3], "c"+strconv.Itoa(w)).Send(t.Context(), add{N: i})
				if err != nil {
					t.Error(err)
					return
				}
				receipts[w] = r
				if i == rounds/2 && w == 0 { // churn: a node joins, and takes its share
					go func() {
						defer close(joined)
						h.nodes = append(h.nodes, clustertest.Start(t, h.config(3, with)))
					}()
				}
			}
		})
	}
	writers.Wait()
	<-joined
	ctx := within(t, patience)
	for i, n := range h.nodes {
		for _, r := range receipts {
			require.NoError(t, cluster.WaitFor(ctx, n, "totals", r))
		}
		views[i].Read(func(v *totals) {
			require.Empty(t, v.wrong, "in order, without gaps or repeats")
			for w := range counted {
				require.Equal(t, rounds*(rounds-1)/2, v.n["c"+strconv.Itoa(w)])
			}
			slices.Sort(v.late)
			if i < len(first) { // the last one has read the log when it joined
				require.Less(t, v.late[len(v.late)*99/100], 250*time.Millisecond)
			}
			t.Logf("node %d: lag p50 %s p99 %s", i, v.late[len(v.late)/2], v.late[len(v.late)*99/100])
		})
	}
	require.NotZero(t, lost.Load())
	t.Logf("%d of %d pushes lost", lost.Load(), pushes.Load())
}

// locked is a read model that is asked while it is written.
type locked struct {
	mu sync.Mutex
	totals
}

func TestAQueryAfterTheReplySeesTheLocalProjection(t *testing.T) {
	models := make([]*locked, 2)
	h := build(t, 2, func(i int, c *cluster.Config) {
		models[i] = &locked{totals: *newTotals()}
		c.Projections = []eventsourcing.Projection{eventsourcing.NewLocal(eventsourcing.Settings{Name: "local"}, models[i],
			eventsourcing.On(counters, func(_ context.Context, m *locked, e added, f eventsourcing.Fact) error {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.add(f.ID, e.N, f.Version)
				return nil
			}))}
	})
	ids := make([][]string, 2)
	for i := range 2 {
		for k := 0; len(ids[i]) < 10; k++ {
			id := fmt.Sprint("q", k)
			if h.nodes[i].Owner("counter", id).Owner == h.nodes[i].ID() {
				ids[i] = append(ids[i], id)
			}
		}
	}
	var callers sync.WaitGroup
	var seen atomic.Int64
	for i := range 2 {
		for _, id := range ids[i] {
			callers.Go(func() {
				for n := range 500 {
					receipt, err := counters.Ref(h.nodes[(i+n)%2], id).Send(t.Context(), add{N: 1})
					if err != nil {
						t.Error(err)
						return
					}
					models[i].mu.Lock()
					version := models[i].versions[id]
					models[i].mu.Unlock()
					if version >= receipt.Version {
						seen.Add(1)
					}
				}
			})
		}
	}
	callers.Wait()
	require.Equal(t, int64(10_000), seen.Load())
	for i := range 2 {
		require.Empty(t, models[i].wrong)
	}
}

func TestANodeHasNoPartitionBeforeItsViewsHaveCaughtUp(t *testing.T) {
	gate := make(chan struct{})
	with := func(held bool) func(i int, c *cluster.Config) {
		return func(_ int, c *cluster.Config) {
			c.Projections = []eventsourcing.Projection{eventsourcing.NewView(eventsourcing.Settings{Name: "totals"}, newTotals,
				eventsourcing.On(counters, func(ctx context.Context, v *totals, e added, f eventsourcing.Fact) error {
					if held {
						select {
						case <-gate:
						case <-ctx.Done():
						}
					}
					v.add(f.ID, e.N, f.Version)
					return nil
				}))}
		}
	}
	h := build(t, 2, with(false))
	for i := range 20 {
		h.send(0, fmt.Sprint("c", i), 1)
	}
	late := clustertest.Start(t, h.config(2, with(true)))
	require.Eventually(t, func() bool {
		return len(h.nodes[0].Members()) == 3 && len(late.Members()) == 3
	}, patience, time.Millisecond)
	renewals := late.Stats().Renewals
	require.Eventually(t, func() bool { return late.Stats().Renewals > renewals+4 }, patience, time.Millisecond)
	require.Zero(t, owns(late))
	state := persistence.NodeState("")
	for _, m := range h.nodes[0].Members() {
		if m.ID == late.ID() {
			state = m.State
		}
	}
	require.Equal(t, persistence.Joining, state)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, late.Ready(ctx), "views have not caught up")
	h.send(0, "c0", 1) // and calls do not wait for it

	close(gate)
	clustertest.Settled(t, append(h.nodes, late)...)
	require.NotZero(t, owns(late))
	require.True(t, late.Projections()[0].CaughtUp)
}

func owns(n *cluster.Node) (count int) {
	for _, row := range n.Partitions() {
		if row.Owner == n.ID() {
			count++
		}
	}
	return count
}

// send adds to a counter through a node.
func (h *house) send(i int, id string, n int) aggregate.Receipt {
	h.t.Helper()
	r, err := counters.Ref(h.nodes[i], id).Send(h.t.Context(), add{N: n})
	require.NoError(h.t, err)
	return r
}

var errIll = errors.New("ill")

func TestDeadLettersEndToEnd(t *testing.T) {
	var cured atomic.Bool
	var mu sync.Mutex
	var order []string
	h := build(t, 2, func(_ int, c *cluster.Config) {
		c.Projections = []eventsourcing.Projection{eventsourcing.NewReaction(eventsourcing.Settings{Name: "mail", Attempts: 2, Backoff: time.Millisecond}, "nobody",
			eventsourcing.On(counters, func(_ context.Context, _ string, e added, f eventsourcing.Fact) error {
				if e.Text == "ill" && !cured.Load() {
					panic(errIll)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, fmt.Sprint(f.ID, e.N))
				return nil
			}))}
	})
	ctx := within(t, patience)
	_, err := counters.Ref(h.nodes[0], "x").Send(ctx, add{N: 1, Text: "ill"})
	require.NoError(t, err)
	last := h.send(0, "x", 2)
	other := h.send(0, "y", 3)
	for _, n := range h.nodes {
		require.NoError(t, cluster.WaitFor(ctx, n, "mail", last), "also where the partition is not")
		require.NoError(t, cluster.WaitFor(ctx, n, "mail", other))
		letters, err := n.DeadLetters(ctx, "mail", persistence.DeadLetterKey{}, 10)
		require.NoError(t, err)
		require.Len(t, letters, 2)
		require.Equal(t, "mail", letters[0].Projection)
		require.Contains(t, letters[0].Cause, "ill")
		require.Equal(t, 2, letters[0].Attempts)
		require.Zero(t, letters[1].Attempts)
	}
	require.Equal(t, []string{"y3"}, order)
	require.ErrorContains(t, h.nodes[1].RetryDeadLetters(ctx, "mail", "counter/x"), "ill")
	require.ErrorIs(t, h.nodes[1].RetryDeadLetters(ctx, "mail", "counter/y"), eventsourcing.ErrNoLetter)
	cured.Store(true)
	for _, n := range h.nodes { // from wherever the operator is
		if n.Owner("counter", "x").Owner != n.ID() {
			require.NoError(t, n.RetryDeadLetters(ctx, "mail", "counter/x"))
		}
	}
	require.Eventually(t, func() bool {
		letters, err := h.nodes[0].DeadLetters(ctx, "mail", persistence.DeadLetterKey{}, 10)
		return err == nil && len(letters) == 0
	}, patience, 5*time.Millisecond)
	require.NoError(t, cluster.WaitFor(ctx, h.nodes[0], "mail", h.send(0, "x", 4)))
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(order, []string{"y3", "x1", "x2", "x4"})
	}, patience, 5*time.Millisecond, "each once, in the order of its aggregate")
	require.ErrorIs(t, h.nodes[0].Rebuild(ctx, "mail", nil), eventsourcing.ErrNotReplayed)
}

func TestAProjectionRunsOnlyAtTheOwnerOfThePartition(t *testing.T) {
	var mu sync.Mutex
	handled := map[string]int{}
	with := func(i int, c *cluster.Config) {
		c.Projections = []eventsourcing.Projection{eventsourcing.NewReaction(eventsourcing.Settings{Name: "calls"}, i,
			eventsourcing.On(counters, func(_ context.Context, _ int, _ added, f eventsourcing.Fact) error {
				mu.Lock()
				defer mu.Unlock()
				handled[fmt.Sprint(f.Partition, "/", f.Offset)]++
				return nil
			}))}
	}
	h := build(t, 1, with)
	stop, first := make(chan struct{}), h.nodes[0]
	var writers sync.WaitGroup
	var sent atomic.Int64
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := counters.Ref(first, fmt.Sprint("w", w, i%5)).Send(t.Context(), add{N: 1}); err != nil {
					t.Error(err)
					return
				}
				sent.Add(1)
			}
		})
	}
	h.nodes = append(h.nodes, clustertest.Start(t, h.config(1, with)))
	clustertest.Settled(t, h.nodes...)
	third := clustertest.Start(t, h.config(2, with))
	clustertest.Settled(t, append(h.nodes, third)...)
	require.NoError(t, third.Stop(t.Context()))
	clustertest.Settled(t, h.nodes...)
	close(stop)
	writers.Wait()
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(handled) == int(sent.Load())
	}, patience, 5*time.Millisecond)
	for event, times := range handled {
		require.Equal(t, 1, times, "%s: graceful moves repeat nothing", event)
	}
}

func TestInlineRowsAreInTheCommandsTransaction(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: partitions})
	require.NoError(t, err)
	made := func(ctx context.Context, tx persistence.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE entries (id TEXT, nr BIGINT, n BIGINT CHECK (n < 100), PRIMARY KEY (id, nr))")
		return err
	}
	require.NoError(t, store.Advance(t.Context(), persistence.Step{Projection: "setup"}, made))
	inline := eventsourcing.NewInline(eventsourcing.Settings{Name: "entries"},
		eventsourcing.Writes(counters, func(e added, f eventsourcing.Fact) []persistence.Statement {
			if e.Text == "panic" {
				panic("no statement")
			}
			return []persistence.Statement{{SQL: "INSERT INTO entries (id, nr, n) VALUES (?, ?, ?)", Args: []any{f.ID, int64(f.Version), e.N}}}
		}))
	h := buildOn(t, store, 2, func(_ int, c *cluster.Config) { c.Projections = []eventsourcing.Projection{inline} })
	rows := func() (n, sum int) {
		require.NoError(t, store.Advance(t.Context(), persistence.Step{Projection: "reader"}, func(ctx context.Context, tx persistence.Tx) error {
			found, err := tx.Query(ctx, "SELECT COUNT(*), COALESCE(SUM(n), 0) FROM entries")
			if err != nil {
				return err
			}
			found.Next()
			return errors.Join(found.Scan(&n, &sum), found.Close())
		}))
		return n, sum
	}
	want := 0
	for i := range 50 {
		h.send(i%2, fmt.Sprint("c", i%9), i)
		want += i
		n, sum := rows()
		require.Equal(t, i+1, n, "the row is there when the receipt is")
		require.Equal(t, want, sum)
	}
	before, err := aggregate.Ask(t.Context(), counters.Ref(h.nodes[0], "c0"), total{})
	require.NoError(t, err)
	_, err = counters.Ref(h.nodes[0], "c0").Send(t.Context(), add{N: 100})
	require.Equal(t, aggregate.KindRejected, aggregate.KindOf(err), "%v", err)
	_, err = counters.Ref(h.nodes[0], "c0").Send(t.Context(), add{N: 1, Text: "panic"})
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(err), "%v", err)
	after, err := aggregate.Ask(t.Context(), counters.Ref(h.nodes[0], "c0"), total{})
	require.NoError(t, err)
	require.Equal(t, before, after, "the command failed with its row")
	h.send(0, "c0", 1)
	n, _ := rows()
	require.Equal(t, 51, n)

	memory := &cluster.Config{Store: inMemory(t), Aggregates: []aggregate.Any{counters}, Projections: []eventsourcing.Projection{inline}, Network: h.fabric.Network(), LockDir: t.TempDir()}
	_, err = cluster.Start(t.Context(), memory)
	require.ErrorContains(t, err, "which the store has not")
}

func TestALocalProjectionIsNotRepeatedAfterAGoodbye(t *testing.T) {
	for _, nodes := range []int{1, 3} { // to start again, or to hand over
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			var mu sync.Mutex
			told := map[string]int{}
			with := func(_ int, c *cluster.Config) {
				c.Projections = []eventsourcing.Projection{eventsourcing.NewLocal(eventsourcing.Settings{Name: "local"}, 0,
					eventsourcing.On(counters, func(_ context.Context, _ int, _ added, f eventsourcing.Fact) error {
						mu.Lock()
						defer mu.Unlock()
						told[fmt.Sprint(f.ID, " ", f.Version)]++
						return nil
					}))}
			}
			h := build(t, nodes, with)
			const ids = 30
			receipts := make([]aggregate.Receipt, ids)
			send := func(through *cluster.Node) {
				for k := range ids {
					var err error
					receipts[k], err = counters.Ref(through, fmt.Sprint("l", k)).Send(within(t, patience), add{N: 1})
					require.NoError(t, err)
				}
			}
			send(h.nodes[0])
			require.NoError(t, h.nodes[0].Stop(within(t, patience)))
			if nodes == 1 {
				h.nodes = append(h.nodes, clustertest.Start(t, h.config(1, with)))
			}
			send(h.nodes[1])
			for _, r := range receipts {
				require.NoError(t, cluster.WaitFor(within(t, patience), h.nodes[1], "local", r))
			}
			mu.Lock()
			defer mu.Unlock()
			require.Len(t, told, 2*ids)
			for fact, times := range told {
				require.Equal(t, 1, times, fact)
			}
		})
	}
}

// early is a network over which events arrive while the node is still starting:
// pushed to an incarnation before it at the same address.
type early struct {
	cluster.Network
	arrivals sync.WaitGroup
	over     chan struct{}
}

func (e *early) Start(r cluster.Receiver) (string, error) {
	address, err := e.Network.Start(r)
	e.arrivals.Go(func() {
		for {
			select {
			case <-e.over:
				return
			default:
				r.Receive(&wire.Envelope{To: "before", Events: []*wire.Event{{Offset: 1 << 40, Type: "counter", Id: "x", Event: "added"}}})
			}
		}
	})
	return address, err
}

// It is the race detector that fails it.
func TestPushesMayComeBeforeTheNodeHasStarted(t *testing.T) {
	network := &early{over: make(chan struct{})}
	h := build(t, 1, func(_ int, c *cluster.Config) {
		network.Network = c.Network
		c.Network, c.Projections = network, []eventsourcing.Projection{totalsView()}
	})
	close(network.over)
	network.arrivals.Wait()
	r, err := counters.Ref(h.nodes[0], "y").Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	require.NoError(t, cluster.WaitFor(within(t, patience), h.nodes[0], "totals", r))
}

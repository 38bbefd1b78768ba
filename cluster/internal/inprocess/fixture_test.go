// Package inprocess_test holds the tests of several nodes in one process. They
// speak over a network in memory, so that they can run under the race detector.
package inprocess_test

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// The throttle of protoactor's dead letters outlives its actor system by a
// second.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/actor.NewDeadLetter.NewThrottle.func4.1"),
		goleak.IgnoreAnyFunction("github.com/ingrain-go/ingrain/persistence/postgres/postgrestest.start.func1")) // the server of all tests
}

// patience bounds every wait of a test.
const patience = 20 * time.Second

const partitions = 16

type counter struct {
	N    int
	Text string
}
type event = aggregate.Event[counter]

// add adds a number, and refuses negative ones.
type add struct {
	N    int
	Text string
}

var errNegative = aggregate.Reject("negative", "cannot add a negative number")

func (c add) Decide(s counter) ([]event, error) {
	if c.N < 0 {
		return nil, errNegative.With("have", strconv.Itoa(s.N)).With("add", strconv.Itoa(c.N))
	}
	return []event{added(c)}, nil
}

func (add) Answer(s counter) (int, error) { return s.N, nil }

type added struct {
	N    int
	Text string
}

func (e added) Evolve(s *counter) { s.N += e.N; s.Text = e.Text }

// explode panics.
type explode struct{}

func (explode) Decide(counter) ([]event, error) { panic("boom") }

// idle decides nothing.
type idle struct{}

func (idle) Decide(counter) ([]event, error) { return nil, nil }

type total struct{}

func (total) Answer(s counter) (int, error) { return s.N, nil }

// long answers with as many bytes as it is asked for.
type long struct{ Bytes int }

func (q long) Answer(counter) (string, error) { return strings.Repeat("x", q.Bytes), nil }

var counters = aggregate.Define("counter",
	aggregate.Accepts[add]("add"), aggregate.Accepts[explode]("explode"), aggregate.Accepts[idle]("idle"),
	aggregate.Records[added]("added"), aggregate.Answers[total]("total"), aggregate.Answers[long]("long"))

// house is a few nodes on one store and one network.
type house struct {
	t      *testing.T
	store  *persistencetest.Faulty
	fabric *clustertest.Fabric
	nodes  []*cluster.Node
}

// build starts nodes at the same moment and waits until they have settled.
// Change may adapt each node's configuration.
func build(t *testing.T, n int, change func(i int, c *cluster.Config)) *house {
	t.Helper()
	return buildOn(t, inMemory(t), n, change)
}

func inMemory(t *testing.T) persistence.Store {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	return store
}

func buildOn(t *testing.T, store persistence.Store, n int, change func(i int, c *cluster.Config)) *house {
	t.Helper()
	h := &house{t: t, store: persistencetest.WithFaults(store), fabric: clustertest.NewFabric()}
	t.Cleanup(func() {
		h.fabric.Wait()
		require.NoError(t, h.store.Close())
	})
	h.nodes = clustertest.StartAll(t, n, func(i int) *cluster.Config { return h.config(i, change) })
	t.Cleanup(h.heal) // runs before the nodes are stopped
	clustertest.Settled(t, h.nodes...)
	return h
}

func (h *house) heal() {
	h.store.Heal()
	h.fabric.Heal()
}

func (h *house) config(i int, change func(i int, c *cluster.Config)) *cluster.Config {
	c := &cluster.Config{
		Store: h.store, Aggregates: []aggregate.Any{counters}, Network: h.fabric.Network(), LockDir: h.t.TempDir(),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(i, c)
	}
	return c
}

// idOn finds the id of a counter that the node owns.
func (h *house) idOn(owner *cluster.Node) string {
	h.t.Helper()
	for i := range 100_000 {
		id := "c" + strconv.Itoa(i)
		if owner.Owner("counter", id).Owner == owner.ID() {
			return id
		}
	}
	h.t.Fatal("the node owns nothing")
	return ""
}

// log reads the store's log and checks it.
func (h *house) log() *clustertest.Log {
	h.t.Helper()
	log, err := clustertest.ReadLog(within(h.t, patience), h.store.Unwrap())
	require.NoError(h.t, err)
	return log
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func sum(t *testing.T, n *cluster.Node, id string) int {
	t.Helper()
	got, err := aggregate.Ask(within(t, patience), counters.Ref(n, id), total{})
	require.NoError(t, err)
	return got
}

func requireFailure(t *testing.T, err error, kind aggregate.Kind, reason string) {
	t.Helper()
	var f *aggregate.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, kind, f.Kind, "%v", err)
	require.Equal(t, reason, f.Reason, "%v", err)
}

// down makes the store refuse everything that some nodes ask of it.
func (h *house) down(nodes ...persistence.NodeID) {
	mine := map[persistence.NodeID]bool{}
	for _, id := range nodes {
		mine[id] = true
	}
	all := len(nodes) == 0
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if all || mine[c.Node] {
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		}
		return persistencetest.Fault{}
	})
	if all {
		h.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		})
	}
}

// counting counts the calls to the store, by method.
type counting struct {
	mu    sync.Mutex
	calls map[string]int
	total atomic.Int64
}

func (h *house) count() *counting {
	c := &counting{calls: map[string]int{}}
	h.store.OnCall(func(call persistencetest.Call) persistencetest.Fault {
		c.add(call.Method)
		return persistencetest.Fault{}
	})
	h.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		c.add("Append")
		return persistencetest.Fault{}
	})
	return c
}

func (c *counting) add(method string) {
	c.total.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[method]++
}

func (c *counting) of(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[method]
}

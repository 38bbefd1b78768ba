package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	clustertest.Main(m, program, nextProgram, projectionProgram, effectsProgram, bankProgram)
}

// program is what the child processes of these tests run.
var program = clustertest.Program{
	Name:       "counters",
	Aggregates: []aggregate.Any{counters, registers, purses},
	Ops: map[string]clustertest.Op{
		"add":   clustertest.Do(doAdd),
		"total": clustertest.Do(doTotal),
		"set":   clustertest.Do(doSet),
		"get":   clustertest.Do(doGet),
		"sum":   clustertest.Do(doSum),
		"spend": clustertest.Do(doSpend),

		"watch":   clustertest.Do(doWatch),
		"unwatch": clustertest.Do(doUnwatch),
	},
}

// register holds the last value written to it.
type register struct{ Value int }

type set struct{ Value int }

func (c set) Decide(register) ([]aggregate.Event[register], error) {
	return []aggregate.Event[register]{written(c)}, nil
}

type written struct{ Value int }

func (e written) Evolve(s *register) { s.Value = e.Value }

type value struct{}

func (value) Answer(s register) (int, error) { return s.Value, nil }

var registers = aggregate.Define("register",
	aggregate.Accepts[set]("set"), aggregate.Records[written]("written"), aggregate.Answers[value]("value"))

// addition is what the op "add" is asked to do.
type addition struct {
	ID      string
	N       int
	Command aggregate.CommandID
	Expect  aggregate.Version // checked when Checked is set
	Checked bool
	Name    string
}

func (a *addition) options() []aggregate.Option {
	var options []aggregate.Option
	if !a.Command.IsZero() {
		options = append(options, aggregate.WithCommandID(a.Command))
	}
	if a.Checked {
		options = append(options, aggregate.ExpectVersion(a.Expect))
	}
	return options
}

func doAdd(ctx context.Context, n *cluster.Node, a addition) (aggregate.Receipt, error) {
	return counters.Ref(n, a.ID).Send(ctx, add{N: a.N}, a.options()...)
}

func doTotal(ctx context.Context, n *cluster.Node, id string) (int, error) {
	return aggregate.Ask(ctx, counters.Ref(n, id), total{})
}

type assignment struct {
	ID    string
	Value int
}

func doSet(ctx context.Context, n *cluster.Node, a assignment) (aggregate.Receipt, error) {
	return registers.Ref(n, a.ID).Send(ctx, set{Value: a.Value})
}

func doGet(ctx context.Context, n *cluster.Node, id string) (int, error) {
	return aggregate.Ask(ctx, registers.Ref(n, id), value{})
}

// onEveryStore runs a test on a SQLite store, and on a PostgreSQL store.
func onEveryStore(t *testing.T, test func(t *testing.T, store clustertest.Store)) {
	t.Run("sqlite", func(t *testing.T) { test(t, clustertest.SQLite(t, partitions)) })
	t.Run("postgres", func(t *testing.T) { test(t, clustertest.PostgreSQL(t, partitions)) })
}

const partitions = 32

func spec(t *testing.T, store clustertest.Store) clustertest.Spec {
	return clustertest.Spec{
		Program: program.Name, Store: store, Cluster: clustertest.Settings{LockDir: t.TempDir()},
	}
}

// within is a context for one step of a test.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// settled waits until the children agree that they are the whole cluster.
func settled(t *testing.T, children ...*clustertest.Process) {
	t.Helper()
	ctx := within(t, patience)
	why := ""
	require.Eventually(t, func() bool {
		var views []clustertest.View
		for _, c := range children {
			views = append(views, clustertest.View{Members: c.Members(ctx), Partitions: c.Partitions(ctx)})
		}
		why = clustertest.Unsettled(len(children), views...)
		return why == ""
	}, patience, 20*time.Millisecond, "%d children settle", len(children))
	for _, c := range children {
		c.Ready(ctx)
	}
}

// load keeps adding 1 to counters through some children, and remembers what
// was acknowledged.
type load struct {
	t     *testing.T
	stop  chan struct{}
	wait  sync.WaitGroup
	mu    sync.Mutex
	acked []ack
	errs  []string
}

type ack struct {
	id       string
	command  aggregate.CommandID
	receipt  aggregate.Receipt
	from, to time.Time
	via      string // the node that was asked, where that matters
}

const (
	loadCallers  = 6 // for each child
	loadCounters = 24
	callPatience = 10 * time.Second
)

// startLoad starts callers on every child. Each call has callPatience, and any
// that does not succeed by then fails the test.
func startLoad(t *testing.T, children ...*clustertest.Process) *load {
	l := &load{t: t, stop: make(chan struct{})}
	for i, child := range children {
		for caller := range loadCallers {
			l.wait.Go(func() {
				for n := caller + i; ; n++ {
					select {
					case <-l.stop:
						return
					default:
						l.add(child, fmt.Sprint("load-", n%loadCounters))
					}
				}
			})
		}
	}
	return l
}

func (l *load) add(child *clustertest.Process, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	a := ack{id: id, command: aggregate.NewCommandID(), from: time.Now()}
	err := child.Call(ctx, "add", addition{ID: id, N: 1, Command: a.command}, &a.receipt)
	a.to = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs = append(l.errs, fmt.Sprintf("%s through %s after %s: %v", id, child.Name(), a.to.Sub(a.from).Round(time.Millisecond), err))
		return
	}
	l.acked = append(l.acked, a)
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// progress waits for more acknowledged calls.
func (l *load) progress(more int) {
	l.t.Helper()
	goal := l.count() + more
	require.Eventually(l.t, func() bool { return l.count() >= goal }, patience, time.Millisecond, "%d more commands are acknowledged", more)
}

// end stops the callers and requires that every call succeeded.
func (l *load) end() []ack {
	l.t.Helper()
	close(l.stop)
	l.wait.Wait()
	require.Empty(l.t, l.errs, strings.Join(l.errs, "\n"))
	require.NotEmpty(l.t, l.acked)
	return l.acked
}

// worst is the longest call of a load.
func worst(acked []ack) time.Duration {
	var longest time.Duration
	for _, a := range acked {
		longest = max(longest, a.to.Sub(a.from))
	}
	return longest
}

// requireLog checks that the store holds every acknowledged command once, that
// nothing took effect twice, and that the counters say so too.
func requireLog(t *testing.T, where clustertest.Store, acked []ack, children ...*clustertest.Process) {
	t.Helper()
	ctx := within(t, patience)
	store, err := where.Open(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	log, err := clustertest.ReadLog(ctx, store)
	require.NoError(t, err)
	byID := map[string]int{}
	for _, e := range log.Events {
		if e.Stream.Type == "counter" {
			byID[e.Stream.ID]++
		}
	}
	for _, a := range acked {
		require.Equal(t, 1, log.Has(a.command), "command %s of %s was acknowledged", a.command, a.id)
		require.False(t, a.receipt.Offset == 0 || a.receipt.Events != 1, "%+v", a.receipt)
	}
	for _, c := range children {
		for id, events := range byID {
			if !strings.HasPrefix(id, "load-") {
				continue
			}
			var got int
			require.NoError(t, c.Call(ctx, "total", id, &got))
			require.Equal(t, events, got, "counter %s on child %s", id, c.Name())
		}
	}
}

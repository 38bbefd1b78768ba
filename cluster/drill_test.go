package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

// The drills, docs/drills.md: each does to a cluster under load what may happen
// to it, and holds what its clients were told against the log.

// balancer sends each request to any of its nodes, whether it owns the aggregate
// or not.
type balancer struct {
	mu    sync.Mutex
	nodes []*clustertest.Process
	busy  map[*clustertest.Process]*sync.WaitGroup
}

func balance(nodes ...*clustertest.Process) *balancer {
	b := &balancer{busy: map[*clustertest.Process]*sync.WaitGroup{}}
	for _, n := range nodes {
		b.add(n)
	}
	return b
}

func (b *balancer) add(n *clustertest.Process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes, b.busy[n] = append(b.nodes, n), &sync.WaitGroup{}
}

// drop sends a node no more requests: what a load balancer does with one that is
// not ready.
func (b *balancer) drop(n *clustertest.Process) (busy *sync.WaitGroup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = slices.DeleteFunc(b.nodes, func(other *clustertest.Process) bool { return other == n })
	return b.busy[n]
}

// drain also waits until the requests that the node has are answered: what a
// load balancer does before a node is stopped.
func (b *balancer) drain(n *clustertest.Process) { b.drop(n).Wait() }

func (b *balancer) call(ctx context.Context, op string, args, result any) (*clustertest.Process, error) {
	b.mu.Lock()
	n := b.nodes[rand.IntN(len(b.nodes))]
	busy := b.busy[n]
	busy.Add(1)
	b.mu.Unlock()
	defer busy.Done()
	return n, n.Call(ctx, op, args, result)
}

// clients send commands and queries to counters of every partition until they
// are told to stop.
type clients struct {
	t        *testing.T
	patient  bool // who gets no answer, or not done, asks another node under the same id
	stop     chan struct{}
	over     sync.WaitGroup
	mu       sync.Mutex
	acked    []ack
	read     int
	again    int // attempts that were not the first
	wrong    []string
	versions map[string]aggregate.Version // the highest that anybody has been told
}

const (
	clientCount = 8
	// attemptPatience is when a patient client asks another node, clientPatience
	// when any gives up.
	attemptPatience = 2 * time.Second
	clientPatience  = 20 * time.Second
)

// startClients starts clients of some balancers, an equal number of each. Patient
// ones ask again, as the library tells them to; others fail the test with the
// first error they get.
func startClients(t *testing.T, patient bool, balancers ...*balancer) *clients {
	return startManyClients(t, clientCount, patient, balancers...)
}

func startManyClients(t *testing.T, many int, patient bool, balancers ...*balancer) *clients {
	c := &clients{t: t, patient: patient, stop: make(chan struct{}), versions: map[string]aggregate.Version{}}
	ids := everyPartition()
	for first := range many {
		nodes := balancers[first%len(balancers)]
		c.over.Go(func() {
			for n := first * len(ids) / many; ; n++ {
				select {
				case <-c.stop:
					return
				default:
				}
				id := ids[n%len(ids)]
				if c.write(nodes, id); n%3 == 0 {
					c.query(nodes, id)
				}
			}
		})
	}
	return c
}

// everyPartition is the id of a counter in each partition.
func everyPartition() []string {
	ids := make([]string, partitions)
	for i, missing := 0, partitions; missing > 0; i++ {
		id := fmt.Sprint("drill-", i)
		if p := persistence.PartitionOf(persistence.Stream{Type: "counter", ID: id}, partitions); ids[p] == "" {
			ids[p] = id
			missing--
		}
	}
	return ids
}

// write adds 1 to a counter. Whatever somebody has been told of before must be
// part of what the command was decided on.
func (c *clients) write(nodes *balancer, id string) {
	a := ack{id: id, command: aggregate.NewCommandID(), from: time.Now()}
	floor := c.known(id)
	via, err := c.ask(nodes, "add", addition{ID: id, N: 1, Command: a.command}, &a.receipt)
	a.to, a.via = time.Now(), via
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.wrong = append(c.wrong, fmt.Sprintf("command to %s through %s after %s: %v", id, via, a.to.Sub(a.from).Round(time.Millisecond), err))
		return
	case a.receipt.Version <= floor:
		c.wrong = append(c.wrong, fmt.Sprintf("stale: %s was at version %d, and a later command made it %d", id, floor, a.receipt.Version))
	}
	c.acked = append(c.acked, a)
	c.versions[id] = max(c.versions[id], a.receipt.Version)
}

// query reads a counter, whose value is its version.
func (c *clients) query(nodes *balancer, id string) {
	floor, got := c.known(id), 0
	via, err := c.ask(nodes, "total", id, &got)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.wrong = append(c.wrong, fmt.Sprintf("query to %s through %s: %v", id, via, err))
		return
	case aggregate.Version(got) < floor:
		c.wrong = append(c.wrong, fmt.Sprintf("stale: %s was at %d, and later read as %d through %s", id, floor, got, via))
	}
	c.read++
	c.versions[id] = max(c.versions[id], aggregate.Version(got))
}

// ask sends a request, as often as it takes if the clients are patient.
func (c *clients) ask(nodes *balancer, op string, args, result any) (via string, err error) {
	whole, cancel := context.WithTimeout(context.Background(), clientPatience)
	defer cancel()
	limit := clientPatience
	if c.patient {
		limit = attemptPatience
	}
	for {
		attempt, cancel := context.WithTimeout(whole, limit)
		node, err := nodes.call(attempt, op, args, result)
		cancel()
		if err == nil || !c.patient || whole.Err() != nil || !mayAskAgain(err) {
			return node.Name(), err
		}
		c.mu.Lock()
		c.again++
		c.mu.Unlock()
	}
}

// mayAskAgain reports whether another node may know better.
func mayAskAgain(err error) bool {
	kind := aggregate.KindOf(err)
	return kind == aggregate.KindNotDone || kind == aggregate.KindUnknown ||
		errors.Is(err, clustertest.ErrGone) || errors.Is(err, context.DeadlineExceeded)
}

func (c *clients) known(id string) aggregate.Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.versions[id]
}

// progress waits for more acknowledged commands.
func (c *clients) progress(more int) {
	c.t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.acked)
	}
	goal := count() + more
	require.Eventually(c.t, func() bool { return count() >= goal }, patience, time.Millisecond, "%d more commands are acknowledged", more)
}

// back waits until each of the partitions has acknowledged a command that was
// sent after a fault, and returns, sorted, how long after it that was.
func (c *clients) back(fault time.Time, of []aggregate.Partition) (times []time.Duration) {
	c.t.Helper()
	require.NotEmpty(c.t, of)
	require.Eventually(c.t, func() bool {
		times = times[:0]
		for p, first := range c.firstAfter(fault) {
			if slices.Contains(of, p) {
				times = append(times, first.Sub(fault))
			}
		}
		return len(times) == len(of)
	}, patience, 5*time.Millisecond, "service is back on %d partitions", len(of))
	slices.Sort(times)
	return times
}

// firstAfter is when each partition acknowledged its first command that was sent
// after a moment.
func (c *clients) firstAfter(moment time.Time) map[aggregate.Partition]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := map[aggregate.Partition]time.Time{}
	for _, a := range c.acked {
		if p := a.receipt.Partition; a.from.After(moment) && (first[p].IsZero() || a.to.Before(first[p])) {
			first[p] = a.to
		}
	}
	return first
}

// end stops the clients, requires that they saw nothing wrong, and holds what
// they were told against the log and against what the nodes say now.
func (c *clients) end(where clustertest.Store, nodes ...*clustertest.Process) {
	c.t.Helper()
	close(c.stop)
	c.over.Wait()
	require.Empty(c.t, c.wrong, strings.Join(c.wrong, "\n"))
	require.NotEmpty(c.t, c.acked)
	require.NotZero(c.t, c.read)
	events := audit(c.t, where, "drill-", c.acked)
	ctx := within(c.t, patience)
	for id, want := range events {
		for _, n := range nodes {
			var got int
			require.NoError(c.t, n.Call(ctx, "total", id, &got))
			require.Equal(c.t, want, got, "counter %s on node %s is what a replay makes it", id, n.Name())
		}
	}
	calls := make([]time.Duration, len(c.acked))
	for i, a := range c.acked {
		calls[i] = a.to.Sub(a.from)
	}
	slices.Sort(calls)
	c.t.Logf("%d commands and %d queries, %d asked again: 0 failed, 0 lost, 0 twice, 0 stale; commands p50 %s, p99 %s, max %s",
		len(c.acked), c.read, c.again, at(calls, 0.5), at(calls, 0.99), at(calls, 1))
}

// audit reads the log, which checks that it is sound, and requires that of some
// counters it holds the acknowledged commands and nothing else. It returns how
// many events each counter has.
func audit(t *testing.T, where clustertest.Store, prefix string, acked []ack) map[string]int {
	t.Helper()
	log := readLog(t, where)
	events := map[string]int{}
	for _, e := range log.Events {
		if e.Stream.Type == "counter" && strings.HasPrefix(e.Stream.ID, prefix) {
			events[e.Stream.ID]++
		}
	}
	told := map[string]int{}
	for _, a := range acked {
		require.Equal(t, 1, log.Has(a.command), "command %s of %s was acknowledged", a.command, a.id)
		told[a.id]++
	}
	require.Equal(t, told, events, "every event was acknowledged once")
	return events
}

func readLog(t *testing.T, where clustertest.Store) *clustertest.Log {
	t.Helper()
	ctx := within(t, patience)
	store, err := where.Open(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	log, err := clustertest.ReadLog(ctx, store)
	require.NoError(t, err)
	return log
}

// holdings is the part of a partition table that some nodes own.
func holdings(rows []persistence.Ownership, owners ...persistence.NodeID) (own []aggregate.Partition) {
	for _, row := range rows {
		if slices.Contains(owners, row.Owner) {
			own = append(own, aggregate.Partition(row.Partition))
		}
	}
	return own
}

// owners is everybody who owns a partition.
func owners(rows []persistence.Ownership) (all []persistence.NodeID) {
	for _, row := range rows {
		if !slices.Contains(all, row.Owner) {
			all = append(all, row.Owner)
		}
	}
	return all
}

// requireMoved checks that the given partitions have changed hands, each under a
// later epoch, and no others.
func requireMoved(t *testing.T, before, after []persistence.Ownership, which []aggregate.Partition) {
	t.Helper()
	for i, row := range after {
		if slices.Contains(which, aggregate.Partition(row.Partition)) {
			require.NotEqual(t, before[i].Owner, row.Owner, "partition %d", row.Partition)
			require.Greater(t, row.Epoch, before[i].Epoch, "partition %d", row.Partition)
		} else {
			require.Equal(t, before[i].Owner, row.Owner, "partition %d stays", row.Partition)
		}
	}
}

// requireReplaced checks that survivors have evicted a node and taken what it
// had, and nothing else. If the machine was so busy that they evicted each other
// as well, nothing can be said about the rest.
func requireReplaced(t *testing.T, before []persistence.Ownership, victim persistence.NodeID, survivors []*clustertest.Process) {
	t.Helper()
	ctx := within(t, patience)
	after := survivors[0].Partitions(ctx)
	require.Empty(t, holdings(after, victim))
	require.NotZero(t, count(ctx, survivors, takeovers))
	switch evicted := count(ctx, survivors, evictions); evicted {
	case 0:
		require.Fail(t, "nobody was evicted")
	case 1:
		requireMoved(t, before, after, holdings(before, victim))
	default:
		t.Logf("this machine was very busy: %d evictions", evicted)
	}
}

// requireLogged waits until one of some nodes has logged a line, which
// docs/drills.md says it does.
func requireLogged(t *testing.T, line string, nodes ...*clustertest.Process) {
	t.Helper()
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(nodes, func(n *clustertest.Process) bool { return strings.Contains(n.Log(), line) })
	}, patience, 5*time.Millisecond, "a node logs %q", line)
}

// count adds up a counter of some nodes.
func count(ctx context.Context, nodes []*clustertest.Process, counter func(cluster.Stats) uint64) (n uint64) {
	for _, c := range nodes {
		n += counter(c.Stats(ctx))
	}
	return n
}

func evictions(s cluster.Stats) uint64 { return s.Evictions }
func takeovers(s cluster.Stats) uint64 { return s.Takeovers }

// others is all nodes but some.
func others(all []*clustertest.Process, but ...*clustertest.Process) []*clustertest.Process {
	return slices.DeleteFunc(slices.Clone(all), func(n *clustertest.Process) bool { return slices.Contains(but, n) })
}

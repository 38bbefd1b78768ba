package cluster_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// wires are the links of some nodes to each other and to the store. A link that
// is cut lets nothing pass and tells nobody, like a cable that was pulled.
type wires struct {
	mu      sync.Mutex
	pids    map[int]string
	proxies []*link.Proxy
	cut     map[string]bool
	naming  sync.Once
	named   chan struct{} // closed when it is known who is who
}

// theStore is the end of a link that is no node.
const theStore = "store"

func newWires(t *testing.T) *wires {
	require.True(t, link.Supported, "who opened a connection can be told on Linux only")
	w := &wires{pids: map[int]string{}, cut: map[string]bool{}, named: make(chan struct{})}
	t.Cleanup(func() {
		w.name()
		for _, p := range w.proxies {
			require.NoError(t, p.Close())
		}
	})
	return w
}

// before puts a link before a process that listens at an address. Who tells who
// opened a connection over it.
func (w *wires) before(t *testing.T, name, address string, who func(net.Conn) string) (reachedAt string) {
	t.Helper()
	p, err := link.Listen(name, address, who, w.condition)
	require.NoError(t, err)
	w.proxies = append(w.proxies, p)
	return p.Addr()
}

func (w *wires) condition(from, to string) link.Condition {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from == theStore || to == theStore {
		return link.Condition{Frozen: w.cut[from+" "+to] || w.cut[to+" "+from]}
	}
	return link.Condition{Frozen: w.cut[from] || w.cut[to] || w.cut[from+" "+to] || w.cut[to+" "+from]}
}

// opener tells which node opened a connection.
func (w *wires) opener(conn net.Conn) string {
	<-w.named
	var pids []int
	for pid := range w.pids {
		pids = append(pids, pid)
	}
	pid, ok := link.Opener(conn, pids)
	if !ok {
		return ""
	}
	return w.pids[pid]
}

// name tells who is who; until then nothing passes.
func (w *wires) name(nodes ...*clustertest.Process) {
	w.naming.Do(func() {
		for _, n := range nodes {
			w.pids[n.PID()] = n.Name()
		}
		close(w.named)
	})
}

// set cuts what is named, or heals it: a node's links to all others; "node
// other", the link between two; or "node store", its link to the store.
func (w *wires) set(cut bool, what string) {
	w.mu.Lock()
	w.cut[what] = cut
	w.mu.Unlock()
	for _, p := range w.proxies {
		p.Changed()
	}
}

// wired starts three nodes with a link before each of them.
func wired(t *testing.T, store clustertest.Store) (*wires, []*clustertest.Process) {
	t.Helper()
	w := newWires(t)
	nodes := make([]*clustertest.Process, 3)
	for i, name := range []string{"a", "b", "c"} {
		s := spec(t, store)
		listen, err := link.FreePort(t.Context())
		require.NoError(t, err)
		s.Cluster.Listen, s.Cluster.Advertise = listen, w.before(t, name, listen, w.opener)
		nodes[i] = clustertest.Launch(t, name, s)
	}
	w.name(nodes...)
	settled(t, nodes...)
	oldEnough(t, nodes...)
	return w, nodes
}

func TestDrillCutFromPeers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		w, nodes := wired(t, store)
		victim, survivors := nodes[0], nodes[1:]
		ctx := within(t, patience)
		before, cutOff := survivors[0].Partitions(ctx), victim.ID(ctx)
		lost := holdings(before, cutOff)
		all := balance(nodes...)
		c := startClients(t, true, all)
		c.progress(200)

		cut := time.Now()
		w.set(true, victim.Name())
		all.drop(victim)
		times := c.back(cut, lost)
		settled(t, survivors...)
		requireReplaced(t, before, cutOff, survivors)
		c.progress(200)
		w.set(false, victim.Name())
		requireComesBack(t, victim, cutOff)
		settled(t, nodes...)
		all.add(victim)
		c.progress(200)

		requireLogged(t, "peer not reached", survivors...)
		requireLogged(t, "reason=unreachable", survivors...)
		t.Logf("%d partitions lost their owner; first command acknowledged after p50 %s, max %s", len(lost), at(times, 0.5), at(times, 1))
		c.end(store, nodes...)
	})
}

// requireComesBack waits until a node is a member again, as another incarnation.
func requireComesBack(t *testing.T, node *clustertest.Process, was persistence.NodeID) {
	t.Helper()
	ctx := within(t, patience)
	require.Eventually(t, func() bool {
		var now persistence.NodeID
		return node.Call(ctx, "id", nil, &now) == nil && now != "" && now != was
	}, patience, 5*time.Millisecond, "node %s comes back as another incarnation", node.Name())
	require.Eventually(t, func() bool { return node.Stats(ctx).Rejoins > 0 }, patience, 5*time.Millisecond, "node %s counts it", node.Name())
}

// ownServer is a PostgreSQL server for one test, and a store on it.
func ownServer(t *testing.T) (*postgrestest.Server, clustertest.Store) {
	t.Helper()
	ctx := within(t, patience)
	server, err := postgrestest.Start(ctx, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(ctx)
	require.NoError(t, err)
	_, database, _ := strings.Cut(dsn, "dbname=")
	database, _, _ = strings.Cut(database, " ")
	return server, clustertest.Store{DSN: server.TCP(database), Partitions: partitions}
}

func TestDrillCutFromStore(t *testing.T) {
	server, store := ownServer(t)
	w := newWires(t)
	nodes := make([]*clustertest.Process, 3)
	for i, name := range []string{"a", "b", "c"} {
		s := spec(t, store)
		proxy := w.before(t, theStore, server.Addr(), func(net.Conn) string { return name })
		s.Store.DSN = strings.Replace(store.DSN, server.Addr(), proxy, 1)
		nodes[i] = clustertest.Launch(t, name, s)
	}
	settled(t, nodes...)
	oldEnough(t, nodes...)
	victim, survivors := nodes[0], nodes[1:]
	ctx := within(t, patience)
	before, cutOff := survivors[0].Partitions(ctx), victim.ID(ctx)
	lost := holdings(before, cutOff)
	all := balance(nodes...)
	c := startClients(t, true, all)
	c.progress(200)

	cut := time.Now()
	w.set(true, victim.Name()+" "+theStore)
	require.Eventually(t, func() bool {
		ready, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		return victim.Call(ready, "ready", nil, nil) != nil
	}, patience, 5*time.Millisecond, "the node is not ready any more")
	all.drop(victim)
	unready := time.Since(cut)
	times := c.back(cut, lost)
	settled(t, survivors...)
	requireReplaced(t, before, cutOff, survivors)
	c.progress(200)
	w.set(false, victim.Name()+" "+theStore)
	requireComesBack(t, victim, cutOff)
	settled(t, nodes...)
	all.add(victim)
	c.progress(200)

	require.Positive(t, count(ctx, nodes[:1], func(s cluster.Stats) uint64 { return s.RenewalsFailed }))
	requireLogged(t, "reason=silent", survivors...)
	requireLogged(t, "lease not renewed", victim)
	requireLogged(t, "evicted from the cluster, coming back as another incarnation", victim)
	t.Logf("not ready after %s; %d partitions lost their owner; first command acknowledged after p50 %s, max %s",
		unready.Round(time.Millisecond), len(lost), at(times, 0.5), at(times, 1))
	c.end(store, nodes...)
}

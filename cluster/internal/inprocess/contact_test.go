package inprocess_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

// renewals waits until the nodes have renewed so often.
func renewals(t *testing.T, more uint64, nodes ...*cluster.Node) {
	t.Helper()
	goals := make([]uint64, len(nodes))
	for i, n := range nodes {
		goals[i] = n.Stats().Renewals + more
	}
	for i, n := range nodes {
		require.Eventually(t, func() bool { return n.Stats().Renewals >= goals[i] }, patience, time.Millisecond, "node %d renews", i)
	}
}

// enough is more renewals than a suspicion, a vote and an eviction take.
const enough = 9

// A node that reaches the store and not its peers is voted out. What was its is
// served by the others, nobody is told anything old meanwhile, and when the
// others hear it again it comes back.
func TestNodeThatNobodyReachesIsVotedOut(t *testing.T) {
	type link = func(m clustertest.Message, victim string) bool
	for name, cut := range map[string]link{
		"cut off":         func(m clustertest.Message, victim string) bool { return m.From == victim || m.To == victim },
		"it is deaf":      func(m clustertest.Message, victim string) bool { return m.To == victim },
		"nobody hears it": func(m clustertest.Message, victim string) bool { return m.From == victim },
	} {
		t.Run(name, func(t *testing.T) {
			logs := make([]lines, 3)
			h := build(t, 3, logged(logs))
			victim, others := h.nodes[0], h.nodes[1:]
			first, id := victim.ID(), h.idOn(victim)
			_, err := counters.Ref(others[0], id).Send(within(t, patience), add{N: 1})
			require.NoError(t, err)
			renewals(t, enough, h.nodes...) // until the leases of the start are over
			require.Zero(t, victim.Stats().Unreached)

			w := h.watchForStaleAnswers(id, others[0], h.nodes...)
			h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
				return clustertest.Fate{Drop: cut(m, victim.Address())}
			})
			require.Eventually(t, func() bool {
				return others[0].Stats().Evictions+others[1].Stats().Evictions > 0
			}, patience, time.Millisecond, "it is evicted")
			for i, n := range others {
				require.Eventually(t, func() bool { return len(n.Members()) == 2 }, patience, time.Millisecond, "node %d sees two", i+1)
				require.Positive(t, n.Stats().Unreached)
				require.NotEmpty(t, logs[i+1].with("level=WARN", "peer not reached", "node="+string(first), "address="+victim.Address(), "error="))
				require.Len(t, logs[i+1].with("node left", "node="+string(first), `reason="evicted: unreachable"`), 1)
			}
			w.progress(20)
			require.Contains(t, []persistence.NodeID{others[0].ID(), others[1].ID()}, others[0].Owner("counter", id).Owner)
			require.Eventually(t, func() bool { return len(logs[0].with("evicted from the cluster")) == 1 }, patience, time.Millisecond, "it learns of it")
			renewals(t, enough, others...)
			require.Len(t, others[0].Members(), 2, "it does not come back while nobody reaches it")
			require.Len(t, logs[0].with("level=WARN", "not joined again", `error="of 2 members 0 answer"`), 1)
			require.Empty(t, victim.ID())
			require.Zero(t, victim.Stats().Rejoins)

			h.fabric.Heal()
			require.Eventually(t, func() bool { return victim.Stats().Rejoins == 1 }, patience, time.Millisecond, "it comes back")
			clustertest.Settled(t, h.nodes...)
			require.NotEqual(t, first, victim.ID())
			w.progress(20)
			acked := w.end()
			require.Equal(t, acked+1, sum(t, victim, id))
			renewals(t, enough, h.nodes...)
			require.EqualValues(t, 1, victim.Stats().Rejoins, "it stays")
			require.Len(t, h.log().Events, acked+1)
		})
	}
}

// stale watches one counter: it is written through one node and read through all,
// and no answer is older than what was acknowledged before the question.
type stale struct {
	t     *testing.T
	stop  chan struct{}
	wait  sync.WaitGroup
	mu    sync.Mutex
	acked int // acknowledged additions
	reads int
}

func (h *house) watchForStaleAnswers(id string, writer *cluster.Node, readers ...*cluster.Node) *stale {
	s := &stale{t: h.t, stop: make(chan struct{})}
	base := sum(h.t, writer, id)
	running := func() bool {
		select {
		case <-s.stop:
			return false
		default:
			return true
		}
	}
	s.wait.Go(func() {
		for running() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, err := counters.Ref(writer, id).Send(ctx, add{N: 1})
			cancel()
			if err != nil {
				h.t.Errorf("a command through a node that can be reached: %v", err)
				return
			}
			s.mu.Lock()
			s.acked++
			s.mu.Unlock()
			<-time.After(time.Millisecond)
		}
	})
	for i, n := range readers {
		s.wait.Go(func() {
			for running() {
				known := s.count()
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
				got, err := aggregate.Ask(ctx, counters.Ref(n, id), total{})
				cancel()
				if err != nil {
					continue
				}
				if got < base+known {
					h.t.Errorf("node %d answers %d when %d was acknowledged before it was asked", i, got, base+known)
				}
				s.mu.Lock()
				s.reads++
				s.mu.Unlock()
			}
		})
	}
	return s
}

func (s *stale) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

func (s *stale) progress(more int) {
	s.t.Helper()
	goal := s.count() + more
	require.Eventually(s.t, func() bool { return s.count() >= goal }, patience, time.Millisecond, "%d more additions are acknowledged", more)
}

func (s *stale) end() (acked int) {
	s.t.Helper()
	close(s.stop)
	s.wait.Wait()
	require.Positive(s.t, s.reads)
	return s.acked
}

// Where nobody has a majority, nobody is evicted.
func TestNobodyIsEvictedWithoutAMajority(t *testing.T) {
	t.Run("three that are all cut off from each other", func(t *testing.T) {
		h := build(t, 3, nil)
		lives := livesOf(h)
		h.fabric.OnSend(func(clustertest.Message) clustertest.Fate { return clustertest.Fate{Drop: true} })
		renewals(t, 2*enough, h.nodes...)
		require.Equal(t, lives, livesOf(h))
		for _, n := range h.nodes {
			require.EqualValues(t, 2, n.Stats().Unreached)
		}
	})
	t.Run("two that do not see each other", func(t *testing.T) {
		h := build(t, 2, nil)
		lives := livesOf(h)
		h.fabric.Cut(h.nodes[0].Address(), h.nodes[1].Address())
		renewals(t, 2*enough, h.nodes...)
		require.Equal(t, lives, livesOf(h))
	})
	t.Run("three with one link cut", func(t *testing.T) {
		h := build(t, 3, nil)
		lives := livesOf(h)
		h.fabric.Cut(h.nodes[0].Address(), h.nodes[1].Address())
		renewals(t, 2*enough, h.nodes...)
		require.Equal(t, lives, livesOf(h))
	})
}

func livesOf(h *house) (lives []persistence.NodeID) {
	for _, n := range h.nodes {
		lives = append(lives, n.ID())
	}
	return lives
}

// A link that fails for less than a lease, again and again, makes no suspects.
func TestFlappingLinkEvictsNobody(t *testing.T) {
	h := build(t, 3, nil)
	lives, victim := livesOf(h), h.nodes[0].Address()
	for range 4 {
		h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
			return clustertest.Fate{Drop: m.From == victim || m.To == victim}
		})
		renewals(t, 3, h.nodes...)
		h.fabric.Heal()
		renewals(t, 2, h.nodes...)
	}
	require.Equal(t, lives, livesOf(h))
	for _, n := range h.nodes {
		require.Zero(t, n.Stats().Unreached)
	}
}

// Hints make a node look at the store more often, and not its peers less
// trustworthy.
func TestHintsDoNotMakePeersSilent(t *testing.T) {
	h := build(t, 2, func(_ int, c *cluster.Config) { c.Lease = 20 * time.Second })
	n := h.nodes[0]
	h.fabric.OnSend(func(clustertest.Message) clustertest.Fate { return clustertest.Fate{Drop: true} })
	before := n.Stats().Renewals
	require.Eventually(t, func() bool {
		n.Lost("nobody")
		return n.Stats().Renewals > before+3*enough
	}, patience, time.Millisecond, "hints hail")
	require.Zero(t, n.Stats().Unreached)
}

// mute is a member that renews and is nothing else: nobody listens at its address.
func (h *house) mute(id persistence.NodeID) {
	h.t.Helper()
	like := h.nodes[0].Members()[0]
	like.ID, like.Address, like.State, like.Lock = id, "memory:gone", persistence.Joining, ""
	require.NoError(h.t, h.store.Join(within(h.t, patience), like))
	alive, stop := context.WithCancel(context.Background())
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = h.store.Unwrap().Renew(alive, persistence.Renewal{Node: id, State: persistence.Joining})
			case <-alive.Done():
				return
			}
		}
	})
	h.t.Cleanup(func() { stop(); renewing.Wait() })
	for i, n := range h.nodes {
		require.Eventually(h.t, func() bool { return len(n.Members()) == len(h.nodes)+1 }, patience, time.Millisecond, "node %d sees it", i)
	}
	renewals(h.t, 2, h.nodes...) // they have pinged it
}

// When its machine says that nobody listens, it takes two to evict a member, and
// no silence.
func TestRefusingMemberIsEvictedByTwo(t *testing.T) {
	logs := make([]lines, 3)
	h := build(t, 3, logged(logs))
	h.mute("mute")
	const gone = "memory:gone"
	h.nodes[0].Lost(gone)
	require.Eventually(t, func() bool { return h.nodes[0].Stats().Unreached == 1 }, patience, time.Millisecond, "it is refused")
	require.Len(t, logs[0].with("level=WARN", "peer not reached", "node=mute", "refused"), 1)
	renewals(t, 1, h.nodes...)
	require.Len(t, h.nodes[0].Members(), 4, "one alone decides nothing")
	h.nodes[1].Lost(gone)
	for i, n := range h.nodes {
		require.Eventually(t, func() bool { return len(n.Members()) == 3 }, patience, time.Millisecond, "node %d sees that it is evicted", i)
	}
	require.Zero(t, h.nodes[2].Stats().Unreached, "nobody waited for its silence")
	evicted := append(logs[0].with("node evicted", "victim=mute", "reason=unreachable"), logs[1].with("node evicted", "victim=mute", "reason=unreachable")...)
	require.Len(t, evicted, 1)
}

// Of two nodes, one is enough.
func TestRefusingMemberIsEvictedByTheOnlyOther(t *testing.T) {
	h := build(t, 1, nil)
	h.mute("mute")
	require.Zero(t, h.nodes[0].Stats().Evictions)
	h.nodes[0].Lost("memory:gone")
	require.Eventually(t, func() bool { return h.nodes[0].Stats().Evictions == 1 }, patience, time.Millisecond)
}

// A gateway has no partitions, and reaches those of the others.
func TestGatewayOwnsNothing(t *testing.T) {
	h := build(t, 0, nil)
	gate := clustertest.Start(t, h.config(0, func(_ int, c *cluster.Config) { c.Weight = -1 }))
	_, err := counters.Ref(gate, "a").Send(within(t, 100*time.Millisecond), add{N: 1})
	requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonDeadline)
	small := clustertest.Start(t, h.config(1, nil))
	big := clustertest.Start(t, h.config(2, func(_ int, c *cluster.Config) { c.Weight = 3 }))
	owned := func(n *cluster.Node) (count int) {
		for _, row := range gate.Partitions() {
			if row.Owner == n.ID() {
				count++
			}
		}
		return count
	}
	require.Eventually(t, func() bool { return owned(small) == partitions/4 && owned(big) == partitions*3/4 }, patience, time.Millisecond,
		"everybody has what its weight says")
	clustertest.Ready(t, gate, small, big)
	for i := range partitions {
		_, err := counters.Ref(gate, fmt.Sprint(i)).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
	}
	require.Zero(t, owned(gate))
	require.Zero(t, gate.Stats().Claims)
	require.Zero(t, gate.Stats().Host.Activations)
	require.NoError(t, big.Stop(within(t, patience)))
	require.NoError(t, small.Stop(within(t, patience)))
	require.Zero(t, gate.Stats().Claims, "not even what is nobody's")
}

// A loopback address means something else on every machine.
func TestLoopbackAddressesOfOtherMachinesAreTold(t *testing.T) {
	var log lines
	h := build(t, 1, func(_ int, c *cluster.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for i, address := range []string{"127.0.0.1:7400", "localhost:7400", "[::1]:7400", "10.0.0.1:7400", "127.0.0.1:7401"} {
		like := h.nodes[0].Members()[0]
		like.ID, like.Address, like.Lock = persistence.NodeID(fmt.Sprint("far", i)), address, ""
		if i < 4 {
			like.Host = "another machine"
		}
		require.NoError(t, h.store.Join(within(t, patience), like))
	}
	const line = "a member on another machine advertises a loopback address"
	require.Eventually(t, func() bool { return len(log.with("level=WARN", line)) == 3 }, patience, time.Millisecond)
	renewals(t, 2, h.nodes[0])
	require.Len(t, log.with(line), 3, "once each")
	for i := range 3 {
		require.Len(t, log.with(line, fmt.Sprint("node=far", i)), 1)
	}
}

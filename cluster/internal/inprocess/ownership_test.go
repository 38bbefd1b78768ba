package inprocess_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

func TestNodesThatStartTogetherAreOneCluster(t *testing.T) {
	stores := map[string]func(t *testing.T) persistence.Store{
		"memory": func(t *testing.T) persistence.Store { return inMemory(t) },
		"sqlite": func(t *testing.T) persistence.Store {
			s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: partitions})
			require.NoError(t, err)
			return s
		},
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				t.Run("", func(t *testing.T) {
					h := buildOn(t, open(t), 5, nil)
					view, err := h.store.View(within(t, patience))
					require.NoError(t, err)
					require.Len(t, view.Nodes, 5)
					held := map[persistence.Partition]persistence.NodeID{}
					for _, n := range h.nodes {
						require.Zero(t, n.Stats().Takeovers, "nobody was robbed")
						require.Zero(t, n.Stats().Evictions)
						for _, row := range n.Partitions() {
							held[row.Partition] = row.Owner
						}
					}
					for _, row := range view.Partitions {
						require.Equal(t, row.Owner, held[row.Partition])
					}
				})
			}
		})
	}
}

func TestNodesTellWhatTheyKnow(t *testing.T) {
	h := build(t, 3, nil)
	ids := map[persistence.NodeID]int{}
	for _, n := range h.nodes {
		require.NotEmpty(t, n.ID())
		require.Regexp(t, `^memory:\d$`, n.Address())
		require.Nil(t, n.Cluster())
		require.Len(t, n.Members(), 3)
		require.Len(t, n.Partitions(), partitions)
		ids[n.ID()] = 0
	}
	require.Len(t, ids, 3)
	for _, row := range h.nodes[0].Partitions() {
		ids[row.Owner]++
	}
	for _, n := range ids {
		require.InDelta(t, partitions/3, n, 1)
	}
	id := h.idOn(h.nodes[2])
	require.Zero(t, sum(t, h.nodes[0], id))
	require.Zero(t, sum(t, h.nodes[2], id))
	require.EqualValues(t, 1, h.nodes[2].Stats().Local)
	require.EqualValues(t, 1, h.nodes[0].Stats().Remote)
	require.EqualValues(t, 1, h.nodes[2].Stats().Host.Activations)
	require.Equal(t, 1, h.nodes[2].Stats().Host.Resident)
	require.Zero(t, h.nodes[2].Stats().Host.InFlight)
	require.NoError(t, h.nodes[2].Stop(within(t, patience)))
	require.NoError(t, h.nodes[2].Stop(within(t, patience)), "stopping twice is harmless")
	_, err := counters.Ref(h.nodes[2], id).Send(within(t, patience), add{N: 1})
	requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonStopping)
	require.Error(t, h.nodes[2].Ready(within(t, patience)))
	clustertest.Settled(t, h.nodes[:2]...)
	require.Zero(t, sum(t, h.nodes[0], id))
}

func TestReadsCostTheStoreNothing(t *testing.T) {
	h := build(t, 2, nil)
	id := h.idOn(h.nodes[0])
	_, err := counters.Ref(h.nodes[1], id).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	c := h.count()
	began := time.Now()
	const reads = 3000
	var wait sync.WaitGroup
	for _, n := range h.nodes {
		for range 4 {
			wait.Go(func() {
				for range reads / 8 {
					if got, err := aggregate.Ask(within(t, patience), counters.Ref(n, id), total{}); err != nil || got != 1 {
						t.Error(got, err)
					}
				}
			})
		}
	}
	wait.Wait()
	renewals := c.of("Renew")
	require.EqualValues(t, renewals, c.total.Load(), "calls besides renewals: %v", c.calls)
	most := 2*int(time.Since(began)/(time.Second/4)) + 4
	require.LessOrEqual(t, renewals, most, "load does not make a node renew more often")
}

func TestStoreOutage(t *testing.T) {
	h := build(t, 2, nil)
	owner, other := h.nodes[0], h.nodes[1]
	read, written := h.idOn(owner), "x"+h.idOn(owner)
	for _, n := range h.nodes {
		_, err := counters.Ref(n, read).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
	}
	loads := owner.Stats().Host.Loads + other.Stats().Host.Loads
	lives := []persistence.NodeID{owner.ID(), other.ID()}

	h.down()
	require.Equal(t, 2, sum(t, owner, read), "the lease still runs")
	require.Equal(t, 2, sum(t, other, read))
	_, err := counters.Ref(owner, written).Send(within(t, 50*time.Millisecond), add{N: 1})
	requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonDeadline)
	require.ErrorContains(t, err, aggregate.ReasonStoreDown)
	for i, n := range h.nodes { // when the lease has run out, memory proves nothing
		require.Eventually(t, func() bool {
			_, err := aggregate.Ask(within(t, 20*time.Millisecond), counters.Ref(n, read), total{})
			return err != nil
		}, patience, time.Millisecond, "node %d notices", i)
		_, err := aggregate.Ask(within(t, 50*time.Millisecond), counters.Ref(n, read), total{})
		require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(err), "%v", err)
	}
	waiting := make(chan error, 1)
	go func() { // who has time is served when the store is back
		_, err := counters.Ref(other, read).Send(within(t, patience), add{N: 1})
		waiting <- err
	}()
	failed := other.Stats().Retries
	require.Eventually(t, func() bool { return other.Stats().Retries > failed }, patience, time.Millisecond, "it asks again")

	h.store.Heal()
	require.NoError(t, <-waiting)
	require.Equal(t, 3, sum(t, owner, read))
	clustertest.Settled(t, h.nodes...)
	require.Equal(t, lives, []persistence.NodeID{owner.ID(), other.ID()}, "nobody was evicted")
	for _, n := range h.nodes {
		require.Zero(t, n.Stats().Rejoins)
	}
	reloaded := owner.Stats().Host.Loads + other.Stats().Host.Loads - loads
	require.LessOrEqual(t, reloaded, uint64(20), "only what could not commit is read again")
}

// An outage makes nobody forget what he had in memory.
func TestMemorySurvivesAStoreOutage(t *testing.T) {
	h := build(t, 2, nil)
	id := h.idOn(h.nodes[0])
	_, err := counters.Ref(h.nodes[0], id).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	loads := h.nodes[0].Stats().Host.Loads
	h.down()
	require.Eventually(t, func() bool { return h.nodes[0].Stats().RenewalsFailed >= 6 }, patience, time.Millisecond, "the lease runs out")
	h.store.Heal()
	require.Equal(t, 1, sum(t, h.nodes[1], id))
	require.Equal(t, loads, h.nodes[0].Stats().Host.Loads)
}

// expel takes a node out of the cluster behind everybody's back.
func (h *house) expel(id persistence.NodeID) {
	h.t.Helper()
	ctx := within(h.t, patience)
	evicted := false
	require.Eventually(h.t, func() bool {
		view, err := h.store.View(ctx)
		require.NoError(h.t, err)
		for _, n := range view.Nodes {
			if n.ID == id {
				evicted, err = h.store.Evict(ctx, id, n.Renewals)
				require.NoError(h.t, err)
			}
		}
		return evicted
	}, patience, time.Millisecond, "the eviction wins against renewals")
}

// evict expels a node, and returns when the successor has taken the counter
// over.
func (h *house) evict(victim, successor *cluster.Node, counter string) {
	h.t.Helper()
	h.expel(victim.ID())
	require.Eventually(h.t, func() bool {
		return successor.Owner("counter", counter).Owner == successor.ID()
	}, patience, time.Millisecond, "the successor takes over")
}

// The old owner answers from memory for as long as its lease lasts, and nobody
// can see that the new owner has already written. // I8
func TestTakeOverIsInvisibleToReadersOfTheOldOwner(t *testing.T) {
	h := build(t, 2, nil)
	requireInvisibleTakeOver(t, h, h.nodes[0], h.nodes[1])
}

// requireInvisibleTakeOver evicts one of two nodes while it answers from memory.
func requireInvisibleTakeOver(t *testing.T, h *house, old, successor *cluster.Node) {
	t.Helper()
	id := h.idOn(old)
	_, err := counters.Ref(old, id).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	renewed := successor.Stats().Renewals // until its leases of the start are over
	require.Eventually(t, func() bool { return successor.Stats().Renewals >= renewed+5 }, patience, time.Millisecond, "a lease has passed")

	stall := persistencetest.NewStall()
	t.Cleanup(stall.Release)
	victim := old.ID()
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Node == victim && c.Method != "Evict" { // all it has is its memory and its lease
			return persistencetest.Fault{Before: stall.Hold}
		}
		return persistencetest.Fault{}
	})
	h.evict(old, successor, id)
	written := make(chan time.Time, 1)
	go func() {
		receipt, err := counters.Ref(successor, id).Send(within(t, patience), add{N: 10})
		if err != nil || receipt.Version != 2 {
			t.Error(receipt, err)
		}
		written <- time.Now()
	}()
	var lastOld, at time.Time
	stale := 0
	for at.IsZero() {
		select {
		case at = <-written:
		default:
		}
		before := time.Now()
		got, err := aggregate.Ask(within(t, 5*time.Millisecond), counters.Ref(old, id), total{})
		if err == nil && got == 1 {
			lastOld = before
			stale++
		}
	}
	require.Positive(t, stale, "the old owner did answer from memory")
	require.True(t, lastOld.Before(at), "no old answer to a question that was asked after the new write was acknowledged: %s after", lastOld.Sub(at))
	for range 200 {
		got, err := aggregate.Ask(within(t, time.Millisecond), counters.Ref(old, id), total{})
		require.False(t, err == nil && got == 1, "an old answer after the new write was acknowledged")
	}
	require.Positive(t, successor.Stats().Host.Held)
	stall.Release()
	h.store.Heal()
	require.Eventually(t, func() bool { return old.Stats().Rejoins == 1 }, patience, time.Millisecond, "the old owner comes back")
	require.Equal(t, 11, sum(t, old, id))
	h.log()
}

// A deposed owner that has not heard of it writes in vain. // I1
func TestDeposedOwnerIsFenced(t *testing.T) {
	t.Run("by the epoch", func(t *testing.T) { testFence(t, 0) })
	t.Run("with a log that went on", func(t *testing.T) { testFence(t, 1) })
}

// testFence lets a deposed owner write when its successor has written so often.
func testFence(t *testing.T, written int) {
	h := build(t, 2, nil)
	old, successor := h.nodes[0], h.nodes[1]
	id := h.idOn(old)
	_, err := counters.Ref(old, id).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	victim := old.ID()
	stall := persistencetest.NewStall()
	t.Cleanup(stall.Release)
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Node == victim && c.Method != "Evict" {
			return persistencetest.Fault{Before: stall.Hold}
		}
		return persistencetest.Fault{}
	})
	h.evict(old, successor, id)
	for range written {
		_, err = counters.Ref(successor, id).Send(within(t, patience), add{N: 10})
		require.NoError(t, err)
	}
	fenced := make(chan error, 1)
	go func() { // decided on the old state, refused by the store, done by the new owner
		answer, receipt, err := aggregate.Do(within(t, patience), counters.Ref(old, id), add{N: 100})
		if err == nil && (answer != 101+10*written || int(receipt.Version) != 2+written) {
			err = errors.New("it took effect on an old state")
		}
		fenced <- err
	}()
	require.Eventually(t, func() bool { return old.Stats().Host.Fenced == 1 }, patience, time.Millisecond, "the store refuses the append")
	stall.Release()
	h.store.Heal()
	require.NoError(t, <-fenced)
	require.Equal(t, 101+10*written, sum(t, successor, id))
	require.Len(t, h.log().Events, 2+written)
}

// A claim whose answer is lost has been made all the same, and the store names
// the node itself as the previous owner when it tries again.
func TestHoldSurvivesALostClaim(t *testing.T) {
	h := build(t, 2, nil)
	old, successor := h.nodes[0], h.nodes[1]
	id := h.idOn(old)
	_, err := counters.Ref(old, id).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	renewed := successor.Stats().Renewals
	require.Eventually(t, func() bool { return successor.Stats().Renewals >= renewed+5 }, patience, time.Millisecond, "a lease has passed")
	victim, lost := old.ID(), map[persistence.Partition]bool{}
	var mu sync.Mutex
	stall := persistencetest.NewStall()
	t.Cleanup(stall.Release)
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case c.Node == victim && c.Method != "Evict":
			return persistencetest.Fault{Before: stall.Hold}
		case c.Method == "Claim" && !lost[c.Partition]:
			lost[c.Partition] = true
			return persistencetest.Fault{Outcome: persistencetest.LostAnswer}
		}
		return persistencetest.Fault{}
	})
	h.evict(old, successor, id)
	_, err = counters.Ref(successor, id).Send(within(t, patience), add{N: 10})
	require.NoError(t, err)
	for range 200 {
		got, err := aggregate.Ask(within(t, time.Millisecond), counters.Ref(old, id), total{})
		require.False(t, err == nil && got == 1, "an old answer after the new write was acknowledged")
	}
	require.Positive(t, successor.Stats().Host.Held)
	stall.Release()
}

// Hints make a node look at the store more often. That must not make it believe
// that others have stopped renewing.
func TestHintsDoNotMakeSuspicious(t *testing.T) {
	h := build(t, 3, nil)
	a := h.nodes[0].Address()
	before := h.nodes[0].Stats().Renewals
	require.Eventually(t, func() bool {
		h.fabric.Break(a, "nobody")
		return h.nodes[0].Stats().Renewals > before+100
	}, patience, time.Millisecond, "hints hail")
	for _, n := range h.nodes {
		require.Zero(t, n.Stats().Evictions)
		require.Zero(t, n.Stats().Rejoins)
	}
}

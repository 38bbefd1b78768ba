package inprocess_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// longLease is what the nodes of these tests would have to wait for if
	// nothing were proven.
	longLease = 10 * time.Minute
	// aMoment is much less than the time between two renewals.
	aMoment = time.Second
)

// bystanders are nodes on a clock of the test, beside another member which owns
// everything and of which there is only what the others see of a process: its
// row, its counter, and its lock file.
type bystanders struct {
	*house
	clock  *clock
	logs   []lines
	victim persistence.NodeID
	lock   *os.File
	// when the first of them started, and when all had settled
	started, settled time.Duration
}

// besideAVictim starts bystanders. Unless they are to be young, they have seen
// all that can matter of the time before they came.
func besideAVictim(t *testing.T, nodes int, young bool) *bystanders {
	t.Helper()
	b := &bystanders{clock: newClock(), logs: make([]lines, nodes), victim: "victim"}
	b.started = b.clock.Now()
	step := longLease / 200
	if young {
		step = aMoment / 100
	}
	pause := b.clock.run(step)
	t.Cleanup(func() { pause() }) // when the nodes have stopped
	b.house = build(t, nodes, func(i int, c *cluster.Config) {
		c.Clock, c.Lease = b.clock, longLease
		c.Logger = slog.New(slog.NewTextHandler(&b.logs[i], nil))
	})
	pause()
	b.settled = b.clock.Now()
	t.Cleanup(func() { pause = b.clock.run(step) })
	for range 5 {
		if young {
			break
		}
		b.renew()
	}
	b.lock = b.join(b.victim)
	view, err := b.store.View(within(t, patience))
	require.NoError(t, err)
	for _, row := range view.Partitions {
		_, err := b.store.Claim(within(t, patience), row.Partition, row.Epoch, b.victim)
		require.NoError(t, err)
	}
	b.renew()
	for _, n := range b.nodes {
		require.Len(t, n.Members(), nodes+1)
		for _, row := range n.Partitions() {
			require.Equal(t, b.victim, row.Owner)
		}
	}
	return b
}

// join adds a member on this machine, whose lock the test holds.
func (b *bystanders) join(id persistence.NodeID) *os.File {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), string(id)+".lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = lock.Close() }) // the test may have done so
	require.NoError(b.t, unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	ctx := within(b.t, patience)
	like := b.nodes[0].Members()[0]
	like.ID, like.Lock, like.Address = id, path, "memory:gone"
	require.NoError(b.t, b.store.Join(ctx, like))
	_, err = b.store.Renew(ctx, persistence.Renewal{Node: id, State: persistence.Active})
	require.NoError(b.t, err)
	return lock
}

// renew lets the time between two renewals pass, and waits for them and for what
// comes of them: until every node looks at the lock files again.
func (b *bystanders) renew() {
	b.t.Helper()
	before := make([]uint64, len(b.nodes))
	for i, n := range b.nodes {
		before[i] = n.Stats().Renewals
	}
	b.clock.advance(longLease / 4)
	require.Eventually(b.t, func() bool {
		for i, n := range b.nodes {
			if n.Stats().Renewals == before[i] {
				b.clock.creep(aMoment / 20) // it had not set its timer yet
				return false
			}
		}
		return b.clock.soon(aMoment/20) >= len(b.nodes)
	}, patience, time.Millisecond, "every node renews its lease")
}

// watch lets a moment pass, or less if the condition is met before, and then
// waits for the condition, or gives up, without any more time passing.
func (b *bystanders) watch(condition func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	passed := time.Duration(0)
	for idle := 0; idle < 1000; {
		if condition() {
			return true
		}
		if passed < aMoment {
			passed += b.clock.creep(min(aMoment/20, aMoment-passed))
		} else {
			idle++
		}
		<-tick.C
	}
	return false
}

func (b *bystanders) evictions() (n uint64) {
	for _, node := range b.nodes {
		n += node.Stats().Evictions
	}
	return n
}

// evicted counts the lines about evictions.
func (b *bystanders) evicted(proven bool) (n int) {
	for i := range b.logs {
		for _, line := range b.logs[i].with("node evicted", "reason=") {
			if strings.Contains(line, `reason="proven dead"`) == proven {
				n++
			}
		}
	}
	return n
}

// write sends a command to every partition through every node.
func (b *bystanders) write() <-chan error {
	of := map[persistence.Partition]string{}
	for i := 0; len(of) < partitions; i++ {
		id := "c" + strconv.Itoa(i)
		of[b.nodes[0].Owner("counter", id).Partition] = id
	}
	written := make(chan error, partitions*len(b.nodes))
	for _, n := range b.nodes {
		for _, id := range of {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
				defer cancel()
				_, err := counters.Ref(n, id).Send(ctx, add{N: 1})
				written <- err
			}()
		}
	}
	return written
}

// requireWritten waits for what write has sent.
func (b *bystanders) requireWritten(written <-chan error) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return len(written) == cap(written) }, patience, time.Millisecond, "all commands are answered")
	for range cap(written) {
		require.NoError(b.t, <-written)
	}
}

// requireHeld checks that nothing of what was written is answered before the end
// of a hold that began within some time, and everything is after it.
func (b *bystanders) requireHeld(written <-chan error, from, to time.Duration) {
	b.t.Helper()
	held := func() (n uint64) {
		for _, node := range b.nodes {
			n += node.Stats().Host.Held
		}
		return n
	}
	require.True(b.t, b.watch(func() bool { return held() == uint64(cap(written)) }), "%d of %d replies are held", held(), cap(written))
	b.clock.advance(from + longLease - b.clock.Now() - 2*aMoment)
	require.False(b.t, b.watch(func() bool { return len(written) > 0 }), "a reply left too early")
	b.clock.advance(to + longLease + longLease/500 - b.clock.Now()) // clocks drift
	b.requireWritten(written)
}

// A lock that the kernel released proves a death: nobody waits for the lease of
// the dead, neither to be sure that it is dead nor that it answers no more. // I8
func TestProvenDeathCostsNoTime(t *testing.T) {
	b := besideAVictim(t, 2, false)
	written := b.write()
	died := b.clock.Now()
	require.NoError(t, b.lock.Close())
	require.True(t, b.watch(func() bool { return len(written) == cap(written) }), "%d of %d commands were answered", len(written), cap(written))
	require.LessOrEqual(t, b.clock.Now()-died, aMoment)
	b.requireWritten(written)
	require.EqualValues(t, 1, b.evictions())
	require.Equal(t, 1, b.evicted(true))
	for i, n := range b.nodes {
		require.Zero(t, n.Stats().Host.Held, "node %d", i)
	}
	clustertest.Settled(t, b.nodes...)
}

// A process that holds its lock may live, however still it is: it is evicted
// when it has missed its renewals, and not before.
func TestHeldLockProvesNothing(t *testing.T) {
	b := besideAVictim(t, 1, false)
	silent := b.clock.Now()
	require.False(t, b.watch(func() bool { return b.evictions() > 0 }))
	for range 4 {
		b.renew()
	}
	require.False(t, b.watch(func() bool { return b.evictions() > 0 }))
	b.renew()
	require.True(t, b.watch(func() bool { return b.evictions() > 0 }))
	require.Greater(t, b.clock.Now()-silent, longLease)
	require.Equal(t, 1, b.evicted(false))
	require.Zero(t, b.evicted(true))
	b.requireWritten(b.write())
}

// Whoever has watched a node knows when its lease is over, and not only the one
// who has evicted it. // I8
func TestEverybodyWhoWatchedTheSilentHoldsNothing(t *testing.T) {
	b := besideAVictim(t, 3, false)
	for range 5 {
		b.renew()
	}
	require.True(t, b.watch(func() bool { return b.evictions() > 0 }))
	require.EqualValues(t, 1, b.evictions())
	written := b.write()
	require.True(t, b.watch(func() bool { return len(written) == cap(written) }), "%d of %d commands were answered", len(written), cap(written))
	b.requireWritten(written)
	for i, n := range b.nodes {
		require.Positive(t, n.Stats().Takeovers, "node %d", i)
		require.Zero(t, n.Stats().Host.Held, "node %d", i)
	}
}

// A node that was evicted may have renewed since it was last looked at: then its
// lease is not over when that of the renewal before is. // I8
func TestRenewalThatNobodySawIsWaitedFor(t *testing.T) {
	b := besideAVictim(t, 2, false)
	for range 3 {
		b.renew()
	}
	_, err := b.store.Renew(within(t, patience), persistence.Renewal{Node: b.victim, State: persistence.Active})
	require.NoError(t, err)
	b.expel(b.victim)
	b.renew() // shows that it is dead
	noticed := b.clock.Now()
	b.requireHeld(b.write(), noticed-aMoment, noticed+aMoment)
}

// What is proven of one death says nothing about those before it: whoever died
// may have held replies back because of a node that was evicted earlier, and
// that one still answers from memory. // I8
func TestProvenDeathDoesNotEndTheHoldsOfTheDead(t *testing.T) {
	b := besideAVictim(t, 2, false)
	b.join("earlier")
	b.renew()
	b.expel("earlier")
	b.renew()
	noticed := b.clock.Now()
	written := b.write()
	require.NoError(t, b.lock.Close())
	b.requireHeld(written, noticed-aMoment, noticed+aMoment)
	require.Equal(t, 1, b.evicted(true))
}

// The same, of a node that has been silent for so long that its own lease is
// over.
func TestSilenceDoesNotEndTheHoldsOfTheSilent(t *testing.T) {
	b := besideAVictim(t, 1, false)
	b.join("earlier")
	for range 4 {
		b.renew()
	}
	require.Zero(t, b.evictions())
	b.expel("earlier")
	b.renew() // shows this, and is the fifth since the victim was heard of
	noticed := b.clock.Now()
	b.requireHeld(b.write(), noticed-aMoment, noticed+aMoment)
	require.Equal(t, 1, b.evicted(false))
}

// A node cannot know who was evicted before it came. // I8
func TestYoungNodeHoldsRepliesInAnyCase(t *testing.T) {
	b := besideAVictim(t, 1, true)
	written := b.write()
	require.NoError(t, b.lock.Close())
	b.requireHeld(written, b.started, b.settled)
}

func TestDeadNodeThatCannotBeEvictedDoesNotFloodTheLog(t *testing.T) {
	b := besideAVictim(t, 1, false)
	refused := b.refuse("Evict")
	require.NoError(t, b.lock.Close())
	require.True(t, b.watch(func() bool { return refused.Load() >= 9 }), "it tries %d times", refused.Load())
	require.Len(t, b.logs[0].with("level=WARN", "node not evicted", "failures=1", "injected fault"), 1)
	require.Len(t, b.logs[0].with("node not evicted"), 1)
	written := b.write()
	b.store.Heal()
	require.True(t, b.watch(func() bool { return len(written) == cap(written) }), "%d of %d commands were answered", len(written), cap(written))
	b.requireWritten(written)
}

package cluster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

func relayedCount(s cluster.Stats) uint64 { return s.Relayed }
func passedCount(s cluster.Stats) uint64  { return s.Passed }

func TestDrillCutLink(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		w, nodes := wired(t, store)
		a, b, third := nodes[0], nodes[1], nodes[2]
		ctx := within(t, 2*patience)
		table := third.Partitions(ctx)
		there, back := holdings(table, b.ID(ctx)), holdings(table, a.ID(ctx))
		c := startClients(t, false, balance(a), balance(b), balance(third))
		c.progress(200)
		require.Zero(t, count(ctx, nodes, relayedCount))

		cut := time.Now()
		w.set(true, "a b")
		var first []time.Duration
		for via, of := range map[string][]aggregate.Partition{"a": there, "b": back} {
			require.Eventually(t, func() bool {
				at, ok := c.firstVia(via, of, cut)
				if ok {
					first = append(first, at.Sub(cut))
				}
				return ok
			}, patience, 5*time.Millisecond, "node %s reaches the other again", via)
		}
		slices.Sort(first)
		requireLogged(t, "peer reached through another", a)
		requireLogged(t, "peer reached through another", b)
		requireLogged(t, "peer not reached", a)
		requireLogged(t, "peer not reached", b)
		c.progress(500)
		detected := time.Now()
		c.progress(500)
		slowest := c.slowest(detected)
		require.Positive(t, count(ctx, nodes[:1], relayedCount))
		require.Positive(t, count(ctx, nodes[1:2], relayedCount))
		require.Positive(t, count(ctx, nodes[2:], passedCount))
		require.Less(t, slowest, 2*time.Second, "a call that goes round waits for no suspicion")

		w.set(false, "a b")
		requireLogged(t, "peer reached directly again", a)
		requireLogged(t, "peer reached directly again", b)
		c.progress(200)
		require.Zero(t, count(ctx, nodes, evictions))
		requireMoved(t, table, third.Partitions(ctx), nil)
		t.Logf("first command through the relay after %s and %s; the slowest of those sent later took %s; %d envelopes went round",
			at(first, 0), at(first, 1), slowest.Round(time.Millisecond), count(ctx, nodes, relayedCount))
		c.end(store, nodes...)
	})
}

// firstVia is when the first command that was sent after a moment, through one
// node and to some partitions, was acknowledged.
func (c *clients) firstVia(via string, of []aggregate.Partition, after time.Time) (first time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.acked {
		if a.via == via && a.from.After(after) && slices.Contains(of, a.receipt.Partition) && (!ok || a.to.Before(first)) {
			first, ok = a.to, true
		}
	}
	return first, ok
}

// slowest is the longest that a command took that was sent after a moment.
func (c *clients) slowest(after time.Time) (longest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.acked {
		if a.from.After(after) {
			longest = max(longest, a.to.Sub(a.from))
		}
	}
	return longest
}

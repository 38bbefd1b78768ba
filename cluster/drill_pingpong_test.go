package cluster_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// steered is a store whose views give all weight to one node, so that the others
// hand it their partitions.
type steered struct {
	persistence.Store
	favourite *atomic.Pointer[persistence.NodeID]
}

func (s *steered) steer(view persistence.View) persistence.View {
	if to := s.favourite.Load(); to != nil {
		for i := range view.Nodes {
			if view.Nodes[i].ID != *to {
				view.Nodes[i].Weight = -1
			}
		}
	}
	return view
}

func (s *steered) Renew(ctx context.Context, r persistence.Renewal) (persistence.View, error) {
	view, err := s.Store.Renew(ctx, r)
	return s.steer(view), err
}

func (s *steered) View(ctx context.Context) (persistence.View, error) {
	view, err := s.Store.View(ctx)
	return s.steer(view), err
}

// hurried is a clock by which leases and renewals are several times as fast.
type hurried struct{ actor.SystemClock }

const hurry = 4

func (c hurried) Now() time.Duration    { return hurry * c.SystemClock.Now() }
func (c hurried) Coarse() time.Duration { return hurry * c.SystemClock.Coarse() }
func (c hurried) AfterFunc(d time.Duration, f func()) func() bool {
	return c.SystemClock.AfterFunc(d/hurry, f)
}

// A partition goes from A to B and back, again and again, and is written to on
// both sides, while both nodes live on with what they remember. This is the
// scenario of AxonFramework's issue 138: "If caching is turned on and both nodes
// make changes to the same aggregate".
func TestDrillPingPong(t *testing.T) {
	const rounds = 500
	dir := t.TempDir()
	var favourite atomic.Pointer[persistence.NodeID]
	nodes := clustertest.StartAll(t, 2, func(int) *cluster.Config {
		store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Partitions: 1})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return &cluster.Config{
			Store: &steered{store, &favourite}, Aggregates: []aggregate.Any{counters}, LockDir: dir,
			Lease: 100 * time.Millisecond, Clock: hurried{}, Logger: slog.New(slog.DiscardHandler),
		}
	})
	clustertest.Ready(t, nodes...)
	ctx := within(t, 4*patience)
	epoch := func() persistence.Epoch { return nodes[0].Partitions()[0].Epoch }
	began, from := time.Now(), epoch()
	const id = "ball"
	writes, reads := 0, 0
	for round := range rounds {
		for side, n := range nodes { // first to A, then to B
			to := n.ID()
			favourite.Store(&to)
			require.Eventually(t, func() bool {
				to = n.ID()
				favourite.Store(&to) // another incarnation, if it was evicted on a busy machine
				return n.Owner("counter", id).Owner == to
			}, patience, time.Millisecond, "round %d: the partition goes to node %d", round, side)
			for _, through := range []*cluster.Node{n, nodes[1-side]} {
				sum, receipt, err := aggregate.Do(ctx, counters.Ref(through, id), add{N: 1}, aggregate.ExpectVersion(aggregate.Version(writes)))
				require.NoError(t, err, "round %d: validated on what is newest", round)
				writes++
				require.Equal(t, writes, sum)
				require.EqualValues(t, writes, receipt.Version)
				got, err := aggregate.Ask(ctx, counters.Ref(nodes[reads%2], id), total{})
				require.NoError(t, err)
				require.Equal(t, writes, got, "round %d: nothing stale is read", round)
				reads++
			}
		}
	}
	moves := int(epoch() - from)
	require.GreaterOrEqual(t, moves, 2*rounds-1)
	a, b := nodes[0].Stats(), nodes[1].Stats()
	require.Greater(t, a.Handovers+b.Handovers, uint64(rounds), "nearly all of them are given, not taken")
	t.Logf("%d moves in %s, %d of them hand-overs; %d commands and %d queries: 0 stale", moves, time.Since(began).Round(time.Millisecond),
		a.Handovers+b.Handovers, writes, reads)
	require.Len(t, readLog(t, clustertest.Store{Dir: dir, Partitions: 1}).Events, writes)
}

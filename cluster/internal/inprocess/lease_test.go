package inprocess_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
)

// afterRenewal is a store that lets a test act between the next renewal and what
// the node makes of it.
type afterRenewal struct {
	persistence.Store
	then atomic.Pointer[func()]
}

func (s *afterRenewal) Renew(ctx context.Context, r persistence.Renewal) (persistence.View, error) {
	view, err := s.Store.Renew(ctx, r)
	if then := s.then.Swap(nil); then != nil {
		(*then)()
	}
	return view, err
}

// The lease that a renewal extends covers only what the renewal confirmed: what
// it takes away is lost before, not after. // I7
func TestLeaseIsNotExtendedOverWhatIsLost(t *testing.T) {
	store := &afterRenewal{Store: inMemory(t)}
	b := &bystanders{clock: newClock()}
	pause := b.clock.run(aMoment)
	t.Cleanup(func() { pause() })
	b.house = buildOn(t, store, 1, func(_ int, c *cluster.Config) { c.Clock, c.Lease = b.clock, longLease })
	pause()
	t.Cleanup(func() { pause = b.clock.run(aMoment) })
	n, id := b.nodes[0], "a"
	_, err := counters.Ref(n, id).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	b.renew()
	require.Equal(t, 1, sum(t, n, id))

	renewed := b.clock.Now()
	ctx := within(t, patience)
	thief := n.Members()[0]
	thief.ID, thief.Address = "thief", "memory:gone"
	require.NoError(t, b.store.Join(ctx, thief))
	row := n.Owner("counter", id)
	_, err = b.store.Claim(ctx, row.Partition, row.Epoch, thief.ID)
	require.NoError(t, err)
	type reply struct {
		sum int
		err error
	}
	asked := make(chan reply, 1)
	then := func() { // the old lease runs out before the answer to the renewal is there
		b.clock.advance(renewed + longLease + aMoment - b.clock.Now())
		b.clock.interrupt(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			got, err := aggregate.Ask(ctx, counters.Ref(n, id), total{})
			asked <- reply{got, err}
		})
	}
	store.then.Store(&then)
	b.renew()
	select {
	case r := <-asked:
		require.Error(t, r.err, "the answer %d from memory was covered by a lease", r.sum)
	case <-time.After(patience):
		require.FailNow(t, "nobody looked at the clock")
	}
}

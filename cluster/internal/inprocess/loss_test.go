package inprocess_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// Replies that were lost with the connection are asked for again, under the same
// command id. // I5
func TestLostRepliesAreNotLostCommands(t *testing.T) {
	h := build(t, 2, nil)
	owner, other := h.nodes[0], h.nodes[1]
	id := h.idOn(owner)
	var lost atomic.Int64
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		return clustertest.Fate{Drop: m.From == owner.Address() && m.Replies > 0 && lost.Add(1) <= 20}
	})
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if _, err := counters.Ref(other, id).Send(within(t, patience), add{N: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wait.Wait(); close(done) }()
	require.Eventually(t, func() bool {
		h.fabric.Break(owner.Address(), other.Address())
		select {
		case <-done:
			return true
		default:
			return false
		}
	}, patience, 5*time.Millisecond, "every caller is answered")
	require.Equal(t, 20, sum(t, other, id))
	require.Len(t, h.log().Events, 20)
	require.Positive(t, owner.Stats().Host.Duplicates)
}

// A call that was given up with its connection cannot overtake its successor: it
// would take effect after a rejection that was final.
func TestOldCallsAreNotServedAfterNewOnes(t *testing.T) {
	h := build(t, 2, nil)
	owner, other := h.nodes[0], h.nodes[1]
	id := h.idOn(owner)
	require.Zero(t, sum(t, other, id))
	arrive := make(chan struct{})
	var held atomic.Int64
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		if m.Calls > 0 && held.Add(1) == 1 {
			return clustertest.Fate{Until: arrive}
		}
		return clustertest.Fate{}
	})
	result := make(chan error, 1)
	go func() {
		_, err := counters.Ref(other, id).Send(within(t, patience), add{N: 1}, aggregate.ExpectVersion(1))
		result <- err
	}()
	require.Eventually(t, func() bool { return held.Load() == 1 }, patience, time.Millisecond, "the call is on its way")
	h.fabric.Break(owner.Address(), other.Address())
	require.ErrorIs(t, <-result, aggregate.ErrVersion, "it asked again")
	_, err := counters.Ref(owner, id).Send(within(t, patience), add{N: 5})
	require.NoError(t, err) // now the first call would be welcome
	close(arrive)
	h.fabric.Wait()
	require.Equal(t, 5, sum(t, other, id))
	require.Len(t, h.log().Events, 1)
}

// Two nodes alone that cannot reach each other go on with what they own, and with the
// rest when the link is back.
func TestCutLink(t *testing.T) {
	h := build(t, 2, nil)
	a, b := h.nodes[0], h.nodes[1]
	onA := h.idOn(a)
	h.fabric.Cut(a.Address(), b.Address())
	_, err := counters.Ref(a, onA).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	_, err = counters.Ref(b, onA).Send(within(t, time.Second), add{N: 1})
	require.Equal(t, aggregate.KindUnknown, aggregate.KindOf(err), "%v", err)
	h.fabric.Heal()
	require.Equal(t, 1, sum(t, b, onA), "the call that could not cross had no effect")
	require.Len(t, h.log().Events, 1)
}

package inprocess_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// older is the counter of a program that does not know idle yet.
var older = aggregate.Define("counter",
	aggregate.Accepts[add]("add"), aggregate.Records[added]("added"), aggregate.Answers[total]("total"))

// An owner of an older version has certainly not executed what it does not know.
// But what became of an attempt before, it cannot say (I5).
func TestAnOwnerThatDoesNotKnowTheCommandLiftsNoDoubt(t *testing.T) {
	h := build(t, 2, func(i int, c *cluster.Config) {
		if i == 0 {
			c.Aggregates = []aggregate.Any{older}
		}
	})
	owner, other := h.nodes[0], h.nodes[1]
	id := h.idOn(owner)
	_, err := counters.Ref(other, id).Send(within(t, patience), idle{})
	require.Equal(t, aggregate.KindInvalid, aggregate.KindOf(err), "%v", err)
	require.ErrorContains(t, err, `aggregate "counter" has no command "idle"`)

	var lost atomic.Int64
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		return clustertest.Fate{Drop: m.From == owner.Address() && m.Replies > 0 && lost.Add(1) == 1}
	})
	result := make(chan error, 1)
	go func() {
		_, err := counters.Ref(other, id).Send(within(t, patience), idle{})
		result <- err
	}()
	require.Eventually(t, func() bool { return lost.Load() == 1 }, patience, time.Millisecond, "a reply is lost")
	h.fabric.Break(owner.Address(), other.Address())
	err = <-result
	require.Equal(t, aggregate.KindUnknown, aggregate.KindOf(err), "%v", err)
	require.ErrorContains(t, err, `asked again`)
}

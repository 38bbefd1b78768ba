package inprocess_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

func TestErrorsAreTheSameLocalAndRemote(t *testing.T) {
	h := build(t, 2, func(_ int, c *cluster.Config) { c.MaxPayload = 1000 })
	owner, other := h.nodes[0], h.nodes[1]
	id := h.idOn(owner)
	_, err := counters.Ref(other, id).Send(within(t, patience), add{N: 3})
	require.NoError(t, err)
	old := aggregate.WithCommandID(aggregate.CommandIDAt(time.Now().Add(-48 * time.Hour)))
	cases := map[string]struct {
		do     func(ctx context.Context, r aggregate.Ref[counter]) error
		kind   aggregate.Kind
		reason string
		is     error
		text   bool // the text is the same, too
	}{
		"rejection": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				_, err := r.Send(ctx, add{N: -1})
				return err
			}, aggregate.KindRejected, "", errNegative, true,
		},
		"version": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				_, err := r.Send(ctx, add{N: 1}, aggregate.ExpectVersion(7))
				return err
			}, aggregate.KindRejected, "", aggregate.ErrVersion, true,
		},
		"panic": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				_, err := r.Send(ctx, explode{})
				return err
			}, aggregate.KindNotDone, aggregate.ReasonPanic, nil, true,
		},
		"old command id": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				_, err := r.Send(ctx, add{N: 1}, old)
				return err
			}, aggregate.KindInvalid, aggregate.ReasonCommandTooOld, nil, false,
		},
		"command too large": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				_, err := r.Send(ctx, add{N: 1, Text: strings.Repeat("x", 1001)})
				return err
			}, aggregate.KindInvalid, aggregate.ReasonTooLarge, nil, false,
		},
		"expired": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				ctx, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
				defer cancel()
				_, err := r.Send(ctx, add{N: 1})
				return err
			}, aggregate.KindNotDone, aggregate.ReasonDeadline, nil, true,
		},
		"cancelled before": {
			func(ctx context.Context, r aggregate.Ref[counter]) error {
				ctx, cancel := context.WithCancel(ctx)
				cancel()
				_, err := r.Send(ctx, add{N: 1})
				return err
			}, aggregate.KindNotDone, aggregate.ReasonDeadline, nil, true,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var texts []string
			for _, n := range []*cluster.Node{owner, other} {
				err := c.do(within(t, patience), counters.Ref(n, id))
				require.Error(t, err)
				require.Equal(t, c.kind, aggregate.KindOf(err), "%v", err)
				if c.kind == aggregate.KindRejected {
					var r *aggregate.Rejection
					require.ErrorAs(t, err, &r)
					require.ErrorIs(t, err, c.is)
					require.NotEmpty(t, r.Details)
					texts = append(texts, r.Code+r.Message+r.Details["have"]+r.Details["add"]+r.Details["expected"]+r.Details["actual"])
				} else {
					requireFailure(t, err, c.kind, c.reason)
					texts = append(texts, err.Error())
				}
				safe := c.kind == aggregate.KindNotDone && c.reason != aggregate.ReasonPanic
				require.Equal(t, safe, cluster.SafeToRetry(err))
			}
			if c.text {
				require.Equal(t, texts[0], texts[1])
			}
		})
	}
	require.Equal(t, 3, sum(t, other, id), "no refused command had an effect")
	require.Len(t, h.log().Events, 1)
}

func TestReceiptsAreTheSameLocalAndRemote(t *testing.T) {
	h := build(t, 2, nil)
	id := h.idOn(h.nodes[0])
	for _, n := range h.nodes {
		command := aggregate.NewCommandID()
		answer, receipt, err := aggregate.Do(within(t, patience), counters.Ref(n, id), add{N: 1}, aggregate.WithCommandID(command))
		require.NoError(t, err)
		require.EqualValues(t, answer, receipt.Version)
		require.Equal(t, command, receipt.Command)
		require.Equal(t, 1, receipt.Events)
		require.EqualValues(t, n.Owner("counter", id).Partition, receipt.Partition)
		require.EqualValues(t, answer, receipt.Offset)
		nothing, err := counters.Ref(n, id).Send(within(t, patience), idle{})
		require.NoError(t, err)
		require.Zero(t, nothing.Events)
		require.Zero(t, nothing.Offset)
		require.EqualValues(t, answer, nothing.Version)
	}
}

// stall holds every append up until it is released.
func (h *house) stall() *persistencetest.Stall {
	s := persistencetest.NewStall()
	h.store.OnAppend(func(*persistence.Batch) persistencetest.Fault { return persistencetest.Fault{Before: s.Hold} })
	h.t.Cleanup(s.Release)
	return s
}

func TestFullQueuesRefuseLocalAndRemote(t *testing.T) {
	h := build(t, 2, func(_ int, c *cluster.Config) { c.MaxPerAggregate = 3 })
	owner, other := h.nodes[0], h.nodes[1]
	id := h.idOn(owner)
	require.Zero(t, sum(t, other, id)) // in memory
	stall := h.stall()
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			_, err := counters.Ref(other, id).Send(within(t, patience), add{N: 1})
			if err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return owner.Stats().Host.InFlight == 3 }, patience, time.Millisecond, "three calls are in")
	var texts []string
	for _, n := range h.nodes {
		_, err := counters.Ref(n, id).Send(within(t, patience), add{N: 1})
		requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonOverloaded)
		texts = append(texts, err.Error())
	}
	require.Equal(t, texts[0], texts[1])
	stall.Release()
	wait.Wait()
	require.Equal(t, 3, sum(t, other, id))
	require.EqualValues(t, 2, owner.Stats().Host.Overloaded)
}

func TestCallsToOnePeerAreBounded(t *testing.T) {
	const limit = 4
	h := build(t, 2, func(_ int, c *cluster.Config) { c.MaxPerPeer = limit })
	owner, other := h.nodes[0], h.nodes[1]
	id := h.idOn(owner)
	var dropped atomic.Int64
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		dropped.Add(int64(m.Calls))
		return clustertest.Fate{Drop: m.Calls > 0}
	})
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, limit)
	for range limit {
		go func() {
			_, err := counters.Ref(other, id).Send(ctx, add{N: 1})
			errs <- err
		}()
	}
	require.Eventually(t, func() bool { return dropped.Load() == limit }, patience, time.Millisecond, "the calls are out")
	_, err := counters.Ref(other, id).Send(within(t, patience), add{N: 1})
	requireFailure(t, err, aggregate.KindNotDone, aggregate.ReasonOverloaded)
	require.EqualValues(t, 1, other.Stats().Overloaded)
	cancel()
	for range limit {
		err := <-errs
		requireFailure(t, err, aggregate.KindUnknown, aggregate.ReasonDeadline)
		require.False(t, cluster.SafeToRetry(err))
	}
	h.fabric.Heal()
	require.Zero(t, sum(t, other, id))
}

func TestCallsCutShortAreOfUnknownOutcome(t *testing.T) {
	h := build(t, 2, nil)
	id := h.idOn(h.nodes[0])
	require.Zero(t, sum(t, h.nodes[1], id))
	for i, n := range h.nodes {
		stall := h.stall()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		command := aggregate.NewCommandID()
		go func() {
			_, err := counters.Ref(n, id).Send(ctx, add{N: 1}, aggregate.WithCommandID(command))
			done <- err
		}()
		<-stall.Reached() // it is being written
		cancel()
		err := <-done
		requireFailure(t, err, aggregate.KindUnknown, aggregate.ReasonDeadline)
		require.True(t, errors.Is(err, context.Canceled) || i == 1, "%v", err)
		stall.Release()
		receipt, err := counters.Ref(n, id).Send(within(t, patience), add{N: 1}, aggregate.WithCommandID(command))
		require.NoError(t, err)
		require.True(t, receipt.Duplicate, "asking again tells what became of it")
		require.Equal(t, i+1, sum(t, n, id))
	}
}

func TestUnknownAggregateType(t *testing.T) {
	h := build(t, 1, nil)
	others := aggregate.Define("counter", aggregate.Accepts[add]("add"), aggregate.Records[added]("added"))
	_, err := others.Ref(h.nodes[0], "a").Send(within(t, patience), add{N: 1})
	requireFailure(t, err, aggregate.KindInvalid, aggregate.ReasonUnknownType)
	require.ErrorContains(t, err, `another definition of "counter" is; use the one the node was started with`)
	absent := aggregate.Define("absent", aggregate.Accepts[add]("add"), aggregate.Records[added]("added"))
	_, err = absent.Ref(h.nodes[0], "a").Send(within(t, patience), add{N: 1})
	requireFailure(t, err, aggregate.KindInvalid, aggregate.ReasonUnknownType)
	require.EqualError(t, err, `invalid (unknown-type): aggregate type "absent" is not among this node's Config.Aggregates`)
	require.Equal(t, h.nodes[0].ID(), h.nodes[0].Owner("absent", "a").Owner, "of the partition, which the name has all the same")
	for _, id := range []string{"", strings.Repeat("x", 513), "a\x00b", "\xff"} {
		_, err := counters.Ref(h.nodes[0], id).Send(within(t, patience), add{N: 1})
		requireFailure(t, err, aggregate.KindInvalid, aggregate.ReasonBadID)
	}
}

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

func TestSafeToRetryIsWhatMaySucceed(t *testing.T) {
	cause := errors.New("cause")
	for _, reason := range []string{
		aggregate.ReasonOverloaded, aggregate.ReasonDeadline, aggregate.ReasonNoOwner, aggregate.ReasonStopping,
		aggregate.ReasonStoreDown, aggregate.ReasonMoved, aggregate.ReasonConflict,
	} {
		require.True(t, cluster.SafeToRetry(fmt.Errorf("pay: %w", aggregate.NotDone(reason, cause))), reason)
		require.False(t, cluster.SafeToRetry(aggregate.UnknownOutcome(reason, cause)), reason)
	}
	for _, err := range []error{
		nil, cause, context.DeadlineExceeded, errNegative, aggregate.Invalid(aggregate.ReasonBadID, cause),
		aggregate.NotDone(aggregate.ReasonPanic, cause), aggregate.NotDone(aggregate.ReasonUnreadable, cause),
	} {
		require.False(t, cluster.SafeToRetry(err), "%v", err)
	}
}

// What a query read can be made the condition of a command, wherever the
// aggregate is.
func TestIntoTellsTheVersionThatAnswered(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 16})
	require.NoError(t, err)
	nodes := []*cluster.Node{startNode(t, store), startNode(t, store)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, n := range nodes {
		require.NoError(t, n.Ready(ctx))
	}
	for i, n := range nodes {
		ref, before := counters.Ref(n, "read"), aggregate.Version(2*i)
		read := aggregate.Receipt{Events: 7, Duplicate: true}
		got, err := aggregate.Ask(ctx, ref, total{}, aggregate.Into(&read))
		require.NoError(t, err)
		require.EqualValues(t, before, got)
		require.Equal(t, aggregate.Receipt{Version: before, Partition: aggregate.Partition(n.Owner("counter", "read").Partition)}, read)

		id := aggregate.NewCommandID()
		var done aggregate.Receipt
		first, err := ref.Send(ctx, add{N: 1}, aggregate.ExpectVersion(read.Version), aggregate.WithCommandID(id), aggregate.Into(&done))
		require.NoError(t, err)
		require.Equal(t, first, done)
		_, err = ref.Send(ctx, add{N: 1}, aggregate.ExpectVersion(read.Version))
		require.ErrorIs(t, err, aggregate.ErrVersion)
		_, err = ref.Send(ctx, add{N: 1})
		require.NoError(t, err)

		sum, again, err := aggregate.Do(ctx, ref, add{N: 100}, aggregate.WithCommandID(id), aggregate.Into(&done))
		require.NoError(t, err)
		require.EqualValues(t, before+1, sum, "the answer of that time")
		require.Equal(t, again, done)
		first.Duplicate = true
		require.Equal(t, first, done)
	}
	require.Positive(t, nodes[0].Stats().Remote+nodes[1].Stats().Remote, "one of the two is not the owner")
}

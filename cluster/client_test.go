package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
)

// The store came back after the attempt was refused and before its caller began
// to wait for the news.
func TestNewsThatCameBeforeAnybodyWaitedIsNotLost(t *testing.T) {
	n := &Node{}
	d := &delivery{node: n}
	down := actor.Result{Err: aggregate.NotDone(aggregate.ReasonStoreDown, errors.New("refused"))}
	require.Equal(t, retryDown, d.pause(&down, retryFirst))
	require.Equal(t, retryMost, d.pause(&down, retryMost))
	n.recoveries.Add(1)
	require.Equal(t, retryFirst, d.pause(&down, retryMost))
	moved := actor.Result{Err: aggregate.NotDone(aggregate.ReasonMoved, nil), NotOwner: true}
	require.Equal(t, 7*time.Millisecond, d.pause(&moved, 7*time.Millisecond))
}

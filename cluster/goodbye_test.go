package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/internal/bulletin"
)

// TestEndOfACallIsNoNewsForThoseWhoRetry guards against two callers of a leaving
// node who wake each other for ever: each retry fails at once, and that must not
// be what the other waits for.
func TestEndOfACallIsNoNewsForThoseWhoRetry(t *testing.T) {
	n := &Node{news: bulletin.New(), partings: bulletin.New()}
	n.closing.Store(true)
	p := &peer{node: n, wake: make(chan struct{}, 1), leaving: true}
	news, partings := n.news.Listen(), n.partings.Listen()

	p.inflight.Add(1)
	p.answered()

	require.True(t, closed(partings), "whoever says goodbye looks again")
	require.False(t, closed(news), "the partition table has not changed")
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

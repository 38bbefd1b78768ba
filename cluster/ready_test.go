package cluster_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// slowToTell is a store that answers a claim only after the next renewal has
// shown what it did.
type slowToTell struct {
	persistence.Store
	mu      sync.Mutex
	renewed chan struct{} // closed by the next renewal
}

func (s *slowToTell) next() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewed
}

func (s *slowToTell) Renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	view, err := s.Store.Renew(ctx, renewal)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.renewed)
	s.renewed = make(chan struct{})
	return view, err
}

func (s *slowToTell) Claim(ctx context.Context, p persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	tenure, err := s.Store.Claim(ctx, p, seen, node)
	for range 2 { // the renewal under way may have read the table before
		select {
		case <-s.next():
		case <-ctx.Done():
		}
	}
	return tenure, err
}

// TestReadyNoticesWhatAViewShowedBeforeItWasServed: the row was no news when the
// partition began to be served, and nothing else would have woken the waiter.
func TestReadyNoticesWhatAViewShowedBeforeItWasServed(t *testing.T) {
	n := startNode(t, &slowToTell{Store: openMemory(t), renewed: make(chan struct{})})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, n.Ready(ctx))
}

// slowClaims is a store that takes its time for each claim.
type slowClaims struct{ persistence.Store }

func (s slowClaims) Claim(ctx context.Context, p persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	tenure, err := s.Store.Claim(ctx, p, seen, node)
	<-time.After(20 * time.Millisecond)
	return tenure, err
}

// TestNothingIsClaimedTwiceWhenClaimingOutlastsAView: the round after the first
// plans with a view from the middle of it, in which half of the partitions still
// are nobody's.
func TestNothingIsClaimedTwiceWhenClaimingOutlastsAView(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 96})
	require.NoError(t, err)
	n := startNode(t, slowClaims{store})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, n.Ready(ctx))
	ready := n.Stats().Renewals
	require.Eventually(t, func() bool { return n.Stats().Renewals >= ready+3 }, 10*time.Second, 5*time.Millisecond, "three renewals")
	require.EqualValues(t, 96, n.Stats().Claims)
}

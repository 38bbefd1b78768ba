package memory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/ingrain-go/ingrain/persistence"
)

// claims is the table of unique values. Its lock is taken below those of
// partitions and never the other way round.
type claims struct {
	mu      sync.Mutex
	holders map[persistence.Claim]persistence.Stream
}

// exchange makes the commit's releases and then its claims, or nothing.
func (t *claims) exchange(c *persistence.Commit) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, claim := range c.Claims {
		if holder, taken := t.holders[claim]; taken && holder != c.Stream {
			return &persistence.ClaimTakenError{Claim: claim, Holder: holder}
		}
	}
	for _, claim := range c.Releases {
		if holder, taken := t.holders[claim]; taken && holder == c.Stream {
			delete(t.holders, claim)
		}
	}
	for _, claim := range c.Claims {
		// The caller's strings may be cut out of something much larger.
		claim = persistence.Claim{Namespace: strings.Clone(claim.Namespace), Key: strings.Clone(claim.Key)}
		t.holders[claim] = persistence.Stream{Type: strings.Clone(c.Stream.Type), ID: strings.Clone(c.Stream.ID)}
	}
	return nil
}

// Claims lists who holds what, ascending by namespace and key.
func (s *Store) Claims(ctx context.Context, after persistence.Claim, limit int) ([]persistence.HeldClaim, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	t := &s.data.claims
	t.mu.Lock()
	defer t.mu.Unlock()
	var held []persistence.HeldClaim
	for claim, holder := range t.holders {
		if compareClaims(claim, after) > 0 {
			held = append(held, persistence.HeldClaim{Claim: claim, Holder: holder})
		}
	}
	slices.SortFunc(held, func(a, b persistence.HeldClaim) int { return compareClaims(a.Claim, b.Claim) })
	return held[:min(max(limit, 0), len(held))], nil
}

func compareClaims(a, b persistence.Claim) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Key, b.Key))
}

// FindClaim returns the stream that holds a unique value.
func (s *Store) FindClaim(ctx context.Context, claim persistence.Claim) (persistence.Stream, bool, error) {
	if err := s.enter(ctx); err != nil {
		return persistence.Stream{}, false, err
	}
	defer s.life.RUnlock()
	t := &s.data.claims
	t.mu.Lock()
	defer t.mu.Unlock()
	holder, taken := t.holders[claim]
	return holder, taken, nil
}

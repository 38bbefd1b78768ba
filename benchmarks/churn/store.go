package main

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/ingrain-go/ingrain/persistence"
)

// storeFigures are what a node asked of its store.
type storeFigures struct {
	Appends uint64 // batches
	Fenced  uint64 // commits that the store refused because of their epoch
	Unknown uint64 // commits of which it could not say what became of them
	Reads   uint64 // loads of aggregates
	Forced  uint64 // commits of a deposed owner that were written all the same, by a baseline
	// Leases are the statements about membership and ownership: none of them
	// belongs to a command.
	Leases uint64
}

// countingStore counts what passes, so that a zombie's refused appends are known
// though its incarnation, and the counters of it, end right after.
type countingStore struct {
	persistence.Store
	appends, fenced, unknown, reads, forced, leases atomic.Uint64
}

func (s *countingStore) figures() storeFigures {
	return storeFigures{
		Appends: s.appends.Load(), Fenced: s.fenced.Load(), Unknown: s.unknown.Load(), Reads: s.reads.Load(), Forced: s.forced.Load(),
		Leases: s.leases.Load(),
	}
}

func (s *countingStore) Append(ctx context.Context, batch *persistence.Batch) {
	s.appends.Add(1)
	s.Store.Append(ctx, batch)
	var fenced *persistence.FencedError
	for _, c := range batch.Commits {
		switch {
		case c.Err == nil:
		case errors.As(c.Err, &fenced):
			s.fenced.Add(1)
		case errors.Is(c.Err, persistence.ErrUnknownOutcome):
			s.unknown.Add(1)
		}
	}
}

func (s *countingStore) Read(ctx context.Context, stream persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	s.reads.Add(1)
	return s.Store.Read(ctx, stream, after, limit)
}

func (s *countingStore) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	s.reads.Add(1)
	return s.Store.ReadMany(ctx, streams, limit)
}

func (s *countingStore) Join(ctx context.Context, node persistence.Node) error {
	s.leases.Add(1)
	return s.Store.Join(ctx, node)
}

func (s *countingStore) Renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	s.leases.Add(1)
	return s.Store.Renew(ctx, renewal)
}

func (s *countingStore) View(ctx context.Context) (persistence.View, error) {
	s.leases.Add(1)
	return s.Store.View(ctx)
}

func (s *countingStore) Leave(ctx context.Context, node persistence.NodeID) error {
	s.leases.Add(1)
	return s.Store.Leave(ctx, node)
}

func (s *countingStore) Evict(ctx context.Context, victim persistence.NodeID, renewals int64) (bool, error) {
	s.leases.Add(1)
	return s.Store.Evict(ctx, victim, renewals)
}

func (s *countingStore) Claim(ctx context.Context, p persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	s.leases.Add(1)
	return s.Store.Claim(ctx, p, seen, node)
}

func (s *countingStore) Release(ctx context.Context, p persistence.Partition, epoch persistence.Epoch, node, to persistence.NodeID) error {
	s.leases.Add(1)
	return s.Store.Release(ctx, p, epoch, node, to)
}

func (s *countingStore) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	s.leases.Add(1)
	return s.Store.Verify(ctx, node, fences)
}

// unfencedStore is a store without a fence: what it refuses to a deposed owner it
// writes in the name of the present one, and it tells nobody that he is deposed.
// It shows that the checkers see what the fence prevents.
type unfencedStore struct{ *countingStore }

func (s *unfencedStore) Append(ctx context.Context, batch *persistence.Batch) {
	s.countingStore.Append(ctx, batch)
	var fenced *persistence.FencedError
	for _, c := range batch.Commits {
		if errors.As(c.Err, &fenced) {
			s.force(ctx, c)
		}
	}
}

// Verify lets a deposed owner believe that nothing has changed, as a store
// without a fence would.
func (s *unfencedStore) Verify(_ context.Context, _ persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	held := make([]bool, len(fences))
	for i := range held {
		held[i] = true
	}
	return held, nil
}

// forceAttempts bounds the race with the owner for the next offset.
const forceAttempts = 20

func (s *unfencedStore) force(ctx context.Context, c *persistence.Commit) {
	asked := c.Epoch
	defer func() { c.Epoch = asked }()
	for range forceAttempts {
		view, err := s.View(ctx)
		if err != nil {
			return
		}
		row := view.Partitions[c.Partition]
		head, err := s.head(ctx, c.Partition)
		if err != nil || row.Owner == "" {
			return
		}
		c.Epoch, c.Err = row.Epoch, nil
		s.Store.Append(ctx, &persistence.Batch{
			Owner: row.Owner, Commits: []*persistence.Commit{c},
			Fences: []persistence.Fence{{Partition: c.Partition, Epoch: row.Epoch, Head: head}},
		})
		var fenced *persistence.FencedError
		if c.Err == nil {
			s.forced.Add(1)
		}
		if !errors.As(c.Err, &fenced) {
			return
		}
	}
}

// head finds the end of a partition's log as only this baseline needs it: by
// halving, since the contract tells it to claimers alone.
func (s *unfencedStore) head(ctx context.Context, p persistence.Partition) (persistence.Offset, error) {
	exists := func(o persistence.Offset) (bool, error) {
		events, err := s.Tail(ctx, []persistence.Cursor{{Partition: p, After: o - 1}}, 1)
		return len(events) > 0, err
	}
	low, high := persistence.Offset(0), persistence.Offset(1)
	for {
		found, err := exists(high)
		if err != nil {
			return 0, err
		}
		if !found {
			break
		}
		low, high = high, high*2
	}
	for high-low > 1 { // low is there or 0, high is not
		middle := low + (high-low)/2
		found, err := exists(middle)
		if err != nil {
			return 0, err
		}
		if found {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
}

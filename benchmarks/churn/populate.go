package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/persistence"
)

func buffered(r io.Reader) io.Reader { return bufio.NewReaderSize(r, 1<<20) }

// populate gives a new store lists with one event each, as a node that nobody
// calls: it joins, claims everything, appends, and leaves.
func populate(ctx context.Context, store persistence.Store, count int, lease time.Duration) (err error) {
	me := persistence.NodeID(aggregate.NewCommandID().String())
	if err := store.Join(ctx, persistence.Node{ID: me, Cluster: "ingrain", Address: "none:1", State: persistence.Active, Lease: lease}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Leave(ctx, me)) }()
	partitions := store.Meta().Partitions
	fences := make([]persistence.Fence, partitions)
	for p := range fences {
		tenure, err := store.Claim(ctx, persistence.Partition(p), 0, me)
		if err != nil {
			return err
		}
		fences[p] = persistence.Fence{Partition: tenure.Partition, Epoch: tenure.Epoch, Head: tenure.Head}
	}
	var ids check.Ids // of no run
	const batchSize = 500
	at := time.Now()
	for first := 0; first < count; first += batchSize {
		batch := &persistence.Batch{Owner: me}
		used := map[persistence.Partition]int{}
		for i := first; i < min(first+batchSize, count); i++ {
			stream := persistence.Stream{Type: lists.Name(), ID: fleetID(i)}
			p := persistence.PartitionOf(stream, partitions)
			if used[p] == 0 {
				batch.Fences = append(batch.Fences, fences[p])
			}
			used[p]++
			batch.Commits = append(batch.Commits, &persistence.Commit{
				Stream: stream, Partition: p, Epoch: fences[p].Epoch, Command: persistence.CommandID(ids.ID(uint64(i)+1, 0, at)), At: at,
				Events: []persistence.NewEvent{{Type: "added", Payload: []byte(`{"Seq":0}`)}},
			})
		}
		store.Append(ctx, batch)
		for _, c := range batch.Commits {
			if c.Err != nil {
				return fmt.Errorf("append %s: %w", c.Stream, c.Err)
			}
		}
		for p, n := range used {
			fences[p].Head += persistence.Offset(n)
		}
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
)

// patience bounds what should take moments.
const patience = 30 * time.Second

// startNode starts a node as a program would and waits until it owns what it
// is to own.
func startNode(ctx context.Context, store persistence.Store, adjust func(*cluster.Config)) (*cluster.Node, error) {
	config := &cluster.Config{Store: store, Aggregates: []aggregate.Any{accounts}}
	if adjust != nil {
		adjust(config)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	node, err := cluster.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := node.Ready(ctx); err != nil {
		stopNode(node)
		return nil, err
	}
	return node, nil
}

func stopNode(node *cluster.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := node.Stop(ctx); err != nil {
		fmt.Printf("node stopped: %v\n", err)
	}
}

// stored counts a store's events, by aggregate id, and checks that versions
// and offsets are dense.
func stored(ctx context.Context, store persistence.Store) (map[string]int64, error) {
	const page = 4096
	counts := map[string]int64{}
	for p := range store.Meta().Partitions {
		cursor := persistence.Cursor{Partition: persistence.Partition(p)}
		for {
			events, err := store.Tail(ctx, []persistence.Cursor{cursor}, page)
			if err != nil {
				return nil, err
			}
			for i := range events {
				e := &events[i]
				counts[e.Stream.ID]++
				if e.Offset != cursor.After+1 || int64(e.Version) != counts[e.Stream.ID] {
					return nil, fmt.Errorf("partition %d: offset %d follows %d, version %d of %s follows %d",
						p, e.Offset, cursor.After, e.Version, e.Stream, counts[e.Stream.ID]-1)
				}
				cursor.After = e.Offset
			}
			if len(events) < page {
				break
			}
		}
	}
	return counts, nil
}

// compare says whether the store holds what was acknowledged: a speed of wrong
// results does not count.
func compare(inStore map[string]int64, acknowledged ...*bookings) error {
	seen := 0
	for _, b := range acknowledged {
		for i := range b.refs {
			id, acked := b.refs[i].ID(), b.acked[i].Load()
			if inStore[id] != acked {
				return fmt.Errorf("account %s has %d events in the store, but %d commands were acknowledged", id, inStore[id], acked)
			}
			if acked > 0 {
				seen++
			}
		}
	}
	if seen != len(inStore) {
		return fmt.Errorf("%d accounts in the store, but commands of %d were acknowledged", len(inStore), seen)
	}
	return nil
}

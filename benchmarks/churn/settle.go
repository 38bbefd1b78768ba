package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// settle waits until every partition is owned by a member, in equal shares, and
// returns how long that took.
func (h *harness) settle(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	why := ""
	for time.Since(begin) < h.o.recovery+10*h.o.lease {
		view, err := h.view(ctx)
		if err != nil {
			why = err.Error()
		} else if why = unsettled(view, len(h.fleet.nodes)); why == "" {
			return time.Since(begin), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	h.complain("the cluster has not settled within %s: %s", h.o.recovery+10*h.o.lease, why)
	return time.Since(begin), nil
}

func (h *harness) view(ctx context.Context) (persistence.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return h.store.View(ctx)
}

// unsettled says what keeps a view from being that of so many active members
// with equal shares; empty when nothing does.
func unsettled(view persistence.View, members int) string {
	shares := map[persistence.NodeID]int{}
	for _, n := range view.Nodes {
		if n.State != persistence.Active {
			return fmt.Sprintf("%s is %s", n.ID, n.State)
		}
		shares[n.ID] = 0
	}
	if len(shares) != members {
		return fmt.Sprintf("%d members instead of %d", len(shares), members)
	}
	for _, row := range view.Partitions {
		if _, ok := shares[row.Owner]; !ok {
			return fmt.Sprintf("partition %d belongs to %q", row.Partition, row.Owner)
		}
		shares[row.Owner]++
	}
	least := len(view.Partitions) / members
	for id, n := range shares {
		if n < least || n > least+1 {
			return fmt.Sprintf("%s owns %d of %d partitions", id, n, len(view.Partitions))
		}
	}
	return ""
}

package cluster

import (
	"context"
	"errors"
	"fmt"
)

// Ready returns when every partition has an owner that is a member, and this
// node holds its lease, has caught up with its views, and serves all that are its
// own. During an outage of the
// store the lease runs out, and the node is not ready until it is renewed.
func (n *Node) Ready(ctx context.Context) error {
	for {
		news := n.news.Listen()
		missing := n.missing()
		if !n.stopped() && missing == "" {
			return nil
		}
		select {
		case <-news:
		case <-n.done:
			return errors.New("cluster: the node has stopped")
		case <-ctx.Done():
			return fmt.Errorf("cluster: %s: %w", missing, ctx.Err())
		}
	}
}

// missing says what keeps the node from being ready; empty when nothing does.
// Whatever ends it is announced.
func (n *Node) missing() string {
	life := n.life.Load()
	if life == nil {
		return "the node was evicted and has not joined again"
	}
	if int64(n.clock.Now()) >= life.leased.Load() {
		return "the node's lease has run out and is not renewed"
	}
	if !n.projecting() {
		return "the node's views have not caught up with the log"
	}
	for _, row := range n.table.Rows() {
		if _, ok := n.member(row.Owner); !ok {
			return "not every partition has an owner"
		}
		if row.Owner == life.id && life.host.Epoch(row.Partition) == 0 {
			return "not every partition of the node is served"
		}
	}
	return ""
}

package persistence

import (
	"errors"
	"fmt"
	"strings"
)

// Validate reports why a store cannot keep anything under the name: it has no
// type, no id, a slash in the type, or more than [MaxTypeBytes] or [MaxIDBytes],
// for which the error wraps [ErrTooLarge]. No stream has such a name, so reading
// one finds nothing.
func (s Stream) Validate() error {
	switch {
	case s.Type == "" || s.ID == "" || strings.IndexByte(s.Type, '/') >= 0:
		return errors.New("a stream has a type without slashes, and an id")
	case len(s.Type) > MaxTypeBytes || len(s.ID) > MaxIDBytes:
		return fmt.Errorf("the stream's type has %d bytes, at most %d, its id %d, at most %d: %w",
			len(s.Type), MaxTypeBytes, len(s.ID), MaxIDBytes, ErrTooLarge)
	}
	return nil
}

// Validate reports what makes the commit unfit for every store of so many
// partitions, whatever is in the log. The fence is that of the commit's
// partition; nil says that the batch has none. Stores ask before they write:
// what one of them let in, another could not.
func (c *Commit) Validate(fence *Fence, partitions int) error {
	if err := c.Stream.Validate(); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if fence == nil {
		return fmt.Errorf("append %s: the batch has no fence for partition %d", c.Stream, c.Partition)
	}
	if home := PartitionOf(c.Stream, partitions); home != c.Partition {
		return fmt.Errorf("append %s: it lives in partition %d, not %d", c.Stream, home, c.Partition)
	}
	if c.Epoch != fence.Epoch {
		return fmt.Errorf("append %s: epoch %d, but its partition's fence says %d", c.Stream, c.Epoch, fence.Epoch)
	}
	for i := range c.Events {
		if n := len(c.Events[i].Type); n > MaxTypeBytes {
			return fmt.Errorf("append %s: an event type of %d bytes, at most %d: %w", c.Stream, n, MaxTypeBytes, ErrTooLarge)
		}
	}
	for i := range c.Timers {
		t := &c.Timers[i]
		if t.Partition != c.Partition {
			return fmt.Errorf("append %s: sets a timer in partition %d", c.Stream, t.Partition)
		}
		if err := t.Stream.Validate(); err != nil {
			return fmt.Errorf("append %s: sets a timer: %w", c.Stream, err)
		}
	}
	for i := range c.Cancels {
		if p := c.Cancels[i].Partition; p != c.Partition {
			return fmt.Errorf("append %s: cancels a timer in partition %d", c.Stream, p)
		}
	}
	return nil
}

// Validate reports why no store takes the renewal: its state is not
// [NodeState.Alive]. Only Leave and Evict end a node.
func (r *Renewal) Validate() error {
	if !r.State.Alive() {
		return fmt.Errorf("renew %s as %q: only Leave and Evict end a node", r.Node, r.State)
	}
	return nil
}

// Validate reports why no store lets the node join: it has no id, or its state
// is not [NodeState.Alive].
func (n *Node) Validate() error {
	if n.ID == "" || !n.State.Alive() {
		return fmt.Errorf("join %q as %q: want an id, and joining, active or draining", n.ID, n.State)
	}
	return nil
}

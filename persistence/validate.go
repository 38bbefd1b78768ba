package persistence

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
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
	return c.validateEffects()
}

func (c *Commit) validateEffects() error {
	for _, claims := range [...][]Claim{c.Claims, c.Releases} {
		for i := range claims {
			if err := claims[i].Validate(); err != nil {
				return fmt.Errorf("append %s: %w", c.Stream, err)
			}
		}
	}
	for i := range c.Timers {
		t := &c.Timers[i]
		if t.Partition != c.Partition {
			return fmt.Errorf("append %s: sets a timer in partition %d", c.Stream, t.Partition)
		}
		if t.Stream != c.Stream {
			return fmt.Errorf("append %s: sets a timer of %q", c.Stream, t.Stream.String())
		}
		if err := t.Validate(); err != nil {
			return fmt.Errorf("append %s: sets a timer: %w", c.Stream, err)
		}
		if y := t.Due.Year(); y < 1 || y > 9999 {
			return fmt.Errorf("append %s: timer %q is due in year %d", c.Stream, t.Name, y)
		}
	}
	for i := range c.Cancels {
		k := &c.Cancels[i]
		if k.Stream != c.Stream {
			return fmt.Errorf("append %s: cancels a timer of %q", c.Stream, k.Stream.String())
		}
		if err := k.Validate(); err != nil {
			return fmt.Errorf("append %s: cancels a timer: %w", c.Stream, err)
		}
	}
	for i := range c.Statements {
		if err := c.Statements[i].Validate(); err != nil {
			return fmt.Errorf("append %s: %w", c.Stream, &StatementError{Index: i, Err: err})
		}
	}
	return nil
}

// Validate reports why no store takes the claim: it has no namespace, is too
// long, for which the error wraps [ErrTooLarge], or is not valid text.
func (c Claim) Validate() error {
	switch n := len(c.Namespace) + len(c.Key); {
	case c.Namespace == "":
		return fmt.Errorf("the claim of %q has no namespace", c.Key)
	case n > MaxClaimBytes:
		return fmt.Errorf("a claim of %d bytes, at most %d: %w", n, MaxClaimBytes, ErrTooLarge)
	case !isText(c.Namespace) || !isText(c.Key):
		return fmt.Errorf("the claim %q of %q is not UTF-8 without NUL", c.Namespace, c.Key)
	}
	return nil
}

// Validate reports why no store keeps a timer under the key: its stream or its
// name is missing or too long, or the name is not valid text.
func (k *TimerKey) Validate() error {
	if err := k.Stream.Validate(); err != nil {
		return err
	}
	switch n := len(k.Name); {
	case n == 0:
		return errors.New("a timer has a name")
	case n > MaxTimerBytes:
		return fmt.Errorf("a timer's name has %d bytes, at most %d: %w", n, MaxTimerBytes, ErrTooLarge)
	case !isText(k.Name):
		return fmt.Errorf("the timer's name %q is not UTF-8 without NUL", k.Name)
	}
	return nil
}

// Validate reports why no store runs the statement: it does not begin with one
// of the words that change or read rows. What ends or changes a transaction
// would take the other commits of the batch with it.
func (s *Statement) Validate() error {
	word, _, _ := strings.Cut(strings.TrimLeft(s.SQL, " \t\r\n("), " ")
	word, _, _ = strings.Cut(word, "\n")
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "insert", "update", "delete", "merge", "replace", "select", "with":
		return nil
	}
	return fmt.Errorf("it begins with %q: want insert, update, delete, merge, replace, select or with", word)
}

func isText(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

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

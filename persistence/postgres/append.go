package postgres

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// maxCommitBytes bounds a commit; PostgreSQL's own bound is 1 GB for a
	// message.
	maxCommitBytes = 64 << 20
	// maxChunkBytes and maxChunkCommits bound a transaction.
	maxChunkBytes   = 16 << 20
	maxChunkCommits = 2000
	// maxKeyBytes bounds a claim: an index entry has room for 2,704 bytes.
	maxKeyBytes = 2048
)

// Append writes the batch as described at [persistence.Log]. Usually the whole
// batch is one transaction. It becomes several when it is very large, when some
// partitions' commits claim or release values (those go separately, so that a
// taken value does not make the others try again), and when it contains what
// the server refuses.
func (s *Store) Append(ctx context.Context, batch *persistence.Batch) {
	if err := s.gate.enter(ctx); err != nil {
		failAll(batch.Commits, err)
		return
	}
	defer s.gate.leave()
	l, err := s.lanes.get(ctx, batch)
	if err != nil {
		failAll(batch.Commits, err)
		return
	}
	defer s.lanes.put(l)
	l.append(ctx, batch)
}

func failAll(commits []*persistence.Commit, err error) {
	for _, c := range commits {
		c.Offset, c.Err = 0, err
	}
}

// part is one partition's part in an append.
type part struct {
	fence   persistence.Fence
	head    persistence.Offset // the log's end, moved by our own commits
	next    persistence.Offset // the same within the attempt
	claims  bool               // some of its commits claim or release
	fenced  error              // why the store refuses its commits
	present bool               // it is in the attempt's fence
}

func (l *lane) append(ctx context.Context, batch *persistence.Batch) {
	a := &l.attempt
	a.begin(batch)
	if a.broken != nil {
		failAll(batch.Commits, a.broken)
		return
	}
	var abandoned error
	for _, claims := range [...]bool{false, true} {
		chunk, size := a.chunk[:0], 0
		flush := func() {
			if abandoned != nil {
				failAll(chunk, abandoned)
			} else if len(chunk) > 0 {
				if err := l.write(ctx, chunk); err != nil {
					abandoned = fmt.Errorf("append: not attempted: %w", err)
				}
			}
			chunk, size = chunk[:0], 0
		}
		for _, c := range batch.Commits {
			p := a.partOf(c)
			if p == nil || p.claims != claims {
				continue
			}
			n, err := l.fit(c, p)
			if err != nil {
				c.Err = err
				continue
			}
			if len(chunk) == maxChunkCommits || size+n > maxChunkBytes {
				flush()
			}
			chunk, size = append(chunk, c), size+n
		}
		flush()
		a.chunk = chunk
	}
	a.end()
}

// begin lays out the batch's partitions and resets its commits.
func (a *attempt) begin(batch *persistence.Batch) {
	a.owner = batch.Owner
	a.list = a.list[:0]
	clear(a.parts)
	a.broken = nil
	for i := range batch.Fences {
		f := batch.Fences[i]
		if _, twice := a.parts[f.Partition]; twice {
			a.broken = fmt.Errorf("append: partition %d has two fences in one batch", f.Partition)
			return
		}
		a.parts[f.Partition] = len(a.list)
		a.list = append(a.list, part{fence: f, head: f.Head})
	}
	for _, c := range batch.Commits {
		c.Offset, c.Err = 0, nil
		p := a.partOf(c)
		if p == nil {
			c.Err = fmt.Errorf("append %s: the batch has no fence for partition %d", c.Stream, c.Partition)
		} else if len(c.Claims)+len(c.Releases) > 0 {
			p.claims = true
		}
	}
}

func (a *attempt) partOf(c *persistence.Commit) *part {
	if i, ok := a.parts[c.Partition]; ok {
		return &a.list[i]
	}
	return nil
}

// fit returns the commit's size, or why it cannot be written at all. What the
// server would refuse must be found here, where it fails but the one commit.
func (l *lane) fit(c *persistence.Commit, p *part) (size int, err error) {
	if home := persistence.PartitionOf(c.Stream, l.store.meta.Partitions); home != c.Partition {
		return 0, fmt.Errorf("append %s: it lives in partition %d, not %d", c.Stream, home, c.Partition)
	}
	if c.Epoch != p.fence.Epoch {
		return 0, fmt.Errorf("append %s: epoch %d, but its partition's fence says %d", c.Stream, c.Epoch, p.fence.Epoch)
	}
	if len(c.Stream.ID) > persistence.MaxIDBytes || len(c.Stream.Type) > persistence.MaxTypeBytes {
		return 0, fmt.Errorf("append to a stream whose name has %d bytes: %w",
			len(c.Stream.Type)+1+len(c.Stream.ID), persistence.ErrTooLarge)
	}
	if !isName(c.Stream) {
		return 0, fmt.Errorf("append %q: the name is not valid", c.Stream.String())
	}
	if y := c.At.Year(); y < 1 || y > 9999 {
		return 0, fmt.Errorf("append %s: year %d", c.Stream, y)
	}
	size = len(c.Metadata) * len(c.Events)
	for i := range c.Events {
		e := &c.Events[i]
		if len(e.Type) > persistence.MaxTypeBytes {
			return 0, fmt.Errorf("append %s: event type of %d bytes: %w", c.Stream, len(e.Type), persistence.ErrTooLarge)
		}
		if !isText(e.Type) {
			return 0, fmt.Errorf("append %s: event type %q is not valid text", c.Stream, e.Type)
		}
		size += len(e.Payload) + len(e.Type) + len(c.Stream.ID) + 100
	}
	for _, claims := range [...][]persistence.Claim{c.Claims, c.Releases} {
		for i := range claims {
			if n := len(claims[i].Namespace) + len(claims[i].Key); n > maxKeyBytes {
				return 0, fmt.Errorf("append %s: claim of %d bytes: %w", c.Stream, n, persistence.ErrTooLarge)
			}
			if !isText(claims[i].Namespace) || !isText(claims[i].Key) {
				return 0, fmt.Errorf("append %s: claim %q is not valid text", c.Stream, claims[i])
			}
		}
	}
	for i := range c.Timers {
		n, err := fitTimer(c, &c.Timers[i])
		if err != nil {
			return 0, err
		}
		size += n
	}
	for i := range c.Cancels {
		if err := fitTimerKey(c, &c.Cancels[i]); err != nil {
			return 0, err
		}
	}
	if size > maxCommitBytes {
		return 0, fmt.Errorf("append %s: commit of %d bytes: %w", c.Stream, size, persistence.ErrTooLarge)
	}
	return size, nil
}

func fitTimer(c *persistence.Commit, t *persistence.Timer) (size int, err error) {
	if !isName(t.Stream) {
		return 0, fmt.Errorf("append %s: timer for %q, whose name is not valid", c.Stream, t.Stream.String())
	}
	return len(t.Payload) + 100, fitTimerKey(c, &t.TimerKey)
}

func fitTimerKey(c *persistence.Commit, k *persistence.TimerKey) error {
	if k.Partition != c.Partition {
		return fmt.Errorf("append %s: names a timer in partition %d", c.Stream, k.Partition)
	}
	if y := k.Due.Year(); y < 1 || y > 9999 {
		return fmt.Errorf("append %s: timer due in year %d", c.Stream, y)
	}
	return nil
}

// isText reports whether PostgreSQL can hold s as text.
func isText(s string) bool {
	return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s)
}

// isName reports whether a stream's name can be stored and read back.
func isName(s persistence.Stream) bool {
	return s.Type != "" && s.ID != "" && strings.IndexByte(s.Type, '/') < 0 && isText(s.Type) && isText(s.ID)
}

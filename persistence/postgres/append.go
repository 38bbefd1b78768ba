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
)

// Append writes the batch as described at [persistence.Log]. Usually the whole
// batch is one transaction. It becomes several when it is very large, when some
// partitions' commits claim or release values or run statements (those go
// separately, so that a taken value does not make the others try again), and
// when it contains what the server refuses.
func (s *Store) Append(ctx context.Context, batch *persistence.Batch) {
	if err := s.gate.enter(ctx); err != nil {
		failAll(batch.Commits, err)
		return
	}
	defer s.gate.leave()
	l, err := s.lanes.get(ctx, batch)
	if err != nil {
		failAll(batch.Commits, unreached(err))
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
	claims  bool               // some of its commits claim, release, or run statements
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
			c.Err = c.Validate(nil, 0)
		} else if len(c.Claims)+len(c.Releases)+len(c.Statements) > 0 {
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
	if err := c.Validate(&p.fence, l.store.meta.Partitions); err != nil {
		return 0, err
	}
	if !isName(c.Stream) {
		return 0, fmt.Errorf("append %q: the name is not valid text", c.Stream.String())
	}
	if y := c.At.Year(); y < 1 || y > 9999 {
		return 0, fmt.Errorf("append %s: year %d", c.Stream, y)
	}
	size = len(c.Metadata) * len(c.Events)
	for i := range c.Events {
		e := &c.Events[i]
		if !isText(e.Type) {
			return 0, fmt.Errorf("append %s: event type %q is not valid text", c.Stream, e.Type)
		}
		size += len(e.Payload) + len(e.Type) + len(c.Stream.ID) + 100
	}
	for i := range c.Timers {
		size += len(c.Timers[i].Payload) + len(c.Timers[i].Name) + len(c.Stream.ID) + 100
	}
	for i := range c.Statements {
		n, err := statementBytes(&c.Statements[i])
		if err != nil {
			return 0, fmt.Errorf("append %s: %w", c.Stream, &persistence.StatementError{Index: i, Err: err})
		}
		size += n
	}
	if size > maxCommitBytes {
		return 0, fmt.Errorf("append %s: commit of %d bytes: %w", c.Stream, size, persistence.ErrTooLarge)
	}
	return size, nil
}

// isText reports whether PostgreSQL can hold s as text.
func isText(s string) bool {
	return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s)
}

// isName reports whether a stream's name can be stored and read back.
func isName(s persistence.Stream) bool {
	return s.Validate() == nil && isText(s.Type) && isText(s.ID)
}

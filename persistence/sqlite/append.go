package sqlite

import (
	"context"
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ingrain-go/ingrain/persistence"
)

// maxCommitBytes bounds what one commit may write. SQLite's own bound is 1 GB
// for a row.
const maxCommitBytes = 256 << 20

const (
	selectFence = `select p.epoch, p.owner, (select coalesce(max(e.pos), 0) from es_event e where e.part = p.part)
		from es_partition p where p.part = ?`
	selectVersion = "select coalesce(max(version), 0) from es_event where stream = ?"
	insertEvent   = "insert into es_event (" + eventColumns + ") values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	selectClaim   = "select stream from es_claim where ns = ? and key = ?"
	insertClaim   = "insert into es_claim (ns, key, stream) values (?, ?, ?) on conflict do nothing"
	deleteClaim   = "delete from es_claim where ns = ? and key = ? and stream = ?"
	insertTimer   = "insert or replace into es_timer (stream, name, part, due, id, payload) values (?, ?, ?, ?, ?, ?)"
	deleteTimer   = "delete from es_timer where stream = ? and name = ?"
)

// Append writes the batch in one transaction. A commit that may not be written
// is found out before any of it is, so that the others need no undoing. ctx is
// looked at until the transaction ends, which itself is never interrupted:
// the outcome is unknown only if SQLite fails to commit.
func (s *Store) Append(ctx context.Context, batch *persistence.Batch) {
	for _, c := range batch.Commits {
		c.Offset, c.Err = 0, nil
	}
	err := s.transact(ctx, func(w *writer) (bool, error) { return w.write(ctx, batch) })
	if err == nil {
		return
	}
	err = fmt.Errorf("append: %w", err)
	for _, c := range batch.Commits {
		// A commit with an error of its own was no part of the transaction.
		if c.Err == nil || !errors.Is(err, persistence.ErrUnknownOutcome) {
			c.Err = err
		}
		c.Offset = 0
	}
}

// write puts what it can of the batch into the transaction. An error fails the
// whole of it.
func (w *writer) write(ctx context.Context, batch *persistence.Batch) (wrote bool, err error) {
	w.batch++
	w.touched = w.touched[:0]
	for i := range batch.Fences {
		if err := w.admit(batch.Owner, &batch.Fences[i]); err != nil {
			return false, err
		}
	}
	insert, err := w.conn.prepare(insertEvent)
	if err != nil {
		return false, err
	}
	for i, c := range batch.Commits {
		if i%16 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		if c.Err = w.refuse(c); c.Err != nil {
			continue
		}
		t := &w.tenures[c.Partition]
		if c.Err, err = w.check(t, c); err != nil {
			return false, err
		}
		if c.Err != nil {
			continue
		}
		put := w.put
		if len(c.Statements) > 0 {
			put = w.putWithStatements
		}
		if c.Err, err = put(insert, t, c); err != nil {
			return false, err
		}
		if c.Err != nil {
			continue
		}
		wrote = wrote || len(c.Events)+len(c.Claims)+len(c.Releases)+len(c.Timers)+len(c.Cancels)+len(c.Statements) > 0
	}
	return wrote, ctx.Err()
}

// put writes a commit that was found fit.
func (w *writer) put(insert *stmt, t *tenure, c *persistence.Commit) (refusal, err error) {
	if refusal, err = w.insert(insert, t, c); refusal != nil || err != nil {
		return refusal, err
	}
	return nil, w.attach(c)
}

// admit compares a fence with the partition's row and log. Holding the write
// lock, what it reads stays true until the transaction ends. // I1
func (w *writer) admit(owner persistence.NodeID, fence *persistence.Fence) error {
	if fence.Partition < 0 || int(fence.Partition) >= len(w.tenures) {
		return nil // the commits that name it are refused
	}
	t := &w.tenures[fence.Partition]
	if t.batch == w.batch {
		return fmt.Errorf("partition %d has two fences in one batch", fence.Partition)
	}
	var epoch persistence.Epoch
	var holder persistence.NodeID
	var head persistence.Offset
	found, err := w.conn.queryRow(selectFence, func(r row) {
		epoch, holder, head = persistence.Epoch(r.int(0)), persistence.NodeID(r.text(1)), persistence.Offset(r.int(2))
	}, fence.Partition)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("partition %d has no row: the store is damaged", fence.Partition)
	}
	t.batch, t.fence, t.refusal = w.batch, *fence, nil
	w.touched = append(w.touched, t)
	switch {
	case epoch != fence.Epoch || holder != owner || holder == "":
		t.refusal = &persistence.FencedError{
			Partition: fence.Partition, Epoch: fence.Epoch, Current: epoch, Owner: holder,
		}
	case head != fence.Head:
		t.refusal = &persistence.FencedError{
			Partition: fence.Partition, Epoch: fence.Epoch, Current: epoch, Owner: holder,
			Head: fence.Head, StoreHead: head,
		}
	}
	t.trust(epoch, head)
	return nil
}

// refuse finds what makes a commit unfit for the batch it stands in.
func (w *writer) refuse(c *persistence.Commit) error {
	var t *tenure
	var fence *persistence.Fence
	if c.Partition >= 0 && int(c.Partition) < len(w.tenures) && w.tenures[c.Partition].batch == w.batch {
		t = &w.tenures[c.Partition]
		fence = &t.fence
	}
	if err := c.Validate(fence, len(w.tenures)); err != nil {
		return err
	}
	if t.refusal != nil {
		return t.refusal
	}
	return fits(c)
}

// fits reports ErrTooLarge for a commit that is.
func fits(c *persistence.Commit) error {
	size := len(c.Events) * len(c.Metadata)
	for i := range c.Events {
		size += len(c.Events[i].Type) + len(c.Events[i].Payload)
	}
	for i := range c.Timers {
		size += len(c.Timers[i].Payload)
	}
	size += statementBytes(c)
	if size > maxCommitBytes {
		return fmt.Errorf("append %s: %d bytes, at most %d: %w", c.Stream, size, maxCommitBytes, persistence.ErrTooLarge)
	}
	return nil
}

// check compares the commit's expected version with the stream's, and its
// claims with those of others. refusal is for the commit, err for the batch.
func (w *writer) check(t *tenure, c *persistence.Commit) (refusal, err error) {
	k, remembered := w.versions.get(c.Stream)
	switch {
	case remembered && k.reign == t.reign && k.version == c.Expected:
	case c.Expected == 0 && len(c.Events) > 0:
		// The unique index will tell: there is nothing to leave a gap behind.
	default:
		actual, err := w.version(c.Stream)
		if err != nil {
			return nil, err
		}
		if actual != c.Expected {
			return &persistence.ConflictError{Stream: c.Stream, Expected: c.Expected, Actual: actual}, nil
		}
		w.versions.put(c.Stream, known{actual, t.reign, c.Stream.String()})
	}
	for i := range c.Claims {
		holder, found, err := findClaim(w.conn, c.Claims[i])
		if err != nil {
			return nil, err
		}
		if found && holder != c.Stream {
			return &persistence.ClaimTakenError{Claim: c.Claims[i], Holder: holder}, nil
		}
	}
	return nil, nil
}

func (w *writer) version(stream persistence.Stream) (v persistence.Version, err error) {
	_, err = w.conn.queryRow(selectVersion, func(r row) { v = persistence.Version(r.int(0)) }, stream)
	return v, err
}

// insert writes the commit's events behind the partition's head.
func (w *writer) insert(insert *stmt, t *tenure, c *persistence.Commit) (refusal, err error) {
	if len(c.Events) == 0 {
		return nil, nil
	}
	k, remembered := w.versions.get(c.Stream)
	if !remembered {
		k.name = c.Stream.String()
	}
	args := insert.args
	args[0].Value = int64(c.Partition)
	args[2].Value = int64(c.Epoch)
	args[3].Value = k.name
	args[6].Value = c.At.UnixMicro()
	args[7].Value = c.Command[:]
	args[8].Value = value(c.Metadata)
	for i := range c.Events {
		args[1].Value = int64(t.head) + int64(i) + 1
		args[4].Value = int64(c.Expected) + int64(i) + 1
		args[5].Value = c.Events[i].Type
		args[9].Value = value(c.Events[i].Payload)
		if err := insert.run(); err != nil {
			if i > 0 || code(err) != sqlite3.SQLITE_CONSTRAINT_UNIQUE {
				return nil, fmt.Errorf("%s: %w", c.Stream, err)
			}
			actual, err := w.version(c.Stream)
			if err != nil {
				return nil, err
			}
			return &persistence.ConflictError{Stream: c.Stream, Expected: c.Expected, Actual: actual}, nil
		}
	}
	n := len(c.Events)
	c.Offset = t.head + 1
	t.head += persistence.Offset(n)
	w.versions.put(c.Stream, known{c.Expected + persistence.Version(n), t.reign, k.name})
	return nil, nil
}

// attach writes what the commit changes besides the log.
func (w *writer) attach(c *persistence.Commit) error {
	for _, claim := range c.Releases {
		if _, err := w.conn.exec(deleteClaim, claim.Namespace, claim.Key, c.Stream); err != nil {
			return err
		}
	}
	for _, claim := range c.Claims {
		if _, err := w.conn.exec(insertClaim, claim.Namespace, claim.Key, c.Stream); err != nil {
			return err
		}
	}
	for _, key := range c.Cancels {
		if _, err := w.conn.exec(deleteTimer, key.Stream, key.Name); err != nil {
			return err
		}
	}
	for _, timer := range c.Timers {
		if _, err := w.conn.exec(insertTimer, timer.Stream, timer.Name, timer.Partition, timer.Due, timer.ID, timer.Payload); err != nil {
			return err
		}
	}
	return nil
}

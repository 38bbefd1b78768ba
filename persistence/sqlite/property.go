package sqlite

import (
	"context"
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	selectHead = "select coalesce(max(pos), 0) from es_event where part = ?"
	// Erasing overwrites: what was there is neither in a free page nor in the
	// rest of a used one.
	eraseEvents = `update es_event indexed by es_event_version
		set stream = ?, type = ?, cmd = ?, meta = null, payload = null where stream = ?`
)

// Heads returns where the partitions' logs end.
func (s *Store) Heads(ctx context.Context) ([]persistence.Cursor, error) {
	heads := make([]persistence.Cursor, s.meta.Partitions)
	err := s.view(ctx, func(c *conn) error {
		for i := range heads {
			p := persistence.Partition(i)
			_, err := c.queryRow(selectHead, func(r row) {
				heads[i] = persistence.Cursor{Partition: p, After: persistence.Offset(r.int(0))}
			}, p)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("heads: %w", err)
	}
	return heads, nil
}

// Streams lists a partition's streams by their first events.
func (s *Store) Streams(ctx context.Context, partition persistence.Partition, after persistence.Offset, limit int) ([]persistence.StreamInfo, error) {
	if err := s.within(partition); err != nil {
		return nil, fmt.Errorf("streams: %w", err)
	}
	var found []persistence.StreamInfo
	err := s.read(ctx, func(c *conn) error {
		found = nil
		return c.query(`select e.stream, e.pos, l.version, l.pos from es_event e
			join es_event l on l.stream = e.stream and l.version = (select max(version) from es_event v where v.stream = e.stream)
			where e.part = ? and e.pos > ? and e.version = 1 and e.type <> ? order by e.pos limit ?`, func(r row) error {
			stream, err := r.stream(0)
			found = append(found, persistence.StreamInfo{
				Stream: stream, First: persistence.Offset(r.int(1)),
				Version: persistence.Version(r.int(2)), Last: persistence.Offset(r.int(3)),
			})
			return err
		}, partition, after, persistence.ErasedType, max(limit, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("streams of partition %d: %w", partition, err)
	}
	return found, nil
}

// Import continues the logs with events of another store.
func (s *Store) Import(ctx context.Context, source string, events []persistence.Event) error {
	if err := persistence.ValidateImport(events, s.meta.Partitions); err != nil {
		return err
	}
	if source == "" {
		return &persistence.ImportError{Reason: "the source has no name"}
	}
	err := s.write(ctx, func(c *conn) error {
		if err := c.admitImport(source); err != nil {
			return err
		}
		heads := make(map[persistence.Partition]persistence.Offset)
		for i := range events {
			if i%64 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if err := c.bring(heads, &events[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if refusal := (*persistence.ImportError)(nil); err == nil || errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("import %d events: %w", len(events), err)
}

// admitImport asks whether the store may take events of the source, and notes it.
func (c *conn) admitImport(source string) error {
	var noted string
	var joined, filled bool
	_, err := c.queryRow(`select coalesce(source, ''), exists (select 1 from es_node), exists (select 1 from es_event) from es_meta`,
		func(r row) { noted, joined, filled = r.text(0), r.int(1) != 0, r.int(2) != 0 })
	switch {
	case err != nil:
		return err
	case joined:
		return &persistence.ImportError{Reason: "nodes have joined the store: only a fresh one takes an import"}
	case noted == source:
		return nil
	case noted != "":
		return &persistence.ImportError{Reason: fmt.Sprintf("it has events of store %s, and these are of %s", noted, source)}
	case filled:
		return &persistence.ImportError{Reason: "the store is not empty"}
	}
	_, err = c.exec("update es_meta set source = ?", source)
	return err
}

// bring writes one event behind the heads that are known, and looked up when not.
func (c *conn) bring(heads map[persistence.Partition]persistence.Offset, e *persistence.Event) error {
	head, known := heads[e.Partition]
	if !known {
		if _, err := c.queryRow(selectHead, func(r row) { head = persistence.Offset(r.int(0)) }, e.Partition); err != nil {
			return err
		}
	}
	place := persistence.Cursor{Partition: e.Partition, After: e.Offset}
	if e.Offset != head+1 {
		return &persistence.ImportError{Event: place, Reason: fmt.Sprintf("the partition ends at %d", head)}
	}
	heads[e.Partition] = e.Offset
	refuse := func() error {
		var v persistence.Version
		if _, err := c.queryRow(selectVersion, func(r row) { v = persistence.Version(r.int(0)) }, e.Stream); err != nil {
			return err
		}
		if e.Version == v+1 {
			return nil
		}
		return &persistence.ImportError{Event: place, Reason: fmt.Sprintf("it is version %d of %s, which is at %d", e.Version, e.Stream, v)}
	}
	if e.Version > 1 {
		if err := refuse(); err != nil {
			return err
		}
	}
	_, err := c.exec(insertEvent, e.Partition, e.Offset, e.Epoch, e.Stream, e.Version, e.Type, e.At, e.Command, e.Metadata, e.Payload)
	if err != nil {
		if code(err) != sqlite3.SQLITE_CONSTRAINT_UNIQUE {
			return err
		}
		return errors.Join(refuse(), err)
	}
	_, err = c.exec("update es_partition set epoch = max(epoch, ?), owner = '', released = 1 where part = ? and (epoch < ? or released = 0)",
		e.Epoch, e.Partition, e.Epoch)
	return err
}

// Erase takes out of the log what a stream says. The pages it was on are
// overwritten, and the write-ahead log with what it was is emptied as soon as
// readers allow.
func (s *Store) Erase(ctx context.Context, owner persistence.NodeID, fence persistence.Fence, stream persistence.Stream) (persistence.Version, error) {
	if err := stream.Validate(); err != nil {
		return 0, fmt.Errorf("erase: %w", err)
	}
	if home := persistence.PartitionOf(stream, s.meta.Partitions); home != fence.Partition {
		return 0, fmt.Errorf("erase %s: it lives in partition %d, not %d", stream, home, fence.Partition)
	}
	var version persistence.Version
	err := s.shred(ctx, func(w *writer) error {
		w.batch++
		w.touched = w.touched[:0]
		if err := w.admit(owner, &fence); err != nil {
			return err
		}
		t := &w.tenures[fence.Partition]
		if t.refusal != nil {
			return t.refusal
		}
		t.reign++ // what is remembered of its streams is worth nothing
		return w.conn.erase(fence.Partition, stream, &version)
	})
	if err != nil {
		return 0, fmt.Errorf("erase %s: %w", stream, err)
	}
	return version, nil
}

func (c *conn) erase(p persistence.Partition, stream persistence.Stream, version *persistence.Version) error {
	for _, table := range []string{"es_snapshot", "es_timer", "es_claim", "es_dead_letter"} {
		if _, err := c.exec("delete from "+table+" where stream = ?", stream); err != nil {
			return err
		}
	}
	if stream.Type == persistence.ErasedType {
		return nil
	}
	var first persistence.Offset
	_, err := c.queryRow("select coalesce(max(version), 0), coalesce(min(pos), 0) from es_event where stream = ?", func(r row) {
		*version, first = persistence.Version(r.int(0)), persistence.Offset(r.int(1))
	}, stream)
	if err != nil || *version == 0 {
		return err
	}
	_, err = c.exec(eraseEvents, persistence.ErasedStream(p, first), persistence.ErasedType, persistence.CommandID{}, stream)
	return err
}

// shred is write for what must not be found in the file afterwards.
func (s *Store) shred(ctx context.Context, fn func(*writer) error) error {
	err := s.transact(ctx, func(w *writer) (bool, error) {
		if err := w.conn.script("pragma secure_delete = on"); err != nil {
			return false, err
		}
		err := fn(w)
		if err == nil {
			err = ctx.Err()
		}
		return err == nil, errors.Join(err, w.conn.script("pragma secure_delete = off"))
	})
	if err == nil {
		s.wal.empty()
	}
	return err
}

package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ingrain-go/ingrain/persistence"
)

// Import brings an archive into a store that is empty, or holds a part of it from
// an earlier call, and then reads the store and compares its hash with the
// archive's. No node may ever have joined the store.
//
// It can be interrupted anywhere and called again with the same archive, or with
// one that has gone on. A store that does not fit is a *[persistence.ImportError]:
// it is not empty and its events are not of this archive's store, or nodes have
// joined it. Another partition count is refused before anything is written. What
// is wrong with the archive is a *[LineError], and everything before that line is
// in the store; an archive without its end is an *[IncompleteError]. A *[HashError]
// says that the store has other events, or more.
func Import(ctx context.Context, store persistence.Store, archive io.Reader, progress Progress) (Summary, error) {
	r, err := open(archive)
	if err != nil {
		return Summary{}, err
	}
	meta := store.Meta()
	if r.header.Partitions != meta.Partitions {
		return Summary{}, fmt.Errorf("import into store %s: it has %d partitions, the archive's store %d: "+
			"create one with as many", meta.StoreID, meta.Partitions, r.header.Partitions)
	}
	if err := store.Import(ctx, r.header.Store, nil); err != nil {
		return Summary{}, fmt.Errorf("import into store %s: %w", meta.StoreID, err)
	}
	heads, err := store.Heads(ctx)
	if err != nil {
		return Summary{}, fmt.Errorf("import into store %s: %w", meta.StoreID, err)
	}
	in := importer{store: store, source: r.header.Store, progress: progress}
	for {
		e, err := r.next()
		if err != nil {
			if flushed := in.flush(ctx); flushed != nil {
				return in.summary(r), flushed
			}
			if !errors.Is(err, io.EOF) {
				return in.summary(r), err
			}
			break
		}
		if e.Offset <= heads[e.Partition].After {
			continue
		}
		if err := in.add(ctx, &e); err != nil {
			return in.summary(r), err
		}
	}
	summary := in.summary(r)
	if !r.whole || r.torn {
		return summary, &IncompleteError{Events: summary.Events, Torn: r.torn}
	}
	hash, err := Hash(ctx, store, nil)
	if err == nil && hash != summary.Hash {
		err = &HashError{Archive: summary.Hash, Store: hash}
	}
	return summary, err
}

// importer gathers events into batches.
type importer struct {
	store    persistence.Store
	source   string
	progress Progress
	batch    []persistence.Event
	bytes    int
	done     int64
}

func (in *importer) add(ctx context.Context, e *persistence.Event) error {
	in.batch = append(in.batch, *e)
	in.bytes += len(e.Payload) + len(e.Metadata)
	if len(in.batch) < batchEvents && in.bytes < batchBytes {
		return nil
	}
	return in.flush(ctx)
}

func (in *importer) flush(ctx context.Context) error {
	if len(in.batch) == 0 {
		return nil
	}
	if err := in.store.Import(ctx, in.source, in.batch); err != nil {
		return fmt.Errorf("import into store %s: %w", in.store.Meta().StoreID, err)
	}
	in.done += int64(len(in.batch))
	clear(in.batch)
	in.batch, in.bytes = in.batch[:0], 0
	if in.progress != nil {
		in.progress(in.done, in.done)
	}
	return nil
}

func (in *importer) summary(r *reader) Summary {
	return Summary{Header: r.header, Events: r.chains.events(), Imported: in.done, Hash: r.chains.hash()}
}

// CopyKeys brings the keys of sealed events, and the markers of those who were
// forgotten, from one store to another without writing them down. Whoever was
// forgotten in either is forgotten in the target; for the rest, a key that is
// there already must be the same.
func CopyKeys(ctx context.Context, to, from persistence.Keys) (copied int, err error) {
	for after := ""; ; {
		keys, err := from.ListKeys(ctx, after, batchEvents)
		if err != nil || len(keys) == 0 {
			return copied, err
		}
		for _, key := range keys {
			if key.Forgotten {
				err = to.DeleteKey(ctx, key.Subject, key.At)
			} else {
				err = copyKey(ctx, to, key)
			}
			if err != nil {
				return copied, fmt.Errorf("copy keys: %w", err)
			}
			copied++
		}
		after = keys[len(keys)-1].Subject
	}
}

func copyKey(ctx context.Context, to persistence.Keys, key persistence.Key) error {
	there, err := to.PutKey(ctx, key, false)
	if err == nil && !there.Forgotten && string(there.Secret) != string(key.Secret) {
		err = fmt.Errorf("subject %q has another key there", key.Subject)
	}
	return err
}

package archive

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/ingrain-go/ingrain/persistence"
)

// Hash reads a store's log and returns the hash over all its events: SHA-256 over
// one chain of SHA-256 per partition. Stores that hold the same events have the
// same hash, whatever they are made of. Of a store that is appended to meanwhile,
// the hash is of a moment's heads.
func Hash(ctx context.Context, store persistence.Store, progress Progress) (string, error) {
	chains := newChains(store.Meta().Partitions)
	if err := walk(ctx, store, nil, progress, func(events []persistence.Event) error {
		for i := range events {
			chains.add(&events[i])
		}
		return nil
	}); err != nil {
		return "", fmt.Errorf("hash store %s: %w", store.Meta().StoreID, err)
	}
	return chains.hash(), nil
}

// chains is how far each partition is, and what it held so far.
type chains struct {
	at  []chain
	buf []byte
}

type chain struct {
	offset persistence.Offset
	sum    [sha256.Size]byte
}

func newChains(partitions int) *chains { return &chains{at: make([]chain, partitions)} }

func (c *chains) clone() *chains { return &chains{at: slices.Clone(c.at)} }

// add continues the chain of the event's partition. The caller has seen that the
// event is the next one.
func (c *chains) add(e *persistence.Event) *chain {
	at := &c.at[e.Partition]
	b := append(c.buf[:0], at.sum[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Partition)) //nolint:gosec // two's complement, as all below
	b = binary.BigEndian.AppendUint64(b, uint64(e.Offset))    //nolint:gosec // see above
	b = binary.BigEndian.AppendUint64(b, uint64(e.Epoch))     //nolint:gosec // see above
	b = binary.BigEndian.AppendUint64(b, uint64(e.Version))   //nolint:gosec // see above
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixMicro()))
	b = append(b, e.Command[:]...)
	for _, text := range []string{e.Stream.Type, e.Stream.ID, e.Type} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(text)))
		b = append(b, text...)
	}
	for _, bytes := range [][]byte{e.Metadata, e.Payload} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(bytes)))
		b = append(b, bytes...)
	}
	at.sum = sha256.Sum256(b)
	at.offset = e.Offset
	if c.buf = b; cap(b) > batchBytes {
		c.buf = nil
	}
	return at
}

// short is the part of a chain's sum that a line carries.
func (c *chain) short() string { return hex.EncodeToString(c.sum[:8]) }

func (c *chains) events() (n int64) {
	for i := range c.at {
		n += int64(c.at[i].offset)
	}
	return n
}

func (c *chains) hash() string {
	all := sha256.New()
	for i := range c.at {
		var place [8]byte
		binary.BigEndian.PutUint64(place[:], uint64(c.at[i].offset)) //nolint:gosec // not negative
		all.Write(place[:])
		all.Write(c.at[i].sum[:])
	}
	return "sha256:" + hex.EncodeToString(all.Sum(nil))
}

// walk reads the store's log in the order of its partitions, behind the places
// that are given, up to the heads of the moment at which it starts.
func walk(
	ctx context.Context, store persistence.Store, after []persistence.Offset, progress Progress, each func([]persistence.Event) error,
) error {
	heads, err := store.Heads(ctx)
	if err != nil {
		return err
	}
	from := func(p persistence.Partition) persistence.Offset {
		if int(p) < len(after) {
			return after[p]
		}
		return 0
	}
	var done, total int64
	for _, head := range heads {
		if head.After < from(head.Partition) {
			return fmt.Errorf("partition %d ends at %d, and the archive has events up to %d: it is another log, or one that was set back",
				head.Partition, head.After, from(head.Partition))
		}
		total += int64(head.After - from(head.Partition))
	}
	size := 0 // of an event, about
	for _, head := range heads {
		for cursor := (persistence.Cursor{Partition: head.Partition, After: from(head.Partition)}); cursor.After < head.After; {
			limit := batchEvents
			if size > 0 {
				limit = max(1, min(batchEvents, batchBytes/size))
			}
			events, err := store.Tail(ctx, []persistence.Cursor{cursor}, min(limit, int(head.After-cursor.After)))
			if err != nil {
				return err
			}
			if len(events) == 0 {
				return fmt.Errorf("partition %d ends at %d, and was at %d before", cursor.Partition, cursor.After, head.After)
			}
			bytes := 0
			for i := range events {
				cursor.After++
				if events[i].Offset != cursor.After {
					return fmt.Errorf("partition %d: offset %d follows %d", cursor.Partition, events[i].Offset, cursor.After-1)
				}
				bytes += len(events[i].Payload) + len(events[i].Metadata)
			}
			size = bytes/len(events) + 1
			if err := each(events); err != nil {
				return err
			}
			done += int64(len(events))
			if progress != nil {
				progress(done, total)
			}
		}
	}
	return ctx.Err()
}

package persistencetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// cluster is the name that the suite's nodes join under.
const cluster = "suite"

// noon is the time of every commit that does not say another.
var noon = time.Date(2026, 3, 14, 12, 0, 0, 123_456_000, time.UTC)

var commandCounter atomic.Uint64

// newCommand returns an id that no other call in this process returns.
func newCommand() persistence.CommandID {
	var id persistence.CommandID
	binary.BigEndian.PutUint64(id[:8], uint64(noon.UnixMilli())<<16|0x7000)
	binary.BigEndian.PutUint64(id[8:], commandCounter.Add(1)|1<<63)
	return id
}

// streamIn returns the i-th of the suite's streams that live in a partition of
// n.
func streamIn(p persistence.Partition, n, i int) persistence.Stream {
	for try := 0; ; try++ {
		s := persistence.Stream{Type: "account", ID: fmt.Sprintf("a-%d", try)}
		if persistence.PartitionOf(s, n) != p {
			continue
		}
		if i == 0 {
			return s
		}
		i--
	}
}

// commit records one event per payload on a stream at a version.
func commit(s persistence.Stream, expected persistence.Version, payloads ...string) *persistence.Commit {
	c := &persistence.Commit{Stream: s, Expected: expected, Command: newCommand(), At: noon}
	for _, p := range payloads {
		c.Events = append(c.Events, persistence.NewEvent{Type: "deposited.v1", Payload: []byte(p)})
	}
	return c
}

// owner is a node incarnation on a handle, with the partitions it holds and
// their heads, as a lane keeps them. It is used by one goroutine at a time.
type owner struct {
	t      *testing.T
	store  persistence.Store
	node   persistence.NodeID
	fences map[persistence.Partition]*persistence.Fence
}

// join makes a member of the suite's cluster that owns nothing yet.
func join(t *testing.T, s persistence.Store, id persistence.NodeID) *owner {
	t.Helper()
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: id, Cluster: cluster, State: persistence.Active}))
	return &owner{t: t, store: s, node: id, fences: make(map[persistence.Partition]*persistence.Fence)}
}

// openOwned opens a fresh store whose partitions all belong to one node.
func openOwned(t *testing.T, h Harness, partitions int) (persistence.Store, *owner) {
	t.Helper()
	s := h.Open(t, partitions)
	require.Equal(t, partitions, s.Meta().Partitions, "the store has another number of partitions than it was opened with")
	o := join(t, s, "owner-1")
	for p := range partitions {
		o.claim(persistence.Partition(p))
	}
	return s, o
}

// claim takes a partition over from whoever has it.
func (o *owner) claim(p persistence.Partition) persistence.Tenure {
	o.t.Helper()
	row := ownership(o.t, o.store, p)
	tenure, err := o.store.Claim(o.t.Context(), p, row.Epoch, o.node)
	require.NoError(o.t, err)
	o.fences[p] = &persistence.Fence{Partition: p, Epoch: tenure.Epoch, Head: tenure.Head}
	return tenure
}

// on is the same owner as seen through another handle, with heads of its own.
func (o *owner) on(s persistence.Store) *owner {
	c := &owner{t: o.t, store: s, node: o.node, fences: make(map[persistence.Partition]*persistence.Fence)}
	for p, f := range o.fences {
		fence := *f
		c.fences[p] = &fence
	}
	return c
}

// batch puts commits under the owner's fences.
func (o *owner) batch(commits ...*persistence.Commit) *persistence.Batch {
	o.t.Helper()
	b := &persistence.Batch{Owner: o.node, Commits: commits}
	n := o.store.Meta().Partitions
	seen := make(map[persistence.Partition]bool)
	for _, c := range commits {
		c.Partition = persistence.PartitionOf(c.Stream, n)
		for i := range c.Timers {
			c.Timers[i].Partition = c.Partition
		}
		fence := o.fences[c.Partition]
		if fence == nil {
			fence = &persistence.Fence{Partition: c.Partition}
		}
		c.Epoch = fence.Epoch
		if !seen[c.Partition] {
			seen[c.Partition] = true
			b.Fences = append(b.Fences, *fence)
		}
	}
	return b
}

// learn moves the owner's heads by what a batch did.
func (o *owner) learn(b *persistence.Batch) {
	for _, c := range b.Commits {
		fence := o.fences[c.Partition]
		if fence == nil {
			continue
		}
		var fenced *persistence.FencedError
		switch {
		case c.Err == nil:
			fence.Head += persistence.Offset(len(c.Events))
		case errors.As(c.Err, &fenced) && fenced.Head != fenced.StoreHead:
			fence.Head = fenced.StoreHead
		}
	}
}

// append writes the commits in one batch.
func (o *owner) append(commits ...*persistence.Commit) {
	o.t.Helper()
	b := o.batch(commits...)
	o.store.Append(o.t.Context(), b)
	o.learn(b)
}

// must writes the commits in one batch and wants all of them to succeed.
func (o *owner) must(commits ...*persistence.Commit) {
	o.t.Helper()
	o.append(commits...)
	for i, c := range commits {
		require.NoError(o.t, c.Err, "commit %d of %d, on %s", i, len(commits), c.Stream)
	}
}

func ownership(t *testing.T, s persistence.Store, p persistence.Partition) persistence.Ownership {
	t.Helper()
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, v.Partitions, s.Meta().Partitions)
	require.Equal(t, p, v.Partitions[p].Partition, "partitions must be ascending")
	return v.Partitions[p]
}

// eventsOf is what the log must hold for commits that succeeded.
func eventsOf(commits ...*persistence.Commit) []persistence.Event {
	var events []persistence.Event
	for _, c := range commits {
		for i, e := range c.Events {
			events = append(events, persistence.Event{
				Partition: c.Partition, Offset: c.Offset + persistence.Offset(i), Epoch: c.Epoch,
				Stream: c.Stream, Version: c.Expected + 1 + persistence.Version(i),
				Type: e.Type, At: c.At, Command: c.Command, Metadata: c.Metadata, Payload: e.Payload,
			})
		}
	}
	return events
}

// requireEvents compares events in order. Empty bytes and no bytes are equal;
// times are equal when they are the same moment.
func requireEvents(t *testing.T, want, got []persistence.Event) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		w, g := want[i], got[i]
		require.True(t, w.At.Equal(g.At), "event %d: at %s, want %s", i, g.At, w.At)
		require.True(t, bytes.Equal(w.Metadata, g.Metadata), "event %d: metadata %.80q, want %.80q", i, g.Metadata, w.Metadata)
		require.True(t, bytes.Equal(w.Payload, g.Payload), "event %d: payload of %d bytes, want %d, or other bytes", i, len(g.Payload), len(w.Payload))
		w.At, w.Metadata, w.Payload = time.Time{}, nil, nil
		g.At, g.Metadata, g.Payload = time.Time{}, nil, nil
		require.Equal(t, w, g, "event %d", i)
	}
}

// readAll pages through a stream.
func readAll(t *testing.T, s persistence.Store, stream persistence.Stream) []persistence.Event {
	t.Helper()
	var all []persistence.Event
	for {
		page, err := s.Read(t.Context(), stream, persistence.Version(len(all)), 500)
		require.NoError(t, err)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
	}
}

// tailAll pages through partitions and checks that every event is in its place:
// offsets dense from 1 in each partition, versions dense from 1 in each stream.
// The result is ascending by partition and offset.
func tailAll(t *testing.T, s persistence.Store) []persistence.Event {
	t.Helper()
	r := newReader(s)
	for more := 1; more > 0; {
		var err error
		more, err = r.poll(t.Context())
		require.NoError(t, err)
	}
	slices.SortStableFunc(r.events, func(a, b persistence.Event) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return r.events
}

// reader follows every partition of a store and stops at the first event that
// is out of its place. // I9
type reader struct {
	store    persistence.Store
	cursors  []persistence.Cursor
	versions map[persistence.Stream]persistence.Version
	events   []persistence.Event
}

func newReader(s persistence.Store) *reader {
	r := &reader{store: s, versions: make(map[persistence.Stream]persistence.Version)}
	for p := range s.Meta().Partitions {
		r.cursors = append(r.cursors, persistence.Cursor{Partition: persistence.Partition(p)})
	}
	return r
}

// poll reads once and returns how many events there were.
func (r *reader) poll(ctx context.Context) (int, error) {
	const limit = 256
	events, err := r.store.Tail(ctx, r.cursors, limit)
	if err != nil {
		return 0, fmt.Errorf("tail: %w", err)
	}
	perPartition := make(map[persistence.Partition]int)
	for i := range events {
		e := &events[i]
		if err := r.place(e); err != nil {
			return 0, err
		}
		if perPartition[e.Partition]++; perPartition[e.Partition] > limit {
			return 0, fmt.Errorf("partition %d: more than %d events in one page", e.Partition, limit)
		}
	}
	r.events = append(r.events, events...)
	return len(events), nil
}

// place moves the reader behind an event, if that is the next one.
func (r *reader) place(e *persistence.Event) error {
	if home := persistence.PartitionOf(e.Stream, len(r.cursors)); e.Partition != home {
		return fmt.Errorf("%s belongs to partition %d but stands in %d", e.Stream, home, e.Partition)
	}
	cursor := &r.cursors[e.Partition]
	if e.Offset != cursor.After+1 {
		return fmt.Errorf("partition %d: offset %d follows %d", e.Partition, e.Offset, cursor.After)
	}
	if e.Version != r.versions[e.Stream]+1 {
		return fmt.Errorf("%s: version %d follows %d", e.Stream, e.Version, r.versions[e.Stream])
	}
	cursor.After = e.Offset
	r.versions[e.Stream] = e.Version
	return nil
}

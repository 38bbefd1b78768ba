package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ingrain-go/ingrain/persistence"
)

// Append writes the batch's commits under the locks of their partitions. It
// never blocks on I/O, and its outcome is never unknown: a context that is
// cancelled before it starts leaves nothing behind, later it has no effect.
func (s *Store) Append(ctx context.Context, batch *persistence.Batch) {
	if err := s.enter(ctx); err != nil {
		failAll(batch, err)
		return
	}
	defer s.life.RUnlock()

	var scratch [32]*persistence.Fence
	fences := scratch[:0]
	for i := range batch.Fences {
		if s.data.has(batch.Fences[i].Partition) { // the others are refused with their commits
			fences = append(fences, &batch.Fences[i])
		}
	}
	slices.SortFunc(fences, func(a, b *persistence.Fence) int { return cmp.Compare(a.Partition, b.Partition) })
	for i := 1; i < len(fences); i++ {
		if p := fences[i].Partition; p == fences[i-1].Partition {
			failAll(batch, fmt.Errorf("append: partition %d has two fences in one batch", p))
			return
		}
	}
	for _, fence := range fences {
		p := &s.data.partitions[fence.Partition]
		p.mu.Lock()
		p.admit(batch.Owner, fence)
	}
	for _, c := range batch.Commits {
		c.Offset, c.Err = s.data.commit(fences, c)
	}
	for _, fence := range fences {
		p := &s.data.partitions[fence.Partition]
		p.refusal = nil
		p.mu.Unlock()
	}
}

func failAll(batch *persistence.Batch, err error) {
	for _, c := range batch.Commits {
		c.Offset, c.Err = 0, err
	}
}

// partition is one log with the tables that live and die with its owner's
// commits. Its mutex guards everything in it; who owns it is only changed with
// the membership lock held as well.
type partition struct {
	mu sync.Mutex

	epoch    persistence.Epoch
	owner    persistence.NodeID
	released bool

	log     log
	streams map[persistence.Stream]*stream
	timers  timers

	refusal error // why the batch being written may not write here; nil if it may
}

// stream is one aggregate's place in its partition.
type stream struct {
	name     persistence.Stream
	offsets  []persistence.Offset // by version-1
	snapshot *persistence.Snapshot
}

func (s *stream) version() persistence.Version {
	if s == nil {
		return 0
	}
	return persistence.Version(len(s.offsets))
}

// admit compares the fence with the partition's row. // I1
func (p *partition) admit(owner persistence.NodeID, fence *persistence.Fence) {
	switch head := p.log.head(); {
	case fence.Epoch != p.epoch || owner != p.owner || p.owner == "":
		p.refusal = &persistence.FencedError{
			Partition: fence.Partition, Epoch: fence.Epoch, Current: p.epoch, Owner: p.owner,
		}
	case fence.Head != head:
		p.refusal = &persistence.FencedError{
			Partition: fence.Partition, Epoch: fence.Epoch, Current: p.epoch, Owner: p.owner,
			Head: fence.Head, StoreHead: head,
		}
	}
}

// commit writes c as a whole or not at all. The fences are those of the
// partitions that are locked, in ascending order.
func (d *data) commit(fences []*persistence.Fence, c *persistence.Commit) (persistence.Offset, error) {
	var fence *persistence.Fence
	if i, ok := slices.BinarySearchFunc(fences, c.Partition, comparePartition); ok {
		fence = fences[i]
	}
	if err := c.Validate(fence, len(d.partitions)); err != nil {
		return 0, err
	}
	if len(c.Statements) > 0 {
		return 0, &persistence.StatementError{Err: errors.New("the memory store runs no SQL")}
	}
	p := &d.partitions[c.Partition]
	if p.refusal != nil {
		return 0, p.refusal
	}
	st := p.streams[c.Stream]
	if actual := st.version(); actual != c.Expected {
		return 0, &persistence.ConflictError{Stream: c.Stream, Expected: c.Expected, Actual: actual}
	}
	if len(c.Claims)+len(c.Releases) > 0 {
		if err := d.claims.exchange(c); err != nil {
			return 0, err
		}
	}
	p.timers.exchange(c)
	if len(c.Events) == 0 {
		return 0, nil
	}
	if st == nil {
		st = p.addStream(c.Stream)
	}
	first := p.log.head() + 1
	p.write(st, c)
	return first, nil
}

func comparePartition(fence *persistence.Fence, p persistence.Partition) int {
	return cmp.Compare(fence.Partition, p)
}

func (p *partition) addStream(name persistence.Stream) *stream {
	// The caller's strings may be cut out of something much larger.
	name = persistence.Stream{Type: strings.Clone(name.Type), ID: strings.Clone(name.ID)}
	st := &stream{name: name}
	p.streams[name] = st
	return st
}

// write adds the commit's events to the log, their bytes copied into one
// allocation.
func (p *partition) write(st *stream, c *persistence.Commit) {
	at := microseconds(c.At)
	size := len(c.Metadata)
	for i := range c.Events {
		size += len(c.Events[i].Payload)
	}
	buf := make([]byte, 0, size)
	metadata, buf := carve(buf, c.Metadata)
	for i := range c.Events {
		var payload []byte
		payload, buf = carve(buf, c.Events[i].Payload)
		offset := p.log.add(record{
			stream:   st,
			version:  c.Expected + persistence.Version(i) + 1,
			epoch:    c.Epoch,
			typ:      c.Events[i].Type,
			at:       at,
			command:  c.Command,
			metadata: metadata,
			payload:  payload,
		})
		st.offsets = append(st.offsets, offset)
	}
}

// carve copies b behind buf, which has the room, and returns the copy and the
// longer buf. Nothing stays nil.
func carve(buf, b []byte) (copied, rest []byte) {
	if len(b) == 0 {
		return nil, buf
	}
	n := len(buf)
	buf = append(buf, b...)
	return buf[n:len(buf):len(buf)], buf
}

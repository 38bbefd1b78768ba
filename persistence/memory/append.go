package memory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

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

	var scratch [32]persistence.Partition
	order := scratch[:0]
	for i := range batch.Fences {
		order = append(order, batch.Fences[i].Partition)
	}
	slices.Sort(order)
	if err := s.data.validate(order); err != nil {
		failAll(batch, err)
		return
	}
	for _, p := range order {
		s.data.partitions[p].mu.Lock()
	}
	for i := range batch.Fences {
		fence := &batch.Fences[i]
		s.data.partitions[fence.Partition].admit(batch, fence)
	}
	for _, c := range batch.Commits {
		c.Offset, c.Err = s.data.commit(order, c)
	}
	for _, p := range order {
		s.data.partitions[p].dismiss()
		s.data.partitions[p].mu.Unlock()
	}
}

func failAll(batch *persistence.Batch, err error) {
	for _, c := range batch.Commits {
		c.Offset, c.Err = 0, err
	}
}

// validate checks the sorted partitions of a batch's fences, before any of
// them is locked.
func (d *data) validate(order []persistence.Partition) error {
	for i, p := range order {
		if _, err := d.partition(p); err != nil {
			return err
		}
		if i > 0 && order[i-1] == p {
			return fmt.Errorf("partition %d has two fences in one batch", p)
		}
	}
	return nil
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

	// While a batch is being written: under what fence, and why the partition
	// refuses it, if it does.
	fence   *persistence.Fence
	refusal error
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
func (p *partition) admit(batch *persistence.Batch, fence *persistence.Fence) {
	p.fence = fence
	switch head := p.log.head(); {
	case fence.Epoch != p.epoch || batch.Owner != p.owner || p.owner == "":
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

func (p *partition) dismiss() { p.fence, p.refusal = nil, nil }

// commit writes c as a whole or not at all. The partitions in locked, which
// are sorted, are those that the batch has fences for.
func (d *data) commit(locked []persistence.Partition, c *persistence.Commit) (persistence.Offset, error) {
	if _, ok := slices.BinarySearch(locked, c.Partition); !ok {
		return 0, fmt.Errorf("append %s: the batch has no fence for partition %d", c.Stream, c.Partition)
	}
	p := &d.partitions[c.Partition]
	if err := p.check(c, len(d.partitions)); err != nil {
		return 0, err
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
	at := microseconds(c.At)
	p.timers.exchange(c)
	if len(c.Events) == 0 {
		return 0, nil
	}
	if st == nil {
		st = p.addStream(c.Stream)
	}
	first := p.log.head() + 1
	p.write(st, c, at)
	return first, nil
}

// check finds what makes the commit unfit for its partition.
func (p *partition) check(c *persistence.Commit, partitions int) error {
	if home := persistence.PartitionOf(c.Stream, partitions); home != c.Partition {
		return fmt.Errorf("append %s: it lives in partition %d, not %d", c.Stream, home, c.Partition)
	}
	if c.Epoch != p.fence.Epoch {
		return fmt.Errorf("append %s: epoch %d, but its partition's fence says %d", c.Stream, c.Epoch, p.fence.Epoch)
	}
	for i := range c.Timers {
		if c.Timers[i].Partition != c.Partition {
			return fmt.Errorf("append %s: sets a timer in partition %d", c.Stream, c.Timers[i].Partition)
		}
	}
	for i := range c.Cancels {
		if c.Cancels[i].Partition != c.Partition {
			return fmt.Errorf("append %s: cancels a timer in partition %d", c.Stream, c.Cancels[i].Partition)
		}
	}
	return p.refusal
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
func (p *partition) write(st *stream, c *persistence.Commit, at time.Time) {
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

package actor

import (
	"context"
	"errors"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// stamp is a [persistence.Cause] in little room.
type stamp struct {
	command persistence.CommandID
	at      int64 // microseconds
}

func stampOf(c persistence.Cause) stamp { return stamp{c.Command, c.At.UnixMicro()} }

func (s stamp) cause() persistence.Cause {
	return persistence.Cause{Command: s.command, At: time.UnixMicro(s.at).UTC()}
}

// snapshotDebt is what a replay would have to repeat.
type snapshotDebt struct{ events, bytes int }

func (d *snapshotDebt) add(events, bytes int) {
	d.events += events
	d.bytes += bytes
}

// due reports whether a snapshot is to be taken. A grain with nothing else to do
// takes it on time; a busy one may be twice as late, so that no caller waits
// behind the encoding unless it must.
func (d *snapshotDebt) due(p aggregate.SnapshotPolicy, idle bool) bool {
	if p.Off {
		return false
	}
	slack := 2
	if idle {
		slack = 1
	}
	return d.events >= slack*p.Every || d.bytes >= slack*p.Bytes
}

// half reports whether half of what makes a snapshot due has come together.
func (d *snapshotDebt) half(p aggregate.SnapshotPolicy) bool {
	return !p.Off && (2*d.events >= p.Every || 2*d.bytes >= p.Bytes)
}

// SnapshotEarly takes snapshots of the most recently used aggregates of some
// partitions, up to so many of each, if a replay would have much to repeat:
// half of what would make a snapshot due. It returns when they are stored, or
// when ctx ends; what is not stored by then costs a longer load.
func (h *Host) SnapshotEarly(ctx context.Context, partitions []persistence.Partition, most int) {
	var grains []*grain
	for _, p := range partitions {
		hot := h.hottest(p)
		for _, g := range hot[:min(len(hot), most)] {
			if !g.def.Snapshots().Off {
				grains = append(grains, g)
			}
		}
	}
	taken := make(chan *persistence.Snapshot, len(grains))
	for _, g := range grains {
		g.mailbox.PostUserMessage(snapshotNow{taken})
	}
	batch := make([]persistence.Snapshot, 0, snapshotBatch)
	for i := range grains {
		select {
		case s := <-taken:
			if s != nil {
				batch = append(batch, *s)
			}
		case <-ctx.Done():
			return
		}
		if len(batch) == snapshotBatch || i == len(grains)-1 && len(batch) > 0 {
			h.saveAll(ctx, batch)
			batch = batch[:0]
		}
	}
}

// snapshotEarly gives a snapshot to whoever asked for one, when all its events
// are durable.
func (g *grain) snapshotEarly(to chan<- *persistence.Snapshot) {
	if g.phase != running || !g.catchUp() || !g.sinceSnap.half(g.def.Snapshots()) {
		to <- nil
		return
	}
	s := g.snapshot()
	g.mu.Lock()
	defer g.mu.Unlock()
	var last *item
	for it := g.queue; it != nil; it = it.next {
		if it.hasCommit {
			last = it
		}
	}
	switch {
	case last == nil && !g.broken:
		to <- s
	case last == nil || last.snapshot != nil || last.asked != nil:
		to <- nil
	default:
		last.snapshot, last.asked = s, to
	}
}

// snapshotQueue bounds the snapshots that wait to be written; further ones are
// dropped, and taken again when the debt has grown.
const snapshotQueue = 256

// snapshotBatch is how many snapshots one round trip stores.
const snapshotBatch = 64

// snapshotWriter stores snapshots off the hot path.
type snapshotWriter struct {
	host  *Host
	queue chan *persistence.Snapshot
}

func newSnapshotWriter(h *Host) *snapshotWriter {
	return &snapshotWriter{host: h, queue: make(chan *persistence.Snapshot, snapshotQueue)}
}

// save queues a snapshot all of whose events are durable.
func (h *Host) save(s *persistence.Snapshot) {
	select {
	case h.snapshots.queue <- s:
	default:
		h.stats.snapshotsDropped.Add(1)
	}
}

func (w *snapshotWriter) run() {
	for w.host.storeContext.Err() == nil {
		select {
		case s := <-w.queue:
			w.write(s)
		case <-w.host.storeContext.Done():
			return
		}
	}
}

// write stores a snapshot together with those that wait behind it.
func (w *snapshotWriter) write(first *persistence.Snapshot) {
	batch := []persistence.Snapshot{*first}
	for more := true; more && len(batch) < snapshotBatch; {
		select {
		case s := <-w.queue:
			batch = append(batch, *s)
		default:
			more = false
		}
	}
	ctx, cancel := w.host.storeCall()
	defer cancel()
	w.host.saveAll(ctx, batch)
}

// saveAll stores snapshots in one round trip. Who is cut off by the end of the
// host, or of a hand-over's patience, merely has more to replay later.
func (h *Host) saveAll(ctx context.Context, batch []persistence.Snapshot) {
	err := h.store.SaveSnapshots(ctx, batch)
	switch {
	case err == nil:
		h.stats.snapshots.Add(uint64(len(batch)))
	case h.storeContext.Err() == nil && !errors.Is(ctx.Err(), context.Canceled):
		h.log.Warn("snapshots not stored", "count", len(batch), "error", err)
	}
}

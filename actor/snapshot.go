package actor

import (
	"context"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

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

// snapshotQueue bounds the snapshots that wait to be written; further ones are
// dropped, and taken again when the debt has grown.
const snapshotQueue = 256

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
	for {
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
	for more := true; more && len(batch) < 64; {
		select {
		case s := <-w.queue:
			batch = append(batch, *s)
		default:
			more = false
		}
	}
	ctx, cancel := context.WithTimeout(w.host.storeContext, w.host.config.StoreTimeout)
	defer cancel()
	if err := w.host.store.SaveSnapshots(ctx, batch); err != nil {
		if w.host.storeContext.Err() != nil {
			return // the host has stopped; the next load replays a little more
		}
		w.host.log.Warn("snapshots not stored", "count", len(batch), "error", err)
		return
	}
	w.host.stats.snapshots.Add(uint64(len(batch)))
}

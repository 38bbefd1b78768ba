package check

import (
	"github.com/ingrain-go/ingrain/persistence"
)

// logWatch checks the log's own invariants: dense offsets and versions, epochs
// that never fall and each had exactly one owner, and no command in two places.
type logWatch struct {
	report   *Report
	tenures  map[held]persistence.NodeID
	first    bool
	part     persistence.Partition
	offset   persistence.Offset
	epoch    persistence.Epoch
	versions map[uint64]persistence.Version
	last     map[uint64]persistence.CommandID // the newest of each stream: one command may leave several events
	commands map[persistence.CommandID]struct{}
}

// held is a partition under an epoch.
type held struct {
	partition persistence.Partition
	epoch     persistence.Epoch
}

func newLogWatch(log *Log, report *Report) *logWatch {
	w := &logWatch{
		report: report, tenures: map[held]persistence.NodeID{}, first: true,
		versions: map[uint64]persistence.Version{}, last: map[uint64]persistence.CommandID{}, commands: map[persistence.CommandID]struct{}{},
	}
	newest := map[persistence.Partition]persistence.Epoch{}
	count := map[persistence.Partition]int{}
	for _, t := range log.Tenures {
		at := held{t.Partition, t.Epoch}
		if other, twice := w.tenures[at]; twice {
			report.addf(Owner, 0, "partition %d, epoch %d was held by %q and by %q", t.Partition, t.Epoch, other, t.Owner)
			continue
		}
		w.tenures[at] = t.Owner
		newest[t.Partition] = max(newest[t.Partition], t.Epoch)
		count[t.Partition]++
	}
	for p, epoch := range newest {
		if count[p] != int(epoch) {
			report.addf(Gap, 0, "partition %d: %d of %d epochs have a holder on record", p, count[p], epoch)
		}
	}
	for _, row := range log.Partitions {
		if row.Epoch != newest[row.Partition] || row.Epoch > 0 && row.Owner != w.tenures[held{row.Partition, row.Epoch}] {
			report.addf(Owner, 0, "partition %d is at epoch %d with %q; on record is epoch %d with %q",
				row.Partition, row.Epoch, row.Owner, newest[row.Partition], w.tenures[held{row.Partition, row.Epoch}])
		}
	}
	return w
}

// owner is who held a partition under an epoch.
func (w *logWatch) owner(p persistence.Partition, e persistence.Epoch) persistence.NodeID {
	return w.tenures[held{p, e}]
}

func (w *logWatch) event(e *persistence.Event) {
	at := e.At.UnixNano()
	if w.first || e.Partition != w.part {
		w.first, w.part, w.offset, w.epoch = false, e.Partition, 0, 0
	}
	if e.Offset != w.offset+1 {
		w.report.addf(Gap, at, "partition %d: offset %d follows %d", e.Partition, e.Offset, w.offset)
	}
	if e.Epoch < w.epoch {
		w.report.addf(Epoch, at, "partition %d: epoch %d follows %d at offset %d", e.Partition, e.Epoch, w.epoch, e.Offset)
	}
	if w.owner(e.Partition, e.Epoch) == "" {
		w.report.addf(Owner, at, "%s: nobody owned the partition under this epoch", place(e))
	}
	stream := Hash(e.Stream.String())
	if e.Version != w.versions[stream]+1 {
		w.report.addf(Gap, at, "%s: version %d follows %d", e.Stream, e.Version, w.versions[stream])
	}
	if w.last[stream] != e.Command {
		if _, twice := w.commands[e.Command]; twice {
			w.report.addf(Duplicated, at, "%s: command id %s of %s is in the log in two places", place(e), e.Command, e.Stream)
		}
		w.commands[e.Command] = struct{}{}
	}
	w.offset, w.epoch = e.Offset, max(w.epoch, e.Epoch)
	w.versions[stream], w.last[stream] = e.Version, e.Command
}

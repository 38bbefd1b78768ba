package check

import (
	"fmt"
	"iter"

	"github.com/ingrain-go/ingrain/persistence"
)

// Log is what a store holds when all is over.
type Log struct {
	// Events of one partition after the other, each in the order of offsets.
	Events iter.Seq2[persistence.Event, error]
	// Tenures say who held each partition under each epoch, in any order.
	Tenures []Tenure
	// Partitions are the rows as they stand.
	Partitions []persistence.Ownership
}

// Tenure is one line of the history of ownership.
type Tenure struct {
	Partition persistence.Partition
	Epoch     persistence.Epoch
	Owner     persistence.NodeID // empty for a time when it was nobody's
}

// Tail reads a whole store in the order that Log wants.
func Tail(read func(persistence.Cursor) ([]persistence.Event, error), partitions int) iter.Seq2[persistence.Event, error] {
	return func(yield func(persistence.Event, error) bool) {
		for p := range persistence.Partition(partitions) {
			cursor := persistence.Cursor{Partition: p}
			for {
				events, err := read(cursor)
				if err != nil {
					yield(persistence.Event{}, fmt.Errorf("read the log of partition %d: %w", p, err))
					return
				}
				for i := range events {
					if !yield(events[i], nil) {
						return
					}
				}
				if len(events) == 0 {
					break
				}
				cursor.After = events[len(events)-1].Offset
			}
		}
	}
}

// Effects lays the log beside what clients were told. commands is the table of
// ReadLedger; each of them leaves one event if it takes effect. It returns how
// many events it read.
//
//	acknowledged with events ... once in the log, where the receipt says     (lost, misplaced)
//	any command ................ at most once in the log                     (duplicated)
//	certainly without effect ... not in the log                              (phantom)
//	first receipt .............. answered by who owned that epoch            (dual)
//	a claimed name ............. one holder, the same for all who were told  (claimed)
//	the log itself ............. see logWatch                                (gap, epoch, owner)
func Effects(ids Ids, commands []Command, log *Log, report *Report) (events int, err error) {
	e := &effects{ids: ids, commands: commands, log: newLogWatch(log, report), report: report, holders: map[uint64]uint64{}, seen: make([]uint8, len(commands))}
	for event, err := range log.Events {
		if err != nil {
			return events, err
		}
		events++
		e.log.event(&event)
		e.event(&event)
	}
	e.end()
	return events, nil
}

type effects struct {
	ids      Ids
	commands []Command
	log      *logWatch
	report   *Report
	seen     []uint8           // how often each command took effect
	holders  map[uint64]uint64 // of names: which command
}

func (e *effects) event(event *persistence.Event) {
	seq, ours := e.ids.Seq(event.Command)
	if !ours {
		return // put there before the run
	}
	if seq == 0 || seq > uint64(len(e.commands)) {
		e.report.addf(Foreign, event.At.UnixNano(), "%s: command %s of %s", place(event), event.Command, event.Stream)
		return
	}
	c := &e.commands[seq-1]
	if e.seen[seq-1]++; e.seen[seq-1] == 0 {
		e.seen[seq-1]--
	}
	stream := Hash(event.Stream.String())
	if c.Claim {
		if first, taken := e.holders[stream]; taken && first != seq {
			e.report.addf(Claimed, c.Return, "%s is held by commands %d and %d", event.Stream, first, seq)
		} else {
			e.holders[stream] = seq
		}
	}
	switch {
	case e.seen[seq-1] > 1:
		e.report.addf(Duplicated, c.Return, "%s: command %d (%s) took effect %d times", place(event), seq, event.Command, e.seen[seq-1])
	case c.Outcome == Pending:
		e.report.addf(Foreign, event.At.UnixNano(), "%s: command %d of %s has no outcome", place(event), seq, event.Stream)
	case c.Outcome == Failed, c.Outcome == Rejected && !c.Uncertain, c.Outcome == OK && c.Events == 0:
		e.report.addf(Phantom, c.Return, "%s: command %d is in the log, though its caller was told %s", place(event), seq, c.Outcome)
	case c.Outcome != OK:
	case c.Partition != int32(event.Partition) || c.Offset != int64(event.Offset) || c.Version != int64(event.Version) || c.Stream != stream:
		e.report.addf(Misplaced, c.Return, "%s, version %d of %s: the receipt of command %d says partition %d, offset %d, version %d",
			place(event), event.Version, event.Stream, seq, c.Partition, c.Offset, c.Version)
	case !c.Duplicate && c.Node != 0:
		if owner := e.log.owner(event.Partition, event.Epoch); owner != "" && Hash(string(owner)) != c.Node {
			e.report.addf(Dual, c.Return, "%s: command %d was answered by another node than %s, which owned epoch %d", place(event), seq, owner, event.Epoch)
		}
	}
}

func (e *effects) end() {
	for i := range e.commands {
		c := &e.commands[i]
		switch {
		case c.Outcome == OK && c.Events > 0 && e.seen[i] == 0:
			e.report.addf(Lost, c.Return, "command %d was acknowledged at partition %d, offset %d, version %d, and is not in the log",
				c.Seq, c.Partition, c.Offset, c.Version)
		case c.Claim && c.Outcome == Rejected && e.holders[c.Stream] != c.Value:
			e.report.addf(Claimed, c.Return, "command %d was told that its name is held by %d; it is held by %d", c.Seq, c.Value, e.holders[c.Stream])
		}
	}
}

func place(e *persistence.Event) string {
	return fmt.Sprintf("partition %d, offset %d, epoch %d", e.Partition, e.Offset, e.Epoch)
}

package eventsourcing

import (
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// The size of a deduplication window. An id that fell out of the window is not
// forgotten, only slower to recognise: see [Window.Find].
const (
	// windowMin is how many commands the window of an aggregate in use remembers.
	windowMin = 32
	// windowMax bounds what it remembers of a busy aggregate.
	windowMax = 8192
	// windowSpan is how long a busy aggregate's commands stay, in milliseconds.
	windowSpan = 10_000
	// windowIdle is how many an idle aggregate remembers.
	windowIdle = 16
	// windowStored is how many go into a snapshot.
	windowStored = 128
)

// Handled is what is remembered of a command that had events.
type Handled struct {
	Command aggregate.CommandID
	// Version of the aggregate after the command.
	Version persistence.Version
	// Offset of its last event; 0 while the commit is in flight.
	Offset persistence.Offset
	// Events is how many it had.
	Events int
}

// Window remembers an aggregate's recent commands, so that a command delivered
// again has no second effect (I5). It is a ring in order of execution. The zero
// value is an empty window. It is not safe for concurrent use.
type Window struct {
	ring  []Handled // oldest at start
	start int
	index map[aggregate.CommandID]int32 // place in ring; only above windowMin
	// floor is the newest creation time, in milliseconds, of an id that fell out
	// of the window: an id at or below it may be one of those.
	floor int64
}

// Verdict is what a window knows of a command id.
type Verdict uint8

// The verdicts.
const (
	// New: the id was certainly never handled.
	New Verdict = iota
	// Seen: it was, and the window has the particulars.
	Seen
	// Unsure: it is older than the window; the log must be asked.
	Unsure
)

// Find looks an id up.
func (w *Window) Find(id aggregate.CommandID) (Handled, Verdict) {
	if w.index != nil {
		if i, ok := w.index[id]; ok {
			return w.ring[i], Seen
		}
	} else {
		for i := range w.ring {
			if w.ring[i].Command == id {
				return w.ring[i], Seen
			}
		}
	}
	if millis(id) <= w.floor {
		return Handled{}, Unsure
	}
	return Handled{}, New
}

// Add remembers a command that was just executed.
func (w *Window) Add(h Handled) {
	n := len(w.ring)
	if n >= windowMin {
		oldest := &w.ring[w.start]
		if n >= windowMax || millis(h.Command)-millis(oldest.Command) > windowSpan {
			w.forget(oldest.Command)
			*oldest = h
			if w.index != nil {
				w.index[h.Command] = int32(w.start)
			}
			w.start = (w.start + 1) % n
			return
		}
	}
	if w.start != 0 { // make the ring start at 0 before it grows
		w.ring = slices.Concat(w.ring[w.start:], w.ring[:w.start])
		w.start = 0
		w.reindex()
	}
	w.ring = append(w.ring, h)
	switch {
	case w.index != nil:
		w.index[h.Command] = int32(n)
	case n == windowMin:
		w.reindex()
	}
}

// Settle records where the commit of a command went.
func (w *Window) Settle(id aggregate.CommandID, offset persistence.Offset) {
	if w.index != nil {
		if i, ok := w.index[id]; ok {
			w.ring[i].Offset = offset
		}
		return
	}
	for i := len(w.ring) - 1; i >= 0; i-- {
		if w.ring[i].Command == id {
			w.ring[i].Offset = offset
			return
		}
	}
}

// Reaches reports whether everything that was executed after a version is still
// remembered in particular.
func (w *Window) Reaches(after persistence.Version) bool {
	return len(w.ring) == 0 || w.ring[w.start].Version <= after || w.floor == 0
}

// Trim gives back the memory of a burst: it forgets all but the newest few.
func (w *Window) Trim() {
	if len(w.ring) > windowIdle {
		w.keep(windowIdle)
	}
}

// Handled returns the window's content, oldest first.
func (w *Window) Handled() []Handled {
	return slices.Concat(w.ring[w.start:], w.ring[:w.start])
}

// Len is how many commands are remembered.
func (w *Window) Len() int { return len(w.ring) }

// keep forgets all but the newest n.
func (w *Window) keep(n int) {
	w.ring, w.floor = w.newest(n)
	w.start, w.index = 0, nil
	w.reindex()
}

// newest copies the newest n, oldest first, and returns what the floor would be
// without the others.
func (w *Window) newest(n int) ([]Handled, int64) {
	floor, size := w.floor, len(w.ring)
	n = min(n, size)
	for i := range size - n {
		floor = max(floor, millis(w.ring[(w.start+i)%size].Command))
	}
	kept := make([]Handled, 0, n)
	for i := size - n; i < size; i++ {
		kept = append(kept, w.ring[(w.start+i)%size])
	}
	return kept, floor
}

func (w *Window) reindex() {
	if len(w.ring) <= windowMin {
		w.index = nil
		return
	}
	w.index = make(map[aggregate.CommandID]int32, 2*len(w.ring))
	for i := range w.ring {
		w.index[w.ring[i].Command] = int32(i)
	}
}

func (w *Window) forget(id aggregate.CommandID) {
	w.floor = max(w.floor, millis(id))
	delete(w.index, id)
}

func millis(id aggregate.CommandID) int64 {
	return int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
}

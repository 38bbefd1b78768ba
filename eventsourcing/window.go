package eventsourcing

import (
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// The size of a deduplication window. An id that fell out of the window is not
// forgotten, only slower to recognise: see [Window.Find].
const (
	// windowMin is how many commands the window of an aggregate in use remembers.
	windowMin = 32
	// windowMax bounds what it remembers of a busy aggregate.
	windowMax = 4096
	// windowSpan is how long a busy aggregate's commands stay, in milliseconds.
	windowSpan = 5_000
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
// again has no second effect (I5). It is a queue in order of execution. The zero
// value is an empty window. It is not safe for concurrent use.
//
// It is made for the usual case, a new id that is younger than all it has seen:
// to tell that takes one comparison. The index is only filled when an id has to
// be looked for.
type Window struct {
	ring  []Handled // of a power of two places
	first uint64    // number of the oldest; numbers are given in order of execution
	next  uint64    // number that the next one gets
	// index is the number of each command below indexed; only above windowMin.
	index   map[aggregate.CommandID]uint64
	indexed uint64
	// settled is the number below which nothing is in flight any more.
	settled uint64
	// newest is the youngest creation time, in milliseconds, of any id seen.
	newest int64
	// floor is the same of the ids that fell out of the window: an id at or below
	// it may be one of those.
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
	at := millis(id)
	if at > w.newest && at > w.floor {
		return Handled{}, New
	}
	if number, ok := w.number(id); ok {
		return *w.at(number), Seen
	}
	if at <= w.floor {
		return Handled{}, Unsure
	}
	return Handled{}, New
}

// number finds the place of an id that is remembered.
func (w *Window) number(id aggregate.CommandID) (uint64, bool) {
	if w.Len() <= windowMin {
		for n := w.next; n > w.first; n-- {
			if w.at(n-1).Command == id {
				return n - 1, true
			}
		}
		return 0, false
	}
	if w.index == nil {
		w.index = make(map[aggregate.CommandID]uint64, w.Len())
	}
	for n := max(w.indexed, w.first); n < w.next; n++ {
		w.index[w.at(n).Command] = n
	}
	w.indexed = w.next
	n, ok := w.index[id]
	return n, ok
}

func (w *Window) at(number uint64) *Handled { return &w.ring[number&uint64(len(w.ring)-1)] }

// Add remembers a command that was just executed. It makes room by forgetting
// at most two, so that the window of a burst becomes small again.
func (w *Window) Add(h Handled) {
	at := millis(h.Command)
	for range 2 {
		if n := w.Len(); n < windowMin || n < windowMax && at-millis(w.at(w.first).Command) <= windowSpan {
			break
		}
		w.forget()
	}
	if w.Len() == len(w.ring) {
		w.resize(max(8, 2*len(w.ring)))
	}
	*w.at(w.next) = h
	w.next++
	w.newest = max(w.newest, at)
}

// forget drops the oldest.
func (w *Window) forget() {
	oldest := w.at(w.first)
	w.floor = max(w.floor, millis(oldest.Command))
	if w.first < w.indexed {
		delete(w.index, oldest.Command)
	}
	w.first++
}

// resize moves the window to a ring of n places, a power of two.
func (w *Window) resize(n int) {
	ring := make([]Handled, n)
	for i := w.first; i < w.next; i++ {
		ring[i&uint64(n-1)] = *w.at(i)
	}
	w.ring = ring
}

// last is the newest entry; nil when there is none.
func (w *Window) last() *Handled {
	if w.Len() == 0 {
		return nil
	}
	return w.at(w.next - 1)
}

// Settle records where the commit of a command went. Commits settle in the order
// of execution.
func (w *Window) Settle(id aggregate.CommandID, offset persistence.Offset) {
	n := max(w.settled, w.first)
	for n < w.next && w.at(n).Command != id {
		n++
	}
	if n < w.next {
		w.at(n).Offset = offset
		w.settled = n + 1
	}
}

// Reaches reports whether everything that was executed after a version is still
// remembered in particular.
func (w *Window) Reaches(after persistence.Version) bool {
	return w.Len() == 0 || w.at(w.first).Version <= after || w.floor == 0
}

// Trim gives back the memory of a burst: it forgets all but the newest few.
func (w *Window) Trim() {
	for w.Len() > windowIdle {
		w.forget()
	}
	if len(w.ring) > windowIdle {
		w.resize(windowIdle)
	}
	w.index, w.indexed = nil, w.first
}

// Handled returns the window's content, oldest first.
func (w *Window) Handled() []Handled {
	all, _ := w.stored(w.Len())
	return all
}

// Len is how many commands are remembered.
func (w *Window) Len() int { return int(w.next - w.first) }

// stored copies the newest n, oldest first, and returns what the floor would be
// without the others.
func (w *Window) stored(n int) ([]Handled, int64) {
	floor, from := w.floor, w.next-uint64(min(n, w.Len()))
	for i := w.first; i < from; i++ {
		floor = max(floor, millis(w.at(i).Command))
	}
	kept := make([]Handled, 0, n)
	for i := from; i < w.next; i++ {
		kept = append(kept, *w.at(i))
	}
	return kept, floor
}

// restoreWindow undoes stored.
func restoreWindow(handled []Handled, floor int64) Window {
	w := Window{floor: floor, newest: floor}
	if len(handled) > 0 {
		size := 8
		for size < len(handled) {
			size *= 2
		}
		w.ring = make([]Handled, size)
		w.next = uint64(copy(w.ring, handled))
	}
	for i := range handled {
		w.newest = max(w.newest, millis(handled[i].Command))
	}
	return w
}

func millis(id aggregate.CommandID) int64 {
	return int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
}

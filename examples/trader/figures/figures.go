// Package figures counts what clients of the market experience, in a form that
// several processes can add up.
package figures

import (
	"math/bits"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Figures are counts since the process started, but for Parked, which is of
// this moment. They add up.
type Figures struct {
	Commands     int64 `json:"commands"`     // begun
	Acknowledged int64 `json:"acknowledged"` // receipts received
	Rejected     int64 `json:"rejected"`     // the domain said no, or the request was invalid
	NotDone      int64 `json:"not_done"`     // certainly without effect
	Unknown      int64 `json:"unknown"`      // given up without knowing
	Steps        int64 `json:"steps"`        // of the settlement
	Parked       int64 `json:"parked"`       // settlement steps that are refused now
	// Latency counts the replies by time taken.
	Latency Histogram `json:"latency"`
}

// Add adds b to a.
func (a *Figures) Add(b *Figures) {
	a.Commands += b.Commands
	a.Acknowledged += b.Acknowledged
	a.Rejected += b.Rejected
	a.NotDone += b.NotDone
	a.Unknown += b.Unknown
	a.Steps += b.Steps
	a.Parked += b.Parked
	a.Latency.Add(&b.Latency)
}

// Recorder collects figures. It is safe for concurrent use.
type Recorder struct {
	mu      sync.Mutex
	figures Figures
}

// Begin notes that a command is sent.
func (r *Recorder) Begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.figures.Commands++
}

// End notes what became of it, after that time.
func (r *Recorder) End(err error, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.figures
	switch aggregate.KindOf(err) {
	case aggregate.KindNone:
		f.Acknowledged++
	case aggregate.KindRejected, aggregate.KindInvalid:
		f.Rejected++
	case aggregate.KindNotDone:
		f.NotDone++
		return
	default:
		f.Unknown++
		return
	}
	f.Latency.Record(took)
}

// Snapshot returns a copy.
func (r *Recorder) Snapshot() Figures {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.figures
	f.Latency.Counts = append([]int64(nil), f.Latency.Counts...)
	return f
}

// Histogram counts durations in classes of 1/16 of their magnitude, from a
// microsecond on. The zero value is empty.
type Histogram struct {
	Counts []int64 `json:"counts,omitempty"`
}

const perDoubling = 16

// class of a duration: exact below 16 microseconds, then 16 for each doubling.
func class(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < perDoubling {
		return int(us)
	}
	shift := bits.Len64(us) - 5
	return shift*perDoubling + int(us>>shift)
}

// end is the upper bound of a class.
func end(class int) time.Duration {
	if class < perDoubling {
		return time.Duration(class+1) * time.Microsecond
	}
	shift := class/perDoubling - 1
	return time.Duration(uint64(class%perDoubling+perDoubling+1)<<shift) * time.Microsecond
}

// Record counts one duration.
func (h *Histogram) Record(d time.Duration) {
	c := class(d)
	for len(h.Counts) <= c {
		h.Counts = append(h.Counts, 0)
	}
	h.Counts[c]++
}

// Add adds o to h.
func (h *Histogram) Add(o *Histogram) {
	for len(h.Counts) < len(o.Counts) {
		h.Counts = append(h.Counts, 0)
	}
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
}

// Quantile returns a time within which the share q of all durations stayed,
// within 1/16; 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total, seen int64
	for _, n := range h.Counts {
		total += n
	}
	for i, n := range h.Counts {
		if seen += n; n > 0 && float64(seen) >= q*float64(total) {
			return end(i)
		}
	}
	return 0
}

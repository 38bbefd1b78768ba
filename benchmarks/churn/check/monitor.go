package check

import (
	"fmt"
	"sync"
)

// Monitor watches answers as they come in, from all clients, for those that
// began after something newer had been acknowledged (I7), and for two
// activations of one aggregate in one process that both answer. It is safe for
// concurrent use.
//
// It needs no history: what a caller must at least see is fixed when it asks.
//
//	floor := monitor.Ask(stream)      // just before the request leaves
//	...
//	monitor.Answer(stream, floor, answer, now)
type Monitor struct {
	mu      sync.Mutex
	streams map[string]*watch
}

type watch struct {
	acknowledged int64
	process      uint64
	activation   uint64
}

// NewMonitor knows of nothing.
func NewMonitor() *Monitor { return &Monitor{streams: map[string]*watch{}} }

// Floor is what an answer must not be older than.
type Floor struct {
	version    int64
	process    uint64
	activation uint64
}

// Answer is what came back.
type Answer struct {
	Version int64
	// Wrote: the version is the caller's own doing, just now, so it must be
	// above everything that was acknowledged before.
	Wrote bool
	// Process and Activation tell which of an aggregate's activations answered;
	// activations are numbered within a process. 0 when it did not say.
	Process    uint64
	Activation uint64
}

// Ask returns what an answer to a request that leaves now must not be older
// than.
func (m *Monitor) Ask(stream string) Floor {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.streams[stream]
	if w == nil {
		return Floor{}
	}
	return Floor{version: w.acknowledged, process: w.process, activation: w.activation}
}

// Answer takes an answer in and says what is wrong with it, or nil. Receipts of
// earlier times, of commands that were sent again, must not be given to it.
func (m *Monitor) Answer(stream string, f Floor, a Answer, now int64) *Violation {
	m.mu.Lock()
	w := m.streams[stream]
	if w == nil {
		w = &watch{}
		m.streams[stream] = w
	}
	w.acknowledged = max(w.acknowledged, a.Version)
	if a.Activation != 0 && (a.Process != w.process || a.Activation > w.activation) {
		w.process, w.activation = a.Process, a.Activation
	}
	m.mu.Unlock()
	switch {
	case a.Wrote && a.Version <= f.version:
		return &Violation{Stale, now, fmt.Sprintf("%s: a command that began after version %d was acknowledged made version %d", stream, f.version, a.Version)}
	case a.Version < f.version:
		return &Violation{Stale, now, fmt.Sprintf("%s: an answer that began after version %d was acknowledged is of version %d", stream, f.version, a.Version)}
	case a.Activation != 0 && a.Process == f.process && a.Activation < f.activation:
		return &Violation{Dual, now, fmt.Sprintf("%s: activation %d answered after activation %d in the same process", stream, a.Activation, f.activation)}
	}
	return nil
}

// Forget frees what is known of a stream that nobody will ask again.
func (m *Monitor) Forget(stream string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, stream)
}

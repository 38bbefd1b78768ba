package actor

import (
	"sync/atomic"
	"time"
)

type counters struct {
	commits, batches, fenced, conflicts, unknown, storeErrors atomic.Uint64
	activations, passivations, loads, lookups, duplicates     atomic.Uint64
	overloaded, refused, panics, barriers, held, warmed       atomic.Uint64
	snapshots, snapshotsDropped, repeated, broken             atomic.Uint64
	timersSet, timersFired, timersLate, timersRetried         atomic.Uint64
}

// Stats are counts since the host started, and the gauges Resident, InFlight and
// TimerLag.
type Stats struct {
	Commits, Batches uint64 // appended and durable; round trips
	Fenced           uint64 // commits refused because the partition was in other hands
	Conflicts        uint64 // commits refused because of the version
	Unknown          uint64 // commits whose outcome had to be looked up
	StoreErrors      uint64 // commits the store could not take
	Repeated         uint64 // commits appended again because the store was lost
	Broken           uint64 // activations that left memory because a commit of theirs failed
	Activations      uint64
	Passivations     uint64
	Loads            uint64
	Warmed           uint64 // activations that no call asked for: see Host.Warm
	Lookups          uint64 // command ids that only the log could tell
	Duplicates       uint64 // commands delivered again
	Overloaded       uint64 // calls refused because a queue was full
	Refused          uint64 // calls refused at once because the store could not be reached a moment before
	Panics           uint64 // in domain code
	Barriers         uint64 // store round trips because no lease covered a reply
	Held             uint64 // replies held back after a take-over
	Snapshots        uint64
	SnapshotsDropped uint64
	TimersSet        uint64 // in commits handed to the lane
	TimersFired      uint64 // whose command was decided, durably
	TimersLate       uint64 // of those, more than a second late
	TimersRetried    uint64 // attempts of a timer that did not get through, and are made again
	Resident         int    // aggregates in memory
	InFlight         int    // calls admitted and not answered
	// TimerLag is how late the most overdue timer is now; 0 when none is.
	TimerLag time.Duration
}

// Stats reads the counters.
func (h *Host) Stats() Stats {
	c := &h.stats
	return Stats{
		Commits: c.commits.Load(), Batches: c.batches.Load(), Fenced: c.fenced.Load(), Conflicts: c.conflicts.Load(),
		Unknown: c.unknown.Load(), StoreErrors: c.storeErrors.Load(), Repeated: c.repeated.Load(), Broken: c.broken.Load(),
		Activations:  c.activations.Load(),
		Passivations: c.passivations.Load(), Loads: c.loads.Load(), Lookups: c.lookups.Load(), Duplicates: c.duplicates.Load(),
		Overloaded: c.overloaded.Load(), Refused: c.refused.Load(), Panics: c.panics.Load(), Barriers: c.barriers.Load(), Held: c.held.Load(),
		Warmed: c.warmed.Load(), Snapshots: c.snapshots.Load(), SnapshotsDropped: c.snapshotsDropped.Load(),
		TimersSet: c.timersSet.Load(), TimersFired: c.timersFired.Load(), TimersLate: c.timersLate.Load(),
		TimersRetried: c.timersRetried.Load(), TimerLag: h.timers.lag(),
		Resident: h.resident.len(), InFlight: int(h.inflight.Load()),
	}
}

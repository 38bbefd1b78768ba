package actor

import (
	"container/heap"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// timerReach is how far ahead timers are loaded, timerRefresh how much of it is
	// left when more are.
	timerReach   = 30 * time.Second
	timerRefresh = 15 * time.Second
	// timerPage is how many one load brings in, at most; timersHeld how many are in
	// memory before no more are loaded, except the next ones of a partition.
	timerPage  = 4096
	timersHeld = 1 << 16
	// timersLow is with how few of a partition in memory the next page is loaded.
	timersLow = 1024
	// loadPartitions is how many partitions one load asks for. One that has more
	// than a page is asked for alone.
	loadPartitions = 32
	// timersInFlight is how many timers may be on their way through the aggregates.
	timersInFlight = 1024
	// timerPauseFirst doubles up to timerPauseMost, after which a timer that did not
	// get through is tried again.
	timerPauseFirst = 50 * time.Millisecond
	timerPauseMost  = time.Minute
	// timerTick is how late a jump of the wall clock is noticed.
	timerTick = 500 * time.Millisecond
)

// timers fires the timers of the partitions that a host owns. The store's rows are
// the truth about them. What is in memory is a part of it, those that are due soon,
// and runs ahead of it as the grains do: a timer is set, replaced or cancelled here
// when its commit is handed to the lane, so that one that was cancelled does not
// fire although the row is still there. When such a commit fails, the store is
// asked again.
//
//	loaded, or set ──▶ armed ── due ──▶ fired ── its commit cancels it ──▶ gone
//	                    ▲  │                │
//	                    │  └── cancelled, replaced, partition lost ──────▶ gone
//	                    └──── not done: a growing pause ──┘
//
// A timer fires once because its command's commit deletes its row: with the
// command's events, or, for a rejection, alone (I10).
//
// Safe for concurrent use. It is nil in a host none of whose types sets timers.
type timers struct {
	host *Host
	fire chan struct{} // capacity 1: something may be due
	load chan struct{} // capacity 1: something may have to be loaded

	mu       sync.Mutex
	kept     map[*tenure]*keeper
	due      dueHeap // what is armed and not on its way
	held     int     // armed, of all partitions
	inFlight int
}

// keeper is what is known of one partition's timers.
type keeper struct {
	tenure *tenure
	// armed are timers that the store has, or will have when what is in flight is
	// settled: all that are due up to covered, and perhaps others.
	armed   map[persistence.TimerKey]*armed
	covered time.Time
	cut     bool // the last load has left some for the next
	// fresh are the changes that a load may not have seen: of commits in flight, and
	// of those that were settled while one was under way.
	fresh map[persistence.TimerKey]*change
	// tried are timers that did not get through.
	tried map[persistence.TimerKey]trial
	// reach, while a load is under way, is how far it looks; stale says that what it
	// brings may have been overtaken, cap that a timer after it was not armed.
	loading bool
	reach   time.Time
	stale   bool
	cap     time.Time
}

// change is what commits in flight make of a timer.
type change struct {
	unsettled int
	timer     *persistence.Timer // nil: cancelled
}

// armed is a timer that will fire.
type armed struct {
	keeper *keeper
	timer  persistence.Timer
	trial
	place int // in the heap, -1 while it is on its way
}

// trial is what became of a timer so far.
type trial struct {
	id       persistence.CommandID
	due      time.Time
	attempts int
	at       time.Time // when it is fired, or fired again
	// refused: the command was rejected by its commit; what is left is to cancel
	// the timer
	refused error
}

// expected is when the timer should have fired: when it was due, or, if that had
// passed, when it was set.
func (a *armed) expected() time.Time {
	if set := aggregate.CommandID(a.timer.ID).Time(); set.After(a.timer.Due) {
		return set
	}
	return a.timer.Due
}

func newTimers(h *Host) *timers {
	for _, d := range h.types {
		if d.SetsTimers() {
			return &timers{
				host: h, fire: make(chan struct{}, 1), load: make(chan struct{}, 1), kept: map[*tenure]*keeper{},
			}
		}
	}
	return nil
}

// keep begins to fire a partition's timers.
func (s *timers) keep(t *tenure) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.kept[t] = &keeper{
		tenure: t, armed: map[persistence.TimerKey]*armed{}, fresh: map[persistence.TimerKey]*change{},
		tried: map[persistence.TimerKey]trial{},
	}
	s.mu.Unlock()
	signal(s.load)
}

// drop ends it: what is on its way is finished, nothing else is begun.
func (s *timers) drop(t *tenure) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[t]
	if k == nil {
		return
	}
	delete(s.kept, t)
	for _, a := range k.armed {
		s.disarm(a)
	}
}

// changed takes note of the timers in a commit that is about to be handed to the
// lane. It is called in the turn of the timers' grain.
func (s *timers) changed(t *tenure, c *persistence.Commit) {
	if s == nil || len(c.Timers)+len(c.Cancels) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[t]
	if k == nil {
		return
	}
	for _, key := range c.Cancels {
		s.set(k, key, nil)
	}
	for i := range c.Timers {
		s.set(k, c.Timers[i].TimerKey, &c.Timers[i])
	}
	s.host.stats.timersSet.Add(uint64(len(c.Timers)))
}

func (s *timers) set(k *keeper, key persistence.TimerKey, timer *persistence.Timer) {
	ch := k.fresh[key]
	if ch == nil {
		ch = &change{}
		k.fresh[key] = ch
	}
	ch.unsettled++
	ch.timer = timer
	delete(k.tried, key)
	if a := k.armed[key]; a != nil {
		s.disarm(a)
	}
	if timer != nil {
		s.arm(k, timer)
	}
}

// settled takes note of a commit's fate, in the order in which commits were
// handed over. After a failure nobody here knows what the store has.
func (s *timers) settled(t *tenure, c *persistence.Commit, err error) {
	if s == nil || len(c.Timers)+len(c.Cancels) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[t]
	if k == nil {
		return
	}
	for _, key := range c.Cancels {
		s.settle(k, key, err)
	}
	for i := range c.Timers {
		s.settle(k, c.Timers[i].TimerKey, err)
	}
	if err != nil && !s.host.seams.Without.TimerReload {
		k.covered, k.stale = time.Time{}, true
		signal(s.load)
	}
}

func (s *timers) settle(k *keeper, key persistence.TimerKey, err error) {
	ch := k.fresh[key]
	if ch == nil {
		return // it was in flight before the tenure began to be kept
	}
	ch.unsettled--
	if err != nil {
		if a := k.armed[key]; a != nil {
			s.disarm(a)
		}
	}
	if ch.unsettled == 0 && (!k.loading || err != nil) {
		delete(k.fresh, key)
	}
}

// arm puts a timer among those that will fire, if it is due within reach and there
// is room. The timer is not armed.
func (s *timers) arm(k *keeper, timer *persistence.Timer) {
	reach := k.covered
	if k.loading && k.reach.After(reach) {
		reach = k.reach
	}
	if timer.Due.After(reach) {
		return
	}
	if s.held >= timersHeld && timer.Due.After(s.host.clock.Wall()) {
		before := timer.Due.Add(-time.Microsecond)
		if k.covered.After(before) {
			k.covered = before
			signal(s.load) // it sleeps for as long as what was covered lasts
		}
		if k.cap.IsZero() || k.cap.After(before) {
			k.cap = before
		}
		return
	}
	a := &armed{keeper: k, timer: *timer, trial: trial{id: timer.ID, due: timer.Due, at: timer.Due}}
	if before, ok := k.tried[timer.TimerKey]; ok && before.id == timer.ID && before.due.Equal(timer.Due) {
		a.trial = before
	}
	k.armed[timer.TimerKey] = a
	s.held++
	heap.Push(&s.due, a)
	if a.place == 0 {
		signal(s.fire)
	}
}

// disarm takes a timer out, also when it is on its way: then it finds that it is
// gone, unless it is the one that is being executed.
func (s *timers) disarm(a *armed) {
	if a.keeper.armed[a.timer.TimerKey] != a {
		return
	}
	delete(a.keeper.armed, a.timer.TimerKey)
	s.held--
	if a.place >= 0 {
		heap.Remove(&s.due, a.place)
	}
	if len(a.keeper.armed)-len(a.keeper.tried) == timersLow-1 {
		signal(s.load)
	}
}

// stands reports whether a timer that was fired is still to be executed. It is
// asked in the turn of its grain, in which alone it can be cancelled or replaced.
func (s *timers) stands(a *armed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.keeper.armed[a.timer.TimerKey] == a || s.host.seams.Without.TimerCheck
}

// spend has the commit of a timer's command cancel the timer, unless it sets it
// anew.
func (s *timers) spend(a *armed, c *persistence.Commit) {
	if s.host.seams.Without.TimerCancel {
		return
	}
	for i := range c.Timers {
		if c.Timers[i].Name == a.timer.Name {
			return
		}
	}
	for i := range c.Cancels {
		if c.Cancels[i].Name == a.timer.Name {
			return
		}
	}
	c.Cancels = append(c.Cancels, a.timer.TimerKey)
}

// next takes a timer that is due and may be fired now; otherwise it tells when to
// look again, zero for when there is a signal.
func (s *timers) next(now time.Time) (a *armed, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.due) == 0:
		return nil, 0
	case s.due[0].at.After(now):
		return nil, min(s.due[0].at.Sub(now), timerTick)
	case s.inFlight >= min(timersInFlight, max(1, s.host.config.MaxInFlight/4)):
		return nil, 0 // the next answer signals
	case s.host.inflight.Load() > int64(s.host.config.MaxInFlight)/2:
		return nil, timerPauseFirst / 10 // callers first
	}
	a, _ = heap.Pop(&s.due).(*armed)
	s.inFlight++
	return a, 0
}

// Reply implements Replier for the calls of timers.
func (s *timers) Reply(c *Call, r Result) { s.answered(c, r.Err) }

// answered takes note of what became of a timer that was fired.
func (s *timers) answered(c *Call, err error) {
	h, a := s.host, c.timer
	now := h.clock.Wall()
	s.mu.Lock()
	s.inFlight--
	k, key := a.keeper, a.timer.TimerKey
	switch {
	case err == errGone: //nolint:errorlint // it is never wrapped
	case c.done:
		delete(k.tried, key)
		h.stats.timersFired.Add(1)
		if now.Sub(a.expected()) > time.Second {
			h.stats.timersLate.Add(1)
		}
	default:
		tried := a.trial
		tried.attempts++
		tried.at = now.Add(min(timerPauseFirst<<min(tried.attempts-1, 16), timerPauseMost))
		if aggregate.KindOf(err) == aggregate.KindRejected { // by its commit: what it claims is taken
			tried.refused, tried.at = err, now
		}
		h.stats.timersRetried.Add(1)
		if s.kept[k.tenure] != k {
			break
		}
		k.tried[key] = tried
		if k.armed[key] == a { // nothing of it came to the lane
			a.trial = tried
			heap.Push(&s.due, a)
		}
	}
	s.mu.Unlock()
	signal(s.fire)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dueHeap is ordered by when a timer is fired, or tried again.
type dueHeap []*armed

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	a, _ := x.(*armed)
	a.place = len(*h)
	*h = append(*h, a)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h, a.place = (*h)[:last], -1
	return a
}

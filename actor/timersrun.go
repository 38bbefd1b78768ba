package actor

import (
	"errors"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// errGone is the answer to a timer that was cancelled or replaced while it was on
// its way.
var errGone error = aggregate.NotDone(aggregate.ReasonMoved, errors.New("the timer does not stand any more"))

// runFire fires what is due until the host stops.
func (s *timers) runFire() {
	for {
		a, again := s.next(s.host.clock.Wall())
		if a != nil {
			s.send(a)
			continue
		}
		if !s.sleep(s.fire, again) {
			return
		}
	}
}

// sleep waits for a signal, or for so long if that is not zero. It reports
// whether the host goes on.
func (s *timers) sleep(wake <-chan struct{}, d time.Duration) bool {
	stop := func() bool { return true }
	var over chan struct{}
	if d > 0 {
		over = make(chan struct{})
		stop = s.host.clock.AfterFunc(d, func() { close(over) })
	}
	defer stop()
	select {
	case <-wake:
		return true
	case <-over:
		return true
	case <-s.host.storeContext.Done():
		return false
	}
}

// send delivers the command of a timer as any other, but for its age.
func (s *timers) send(a *armed) {
	h, t := s.host, a.keeper.tenure
	d := h.types[a.timer.Stream.Type]
	if d == nil {
		s.unsent(a, aggregate.Invalid(aggregate.ReasonUnknownType, errors.New("the type of the timer's aggregate is not served here")))
		return
	}
	r, err := eventsourcing.DecodeTimer(d, &a.timer)
	if err != nil {
		s.unsent(a, aggregate.Invalid(aggregate.ReasonBadPayload, err))
		return
	}
	h.Deliver(&Call{Request: r, Stream: a.timer.Stream, Partition: t.partition, Epoch: t.since, Reply: s, timer: a})
}

// unsent takes note of a timer that this program cannot send.
func (s *timers) unsent(a *armed, err error) {
	if a.attempts == 0 {
		s.host.log.Error("timer cannot be fired", "stream", a.timer.Stream.String(), "timer", a.timer.Name, "error", err)
	}
	s.answered(&Call{timer: a}, err)
}

// runLoad loads what is due soon until the host stops.
func (s *timers) runLoad() {
	pause := time.Duration(0)
	for {
		batch, again := s.wanted()
		if len(batch) > 0 {
			if err := s.bring(batch); err == nil {
				pause = 0
				continue
			} else if pause == 0 {
				s.host.log.Warn("timers not loaded", "node", s.host.node, "partitions", len(batch), "error", err)
			}
			pause = min(max(2*pause, timerPauseFirst), time.Second)
			if !s.sleep(nil, pause) {
				return
			}
			continue
		}
		if !s.sleep(s.load, again) {
			return
		}
	}
}

// timerLoad is a question to the store.
type timerLoad struct {
	keepers []*keeper
	parts   []persistence.Partition
	until   time.Time
	limit   int
}

// wanted picks the partitions that are to be asked for now; if there is none, it
// tells when to look again.
func (s *timers) wanted() (batch []*keeper, again time.Duration) {
	now := s.host.clock.Wall()
	s.mu.Lock()
	defer s.mu.Unlock()
	again = timerRefresh
	for _, k := range s.kept {
		switch left := k.covered.Sub(now); {
		case !k.covered.IsZero() && left > timerRefresh:
			again = min(again, left-timerRefresh)
		case len(k.armed) > 0 && s.held >= 2*timersHeld, !k.covered.IsZero() && len(k.armed)-len(k.tried) >= timersLow:
			again = min(again, timerTick) // what is in memory has to go first; see disarm
		case !k.covered.IsZero() && left > 0 && s.held >= timersHeld/2:
			again = min(again, left)
		case k.cut:
			return []*keeper{k}, 0
		case len(batch) < loadPartitions:
			batch = append(batch, k)
		}
	}
	return batch, again
}

// bring asks the store for what is due within reach.
func (s *timers) bring(batch []*keeper) error {
	h := s.host
	q := s.begin(batch)
	ctx, cancel := h.storeCall()
	found, err := h.store.DueTimers(ctx, q.parts, q.until, q.limit)
	cancel()
	s.brought(q, found, err)
	return err
}

func (s *timers) begin(batch []*keeper) *timerLoad {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &timerLoad{keepers: batch, until: s.host.clock.Wall().Add(timerReach), limit: timerPage}
	for _, k := range batch {
		k.loading, k.reach, k.stale, k.cap = true, q.until, false, time.Time{}
		q.parts = append(q.parts, k.tenure.partition)
		q.limit += len(k.armed) // they may be the first to come
	}
	return q
}

// brought takes what the store knows of timers of which nothing newer is known.
func (s *timers) brought(q *timerLoad, found []persistence.Timer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, cut := q.until, err == nil && len(found) == q.limit
	if cut {
		until = found[len(found)-1].Due.Add(-time.Microsecond)
	}
	home := make(map[persistence.Partition]*keeper, len(q.keepers))
	for _, k := range q.keepers {
		if s.kept[k.tenure] == k {
			home[k.tenure.partition] = k
		}
	}
	for i := range found {
		t := &found[i]
		if k := home[t.Partition]; k != nil && k.fresh[t.TimerKey] == nil && k.armed[t.TimerKey] == nil && !k.stale {
			s.arm(k, t)
		}
	}
	for _, k := range home {
		for key, ch := range k.fresh {
			if ch.timer != nil && k.armed[key] == nil && !k.stale {
				s.arm(k, ch.timer)
			}
			if ch.unsettled == 0 {
				delete(k.fresh, key)
			}
		}
		if err == nil {
			k.cut = cut
		}
		switch {
		case err != nil:
		case k.stale:
			k.covered = time.Time{}
		case !k.cap.IsZero() && k.cap.Before(until):
			k.covered = k.cap
		default:
			k.covered = until
		}
		k.loading, k.stale = false, false
	}
}

// lag is how late the timer is that is the most overdue of those known.
func (s *timers) lag() time.Duration {
	if s == nil {
		return 0
	}
	now := s.host.clock.Wall()
	s.mu.Lock()
	defer s.mu.Unlock()
	var lag time.Duration
	for _, k := range s.kept {
		for key := range k.tried {
			if a := k.armed[key]; a != nil {
				lag = max(lag, now.Sub(a.expected()))
			}
		}
	}
	if len(s.due) > 0 {
		lag = max(lag, now.Sub(s.due[0].expected()))
	}
	return lag
}

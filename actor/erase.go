package actor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// ErrNotServed says that a partition is not served here, or is on its way out.
var ErrNotServed = errors.New("the partition is not served here")

// errLeft says that an activation ended before it was asked to be erased.
var errLeft = errors.New("the activation has ended")

// erasure is somebody who waits for an aggregate to be erased.
type erasure struct{ done chan<- erased }

// erased is what became of it. Not even tried, it is to be asked for again.
type erased struct {
	version persistence.Version
	err     error
}

// erasing is who waits, and whether the lane is at it.
type erasing struct {
	all   []erasure
	begun bool
}

func (w *erasing) tell(e erased) {
	for _, one := range w.all {
		one.done <- e
	}
}

// wipedMessage comes back to the grain from the lane.
type wipedMessage struct {
	erased
	waiting *erasing
}

// Erase takes what an aggregate's events say out of the log, together with its
// snapshot, timers and claims, and returns the version that it had. What was sent
// to it before lands before, and is erased too; what is sent later finds an
// aggregate without events. The error is [ErrNotServed], or one that
// aggregate.KindOf can sort.
//
// The grain leaves, as if to passivate, and goes only when its lane has erased it
// between two batches: the store is asked under the fence of the partition's
// appends, and no other activation can load meanwhile.
func (h *Host) Erase(ctx context.Context, d *aggregate.Definition, s persistence.Stream, p persistence.Partition) (persistence.Version, error) {
	for {
		t := h.tenures[p].Load()
		if t == nil || h.types[d.Name()] != d || !t.enter() {
			return 0, ErrNotServed
		}
		version, err := h.eraseIn(ctx, t, d, s)
		t.leave()
		if !errors.Is(err, errLeft) {
			return version, err
		}
		over := make(chan struct{})
		stop := h.clock.AfterFunc(time.Millisecond, func() { close(over) })
		select {
		case <-over:
		case <-ctx.Done():
			stop()
			return 0, aggregate.NotDone(aggregate.ReasonDeadline, ctx.Err())
		}
	}
}

func (h *Host) eraseIn(ctx context.Context, t *tenure, d *aggregate.Definition, s persistence.Stream) (persistence.Version, error) {
	if err := h.mayLoad(t, s); err != nil {
		return 0, err
	}
	done := make(chan erased, 1)
	t.grain(d, s).mailbox.PostUserMessage(erasure{done})
	select {
	case e := <-done:
		return e.version, e.err
	case <-ctx.Done():
		return 0, aggregate.UnknownOutcome(aggregate.ReasonOutcome, ctx.Err())
	}
}

// erase has the activation erased when all its commits are settled.
func (g *grain) erase(e erasure) {
	if g.stopped.Load() {
		e.done <- erased{err: errLeft}
		return
	}
	switch {
	case g.erasing == nil:
		g.erasing = &erasing{}
	case g.erasing.begun: // what is erased now may not be all
		e.done <- erased{err: errLeft}
		return
	}
	g.erasing.all = append(g.erasing.all, e)
	if g.phase != loading { // else when it is loaded, whatever came of that
		g.leave()
	}
}

// wipe hands the erasure to the lane. Nothing of the grain is in flight.
func (g *grain) wipe() {
	g.erasing.begun = true
	t := g.tenure
	t.mark(g.stream)
	done := &wipedMessage{waiting: g.erasing}
	if !t.lane.interject(func() {
		done.version, done.err = t.lane.erase(t, g.stream)
		g.mailbox.PostUserMessage(done)
	}) {
		done.err = errStopping
		g.wiped(done)
	}
}

// wiped ends the activation: the next one finds no events.
func (g *grain) wiped(m *wipedMessage) {
	g.host.timers.forgetStream(g.tenure, g.stream, m.err == nil)
	if g.erasing != nil { // else somebody else has stopped the actor
		g.erasing = nil
		m.waiting.tell(m.erased)
	}
	g.leaveIfQuiet()
}

// interject has the lane do something between two batches. It reports whether it
// will.
func (l *lane) interject(job func()) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.jobs = append(l.jobs, job)
	if l.host.immediate {
		if l.writing {
			l.mu.Unlock()
			return true
		}
		l.writing = true
		l.mu.Unlock()
		l.drain()
		return true
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// erase asks the store. No append of the tenure is in flight, so that its head is
// the log's.
func (l *lane) erase(t *tenure, s persistence.Stream) (version persistence.Version, err error) {
	unsure := false // an attempt may have had its effect
	err = l.persist(func(ctx context.Context) error {
		if t.lost.Load() {
			return ErrNotServed
		}
		var err error
		version, err = l.host.store.Erase(ctx, l.host.node, t.fence(), s)
		unsure = unsure || errors.Is(err, persistence.ErrUnknownOutcome)
		switch {
		case errors.Is(err, persistence.ErrUnknownOutcome), errors.Is(err, persistence.ErrUnreachable):
			if l.host.immediate || l.host.storeContext.Err() != nil || t.sealed.Load() {
				return err
			}
			return errors.Join(errAgain, err) // to erase again is harmless
		}
		return err
	})
	l.holding.Store(false)
	var fenced *persistence.FencedError
	if errors.As(err, &fenced) {
		l.host.stats.fenced.Add(1)
		l.host.deposed(t, err)
		err = ErrNotServed
	}
	switch {
	case err == nil:
		return version, nil
	case unsure:
		return 0, aggregate.UnknownOutcome(aggregate.ReasonOutcome, err)
	case errors.Is(err, ErrNotServed):
		return 0, err
	}
	return 0, aggregate.NotDone(aggregate.ReasonStoreDown, fmt.Errorf("erase %s: %w", s, err))
}

// forgetStream takes the timers of a stream out that the store has no more. If
// that is not certain, the store is asked again.
func (s *timers) forgetStream(t *tenure, stream persistence.Stream, gone bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[t]
	if k == nil {
		return
	}
	for key, a := range k.armed {
		if key.Stream == stream {
			s.disarm(a)
		}
	}
	k.stale = k.stale || k.loading
	if !gone {
		k.covered = time.Time{}
		signal(s.load)
	}
}

// forget drops the activations of a forgotten subject, whose state is in memory.
func (h *Host) forget(key *eventsourcing.Key) {
	for i := range h.tenures {
		t := h.tenures[i].Load()
		if t == nil {
			continue
		}
		for _, g := range t.all() {
			g.mailbox.PostUserMessage(forgetMessage{key})
		}
	}
}

// forgetMessage has an activation leave whose key it is.
type forgetMessage struct{ key *eventsourcing.Key }

package actor

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// outage keeps attempts away from a store that cannot be reached, so that what is
// in memory stays there and the store is not asked in vain.
//
//	           an attempt fails, or the renewals of the lease do
//	reached ────────────────────────────────────────────────────▶ lost ──┐ one attempt is let
//	    ▲                                                          │ ▲   │ through at once, and then
//	    └── an attempt is answered, or the lease is renewed ───────┘ └───┘ one after every pause
//
// A host has one for commits and one for reads: a store that is full, or has
// become a standby, answers reads and takes no commits. Safe for concurrent use;
// while the store is reached, an attempt costs one look at an atomic.
type outage struct {
	host *Host
	of   string // what is lost: "commits" or "reads"

	refusal atomic.Pointer[refusal] // nil while the store is reached
	shaken  atomic.Bool             // an attempt has failed, and none was answered since

	mu      sync.Mutex
	pause   time.Duration // the next one; 0 when it begins anew
	due     time.Duration // when an attempt is let through, by the coarse clock
	since   time.Duration
	refused int
	told    bool          // the operator knows of this outage
	toldAt  time.Duration // of the last one that he was told of, or 0
}

type refusal struct{ err error }

// The pause between two attempts begins at outageFirst and doubles up to
// outageMost.
const (
	outageFirst = 10 * time.Millisecond
	outageMost  = 250 * time.Millisecond
)

// outageQuiet is the least time between two outages that are logged: a store that
// fails now and then must not fill the log. What is not logged for that reason is
// logged late, if it lasts.
const outageQuiet = 10 * time.Second

func newOutage(h *Host, of string) *outage { return &outage{host: h, of: of} }

// admit lets an attempt through, or says why not. It is asked before an attempt
// stands in any queue: those before it may wait for an answer that never comes.
func (o *outage) admit() error {
	if o.refusal.Load() == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	r, now := o.refusal.Load(), o.host.clock.Coarse()
	switch {
	case r == nil:
		return nil
	case now < o.due:
		o.refused++
		o.host.stats.refused.Add(1)
		return r.err
	}
	o.backOff(now)
	return nil
}

// wait says why nobody should begin to wait for an attempt that is under way; nil
// while the store is reached, and at the moment when it was lost.
func (o *outage) wait() error {
	if o.refusal.Load() == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.refusal.Load()
	if r == nil || o.host.clock.Coarse() == o.since {
		return nil
	}
	o.refused++
	o.host.stats.refused.Add(1)
	return r.err
}

// backOff puts the next attempt off. The outage is locked.
func (o *outage) backOff(now time.Duration) {
	o.pause = min(max(2*o.pause, outageFirst), outageMost)
	o.due = now + o.pause
}

// failed takes note of an attempt to which the store gave no answer.
func (o *outage) failed(err error) {
	h := o.host
	if h.storeContext.Err() != nil {
		return // it is we who have ended
	}
	o.mu.Lock()
	now := h.clock.Coarse()
	if o.refusal.Load() == nil {
		if o.since, o.refused, o.told = now, 0, false; o.shaken.Swap(true) {
			o.backOff(now) // the lease was renewed, but nothing else has come of it
		} else {
			o.due = now
		}
		o.refusal.Store(&refusal{aggregate.NotDone(aggregate.ReasonStoreDown, fmt.Errorf("not asked again yet: %w", err))})
	}
	tell := !o.told && (o.toldAt == 0 || now-o.toldAt >= outageQuiet)
	if tell {
		o.told, o.toldAt = true, now
	}
	o.mu.Unlock()
	if tell {
		h.log.Warn("store not reached", "node", h.node, "for", o.of, "error", err)
	}
}

// answered ends an outage: the store has answered an attempt, were it with a
// refusal of its own.
func (o *outage) answered() {
	if o.shaken.Load() {
		o.end(true)
	}
}

// renewed ends an outage because the lease was renewed. Should the next attempt
// fail all the same, the pauses go on growing.
func (o *outage) renewed() {
	if o.refusal.Load() != nil {
		o.end(false)
	}
}

func (o *outage) end(proven bool) {
	h := o.host
	o.mu.Lock()
	if proven {
		o.pause = 0
		o.shaken.Store(false)
	}
	ended := o.refusal.Swap(nil) != nil
	tell, refused, lasted := ended && o.told, o.refused, h.clock.Coarse()-o.since
	o.mu.Unlock()
	if tell {
		h.log.Info("store reached again", "node", h.node, "for", o.of, "refused", refused, "after", lasted)
	}
	if ended {
		h.back.Announce()
		h.loader.signal() // for what is to be warmed
		h.config.OnStoreBack()
	}
}

// LoseStore says that the lease is over and could not be renewed: until the store
// answers, or ExtendLease is called, commands and loads are refused as not done,
// and so is what only the store could prove.
func (h *Host) LoseStore(err error) {
	h.commits.failed(err)
	h.reads.failed(err)
}

// StoreLost reports whether commands or loads are refused at present, since the
// store could not be reached. When that is over, Config.OnStoreBack is called.
func (h *Host) StoreLost() bool {
	return h.commits.refusal.Load() != nil || h.reads.refusal.Load() != nil
}

// mayLoad says why a stream is neither in memory nor can be loaded now.
func (h *Host) mayLoad(t *tenure, s persistence.Stream) error {
	if h.reads.refusal.Load() == nil || t.resident(s) {
		return nil
	}
	return h.reads.admit()
}

// heard takes note of what has become of an append.
func (h *Host) heard(b *persistence.Batch) {
	var silence error
	for _, c := range b.Commits {
		switch {
		case isAnswer(c.Err):
			h.commits.answered()
			h.reads.answered()
			return
		case !errors.Is(c.Err, persistence.ErrTooLarge): // of which the store need not have heard
			silence = c.Err
		}
	}
	if silence != nil {
		h.commits.failed(silence)
	}
}

// isAnswer reports whether the result of a commit is the store's decision.
func isAnswer(err error) bool {
	var fenced *persistence.FencedError
	var conflict *persistence.ConflictError
	var taken *persistence.ClaimTakenError
	var statement *persistence.StatementError
	return err == nil || errors.As(err, &fenced) || errors.As(err, &conflict) || errors.As(err, &taken) || errors.As(err, &statement)
}

// read takes note of what has become of a read.
func (h *Host) read(err error) {
	if err == nil {
		h.reads.answered()
	} else {
		h.reads.failed(err)
	}
}

package persistencetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/ingrain-go/ingrain/persistence"
)

// ErrInjected is what a fault says unless it carries another error.
var ErrInjected = errors.New("injected fault")

// Outcome is what becomes of a call that a fault hits.
type Outcome int

const (
	// Pass lets the call through. Together with Fault.Before it is a delay.
	Pass Outcome = iota
	// Refused fails the call before it reaches the store: certainly nothing
	// happened, and the caller is told so.
	Refused
	// LostRequest fails the call before it reaches the store, but the caller
	// cannot know: an append reports ErrUnknownOutcome.
	LostRequest
	// LostAnswer lets the store do its work and loses what it said: an append
	// reports ErrUnknownOutcome for every commit, whatever became of it. For
	// other calls the error is the plain one, as from a connection that broke
	// while the store was answering; a Claim may then have happened.
	LostAnswer
	// Late reports ErrUnknownOutcome at once, and the append reaches the store
	// only when Fault.Arrives is closed. Close waits for it. Only Append can be
	// late; other calls are refused.
	Late
)

// Fault is what happens to one call. The zero value is no fault.
type Fault struct {
	Outcome Outcome
	// Err is what the caller is told, ErrInjected by default. For outcomes
	// that an append cannot know, it is wrapped together with ErrUnknownOutcome.
	Err error
	// Before runs before anything else, on the caller's goroutine: a delay, a
	// signal to the test, or a [Stall]. An error from it fails the call as if
	// it was Refused.
	Before func(ctx context.Context) error
	// Arrives lets a Late append reach the store.
	Arrives <-chan struct{}
}

// Call describes a call other than Append to a rule of [Faulty.OnCall].
type Call struct {
	// Method is the name of the Store's method: "Renew", "Claim", "Read".
	Method string
	// Node is who calls, for the methods of Membership, or who is evicted.
	Node persistence.NodeID
	// Partition is what Claim and Release are about.
	Partition persistence.Partition
}

// Faulty is a store in front of another one that fails as its rules say.
// Without rules it is that store. It is safe for concurrent use, and rules may
// be set at any time; a rule may be called from many goroutines at once.
//
//	f := persistencetest.WithFaults(store)
//	f.OnAppend(func(b *persistence.Batch) persistencetest.Fault {
//		return persistencetest.Fault{Outcome: persistencetest.LostAnswer}
//	})
type Faulty struct {
	next persistence.Store

	mu       sync.Mutex
	onAppend func(*persistence.Batch) Fault
	onCall   func(Call) Fault
	closed   bool
	late     sync.WaitGroup
	closing  chan struct{}
}

var _ persistence.Store = (*Faulty)(nil)

// WithFaults puts a faulty store in front of next, which it closes when it is
// closed.
func WithFaults(next persistence.Store) *Faulty {
	return &Faulty{next: next, closing: make(chan struct{})}
}

// OnAppend sets the rule for appends; nil means no faults. The rule must not
// keep or change the batch.
func (f *Faulty) OnAppend(rule func(b *persistence.Batch) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onAppend = rule
}

// OnCall sets the rule for all methods but Append, Meta and Close; nil means no
// faults.
func (f *Faulty) OnCall(rule func(c Call) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onCall = rule
}

// Heal takes all rules away. What they stalled or delayed stays so until it is
// released.
func (f *Faulty) Heal() {
	f.OnAppend(nil)
	f.OnCall(nil)
}

// Unwrap returns the store behind.
func (f *Faulty) Unwrap() persistence.Store { return f.next }

// Odds are the chances of each outcome, each from 0 to 1, together at most 1.
type Odds struct {
	Refused, LostRequest, LostAnswer float64
}

// Dice throws faults by seed: the same seed gives the same sequence of faults
// over the sequence of throws. It is safe for concurrent use.
type Dice struct {
	mu     sync.Mutex
	random *rand.Rand
	odds   Odds
}

// NewDice makes dice.
func NewDice(seed uint64, odds Odds) *Dice {
	return &Dice{random: rand.New(rand.NewPCG(seed, 0)), odds: odds}
}

// Append is a rule for [Faulty.OnAppend].
func (d *Dice) Append(*persistence.Batch) Fault { return d.throw() }

// Call is a rule for [Faulty.OnCall].
func (d *Dice) Call(Call) Fault { return d.throw() }

func (d *Dice) throw() Fault {
	d.mu.Lock()
	x := d.random.Float64()
	d.mu.Unlock()
	for _, side := range []struct {
		chance  float64
		outcome Outcome
	}{{d.odds.Refused, Refused}, {d.odds.LostRequest, LostRequest}, {d.odds.LostAnswer, LostAnswer}} {
		if x < side.chance {
			return Fault{Outcome: side.outcome}
		}
		x -= side.chance
	}
	return Fault{}
}

// Stall holds calls up until it is released. Use its Hold as Fault.Before.
type Stall struct {
	reached  chan struct{}
	once     sync.Once
	released chan struct{}
}

// NewStall makes a stall that holds.
func NewStall() *Stall {
	return &Stall{reached: make(chan struct{}, 1024), released: make(chan struct{})}
}

// Hold waits until the stall is released or ctx ends.
func (s *Stall) Hold(ctx context.Context) error {
	select {
	case s.reached <- struct{}{}:
	default: // more calls are held than anybody counts
	}
	select {
	case <-s.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reached yields once for each call that has come to the stall, up to 1024 that
// nobody has received.
func (s *Stall) Reached() <-chan struct{} { return s.reached }

// Release lets all calls go, those to come too.
func (s *Stall) Release() { s.once.Do(func() { close(s.released) }) }

// Append does what the rule says with the batch.
func (f *Faulty) Append(ctx context.Context, batch *persistence.Batch) {
	f.mu.Lock()
	rule := f.onAppend
	f.mu.Unlock()
	var fault Fault
	if rule != nil {
		fault = rule(batch)
	}
	if fault.Before != nil {
		if err := fault.Before(ctx); err != nil {
			failAll(batch, err)
			return
		}
	}
	switch fault.Outcome {
	case Pass:
		f.next.Append(ctx, batch)
	case Refused:
		failAll(batch, fault.err())
	case LostRequest:
		failAll(batch, fault.unknown())
	case LostAnswer:
		f.next.Append(ctx, batch)
		failAll(batch, fault.unknown())
	case Late:
		f.appendLate(ctx, batch, fault)
	default:
		panic(fmt.Sprintf("persistencetest: no outcome %d", fault.Outcome))
	}
}

func failAll(b *persistence.Batch, err error) {
	for _, c := range b.Commits {
		c.Offset, c.Err = 0, err
	}
}

func (fault Fault) err() error {
	if fault.Err == nil {
		return ErrInjected
	}
	return fault.Err
}

func (fault Fault) unknown() error {
	return fmt.Errorf("%w: %w", persistence.ErrUnknownOutcome, fault.err())
}

// appendLate sends a copy of the batch when its time has come; a store that is
// closed before never gets it.
func (f *Faulty) appendLate(ctx context.Context, batch *persistence.Batch, fault Fault) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		failAll(batch, persistence.ErrClosed)
		return
	}
	copied := cloneBatch(batch)
	ctx = context.WithoutCancel(ctx) // it has left the caller's hands
	f.late.Go(func() {
		select {
		case <-fault.Arrives:
			f.next.Append(ctx, copied)
		case <-f.closing:
		}
	})
	f.mu.Unlock()
	failAll(batch, fault.unknown())
}

func cloneBatch(b *persistence.Batch) *persistence.Batch {
	c := &persistence.Batch{Owner: b.Owner, Fences: slices.Clone(b.Fences)}
	for _, from := range b.Commits {
		to := *from
		to.Metadata = slices.Clone(from.Metadata)
		to.Events = slices.Clone(from.Events)
		for i := range to.Events {
			to.Events[i].Payload = slices.Clone(to.Events[i].Payload)
		}
		to.Claims, to.Releases = slices.Clone(from.Claims), slices.Clone(from.Releases)
		to.Cancels, to.Statements = slices.Clone(from.Cancels), slices.Clone(from.Statements)
		to.Timers = slices.Clone(from.Timers)
		for i := range to.Timers {
			to.Timers[i].Payload = slices.Clone(to.Timers[i].Payload)
		}
		c.Commits = append(c.Commits, &to)
	}
	return c
}

// Meta is that of the store behind.
func (f *Faulty) Meta() persistence.Meta { return f.next.Meta() }

// Close waits for late appends that have arrived, drops those that have not,
// and closes the store behind.
func (f *Faulty) Close() error {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.closing)
	}
	f.mu.Unlock()
	f.late.Wait()
	return f.next.Close()
}

// call does what the rule says with a call other than Append.
func call[R any](ctx context.Context, f *Faulty, c Call, do func() (R, error)) (R, error) {
	f.mu.Lock()
	rule := f.onCall
	f.mu.Unlock()
	var fault Fault
	if rule != nil {
		fault = rule(c)
	}
	var none R
	if fault.Before != nil {
		if err := fault.Before(ctx); err != nil {
			return none, err
		}
	}
	switch fault.Outcome {
	case Pass:
		return do()
	case LostAnswer:
		_, _ = do() // what it said is lost
		return none, fault.err()
	case Refused, LostRequest, Late:
		return none, fault.err()
	default:
		panic(fmt.Sprintf("persistencetest: no outcome %d", fault.Outcome))
	}
}

// nothing is the result of calls that return only an error.
type nothing struct{}

func (f *Faulty) do(ctx context.Context, c Call, do func() error) error {
	_, err := call(ctx, f, c, func() (nothing, error) { return nothing{}, do() })
	return err
}

// found is the result of the calls that may find nothing.
type found[R any] struct {
	what R
	ok   bool
}

func find[R any](ctx context.Context, f *Faulty, c Call, do func() (R, bool, error)) (R, bool, error) {
	r, err := call(ctx, f, c, func() (found[R], error) {
		what, ok, err := do()
		return found[R]{what, ok}, err
	})
	return r.what, r.ok, err
}

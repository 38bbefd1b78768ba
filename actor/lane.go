package actor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// A batch takes what waits, up to these bounds. The knee was measured at 50 to
// 200 commits on PostgreSQL; beyond 500 nothing is gained.
const (
	batchCommits = 500
	batchBytes   = 1 << 20
)

// lane is one of a host's writers. A partition belongs to one lane for ever, so
// its commits are written in the order in which they were decided. There is no
// linger: the batch in flight is the timer of the next one.
//
//	idle ── submit ──▶ writing ── nothing waits ──▶ idle
//	                    │    ▲
//	                    └────┘ take what waits, append, settle
type lane struct {
	host *Host
	wake chan struct{} // capacity 1: something waits
	// holding: the store was lost, and a batch waits for it
	holding atomic.Bool

	mu      sync.Mutex
	waiting []*item
	jobs    []func() // to be done between two batches
	writing bool     // an inline writer is at it (immediate stores only)
	closed  bool     // the writer has ended

	// owned by whoever writes
	batch  persistence.Batch
	taken  []*item
	doing  []func()
	spare  []*item
	placed map[persistence.Partition]placed
	freed  []*item
}

// placed is what a batch does with the commits of a partition. It is decided at
// the first of them, so that all commits of one grain fare alike.
type placed struct {
	tenure *tenure
	lost   bool
}

func newLane(h *Host) *lane {
	return &lane{host: h, wake: make(chan struct{}, 1), placed: map[persistence.Partition]placed{}}
}

// submit hands over a commit. It never blocks on the store, unless the store
// never blocks.
func (l *lane) submit(it *item) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		for _, r := range it.grain.settle(it, errStopping, nil) {
			l.host.release(r)
		}
		return
	}
	l.waiting = append(l.waiting, it)
	if l.host.immediate {
		if l.writing {
			l.mu.Unlock()
			return
		}
		l.writing = true
		l.mu.Unlock()
		l.drain()
		return
	}
	first := len(l.waiting) == 1
	l.mu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run writes until ctx ends. What still waits then, or comes later, is failed.
// The lane of an immediate store is written by those who submit.
func (l *lane) run(ctx context.Context) {
	if l.host.immediate {
		return
	}
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
		}
		l.drain()
		if ctx.Err() != nil && l.close() {
			return
		}
	}
}

// close ends the lane unless something waits.
func (l *lane) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = len(l.waiting)+len(l.jobs) == 0
	return l.closed
}

func (l *lane) drain() {
	for l.take() {
		for _, job := range l.doing {
			job()
		}
		if len(l.taken) > 0 {
			l.write()
		}
		if !l.host.immediate {
			l.host.seams.Yield() // those just answered may have more for the next batch
		}
	}
}

// take moves the next batch out of the queue, and what is to be done before it.
func (l *lane) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doing, l.jobs = l.jobs, nil
	n, bytes := 0, 0
	for n < len(l.waiting) && n < batchCommits && (n == 0 || bytes+l.waiting[n].bytes <= batchBytes) {
		bytes += l.waiting[n].bytes
		n++
	}
	l.taken = append(l.taken[:0], l.waiting[:n]...)
	rest := copy(l.waiting, l.waiting[n:])
	clear(l.waiting[rest:])
	l.waiting = l.waiting[:rest]
	if n+len(l.doing) == 0 {
		l.writing = false
		return false
	}
	return true
}

// write appends the batch taken, again if need be, and settles every commit in it.
//
//	append ──┬─ decided ────────────────────────────────────▶ settled
//	  ▲      ├─ store not reached ── a pause, or it is back ─┐
//	  │      └─ unknown ── fenced off: in the log? ── yes ──▶ settled
//	  │                                    └─ no ────────────┤
//	  └──────────────────────────────────────────────────────┘
//
// The grains' memory holds what the commits do, and nobody else can have written:
// so what is appended again, in the same order, is what would have been there.
func (l *lane) write() {
	pause := time.Millisecond
	left := l.taken
	for {
		back := l.host.back.Listen()
		sent := l.gather(left)
		if len(sent) == 0 {
			break
		}
		l.host.stats.batches.Add(1)
		l.append(&l.batch)
		l.host.heard(&l.batch)
		if l.host.config.OnCommitted != nil {
			l.tell(l.batch.Commits)
		}
		var asked bool
		left, asked = l.sift(sent)
		clear(sent)
		clear(l.batch.Commits)
		if len(left) == 0 {
			break
		}
		l.holding.Store(true)
		if !asked {
			l.rest(pause, back)
			pause = min(2*pause, restMost)
		}
		if l.host.storeContext.Err() != nil {
			for _, it := range left {
				l.giveUp(it, aggregate.NotDone(aggregate.ReasonStoreDown, it.commit.Err))
			}
			break
		}
		l.host.stats.repeated.Add(uint64(len(left)))
	}
	l.holding.Store(false)
	clear(l.taken)
}

// gather makes a batch of commits, but for those whose partition was lost.
func (l *lane) gather(items []*item) []*item {
	b := &l.batch
	b.Owner = l.host.node
	b.Fences, b.Commits = b.Fences[:0], b.Commits[:0]
	clear(l.placed)
	sent := l.spare[:0]
	for _, it := range items {
		t := it.grain.tenure
		if !l.place(t) {
			l.giveUp(it, errMoved)
			continue
		}
		it.commit.Epoch = persistence.Epoch(t.epoch.Load())
		b.Commits = append(b.Commits, &it.commit)
		sent = append(sent, it)
	}
	l.spare = sent
	return sent
}

// sift settles the commits whose fate is known and returns those that are to be
// appended again. It reports whether the store was asked meanwhile, and answered.
func (l *lane) sift(sent []*item) (left []*item, asked bool) {
	left = l.taken[:0]
	var fencedOff map[*tenure]error
	var before map[*grain]bool // a commit of the grain is left: those after it wait for it
	for _, it := range sent {  // in order: a grain's commits settle as they were decided
		switch it.unsure = errors.Is(it.commit.Err, persistence.ErrUnknownOutcome); {
		case it.unsure:
			if fencedOff == nil {
				fencedOff = map[*tenure]error{}
			}
			if !l.resolve(it, fencedOff, before[it.grain]) {
				continue
			}
			asked = true
		case before[it.grain]:
		case !l.waits(it):
			l.conclude(it, it.commit.Err)
			continue
		}
		if before == nil {
			before = map[*grain]bool{}
		}
		before[it.grain] = true
		left = append(left, it)
	}
	return left, asked
}

// waits reports whether a commit that was not taken waits for the store: if it was
// not reached. What it has refused it would refuse again; and who gives a
// partition away waits for nobody.
func (l *lane) waits(it *item) bool {
	t := it.grain.tenure
	return errors.Is(it.commit.Err, persistence.ErrUnreachable) && !l.host.immediate &&
		!t.sealed.Load() && !t.lost.Load() && !l.host.stopBegun.Load()
}

// giveUp settles a commit that is not appended any more.
func (l *lane) giveUp(it *item, err error) {
	if it.unsure {
		err = aggregate.UnknownOutcome(aggregate.ReasonOutcome, it.commit.Err)
	}
	l.settle(it, err)
}

// admit lets a commit into the lane, or says why not. While a batch waits for the
// store it is itself the attempt, and no other gathers behind it.
func (l *lane) admit() error {
	if l.holding.Load() {
		return l.host.commits.wait()
	}
	return l.host.commits.admit()
}

// place reports whether commits of a tenure go into the batch, and sees to the
// fence of its partition. A batch has room for one tenure of a partition.
func (l *lane) place(t *tenure) bool {
	p, ok := l.placed[t.partition]
	if !ok || p.tenure != t && p.lost {
		p = placed{t, t.lost.Load()}
		l.placed[t.partition] = p
		if !p.lost {
			l.batch.Fences = append(l.batch.Fences, t.fence())
		}
	}
	return p.tenure == t && !p.lost
}

func (l *lane) append(b *persistence.Batch) {
	if l.host.immediate {
		l.host.store.Append(l.host.storeContext, b)
		return
	}
	ctx, cancel := l.host.storeCall()
	defer cancel()
	l.host.store.Append(ctx, b)
}

// conclude settles a commit whose fate is known.
func (l *lane) conclude(it *item, err error) {
	if err != nil {
		l.refuse(it, err)
		return
	}
	l.host.stats.commits.Add(1)
	if n := len(it.commit.Events); n > 0 {
		// a claim between this append and now may know of later commits
		t := it.grain.tenure
		t.head.Store(max(t.head.Load(), int64(it.commit.Offset)+int64(n)-1))
	}
	l.settle(it, nil)
}

// codeStatement is the code of a rejection by an inline statement: what it writes
// into breaks a rule of the user's tables.
const codeStatement = "statement-failed"

// refuse settles a commit that the store certainly did not take.
func (l *lane) refuse(it *item, err error) {
	var fenced *persistence.FencedError
	var conflict *persistence.ConflictError
	var taken *persistence.ClaimTakenError
	var statement *persistence.StatementError
	switch {
	case errors.As(err, &fenced):
		l.host.stats.fenced.Add(1)
		l.host.deposed(it.grain.tenure, err)
		l.settle(it, errMoved)
	case errors.As(err, &conflict):
		l.host.stats.conflicts.Add(1)
		l.settle(it, aggregate.NotDone(aggregate.ReasonConflict, err))
	case errors.As(err, &taken):
		rejection := aggregate.ErrClaimTaken.With("namespace", taken.Claim.Namespace).
			With("key", taken.Claim.Key).With("holder", taken.Holder.String())
		rejection.Message = taken.Error()
		l.settle(it, rejection)
	case errors.As(err, &statement):
		l.settle(it, aggregate.Reject(codeStatement, err.Error()))
	case errors.Is(err, persistence.ErrTooLarge):
		l.settle(it, aggregate.Invalid(aggregate.ReasonTooLarge, err))
	default:
		l.host.stats.storeErrors.Add(1)
		l.settle(it, aggregate.NotDone(aggregate.ReasonStoreDown, err))
	}
}

// unknownMost is how often the outcome of a commit may be unknown before it is
// given up: it may be what brings the store down.
const unknownMost = 8

// resolve finds out what became of a commit of unknown outcome. It claims the
// next epoch of the partition for this node, once for all such commits, which
// waits for the old statement or defeats it, and then looks for the command id.
// It reports whether the commit is to be appended again: it is not in the log, nor
// will be. One behind another that is left cannot be in the log.
func (l *lane) resolve(it *item, fencedOff map[*tenure]error, behind bool) (left bool) {
	l.host.stats.unknown.Add(1)
	it.doubts++
	t := it.grain.tenure
	err, tried := fencedOff[t]
	if !tried {
		err = l.fenceOff(t)
		fencedOff[t] = err
	}
	it.unsure = err != nil
	if behind {
		return true
	}
	if err != nil {
		l.giveUp(it, nil)
		return false
	}
	record, found, err := l.find(it)
	switch {
	case err != nil:
		l.settle(it, aggregate.UnknownOutcome(aggregate.ReasonOutcome, err))
	case found && !it.leftBy(&record): // a later owner has executed the same command
		l.settle(it, aggregate.UnknownOutcome(aggregate.ReasonOutcome, errMoved))
	case found:
		it.commit.Offset = record.Offset - persistence.Offset(len(it.commit.Events)) + 1
		l.tellFound(&it.commit)
		l.host.stats.commits.Add(1)
		l.settle(it, nil)
	case t.lost.Load(), l.host.immediate, it.doubts >= unknownMost:
		l.settle(it, aggregate.NotDone(aggregate.ReasonStoreDown, it.commit.Err))
	default:
		return true
	}
	return false
}

// leftBy reports whether it is this commit that the log has of its command, and
// not another of the same command, which was decided on another state.
func (it *item) leftBy(record *persistence.CommandRecord) bool {
	return record.Last == it.commit.Expected+persistence.Version(len(it.commit.Events)) && record.At.UnixMicro() == it.commit.At.UnixMicro()
}

// fenceOff makes sure that no earlier append of ours can commit any more.
func (l *lane) fenceOff(t *tenure) error {
	if l.host.seams.Without.EpochBump {
		return nil
	}
	return l.persist(func(ctx context.Context) error {
		seen := persistence.Epoch(t.epoch.Load())
		won, err := l.host.store.Claim(ctx, t.partition, seen, l.host.node)
		var lost *persistence.ClaimLostError
		switch head := persistence.Offset(t.head.Load()); {
		case err == nil && won.Head < head: // the log was put back: what is in memory is not its fold any more
			l.host.deposed(t, &persistence.FencedError{
				Partition: t.partition, Epoch: seen, Current: won.Epoch, Owner: l.host.node, Head: head, StoreHead: won.Head,
			})
			return nil
		case err == nil:
			t.head.Store(int64(won.Head))
			t.epoch.Store(int64(won.Epoch))
			return nil
		case errors.As(err, &lost) && lost.Owner == l.host.node && lost.Current == seen+1 && !t.lost.Load():
			// our own claim of a moment ago, whose answer was lost
			t.epoch.Store(int64(lost.Current))
			return errAgain
		case errors.As(err, &lost), errors.Is(err, persistence.ErrNotMember):
			l.host.deposed(t, err)
			if errors.Is(err, persistence.ErrNotMember) {
				return err
			}
			return nil // somebody else's epoch fences us just as well
		}
		l.host.commits.failed(err)
		return errors.Join(errAgain, err)
	})
}

func (l *lane) find(it *item) (record persistence.CommandRecord, found bool, err error) {
	err = l.persist(func(ctx context.Context) error {
		record, found, err = l.host.store.FindCommand(ctx, it.commit.Stream, it.commit.Command)
		if err != nil {
			return errors.Join(errAgain, err)
		}
		return nil
	})
	return record, found, err
}

var errAgain = errors.New("again")

// persist repeats an operation on the store with growing pauses, which end when
// the store is back, until it succeeds, fails for good, or the host stops.
func (l *lane) persist(op func(context.Context) error) error {
	pause := time.Millisecond
	for {
		back := l.host.back.Listen()
		ctx, cancel := l.host.storeCall()
		err := op(ctx)
		cancel()
		if err == nil || !errors.Is(err, errAgain) {
			l.host.commits.answered()
			return err
		}
		l.holding.Store(true)
		if !l.rest(pause, back) {
			return err
		}
		pause = min(2*pause, restMost)
	}
}

// restMost is the longest pause between two attempts.
const restMost = 250 * time.Millisecond

// rest waits for a while, or until the store is back. It reports whether the host
// goes on.
func (l *lane) rest(pause time.Duration, back <-chan struct{}) bool {
	over := make(chan struct{})
	stop := l.host.clock.AfterFunc(pause, func() { close(over) })
	defer stop()
	select {
	case <-over:
	case <-back:
	case <-l.host.storeContext.Done():
	}
	return l.host.storeContext.Err() == nil
}

// settle tells the grain, which replies.
func (l *lane) settle(it *item, err error) {
	l.freed = it.grain.settle(it, err, l.freed[:0])
	for _, r := range l.freed {
		l.host.release(r)
	}
	clear(l.freed)
}

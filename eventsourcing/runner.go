package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// runner handles the events of a share of the partitions for one generation of a
// projection, one batch at a time.
//
//	idle ── pushed, or told to look ──▶ pass ──▶ pass ──▶ … ──▶ idle
//	pass:  take on new tracks ─▶ fetch for those behind ─▶ batch ─▶ handle, checkpoint
//
// Two locks: whoever holds the turn handles events and owns the tracks' cursors;
// mu guards the list of tracks and what is pushed to them, and is never held for
// long. A turn takes mu, not the other way round.
type runner struct {
	*projection
	projector  *Projector
	generation int64
	share      int
	stored     string // the name its progress is kept under
	ledger     ledger
	x          func(tx *Tx) any
	guard      sync.Locker
	routes     sync.Map // storedName → route

	wake chan struct{} // capacity 1
	turn chan struct{} // capacity 1: full while somebody has it
	// the life of a runner that is taken out before the projector stops
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	tracks  map[persistence.Partition]*track
	backlog int // events in all tracks' live

	// of the turn
	order     []*track // those that are taken on
	next      int      // where in the order the next batch begins
	created   bool     // the schema of a table is there
	fetching  chan fetched
	notBefore time.Duration // the store did not answer: a pause
	pause     time.Duration
	failing   int
	fenced    int // steps that the fence refused although we seem to own the partition
	logged    time.Duration
	rate      rate

	reached  atomic.Int64 // tracks that have once been read to the log's end
	handled  atomic.Uint64
	failures atomic.Uint64
	fetched  atomic.Uint64 // events that were read from the store, not pushed
}

// track is a partition, as a runner goes along it.
type track struct {
	partition persistence.Partition
	head      persistence.Offset // when it was taken on

	// of mu
	live     []persistence.Event // pushed, without gaps
	missed   bool                // what was pushed found no room
	position persistence.Offset  // cursor, for others
	lastAt   time.Time           // of the event there
	why      string              // it stands still; empty while it does not
	letters  int

	// of the turn
	loaded    bool
	cursor    persistence.Offset       // handled up to here
	stored    persistence.Offset       // and checkpointed up to here
	done      persistence.Offset       // effects outside have happened up to here
	parking   []persistence.DeadLetter // with effects outside: not yet in the store
	ready     []entry                  // what comes next, from cursor+1 on, without gaps
	tail      bool                     // the log may have events that no push brings
	reached   bool                     // it has been read to its end once
	current   bool                     // and what was there is handled
	suspect   persistence.Offset       // could not be handled
	attempts  int
	cause     error
	retryAt   time.Duration
	restUntil time.Duration      // the fence has refused it
	careful   persistence.Offset // one event at a time up to here
	parked    map[string]int     // dead letters by sequence
	review    bool               // the dead letters are to be read again
	born      time.Duration
}

// entry is an event on its way to its handler.
type entry struct {
	event   *persistence.Event
	handle  handler // nil: it is passed over
	value   any
	err     error // it cannot be read, or is unknown
	unknown bool
	// unread: the store gave no answer to what it takes to read it
	unread error
	// prepared: the above is filled in
	prepared bool
}

// nextOffset is the offset behind all that waits in ready.
func (t *track) nextOffset() persistence.Offset {
	return t.cursor + persistence.Offset(len(t.ready)) + 1
}

func newRunner(p *Projector, of *projection, generation int64, share int) *runner {
	r := &runner{
		projection: of, projector: p, generation: generation, share: share,
		stored: generationKey(of.settings.Name, generation), ledger: p.store, x: of.x, guard: of.guard,
		wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), ended: make(chan struct{}),
		tracks: map[persistence.Partition]*track{},
	}
	r.ctx, r.cancel = context.WithCancel(p.ctx)
	if of.kind == KindView {
		r.ledger = newVolatile()
	}
	return r
}

func (r *runner) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// own takes a partition on, if it is of this share.
func (r *runner) own(partition persistence.Partition, head persistence.Offset) {
	if int(partition)%r.settings.Parallel != r.share {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.tracks[partition]; old != nil {
		r.forget(old)
	}
	t := &track{partition: partition, head: head, tail: true, born: r.projector.clock.Now()}
	r.tracks[partition] = t
	r.nudge()
}

// forget takes a track off the list. The runner is locked.
func (r *runner) forget(t *track) {
	if r.tracks[t.partition] != t {
		return
	}
	delete(r.tracks, t.partition)
	r.backlog -= len(t.live)
	t.live = nil
}

// has reports whether a track is still on the list.
func (r *runner) has(t *track) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tracks[t.partition] == t
}

// release ends the work on a partition.
func (r *runner) release(ctx context.Context, partition persistence.Partition) {
	r.mu.Lock()
	t := r.tracks[partition]
	r.mu.Unlock()
	if t == nil {
		return
	}
	select {
	case r.turn <- struct{}{}:
		if t.loaded && t.stored < t.cursor {
			r.checkpoint(ctx, []*track{t})
		}
		r.dismiss(t)
		<-r.turn
	case <-ctx.Done():
		r.mu.Lock()
		r.forget(t) // whoever has the turn finds it gone
		r.mu.Unlock()
	}
}

// dismiss forgets a track. It is of the turn.
func (r *runner) dismiss(t *track) {
	r.mu.Lock()
	r.forget(t)
	r.mu.Unlock()
	r.order = slices.DeleteFunc(r.order, func(o *track) bool { return o == t })
}

// push brings events that have just become durable. A local projection handles
// them at once, if it is their turn.
func (r *runner) push(events []persistence.Event) {
	partition, first, last := events[0].Partition, events[0].Offset, events[len(events)-1].Offset
	if int(partition)%r.settings.Parallel != r.share {
		return
	}
	r.mu.Lock()
	t := r.tracks[partition]
	if t == nil {
		r.mu.Unlock()
		return
	}
	behind := first - 1 - t.position
	if r.kind == KindLocal && behind == 0 && len(t.live) == 0 {
		r.mu.Unlock()
		if r.inline(t, events) {
			return
		}
		r.mu.Lock()
		if r.tracks[partition] != t { // released meanwhile
			r.mu.Unlock()
			return
		}
	}
	r.enqueue(t, events)
	r.mu.Unlock()
	r.nudge()
	if r.kind == KindLocal && behind <= persistence.Offset(r.settings.Batch) {
		r.awaitLocal(t, last)
	}
}

// enqueue adds events to a track's backlog, as far as there is room and they
// follow on what is there. The runner is locked.
func (r *runner) enqueue(t *track, events []persistence.Event) {
	if n := len(t.live); n > 0 {
		next := t.live[n-1].Offset + 1
		for len(events) > 0 && events[0].Offset < next {
			events = events[1:]
		}
		if len(events) == 0 {
			return
		}
		if events[0].Offset > next { // one was lost between: the newer ones are nearer to what comes
			r.backlog -= n
			t.live = nil
		}
	}
	room := r.projector.config.Backlog - r.backlog
	t.missed = t.missed || room < len(events) // what has no room is read from the store
	events = events[:max(min(room, len(events)), 0)]
	t.live = append(t.live, events...)
	r.backlog += len(events)
}

// localPatience bounds how long a reply waits for a local projection that is
// not up to date.
const localPatience = 250 * time.Millisecond

// awaitLocal waits until the background has handled an event.
func (r *runner) awaitLocal(t *track, offset persistence.Offset) {
	over := make(chan struct{})
	stop := r.projector.clock.AfterFunc(localPatience, func() { close(over) })
	defer stop()
	r.projector.waiting.Add(1)
	defer r.projector.waiting.Add(-1)
	for {
		moved := r.projector.news.Listen()
		r.mu.Lock()
		enough := t.position >= offset || t.why != "" || r.tracks[t.partition] != t
		r.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-moved:
		case <-over:
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// inline handles events on the goroutine that brings them; false when it is not
// their turn.
func (r *runner) inline(t *track, events []persistence.Event) bool {
	select {
	case r.turn <- struct{}{}:
	default: // the background is at it
		return false
	}
	defer func() { <-r.turn }()
	if !r.has(t) || !t.loaded || len(t.ready) > 0 || t.cursor+1 != events[0].Offset || len(t.parked) > 0 || t.suspect != 0 {
		return false
	}
	for i := range events {
		t.ready = append(t.ready, entry{event: &events[i]})
	}
	s := &slice{track: t, entries: t.ready}
	r.plan(s)
	r.effects(r.ctx, []*slice{s})
	r.settle(t, t.done)
	if len(t.ready) > 0 {
		r.nudge()
	}
	return len(t.ready) == 0
}

// run works until the runner is cancelled.
func (r *runner) run() {
	defer close(r.ended)
	for {
		select {
		case <-r.wake:
		case <-r.ctx.Done():
		}
		more := true
		for more && r.ctx.Err() == nil {
			more = r.pass()
		}
		if r.ctx.Err() != nil {
			if r.fetching != nil {
				<-r.fetching
			}
			return
		}
	}
}

// pass does one batch. It reports whether there may be another at once.
func (r *runner) pass() (more bool) {
	select {
	case r.turn <- struct{}{}:
	case <-r.ctx.Done():
		return false
	}
	defer func() { <-r.turn }()
	now := r.projector.clock.Now()
	if left := r.notBefore - now; left > 0 {
		r.projector.clock.AfterFunc(left, r.nudge)
		return false
	}
	if !r.takeOn() {
		return false
	}
	r.reviewLetters()
	r.receive(false)
	r.drain()
	for _, t := range r.order {
		if t.suspect == t.nextOffset() && now >= t.retryAt {
			t.suspect = 0 // what the log has there is looked at again
		}
	}
	batch := r.gather(now)
	if len(batch) == 0 && r.fetching != nil {
		r.receive(true)
		batch = r.gather(now)
	}
	fetching := r.fetch()
	if len(batch) == 0 {
		return fetching
	}
	r.execute(batch)
	return true
}

// wakeAt asks for a pass at a moment.
func (r *runner) wakeAt(at time.Duration) {
	r.projector.clock.AfterFunc(max(at-r.projector.clock.Now(), 0), r.nudge)
}

// drain moves what was pushed behind what is ready, where it connects.
func (r *runner) drain() {
	for _, t := range r.order {
		r.mu.Lock()
		live := t.live
		next := t.nextOffset()
		for len(live) > 0 && live[0].Offset < next {
			live = live[1:]
		}
		connects := len(live) > 0 && live[0].Offset == next && len(t.ready) < r.settings.Batch
		if len(live) > 0 && live[0].Offset > next {
			t.tail = true
		}
		if connects || len(live) == 0 {
			r.backlog -= len(t.live)
			t.live = nil
			t.tail = t.tail && !connects && !t.reached || t.missed
			t.missed = false
		}
		r.mu.Unlock()
		if connects {
			for i := range live {
				t.ready = append(t.ready, entry{event: &live[i]})
			}
		}
		if t.reached && persistence.Offset(r.projector.heads[t.partition].Load()) >= t.nextOffset() {
			t.tail = true
		}
	}
}

// gather makes a batch of what is ready, a share of each track, beginning with
// another one each time. An event that could not be handled is a batch of its own.
func (r *runner) gather(now time.Duration) []*slice {
	var batch []*slice
	room := r.settings.Batch
	for i := range r.order {
		t := r.order[(r.next+i)%len(r.order)]
		if room == 0 {
			break
		}
		if len(t.ready) == 0 || t.restUntil > now || !r.mine(t) {
			continue
		}
		n := min(room, len(t.ready))
		if t.suspect != 0 {
			n = min(n, int(t.suspect-t.cursor)-1)
		}
		alone := n == 0 || t.cursor < t.careful
		if alone {
			if t.suspect == t.cursor+1 && t.retryAt > now {
				continue
			}
			if len(batch) > 0 {
				continue
			}
			r.next++
			return []*slice{{track: t, entries: t.ready[:1]}}
		}
		batch = append(batch, &slice{track: t, entries: t.ready[:n]})
		room -= n
	}
	r.next++
	return batch
}

// mine reports whether a track's partition is this node's to handle.
func (r *runner) mine(t *track) bool {
	if r.kind == KindView {
		return true
	}
	_, epoch := r.projector.config.Owned(t.partition)
	return epoch != 0
}

// prepare decodes an event for its handler.
func (r *runner) prepare(out *entry) {
	if out.prepared {
		return
	}
	out.prepared, out.unread = true, nil
	e := out.event
	key := storedName{e.Stream.Type, e.Type}
	known, ok := r.routes.Load(key)
	if !ok {
		known = r.find(key)
		r.routes.Store(key, known)
	}
	to := known.(route)
	out.handle = to.handle
	switch {
	case to.unknown != nil:
		if r.settings.Unknown != PassOver {
			out.err, out.unknown = to.unknown, true
		}
	case to.definition != nil:
		opened, err := r.projector.config.Vault.opened(r.ctx, to.definition, e)
		switch {
		case errors.Is(err, ErrForgotten):
			out.handle = nil
		case errors.Is(err, errKeys):
			out.prepared, out.unread = false, err
		case err != nil:
			out.err = err
		default:
			r.decode(out, to, &opened)
		}
	}
}

// decode fills in what an event is, and who handles it.
func (r *runner) decode(out *entry, to route, opened *persistence.Event) {
	var one [1]any
	events, err := decode(one[:0], to.known, opened)
	switch {
	case err != nil:
		out.err = err
	case to.handle != nil:
		out.value = events[0]
	default:
		out.handle = r.parts(opened.Stream.Type, slices.Clone(events), r.kind == KindTable)
	}
}

// errKeys says that the store gave no answer about the keys of sealed events.
var errKeys = errors.New("the keys cannot be read")

// decode is what a stored event is today. A panic is an error.
func decode(to []any, known aggregate.Known, e *persistence.Event) (events []any, err error) {
	defer func() {
		if p := recover(); p != nil {
			events, err = to, fmt.Errorf("panic: %v", p)
		}
	}()
	return appendKnown(to, known, e.Payload)
}

// settle takes note that a track is handled up to an offset.
func (r *runner) settle(t *track, to persistence.Offset) {
	n := int(to - t.cursor)
	if n <= 0 {
		return
	}
	last := t.ready[n-1].event.At
	clear(t.ready[:n])
	if t.ready = t.ready[n:]; len(t.ready) == 0 {
		t.ready = nil
	}
	t.cursor = to
	if t.suspect != 0 && t.suspect <= to {
		t.suspect, t.attempts, t.retryAt = 0, 0, 0
	}
	r.handled.Add(uint64(n))
	r.atEnd(t)
	r.mu.Lock()
	t.position, t.lastAt, t.letters = to, last, sum(t.parked)
	if t.suspect == 0 { // else it stands still before the next
		t.why = ""
	}
	r.mu.Unlock()
	if r.projector.waiting.Load() > 0 {
		r.projector.news.Announce()
	}
}

// atEnd notes that a track has been handled to the end of the log, once.
func (r *runner) atEnd(t *track) {
	if t.reached && !t.current && len(t.ready) == 0 {
		t.current = true
		r.reached.Add(1)
	}
}

func sum(parked map[string]int) (n int) {
	for _, count := range parked {
		n += count
	}
	return n
}

// position is how far a partition is handled here.
func (r *runner) position(partition persistence.Partition) (persistence.Offset, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tracks[partition]; t != nil && r.mine(t) {
		return t.position, true
	}
	return 0, false
}

// tick is called at regular intervals.
func (r *runner) tick() {
	ticks := r.rate.tick(r.projector.clock.Now(), r.handled.Load())
	select {
	case r.turn <- struct{}{}:
	default:
		return // it is at work
	}
	now := r.projector.clock.Now()
	var late []*track
	for _, t := range slices.Clone(r.order) { // one may go
		t.review = t.review || len(t.parked) > 0
		if t.stored < t.cursor {
			late = append(late, t)
		}
		if t.reached && persistence.Offset(r.projector.heads[t.partition].Load()) >= t.nextOffset() {
			t.tail = true
		}
		if now-t.born > graceOfOwner && !r.mine(t) { // it was lost, and nobody gives it away
			r.dismiss(t)
		}
	}
	if len(late) > 0 && r.kind == KindLocal && ticks%localCheckpoint == 0 {
		r.checkpoint(r.ctx, late)
	}
	<-r.turn
	r.nudge()
}

// graceOfOwner is how long a track that was taken on waits for the partition to
// be owned.
const graceOfOwner = 2 * time.Second

// localCheckpoint is in how many ticks a local projection stores how far it is.
const localCheckpoint = 5

// rate is how many events a runner handles in a second.
type rate struct {
	mu        sync.Mutex
	ticks     int
	at        time.Duration
	before    uint64
	perSecond float64
}

// tick takes a measurement about every second.
func (r *rate) tick(now time.Duration, handled uint64) (ticks int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ticks++
	if passed := now - r.at; passed >= time.Second {
		if r.at > 0 {
			r.perSecond = float64(handled-r.before) / passed.Seconds()
		}
		r.at, r.before = now, handled
	}
	return r.ticks
}

func (r *rate) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.perSecond
}

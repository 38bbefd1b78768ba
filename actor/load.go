package actor

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// loadBatch is how many aggregates one round trip brings in: enough to make up
// for the round trip, few enough that those who come next do not wait long.
const loadBatch = 256

// loaders is how many loads run at once: one more batch gathers meanwhile, and a
// load that hangs does not keep all others waiting.
const loaders = 2

// crowdLoads is how many of them there are while more wait than fit into a batch.
// To decode what is loaded takes a core: when very many come back at once, after
// the death of another node, half of the cores are left to those who call what is
// in memory.
var crowdLoads = max(1, min(loaders, runtime.GOMAXPROCS(0)/2))

// loader brings aggregates into memory, as many at a time as wait, and does the
// other reads that a grain's turn must not wait for. Its queues are bounded by
// the host's admission: each entry is an aggregate with a call. When nobody
// waits, it warms: it brings in what somebody may soon call.
//
// After a crash nobody tells which aggregates were hot, but their callers do:
// those for which more than one call waits have half of each batch, and the rest
// is loaded in the order in which it was called.
type loader struct {
	host *Host
	wake chan struct{}

	mu      sync.Mutex
	grains  []*grain
	hot     []*grain // of grains, those for which several calls wait
	filling int      // loads of batches that somebody waits for
	reads   []func(context.Context)
	cold    []cold // at most MaxResident
	warming bool   // a batch of them is being loaded
	closed  bool
}

func newLoader(h *Host) *loader { return &loader{host: h, wake: make(chan struct{}, loaders)} }

func (l *loader) load(g *grain) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.grains = append(l.grains, g)
	}
	l.mu.Unlock()
	if closed {
		g.mailbox.PostUserMessage(&loadedMessage{eventsourcing.Loaded{Err: errStopping}})
		return
	}
	l.signal()
}

// hurry notes that several calls wait for an aggregate.
func (l *loader) hurry(g *grain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.grains) > loadBatch && !g.fetched { // else it is in the next batch anyway
		l.hot = append(l.hot, g)
	}
}

func (l *loader) read(f func(context.Context)) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.reads = append(l.reads, f)
	}
	l.mu.Unlock()
	if closed {
		f(l.host.storeContext) // has ended, so that f only says so
		return
	}
	l.signal()
}

func (l *loader) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *loader) take() (grains []*grain, read func(context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.reads); n > 0 {
		read = l.reads[0]
		if l.reads = l.reads[1:]; n == 1 {
			l.reads = nil
		}
	}
	return l.batch(), read
}

// batch takes the aggregates to load next: hot ones for one half of it, if there
// are as many, and the oldest for the other. The loader is locked.
func (l *loader) batch() []*grain {
	if len(l.grains) == 0 || len(l.grains) > loadBatch && l.filling >= crowdLoads {
		return nil
	}
	batch := make([]*grain, 0, min(len(l.grains), loadBatch))
	fetch := func(from []*grain, until int) (rest []*grain) {
		n := 0
		for ; n < len(from) && len(batch) < until; n++ {
			if g := from[n]; !g.fetched { // else it was in the other queue too
				g.fetched = true
				batch = append(batch, g)
			}
		}
		return from[n:]
	}
	l.hot = fetch(l.hot, loadBatch/2)
	if l.grains = fetch(l.grains, loadBatch); len(l.grains) == 0 {
		l.grains, l.hot = nil, nil
	}
	if len(batch) > 0 {
		l.filling++
	}
	return batch
}

// filled notes the end of a load of a batch.
func (l *loader) filled() {
	l.mu.Lock()
	l.filling--
	l.mu.Unlock()
	l.signal() // for those that the other loader has left alone
}

func (l *loader) run() {
	for {
		select {
		case <-l.wake:
		case <-l.host.storeContext.Done():
		}
		for {
			grains, read := l.take()
			var batch []cold
			if len(grains) == 0 && read == nil {
				if l.host.storeContext.Err() != nil {
					break
				}
				if batch = l.takeCold(); batch == nil {
					break
				}
			}
			ctx, cancel := l.host.storeCall()
			if len(grains) > 0 {
				l.fill(ctx, grains)
				l.filled()
			}
			if read != nil {
				read(ctx)
			}
			if batch != nil {
				l.heat(ctx, batch)
			}
			cancel()
		}
		if l.host.storeContext.Err() != nil && l.close() {
			return
		}
	}
}

// close ends the loader unless something waits.
func (l *loader) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = len(l.grains) == 0 && len(l.reads) == 0
	return l.closed
}

func (l *loader) fill(ctx context.Context, grains []*grain) {
	h := l.host
	targets := make([]eventsourcing.Target, len(grains))
	for i, g := range grains {
		targets[i] = eventsourcing.Target{Definition: g.def, Stream: g.stream}
	}
	h.stats.loads.Add(uint64(len(grains)))
	all := h.journal.Load(ctx, targets)
	h.read(silence(all))
	for i, loaded := range all {
		grains[i].mailbox.PostUserMessage(&loadedMessage{loaded})
	}
}

// silence is the error of loads none of which the store has answered.
func silence(all []eventsourcing.Loaded) (err error) {
	for i := range all {
		var unreadable *eventsourcing.UnreadableError
		if err = all[i].Err; err == nil || errors.As(err, &unreadable) || errors.Is(err, eventsourcing.ErrForgotten) {
			return nil
		}
	}
	return err
}

// lookup asks the log whether a command was handled, and then goes on with it.
func (h *Host) lookup(g *grain, c *Call) {
	if err := h.reads.admit(); err != nil {
		g.finish(c, failed(err))
		return
	}
	h.loader.read(func(ctx context.Context) {
		if c.expired(h.clock) { // its caller asks again, and must not find a queue of calls that nobody awaits
			g.finish(c, tooLate())
			return
		}
		h.stats.lookups.Add(1)
		record, found, err := h.store.FindCommand(ctx, g.stream, persistence.CommandID(c.id()))
		switch h.read(err); {
		case err != nil:
			g.finish(c, failed(aggregate.NotDone(aggregate.ReasonStoreDown, err)))
		case found:
			g.mailbox.PostUserMessage(&foundMessage{c, eventsourcing.Handled{
				Command: c.id(), Version: record.Last, Offset: record.Offset, Events: int(record.Last - record.First + 1),
			}})
		default:
			c.looked = true
			g.mailbox.PostUserMessage(c)
		}
	})
}

// foundMessage brings a repeated command back with what the log says of it.
type foundMessage struct {
	call    *Call
	handled eventsourcing.Handled
}

// answerAt computes a repeated command's answer on the state it left then.
func (h *Host) answerAt(g *grain, it *item, version persistence.Version) {
	if err := h.reads.admit(); err != nil {
		g.finish(it.call, failed(aggregate.UnknownOutcome(aggregate.ReasonOutcome, err)))
		return
	}
	h.loader.read(func(ctx context.Context) {
		instance, err := h.journal.LoadAt(ctx, eventsourcing.Target{Definition: g.def, Stream: g.stream}, version)
		if err != nil {
			g.finish(it.call, failed(aggregate.UnknownOutcome(aggregate.ReasonOutcome, err)))
			return
		}
		g.answerAgain(it, instance)
		h.release(it)
	})
}

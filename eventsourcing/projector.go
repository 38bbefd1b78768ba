package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/internal/bulletin"
	"github.com/ingrain-go/ingrain/persistence"
)

// ProjectorConfig of a projector. Store and Owned are required.
type ProjectorConfig struct {
	// Store has the log and keeps the checkpoints.
	Store ProjectionStore
	// Projections are what is run.
	Projections []Projection
	// Owned tells who this node is and under which epoch it owns a partition; 0
	// when it does not.
	Owned func(persistence.Partition) (persistence.NodeID, persistence.Epoch)
	// OnCaughtUp is told, once, that every view has read the log to its end. It
	// must not block.
	OnCaughtUp func()

	// Vault opens sealed events, which cannot be read without one. Those of
	// forgotten subjects are passed over.
	Vault *Vault
	// Clock defaults to the system's.
	Clock ProjectionClock
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Backlog bounds the events that wait in each projection for their turn. What
	// comes beyond is read from the store. Default 16,384.
	Backlog int
	// Poll is how often the log is looked at for events that no push has brought.
	// Default 200 ms.
	Poll time.Duration
	// StoreTimeout bounds one call to the store. Default 30 seconds.
	StoreTimeout time.Duration
}

// ProjectionStore is what a projector needs of a store.
type ProjectionStore interface {
	persistence.Projections
	persistence.Checkpoints
	Tail(ctx context.Context, cursors []persistence.Cursor, limit int) ([]persistence.Event, error)
	Meta() persistence.Meta
}

// ProjectionClock is the time by which a projector pauses and tells its lag.
type ProjectionClock interface {
	Now() time.Duration
	AfterFunc(d time.Duration, f func()) (stop func() bool)
	Wall() time.Time
}

type systemClock struct{ started time.Time }

func (c systemClock) Now() time.Duration { return time.Since(c.started) }
func (systemClock) AfterFunc(d time.Duration, f func()) (s func() bool) {
	return time.AfterFunc(d, f).Stop
}
func (systemClock) Wall() time.Time { return time.Now() }

// Projector runs the projections of one node. It is told which partitions the
// node owns, and of events as they become durable; all else it finds in the
// store. All methods are safe for concurrent use.
//
//	Publish ──▶ runner's backlog ──┐ connects to the cursor
//	Tail    ──▶ runner's fetch   ──┴▶ batch ──▶ handlers ──▶ checkpoint ──▶ Wait
type Projector struct {
	config ProjectorConfig
	store  ProjectionStore
	clock  ProjectionClock
	log    *slog.Logger

	heads []atomic.Int64 // by partition: the highest offset heard of; -1 before any
	count int            // of partitions
	views bool

	mu     sync.RWMutex
	groups []*group // in the order of the projections
	owned  map[persistence.Partition]persistence.Offset

	runners  atomic.Pointer[[]*runner] // of all groups
	caughtUp atomic.Bool
	news     *bulletin.Board // a cursor has moved
	waiting  atomic.Int64

	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup
	stopped atomic.Bool
}

// group is a projection with those who run it: of a table, perhaps those of the
// next generation too.
type group struct {
	*projection
	state    int64 // of the generations; see rebuild.go
	runners  []*runner
	building []*runner
}

// all are the runners of both generations.
func (g *group) all() []*runner { return slices.Concat(g.runners, g.building) }

// StartProjector checks the projections and starts their goroutines.
func StartProjector(config ProjectorConfig) (*Projector, error) {
	if config.Store == nil || config.Owned == nil {
		return nil, errors.New("projector: Store and Owned are required")
	}
	if err := Validate(config.Projections...); err != nil {
		return nil, err
	}
	if config.Clock == nil {
		config.Clock = systemClock{time.Now()}
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.OnCaughtUp == nil {
		config.OnCaughtUp = func() {}
	}
	orDefault(&config.Backlog, 1<<14)
	orDefault(&config.Poll, 200*time.Millisecond)
	orDefault(&config.StoreTimeout, 30*time.Second)
	p := &Projector{
		config: config, store: config.Store, clock: config.Clock, log: config.Logger,
		count: config.Store.Meta().Partitions, owned: map[persistence.Partition]persistence.Offset{}, news: bulletin.New(),
	}
	p.heads = make([]atomic.Int64, p.count)
	for i := range p.heads {
		p.heads[i].Store(-1)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.list()
	for _, each := range config.Projections {
		g := &group{projection: each.describe()}
		if (g.kind == KindInline || g.create != nil) && config.Store.Meta().Dialect == "" {
			return nil, errors.Join(fmt.Errorf("projection %q: it writes SQL, which the store has not", g.settings.Name), p.abandon())
		}
		if g.kind == KindInline {
			continue // it is of the commands, not of the log
		}
		p.views = p.views || g.kind == KindView
		p.groups = append(p.groups, g)
		if g.kind != KindTable { // the generations of a table are in the store
			p.begin(g, 1, false)
		}
	}
	p.workers.Go(p.tick)
	return p, nil
}

// abandon undoes a start.
func (p *Projector) abandon() error {
	p.cancel()
	p.workers.Wait()
	return nil
}

// begin starts the runners of a generation. The projector is locked, or not yet
// known to anybody.
func (p *Projector) begin(g *group, generation int64, building bool) {
	var runners []*runner
	for share := range g.settings.Parallel {
		r := newRunner(p, g.projection, generation, share)
		runners = append(runners, r)
		if g.kind == KindView {
			for i := range p.count {
				r.own(persistence.Partition(i), 0)
			}
		} else {
			for partition, head := range p.owned {
				r.own(partition, head)
			}
		}
		p.workers.Go(r.run)
		r.nudge()
	}
	if building {
		g.building = runners
	} else {
		g.runners = runners
	}
	p.list()
}

// list notes who is to be told of events. The projector is locked, or not yet
// known to anybody.
func (p *Projector) list() {
	var all []*runner
	for _, g := range p.groups {
		all = append(all, g.all()...)
	}
	p.runners.Store(&all)
}

// Own begins the work on a partition that this node has just come to own; head
// is the end of its log then.
func (p *Projector) Own(partition persistence.Partition, head persistence.Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owned[partition] = head
	for _, g := range p.groups {
		if g.kind == KindView {
			continue
		}
		for _, r := range g.all() {
			r.own(partition, head)
		}
	}
}

// Suspend ends the work on a partition that this node will give away, but for
// what local projections have to do before its last replies. It returns when no
// handler is at it any more, so the next owner begins where this one has ended.
// When ctx ends first, the fence keeps the two apart (I1).
func (p *Projector) Suspend(ctx context.Context, partition persistence.Partition) {
	p.end(ctx, partition, func(k Kind) bool { return k == KindTable || k == KindReaction })
}

// Release ends all work on a partition, like Suspend, when its last commit has
// been published.
func (p *Projector) Release(ctx context.Context, partition persistence.Partition) {
	p.end(ctx, partition, func(k Kind) bool { return k != KindView })
}

func (p *Projector) end(ctx context.Context, partition persistence.Partition, of func(Kind) bool) {
	p.mu.Lock()
	delete(p.owned, partition)
	p.mu.Unlock()
	for _, r := range *p.runners.Load() {
		if of(r.kind) {
			r.release(ctx, partition)
		}
	}
}

// Publish tells of events of one partition that have become durable, without a
// gap among them. The events belong to the projector and are not changed by it.
// It returns when every local projection has handled them, as far as it is their
// turn; others handle them soon.
func (p *Projector) Publish(events []persistence.Event) {
	if len(events) == 0 || p.stopped.Load() {
		return
	}
	first := &events[0]
	if first.Partition < 0 || int(first.Partition) >= p.count {
		return
	}
	for _, r := range *p.runners.Load() {
		r.push(events)
	}
	p.heard(first.Partition, events[len(events)-1].Offset) // after the pushes: whoever is behind the head looks into the log
}

// heard notes how far the log of a partition reaches at least.
func (p *Projector) heard(partition persistence.Partition, head persistence.Offset) {
	h := &p.heads[partition]
	for now := h.Load(); int64(head) > now; now = h.Load() {
		if h.CompareAndSwap(now, int64(head)) {
			return
		}
	}
}

// CaughtUp reports whether every view has read the log to its end since the
// projector was started.
func (p *Projector) CaughtUp() bool { return p.caughtUp.Load() }

// tick looks at regular intervals for what no push and no call tells of.
func (p *Projector) tick() {
	for round := 0; ; round++ {
		if round%generationTicks == 0 {
			p.readGenerations()
		}
		p.look()
		p.seeCaughtUp()
		for _, r := range *p.runners.Load() {
			r.tick()
		}
		due := make(chan struct{})
		stop := p.clock.AfterFunc(p.config.Poll, func() { close(due) })
		select {
		case <-due:
		case <-p.ctx.Done():
			stop()
			return
		}
	}
}

// seeCaughtUp notes that the views have caught up, once.
func (p *Projector) seeCaughtUp() {
	if p.caughtUp.Load() {
		return
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, g := range p.groups {
		if g.kind != KindView {
			continue
		}
		for _, r := range g.runners {
			if int(r.reached.Load()) < p.count {
				return
			}
		}
	}
	if p.caughtUp.CompareAndSwap(false, true) {
		p.config.OnCaughtUp()
	}
}

// lookLimit is how many events a look takes from each partition: what one lost
// push, or a few, have left out. More is read by those who need it.
const lookLimit = 64

// look asks the store for events behind the heads: a push may be lost, and the
// last one of a partition leaves no gap by which it would be noticed.
func (p *Projector) look() {
	var cursors []persistence.Cursor
	p.mu.RLock()
	for i := range p.heads {
		partition := persistence.Partition(i)
		_, owned := p.owned[partition]
		if head := p.heads[i].Load(); head >= 0 && (owned || p.views) {
			cursors = append(cursors, persistence.Cursor{Partition: partition, After: persistence.Offset(head)})
		}
	}
	p.mu.RUnlock()
	if len(cursors) == 0 {
		return
	}
	ctx, cancel := p.storeCall(p.ctx)
	defer cancel()
	events, err := p.store.Tail(ctx, cursors, lookLimit)
	if err != nil {
		return // whoever needs the log reports what is wrong with it
	}
	for _, of := range byPartition(events) {
		p.Publish(of)
	}
}

// byPartition splits the result of a Tail.
func byPartition(events []persistence.Event) [][]persistence.Event {
	inOrder := func(a, b persistence.Event) int { return int(a.Partition) - int(b.Partition) }
	if !slices.IsSortedFunc(events, inOrder) {
		slices.SortStableFunc(events, inOrder)
	}
	var parts [][]persistence.Event
	for start := 0; start < len(events); {
		end := start + 1
		for end < len(events) && events[end].Partition == events[start].Partition {
			end++
		}
		parts = append(parts, events[start:end:end])
		start = end
	}
	return parts
}

func (p *Projector) storeCall(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := p.clock.AfterFunc(p.config.StoreTimeout, cancel)
	return ctx, func() { stop(); cancel() }
}

// Wait returns when a projection has handled the event at an offset, or has
// parked it, and all before it in its partition. A view or a local projection is
// that of this node. The offset 0 is waited for by nobody.
func (p *Projector) Wait(ctx context.Context, name string, partition persistence.Partition, offset persistence.Offset) error {
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	pause := 5 * time.Millisecond
	for {
		moved := p.news.Listen()
		p.mu.RLock()
		g := p.group(name)
		p.mu.RUnlock()
		if g == nil {
			return fmt.Errorf("wait for projection %q: this node has none of that name", name)
		}
		position, here := p.position(g, partition)
		if !here && g.kind != KindView {
			var err error
			if position, err = p.stored(ctx, g, partition); err != nil && ctx.Err() == nil {
				return fmt.Errorf("wait for projection %q: %w", name, err)
			}
		}
		if position >= offset {
			return nil
		}
		if p.stopped.Load() {
			return fmt.Errorf("wait for projection %q: the node stops", name)
		}
		due := make(chan struct{})
		stop := p.clock.AfterFunc(pause, func() { close(due) }) // elsewhere nobody tells us
		pause = min(2*pause, 100*time.Millisecond)
		select {
		case <-moved:
		case <-due:
		case <-ctx.Done():
			stop()
			return fmt.Errorf("wait for projection %q: partition %d is handled up to %d, not %d: %w", name, partition, position, offset, ctx.Err())
		}
		stop()
	}
}

// group finds a projection by its name. The projector is locked.
func (p *Projector) group(name string) *group {
	for _, g := range p.groups {
		if g.settings.Name == name {
			return g
		}
	}
	return nil
}

// position is how far this node has handled a partition; false when it does not.
func (p *Projector) position(g *group, partition persistence.Partition) (persistence.Offset, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, r := range g.runners {
		if at, ok := r.position(partition); ok {
			return at, true
		}
	}
	return 0, false
}

// stored is how far another node has, by the store.
func (p *Projector) stored(ctx context.Context, g *group, partition persistence.Partition) (persistence.Offset, error) {
	cursors, err := p.store.LoadCheckpoints(ctx, p.liveName(g))
	if err != nil {
		return 0, err
	}
	for _, c := range cursors {
		if c.Partition == partition {
			return c.After, nil
		}
	}
	return 0, nil
}

// Stop ends all work and waits for it. What local projections have handled is
// checkpointed, if ctx allows. Stopping twice is harmless.
func (p *Projector) Stop(ctx context.Context) {
	p.mu.Lock()
	already := p.stopped.Swap(true)
	p.mu.Unlock()
	if already {
		return
	}
	p.mu.RLock()
	var partitions []persistence.Partition
	for partition := range p.owned {
		partitions = append(partitions, partition)
	}
	p.mu.RUnlock()
	for _, partition := range partitions {
		p.Release(ctx, partition)
	}
	p.cancel()
	p.workers.Wait()
	p.news.Announce()
}

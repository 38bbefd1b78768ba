// Package actor runs aggregates one at a time: the host activates grains on
// protoactor, loads them from the journal, lets them decide, and commits their
// events through lanes that group what waits. Which partitions a host may serve
// is told to it from above; that its commits are refused when it no longer may
// is the store's doing (I1).
package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/internal/bulletin"
	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
)

// Config of a host. Fields without a default are required.
type Config struct {
	// System is the protoactor system in which grains are spawned.
	System *proto.ActorSystem
	// Store holds the log.
	Store persistence.Store
	// Node is this incarnation's name, as the store knows it.
	Node persistence.NodeID
	// Types are the aggregates that can be served.
	Types []aggregate.Any
	// OnDeposed is told, once per tenure and on any goroutine, that a partition
	// was found to be in other hands or on another log. The host has dropped it
	// already. It must not block.
	OnDeposed func(p persistence.Partition, epoch persistence.Epoch, err error)
	// Inline, when set, adds statements to the commit of some events, which it is
	// given as they were decided. It is pure, and may panic.
	Inline func(c *persistence.Commit, events []any)
	// OnCommitted, when set, is told of events of one partition that have just
	// become durable, without a gap among them, before the replies of their
	// commands leave. Calls for one partition are in the order of the offsets. What
	// it is given must not be changed. Replies wait until it returns.
	OnCommitted func(p persistence.Partition, events []persistence.Event)
	// OnStoreBack is told, on any goroutine, that the store can be reached again:
	// what was refused as store-down may be asked again. It must not block.
	OnStoreBack func()

	// Clock defaults to the system's.
	Clock Clock
	// Lanes is the number of concurrent appends. Default 2: one batch executes
	// while another is gathered. 4 for a remote server or a slow disk.
	Lanes int
	// IdleAfter is how long an unused aggregate stays in memory. Default 2
	// minutes; a type can choose its own with aggregate.IdleAfter.
	IdleAfter time.Duration
	// MaxResident bounds the aggregates in memory; the least recently used one
	// leaves. Default 100,000.
	MaxResident int
	// MaxInFlight bounds the calls of all aggregates that are admitted and not
	// yet answered, and MaxPerGrain those of one aggregate. Beyond, a call is
	// refused as overloaded. Defaults 65,536 and 1,024.
	MaxInFlight, MaxPerGrain int
	// MaxPayload bounds one event's bytes. Default 1 MiB. Commands and answers
	// have bytes only on a wire: whoever carries them there bounds them.
	MaxPayload int
	// CommandRetention is how old a command id may be, and thus how long a
	// caller may go on asking. Default 24 hours.
	CommandRetention time.Duration
	// CommandSkew is how far in the future an id may be. Default 1 minute: an id
	// from the future makes its aggregate ask the log about others until then.
	CommandSkew time.Duration
	// StoreTimeout bounds one call to the store. Default 10 seconds.
	StoreTimeout time.Duration
	// Vault has the keys of sealed aggregates. Required when there are any.
	Vault *eventsourcing.Vault
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Simulated is for the simulation of this repository: leave it nil.
	Simulated *simulated.Seams
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = SystemClock{}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.OnDeposed == nil {
		c.OnDeposed = func(persistence.Partition, persistence.Epoch, error) {}
	}
	if c.OnStoreBack == nil {
		c.OnStoreBack = func() {}
	}
	orDefault(&c.Lanes, 2)
	orDefault(&c.IdleAfter, 2*time.Minute)
	orDefault(&c.MaxResident, 100_000)
	orDefault(&c.MaxInFlight, 1<<16)
	orDefault(&c.MaxPerGrain, 1<<10)
	orDefault(&c.MaxPayload, 1<<20)
	orDefault(&c.CommandRetention, 24*time.Hour)
	orDefault(&c.CommandSkew, time.Minute)
	orDefault(&c.StoreTimeout, 10*time.Second)
	return c
}

func orDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Host serves the partitions it was told to. All methods are safe for
// concurrent use.
type Host struct {
	config  Config
	system  *proto.ActorSystem
	store   persistence.Store
	node    persistence.NodeID
	clock   Clock
	seams   simulated.Seams
	log     *slog.Logger
	types   map[string]*aggregate.Definition
	journal *eventsourcing.Journal
	// unlisten ends what the vault tells; nil without one
	unlisten func()
	// immediate: the store's Append does no I/O and may run in a grain's turn
	immediate bool

	tenures    []atomic.Pointer[tenure] // by partition
	leaseUntil atomic.Int64             // host clock
	inflight   atomic.Int64
	lanes      []*lane
	pool       *pool
	loader     *loader
	snapshots  *snapshotWriter
	barrier    *barrier
	timers     *timers // nil when no type sets any
	resident   *resident
	commits    *outage
	reads      *outage
	back       *bulletin.Board // the store is
	stats      counters

	storeContext context.Context // ends when the host has stopped
	cancelStore  context.CancelFunc
	stopping     atomic.Bool
	stopBegun    atomic.Bool
	stopped      chan struct{} // closed when Stop is through
	stopErr      error
	workers      sync.WaitGroup // lanes, loader, snapshot writer, barrier, sweeper
}

// Immediate is implemented by stores whose Append does no I/O.
type Immediate interface{ Immediate() bool }

// Start checks the configuration and starts the host's goroutines. It owns no
// partition yet.
func Start(config Config) (*Host, error) {
	if config.System == nil || config.Store == nil || config.Node == "" {
		return nil, errors.New("actor: System, Store and Node are required")
	}
	if err := aggregate.Validate(config.Types...); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	h := &Host{
		config: config, system: config.System, store: config.Store, node: config.Node,
		clock: config.Clock, seams: config.Simulated.OrReal(), log: config.Logger, types: map[string]*aggregate.Definition{},
		journal: eventsourcing.NewJournal(config.Store, config.Logger),
		tenures: make([]atomic.Pointer[tenure], config.Store.Meta().Partitions),
		pool:    newPool(), stopped: make(chan struct{}),
	}
	if s, ok := config.Store.(Immediate); ok {
		h.immediate = s.Immediate()
	}
	for _, t := range config.Types {
		h.types[t.Definition().Name()] = t.Definition()
	}
	h.storeContext, h.cancelStore = context.WithCancel(context.Background())
	if config.Vault != nil {
		h.journal.Unlock(config.Vault)
		h.unlisten = config.Vault.OnForget(h.forget)
	}
	for range config.Lanes {
		h.lanes = append(h.lanes, newLane(h))
	}
	h.commits, h.reads, h.back = newOutage(h, "commits"), newOutage(h, "reads"), bulletin.New()
	h.loader, h.snapshots, h.barrier, h.resident = newLoader(h), newSnapshotWriter(h), newBarrier(h), newResident(h)
	for _, l := range h.lanes {
		h.workers.Go(func() { l.run(h.storeContext) })
	}
	for range loaders {
		h.workers.Go(h.loader.run)
	}
	h.workers.Go(h.snapshots.run)
	h.workers.Go(h.barrier.run)
	h.workers.Go(h.resident.run)
	if h.timers = newTimers(h); h.timers != nil {
		h.workers.Go(h.timers.runFire)
		h.workers.Go(h.timers.runLoad)
	}
	return h, nil
}

// Type finds a served aggregate type by its stored name, nil when there is
// none.
func (h *Host) Type(name string) *aggregate.Definition { return h.types[name] }

// Clock is the host's clock.
func (h *Host) Clock() Clock { return h.clock }

// Own begins to serve a partition that was just claimed. Until holdUntil, by the
// host's clock, replies that reveal commits of this tenure are held back (I8);
// 0 for no hold.
func (h *Host) Own(claimed persistence.Tenure, holdUntil time.Duration) {
	h.own(claimed, holdUntil, false)
}

// OwnUnrevealed is Own for a partition whose log may end in commits that an owner
// before has held back, and not lived to reveal: what is in the log already is
// held back too. Who keeps to his lease may still answer without it (I8).
func (h *Host) OwnUnrevealed(claimed persistence.Tenure, holdUntil time.Duration) {
	h.own(claimed, holdUntil, true)
}

func (h *Host) own(claimed persistence.Tenure, holdUntil time.Duration, unrevealed bool) {
	t := &tenure{
		host: h, partition: claimed.Partition, lane: h.lanes[int(claimed.Partition)%len(h.lanes)],
		since: claimed.Epoch, drained: make(chan struct{}), holdUntil: holdUntil, unrevealed: unrevealed,
		grains: map[persistence.Stream]*grain{},
	}
	t.epoch.Store(int64(claimed.Epoch))
	t.head.Store(int64(claimed.Head))
	if left := holdUntil - h.clock.Now(); holdUntil != 0 && left > 0 {
		t.holding.Store(true)
		h.clock.AfterFunc(left, t.endHold)
	}
	h.timers.keep(t) // before the first commit, which may set some
	if old := h.tenures[claimed.Partition].Swap(t); old != nil {
		h.drop(old)
	}
}

// Lose drops a partition at once: another node owns it, or may.
func (h *Host) Lose(p persistence.Partition) {
	if t := h.tenures[p].Swap(nil); t != nil {
		h.drop(t)
	}
}

// Owned lists the partitions served, ascending, with their epochs. What has been
// acknowledged or answered up to now needs the log up to the heads in them, and
// none beyond.
func (h *Host) Owned() []persistence.Fence {
	var owned []persistence.Fence
	for i := range h.tenures {
		if t := h.tenures[i].Load(); t != nil {
			owned = append(owned, t.fence())
		}
	}
	return owned
}

// Epoch returns the epoch under which a partition is served; 0 when it is not.
func (h *Host) Epoch(p persistence.Partition) persistence.Epoch {
	if t := h.tenures[p].Load(); t != nil {
		return persistence.Epoch(t.epoch.Load())
	}
	return 0
}

// ExtendLease lets replies that no append proves be sent without asking the
// store until the given moment of the host's clock (I7). The caller has called
// Lose first for every partition that the renewal did not confirm.
func (h *Host) ExtendLease(until time.Duration) {
	for {
		now := h.leaseUntil.Load()
		if int64(until) <= now || h.leaseUntil.CompareAndSwap(now, int64(until)) {
			break
		}
	}
	h.commits.renewed()
	h.reads.renewed()
}

// DropLease ends the lease at once; replies go through the store.
func (h *Host) DropLease() { h.leaseUntil.Store(0) }

// Release drains a partition: no new call is admitted, those admitted are
// answered, and then it is dropped. It returns the epoch to release in the
// store and the log's end; zero when the partition is not served here. When ctx
// ends first, the partition is dropped as it is, what was in flight is answered
// when its fate is known, and the head says nothing.
func (h *Host) Release(ctx context.Context, p persistence.Partition) (persistence.Fence, error) {
	t := h.tenures[p].Load()
	if t == nil {
		return persistence.Fence{}, fmt.Errorf("release partition %d: not served here", p)
	}
	h.timers.drop(t)
	t.seal()
	given := persistence.Fence{Partition: p}
	select {
	case <-t.drained:
	case <-ctx.Done():
	}
	var err error
	select {
	case <-t.drained: // perhaps at the very end
		given.Head = persistence.Offset(t.head.Load()) // nothing is on its way to the lane any more
	default:
		err = fmt.Errorf("release partition %d: %d calls in flight: %w", p, t.calls.Load(), ctx.Err())
	}
	h.tenures[p].CompareAndSwap(t, nil)
	h.drop(t)
	given.Epoch = persistence.Epoch(t.epoch.Load())
	return given, err
}

// deposed drops a tenure that the store disowned.
func (h *Host) deposed(t *tenure, err error) {
	h.tenures[t.partition].CompareAndSwap(t, nil)
	if !h.drop(t) {
		return
	}
	h.config.OnDeposed(t.partition, persistence.Epoch(t.epoch.Load()), err)
}

// drop ends a tenure: its grains leave, unproven replies become redirects. It
// reports whether the tenure had not ended before.
func (h *Host) drop(t *tenure) bool {
	if t.lost.Swap(true) {
		return false
	}
	h.timers.drop(t)
	for _, g := range t.all() {
		g.mailbox.PostUserMessage(leaveMessage{})
	}
	t.seal()
	return true
}

// Deliver takes a call, which is answered exactly once.
func (h *Host) Deliver(c *Call) { h.deliver(c, (*mailbox).PostUserMessage) }

// DeliverInline is Deliver for a caller on whose goroutine the aggregate may
// run if it is idle. It returns soon but may have handled a few other calls.
func (h *Host) DeliverInline(c *Call) { h.deliver(c, (*mailbox).postInline) }

// Run runs something short, such as the delivery of a few calls, on one of the
// goroutines that run the aggregates' turns.
func (h *Host) Run(work func()) { h.pool.Schedule(work) }

func (h *Host) deliver(c *Call, post func(*mailbox, any)) {
	if err := h.check(c); err != nil {
		c.Reply.Reply(c, failed(err))
		return
	}
	t := h.tenures[c.Partition].Load()
	if t == nil || c.Epoch != 0 && c.Epoch < t.since || !t.enter() {
		c.Reply.Reply(c, notOwner)
		return
	}
	if err := h.mayLoad(t, c.Stream); err != nil {
		t.leave()
		c.Reply.Reply(c, failed(err))
		return
	}
	c.tenure = t
	if h.inflight.Add(1) > int64(h.config.MaxInFlight) {
		h.refuse(c, t, fmt.Errorf("the node has %d calls in flight", h.config.MaxInFlight))
		return
	}
	g := t.grain(c.Request.Definition, c.Stream)
	c.grain = g
	if g.inflight.Add(1) > int32(h.config.MaxPerGrain) {
		g.inflight.Add(-1)
		h.refuse(c, t, fmt.Errorf("the aggregate has %d calls in flight", h.config.MaxPerGrain))
		return
	}
	post(&g.mailbox, c)
}

// refuse answers a call that found a bounded queue full (I11).
func (h *Host) refuse(c *Call, t *tenure, why error) {
	h.stats.overloaded.Add(1)
	h.inflight.Add(-1)
	t.leave()
	c.tenure, c.grain = nil, nil
	c.Reply.Reply(c, failed(aggregate.NotDone(aggregate.ReasonOverloaded, why)))
}

// check finds what is wrong with the request itself.
func (h *Host) check(c *Call) error {
	if h.stopping.Load() {
		return aggregate.NotDone(aggregate.ReasonStopping, nil)
	}
	r := c.Request
	if err := aggregate.CheckID(r.ID); err != nil {
		return err
	}
	if h.types[r.Definition.Name()] != r.Definition {
		return aggregate.Invalid(aggregate.ReasonUnknownType, fmt.Errorf("aggregate type %q is not served here", r.Definition.Name()))
	}
	if r.Message.Kind() != aggregate.KindCommand || c.timer != nil || r.Caused { // a timer, or a process, may have waited for years
		return nil
	}
	now, made := h.clock.Wall(), r.Command.Time()
	age := now.Sub(made) // as far as a Duration reaches
	if age > h.config.CommandRetention || age < -h.config.CommandSkew {
		return aggregate.Invalid(aggregate.ReasonCommandTooOld,
			fmt.Errorf("command id %s was made at %s, the owner's clock says %s; accepted: up to %s ahead, %s old", r.Command,
				timeText(made), timeText(now), durationText(h.config.CommandSkew), durationText(h.config.CommandRetention)))
	}
	return nil
}

func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// durationText is d without the smaller units that are zero.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// PID finds or makes the activation of a stream; nil when the partition is not
// served here, or the store cannot be reached to load it from. Messages to it are those of protoactor: see foreign.go.
func (h *Host) PID(d *aggregate.Definition, s persistence.Stream, p persistence.Partition) *proto.PID {
	t := h.tenures[p].Load()
	if t == nil || t.sealed.Load() || t.lost.Load() || h.types[d.Name()] != d {
		return nil
	}
	if h.mayLoad(t, s) != nil {
		return nil
	}
	return t.grain(d, s).pid
}

// activate spawns the grain of a stream, which somebody has yet to load. The
// tenure is locked.
func (h *Host) activate(t *tenure, d *aggregate.Definition, s persistence.Stream) *grain {
	g := &grain{host: h, tenure: t, def: d, stream: s}
	g.mailbox.grain = g
	g.pid = h.system.Root.Spawn(proto.PropsFromProducer(func() proto.Actor { return g },
		proto.WithMailbox(func() proto.Mailbox { return &g.mailbox }), proto.WithDispatcher(h.pool)))
	t.grains[s] = g
	h.stats.activations.Add(1)
	h.resident.add(g)
	return g
}

// storeCall is the context of one call to the store.
func (h *Host) storeCall() (context.Context, context.CancelFunc) {
	return h.seams.Timeout(h.storeContext, h.config.StoreTimeout)
}

// Stop refuses new calls, drains every partition until ctx ends, and then ends
// the host's goroutines. It returns what it could not finish. The store still
// counts the node as owner: see persistence.Membership.Leave.
func (h *Host) Stop(ctx context.Context) error {
	if h.stopBegun.Swap(true) {
		<-h.stopped
		return h.stopErr
	}
	defer close(h.stopped)
	if h.unlisten != nil {
		h.unlisten()
	}
	var errs []error
	for _, f := range h.Owned() {
		if _, err := h.Release(ctx, f.Partition); err != nil {
			errs = append(errs, err)
		}
	}
	h.stopping.Store(true)
	h.cancelStore()
	h.workers.Wait()
	h.pool.stop()
	h.stopErr = errors.Join(errs...)
	return h.stopErr
}

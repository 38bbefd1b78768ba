package eventsourcing

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Courier carries what a process manager hears and says: events of other
// aggregates become inputs of its instances, events of its own the commands that
// they send, and what becomes of those inputs again. Each partition is looked after
// by its owner. Nothing it does twice has a second effect, since every command has
// an id made from the event that causes it, and an outcome that is kept (I10).
//
//	Publish, Tail ──▶ post (a partition) ──▶ errand (a sequence) ──▶ worker ──▶ Deliver
//	                        ▲ checkpoint: all before it is done          │ fails for good
//	                        └──────── dead letters ◀─────────────────────┘
//
// The commands of one sequence go one after the other: what one instance sends, or
// what one instance hears from one partition. Sequences do not wait for each other:
// one whose target does not answer keeps nothing but itself. All methods are safe
// for concurrent use.
type Courier struct {
	config  CourierConfig
	process *aggregate.Definition
	name    string // under which its progress is stored
	sources map[string]*aggregate.Definition
	inputs  map[subscribed]func(event any, o aggregate.Origin) (string, any)
	senders map[reflect.Type]bool // events of its own that may send

	mu        sync.Mutex
	posts     map[persistence.Partition]*post
	fresh     []*errand // wait for a worker, in their order
	strained  []*errand // likewise, after a failure
	busy      int       // workers
	straining int       // workers at strained errands
	stopped   bool

	wake    chan struct{} // capacity 1
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	carriedInputs, carriedSends, rejected, retries atomic.Uint64
}

// CourierConfig of a courier. Process, Store, Deliver and Owned are required.
type CourierConfig struct {
	Process *aggregate.Definition
	Store   CourierStore
	// Deliver carries a command to its aggregate, within its context.
	Deliver func(ctx context.Context, r *aggregate.Request) (aggregate.Response, error)
	// Owned tells who this node is and under which epoch it owns a partition; 0
	// when it does not.
	Owned func(persistence.Partition) (persistence.NodeID, persistence.Epoch)

	// Vault opens sealed events.
	Vault *Vault
	// Clock defaults to the system's.
	Clock ProjectionClock
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Parallel bounds the commands that are under way at once; those that have
	// failed before are at most half of them. Default 256.
	Parallel int
	// Window bounds the events of a partition that are not done. When it is full
	// and the first of them does not get through, its sequence is put aside.
	// Default 1,024.
	Window int
	// Attempts is how often a command is tried that fails for a reason that time
	// does not cure, before its sequence is parked; between two is a pause of
	// Backoff, four times as long each time, at most 10 seconds. Defaults 5 and
	// 10 ms. What time may cure is tried for ever.
	Attempts int
	Backoff  time.Duration
	// Patience bounds one attempt. Default 5 seconds.
	Patience time.Duration
	// Poll is how often the log is looked at for events that no push has brought,
	// and progress stored. Default 200 ms.
	Poll time.Duration
	// MaxParked bounds the dead letters of a partition. Beyond, it stands still.
	// Default 10,000.
	MaxParked int
	// StoreTimeout bounds one call to the store. Default 30 seconds.
	StoreTimeout time.Duration
}

// CourierStore is what a courier needs of a store.
type CourierStore interface {
	ProjectionStore
	Read(ctx context.Context, stream persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error)
}

// StartCourier starts the goroutine of a courier. It has no partition yet.
func StartCourier(config CourierConfig) (*Courier, error) {
	if config.Process == nil || config.Store == nil || config.Deliver == nil || config.Owned == nil {
		return nil, errors.New("courier: Process, Store, Deliver and Owned are required")
	}
	if config.Clock == nil {
		config.Clock = systemClock{time.Now()}
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	orDefault(&config.Parallel, 256)
	orDefault(&config.Window, 1024)
	orDefault(&config.Attempts, 5)
	orDefault(&config.Backoff, 10*time.Millisecond)
	orDefault(&config.Patience, 5*time.Second)
	orDefault(&config.Poll, 200*time.Millisecond)
	orDefault(&config.MaxParked, 10_000)
	orDefault(&config.StoreTimeout, 30*time.Second)
	c := &Courier{
		config: config, process: config.Process, name: courierName(config.Process.Name()),
		sources: map[string]*aggregate.Definition{}, inputs: map[subscribed]func(any, aggregate.Origin) (string, any){},
		senders: map[reflect.Type]bool{}, posts: map[persistence.Partition]*post{}, wake: make(chan struct{}, 1),
	}
	for _, r := range config.Process.Reactions() {
		c.sources[r.Source.Name()] = r.Source
		c.inputs[subscribed{r.Source.Name(), r.Event}] = r.Input
	}
	for _, m := range config.Process.Messages() {
		if m.MaySend() {
			c.senders[m.GoType()] = true
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.workers.Go(c.run)
	return c, nil
}

// courierName is under which name the progress of a process is stored. No
// projection has one: theirs have no slash.
func courierName(process string) string { return "process/" + process }

// Process is the stored name of the process manager.
func (c *Courier) Process() string { return c.process.Name() }

// Own begins the work on a partition that this node has just come to own.
func (c *Courier) Own(partition persistence.Partition) {
	c.mu.Lock()
	old := c.posts[partition]
	c.posts[partition] = newPost(c, partition)
	c.mu.Unlock()
	if old != nil {
		old.close()
	}
	c.nudge()
}

// Release ends the work on a partition. It returns when none of it goes on here,
// or ctx ends. What was under way is taken up by the next owner.
func (c *Courier) Release(ctx context.Context, partition persistence.Partition) {
	c.mu.Lock()
	p := c.posts[partition]
	delete(c.posts, partition)
	c.mu.Unlock()
	if p == nil {
		return
	}
	p.close()
	select {
	case <-p.quiet:
	case <-ctx.Done():
	}
}

// Publish tells of events of one partition that have become durable, without a gap
// among them. It does not block.
func (c *Courier) Publish(events []persistence.Event) {
	if len(events) == 0 {
		return
	}
	c.mu.Lock()
	p := c.posts[events[0].Partition]
	if p != nil {
		p.hear(events)
	}
	c.mu.Unlock()
	if p != nil {
		c.nudge()
	}
}

// Stop ends all work and waits for it. Stopping twice is harmless.
func (c *Courier) Stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.cancel()
	c.workers.Wait()
}

func (c *Courier) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Courier) storeCall() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.ctx)
	stop := c.config.Clock.AfterFunc(c.config.StoreTimeout, cancel)
	return ctx, func() { stop(); cancel() }
}

// run reads, stores progress, and looks at dead letters, until the courier stops.
func (c *Courier) run() {
	var looked time.Duration
	failing := 0
	for first := true; c.ctx.Err() == nil; first = false {
		now := c.config.Clock.Now()
		tick := first || now-looked >= c.config.Poll
		if tick {
			looked = now
			c.forgetLost()
		}
		more, err := c.pass(tick)
		switch {
		case err == nil:
			failing = 0
		case c.ctx.Err() == nil:
			if failing++; failing == 2 { // the first may be nothing
				c.config.Logger.Warn("process waits for the store", "process", c.process.Name(), "error", err)
			}
		}
		if !more {
			c.pause(err == nil)
		}
	}
}

// pass does all there is to do at once. It reports whether there is more.
func (c *Courier) pass(tick bool) (more bool, err error) {
	if err = c.takeOn(); err != nil {
		return false, err
	}
	if more, err = c.read(tick); err != nil {
		return false, err
	}
	if err = c.save(tick); err == nil && tick {
		err = c.review()
	}
	return more && err == nil, err
}

// pause waits for news, if they help, or a while.
func (c *Courier) pause(news bool) {
	wake := c.wake
	if !news {
		wake = nil
	}
	due := make(chan struct{})
	stop := c.config.Clock.AfterFunc(c.config.Poll, func() { close(due) })
	defer stop()
	select {
	case <-wake:
	case <-due:
	case <-c.ctx.Done():
	}
}

// CourierProgress is how a process manager fares on this node.
type CourierProgress struct {
	// Process is its stored name.
	Process string
	// Inputs and Sends were delivered, Rejected of the sends were rejected; Retries
	// are attempts that came to nothing.
	Inputs, Sends, Rejected, Retries uint64
	// Pending events are known and not done; Parked ones are dead letters.
	Pending, Parked int
	// Behind is the age of the oldest pending event; 0 when there is none.
	Behind time.Duration
}

// Progress tells how the process manager fares in the partitions of this node.
func (c *Courier) Progress() CourierProgress {
	of := CourierProgress{
		Process: c.process.Name(), Inputs: c.carriedInputs.Load(), Sends: c.carriedSends.Load(),
		Rejected: c.rejected.Load(), Retries: c.retries.Load(),
	}
	now := c.config.Clock.Wall()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.posts {
		of.Parked += sum(p.parked)
		of.Pending += len(p.live)
		for _, j := range p.jobs {
			if !j.done {
				of.Pending++
				of.Behind = max(of.Behind, now.Sub(j.event.At))
			}
		}
	}
	return of
}

// wants reports whether the courier has anything to do with events of a type.
func (c *Courier) wants(aggregateType string) bool {
	return aggregateType == c.process.Name() || c.sources[aggregateType] != nil
}

// inputOf finds the reaction to an event type of a source.
func (c *Courier) inputOf(source string, event reflect.Type) func(any, aggregate.Origin) (string, any) {
	return c.inputs[subscribed{source, event}]
}

package actor_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// protoactor counts dead letters for a while after the last of them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/actor.NewDeadLetter.NewThrottle.func4.1"))
}

const patience = 20 * time.Second

// lab is an aggregate whose commands and queries say themselves what to do, so
// that a test can stop, fail or look inside at any point. Its state depends on
// the order of its events.
type lab struct {
	N    int
	Hash uint64
	Text string
}

type labEvent = aggregate.Event[lab]

type try struct {
	decide func(lab) ([]labEvent, error)
	answer func(lab) (int, error)
}

func (c try) Decide(s lab) ([]labEvent, error) { return c.decide(s) }

func (c try) Answer(s lab) (int, error) {
	if c.answer == nil {
		return s.N, nil
	}
	return c.answer(s)
}

type look struct{ answer func(lab) (lab, error) }

func (q look) Answer(s lab) (lab, error) {
	if q.answer == nil {
		return s, nil
	}
	return q.answer(s)
}

type noted struct {
	N    int
	Text string `json:",omitempty"`
	Bomb bool   `json:",omitempty"`
}

func (e noted) Evolve(s *lab) {
	if e.Bomb {
		panic("bomb in Evolve")
	}
	s.N += e.N
	s.Hash = s.Hash*1_000_003 + uint64(e.N) + 1
	s.Text = e.Text
}

// grenade goes off when it is encoded.
type grenade struct{ Unpinned bool }

func (grenade) Evolve(*lab)                  {}
func (grenade) MarshalJSON() ([]byte, error) { panic("grenade in MarshalJSON") }

// stray is an event that the definition does not know.
type stray struct{}

func (stray) Evolve(*lab) {}

func defineLab(name string, parts ...aggregate.Part[lab]) *aggregate.Type[lab] {
	return aggregate.Define(name, append([]aggregate.Part[lab]{
		aggregate.Accepts[try]("try"), aggregate.Records[noted]("noted"), aggregate.Records[grenade]("grenade"),
		aggregate.Answers[look]("look"),
	}, parts...)...)
}

var (
	labs     = defineLab("lab")
	strict   = defineLab("strict", aggregate.Reads[lab](aggregate.Strict))
	eventual = defineLab("eventual", aggregate.Reads[lab](aggregate.Eventual))
	// frequent takes a snapshot every 10 events, and whenever it leaves memory.
	frequent = defineLab("frequent", aggregate.Snapshots[lab](aggregate.SnapshotPolicy{Every: 10, OnPassivation: 1}))
	bulky    = defineLab("bulky", aggregate.Snapshots[lab](aggregate.SnapshotPolicy{Every: 1 << 30, Bytes: 1000}))
	bare     = defineLab("bare", aggregate.Snapshots[lab](aggregate.SnapshotPolicy{Off: true}))
	hasty    = defineLab("hasty", aggregate.IdleAfter[lab](time.Second))
)

var everyType = []aggregate.Any{counters, labs, strict, eventual, frequent, bulky, bare, hasty, brittle}

// note is a command with one event.
func note(n int) try {
	return try{decide: func(lab) ([]labEvent, error) { return []labEvent{noted{N: n}}, nil }}
}

// refuse is a command that the domain rejects.
func refuse() try { return try{decide: func(lab) ([]labEvent, error) { return nil, errNegative }} }

// idle is a command without events.
func idle() try { return try{decide: func(lab) ([]labEvent, error) { return nil, nil }} }

func events(e ...labEvent) try {
	return try{decide: func(lab) ([]labEvent, error) { return e, nil }}
}

// fixture is a store that can fail, and a host with a clock that stands still.
type fixture struct {
	t      testing.TB
	store  *persistencetest.Faulty
	clock  *fakeClock
	host   *actor.Host
	config actor.Config

	mu      sync.Mutex
	deposed []persistence.Partition
}

// start makes a fixture whose host owns every partition under a long lease.
func start(t testing.TB, changes ...func(*actor.Config)) *fixture {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	return startOn(t, persistencetest.WithFaults(store), changes...)
}

func startOn(t testing.TB, store *persistencetest.Faulty, changes ...func(*actor.Config)) *fixture {
	f := &fixture{t: t, store: store, clock: newFakeClock()}
	f.host = startHost(t, store, func(c *actor.Config) {
		c.Clock, c.Types = f.clock, everyType
		c.Logger = slog.New(slog.DiscardHandler)
		c.CommandSkew = time.Hour // of two fixtures, each has its own time
		c.OnDeposed = func(p persistence.Partition, _ persistence.Epoch, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.deposed = append(f.deposed, p)
		}
		for _, change := range changes {
			change(c)
		}
		f.config = *c
	})
	return f
}

func (f *fixture) depositions() []persistence.Partition {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]persistence.Partition(nil), f.deposed...)
}

func streamOf(a aggregate.Any, id string) persistence.Stream {
	return persistence.Stream{Type: a.Definition().Name(), ID: id}
}

func partitionOf(a aggregate.Any, id string) persistence.Partition {
	return persistence.PartitionOf(streamOf(a, id), partitions)
}

// pending is a call under way.
type pending struct {
	t       testing.TB
	id      aggregate.CommandID
	ch      chan actor.Result
	onReply func()
}

func (p *pending) Reply(_ *actor.Call, r actor.Result) {
	if p.onReply != nil {
		p.onReply()
	}
	select {
	case p.ch <- r:
	default:
		panic("a call was answered twice")
	}
}

// result waits for the answer.
func (p *pending) result() actor.Result {
	p.t.Helper()
	select {
	case r := <-p.ch:
		p.ch <- r
		return r
	case <-time.After(patience):
		require.FailNow(p.t, "no answer to "+p.id.String())
		return actor.Result{}
	}
}

func (p *pending) answered() bool { return len(p.ch) > 0 }

func (p *pending) ok() aggregate.Response {
	p.t.Helper()
	r := p.result()
	require.NoError(p.t, r.Err)
	return r.Response
}

func (p *pending) fails(kind aggregate.Kind, reason string) {
	p.t.Helper()
	r := p.result()
	require.Error(p.t, r.Err)
	require.Equal(p.t, kind, aggregate.KindOf(r.Err), "%v", r.Err)
	if kind == aggregate.KindRejected {
		var rejection *aggregate.Rejection
		require.ErrorAs(p.t, r.Err, &rejection)
		require.Equal(p.t, reason, rejection.Code)
		return
	}
	var failure *aggregate.Failure
	require.ErrorAs(p.t, r.Err, &failure)
	require.Equal(p.t, reason, failure.Reason, "%v", r.Err)
}

type callOption func(*actor.Call)

func withID(id aggregate.CommandID) callOption {
	return func(c *actor.Call) { c.Request.Command = id }
}

func asking(c *actor.Call) { c.Request.Answer = true }

func expecting(v aggregate.Version) callOption {
	return func(c *actor.Call) { c.Request.Expect = v }
}

// send delivers a message and does not wait.
func (f *fixture) send(a aggregate.Any, id string, message any, options ...callOption) *pending {
	return sendTo(f.t, f.host, a, id, message, options...)
}

func sendTo(t testing.TB, h *actor.Host, a aggregate.Any, id string, message any, options ...callOption) *pending {
	d := a.Definition()
	m := d.MessageOf(message)
	require.NotNil(t, m)
	p := &pending{t: t, ch: make(chan actor.Result, 1)}
	r := &aggregate.Request{Definition: d, ID: id, Message: m, Value: message, Expect: -1, Answer: m.Kind() == aggregate.KindQuery}
	if m.Kind() == aggregate.KindCommand {
		r.Command = aggregate.CommandIDAt(h.Clock().Wall())
	}
	c := &actor.Call{Request: r, Stream: streamOf(a, id), Partition: partitionOf(a, id), Reply: p}
	for _, o := range options {
		o(c)
	}
	p.id = r.Command
	h.Deliver(c)
	return p
}

// state asks for the state, waiting.
func (f *fixture) state(a aggregate.Any, id string) lab {
	f.t.Helper()
	return f.send(a, id, look{}).ok().Answer.(lab)
}

// replayed is the state that the log has.
func (f *fixture) replayed(a aggregate.Any, id string) (lab, persistence.Version) {
	f.t.Helper()
	l := eventsourcing.NewJournal(f.store, slog.New(slog.DiscardHandler)).Load(f.t.Context(),
		[]eventsourcing.Target{{Definition: a.Definition(), Stream: streamOf(a, id)}})
	require.NoError(f.t, l[0].Err)
	return *l[0].Instance.State().(*lab), l[0].Version
}

func (f *fixture) version(a aggregate.Any, id string) int {
	f.t.Helper()
	_, v := f.replayed(a, id)
	return int(v)
}

// passivateAll lets time pass until all aggregates have left memory.
func (f *fixture) passivateAll() {
	f.t.Helper()
	f.eventually(func() bool {
		f.clock.Advance(max(f.config.IdleAfter, 2*time.Minute))
		return f.host.Stats().Resident == 0
	}, "all aggregates leave memory")
	f.host.ExtendLease(f.clock.Now() + time.Hour)
}

func (f *fixture) eventually(condition func() bool, what string) {
	f.t.Helper()
	require.Eventually(f.t, condition, patience, time.Millisecond, what)
}

// stallAppends holds every append until the stall is released.
func (f *fixture) stallAppends() *persistencetest.Stall {
	stall := persistencetest.NewStall()
	f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		return persistencetest.Fault{Before: stall.Hold}
	})
	f.t.Cleanup(stall.Release)
	return stall
}

// failAppends lets the next n appends end as the outcome says.
func (f *fixture) failAppends(n int, fault persistencetest.Fault) {
	var mu sync.Mutex
	f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			return persistencetest.Fault{}
		}
		n--
		return fault
	})
}

func await[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		require.FailNow(t, "waited in vain for "+what)
	}
	return v
}

// takeOver lets another node claim a partition and returns its host, which
// serves the partition under a lease of its own.
func (f *fixture) takeOver(p persistence.Partition, hold time.Duration) *fixture {
	f.t.Helper()
	next := f.join()
	f.t.Cleanup(func() {
		f.clock.Advance(hold) // what is held must go before the host can stop
		stopHost(f.t, next.host)
	})
	next.claim(p, hold)
	next.host.ExtendLease(f.clock.Now() + time.Hour)
	return next
}

// join starts another node, which owns nothing and which the caller stops.
func (f *fixture) join() *fixture {
	f.t.Helper()
	node := persistence.NodeID("n-" + aggregate.NewCommandID().String())
	require.NoError(f.t, f.store.Join(context.Background(), persistence.Node{ID: node, Cluster: "test", State: persistence.Active}))
	next := &fixture{t: f.t, store: f.store, clock: f.clock, config: f.config}
	next.config.Node, next.config.System = node, quietSystem()
	next.config.OnDeposed = nil
	var err error
	next.host, err = actor.Start(next.config)
	require.NoError(f.t, err)
	f.t.Cleanup(next.config.System.Shutdown)
	return next
}

// claim takes a partition by force, with a hold.
func (f *fixture) claim(p persistence.Partition, hold time.Duration) {
	f.t.Helper()
	view, err := f.store.View(context.Background())
	require.NoError(f.t, err)
	tenure, err := f.store.Claim(context.Background(), p, view.Partitions[p].Epoch, f.config.Node)
	require.NoError(f.t, err)
	until := time.Duration(0)
	if hold > 0 {
		until = f.clock.Now() + hold
	}
	f.host.Own(tenure, until)
}

// fakeClock moves when it is told to.
type fakeClock struct {
	mu     sync.Mutex
	onNow  func() // called once, before the time is told
	now    time.Duration
	origin time.Time
	timers map[int]*fakeTimer
	next   int
}

type fakeTimer struct {
	due time.Duration
	f   func()
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Hour, origin: time.Now(), timers: map[int]*fakeTimer{}}
}

func (c *fakeClock) Now() time.Duration {
	c.mu.Lock()
	hook := c.onNow
	c.onNow = nil
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	return c.Coarse()
}

func (c *fakeClock) Coarse() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// interrupt runs f when somebody looks at the clock next.
func (c *fakeClock) interrupt(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onNow = f
}

func (c *fakeClock) Wall() time.Time { return c.origin.Add(c.Now() - time.Hour) }

func (c *fakeClock) AfterFunc(d time.Duration, f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	key := c.next
	c.timers[key] = &fakeTimer{c.now + d, f}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, pending := c.timers[key]
		delete(c.timers, key)
		return pending
	}
}

// Advance moves the time and runs what is due.
func (c *fakeClock) Advance(d time.Duration) {
	c.mu.Lock()
	c.now += d
	var due []func()
	for key, timer := range c.timers {
		if timer.due <= c.now {
			due = append(due, timer.f)
			delete(c.timers, key)
		}
	}
	c.mu.Unlock()
	for _, f := range due {
		f()
	}
}

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

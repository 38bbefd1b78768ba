package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// A process that hears of pokes and sends them on.
type relayState struct{ N int }

type relayIn struct{ N int }

func (c relayIn) Decide(relayState) ([]aggregate.Event[relayState], error) {
	return []aggregate.Event[relayState]{relayed(c)}, nil
}

type relayed struct{ N int }

func (relayed) Evolve(s *relayState) { s.N++ }

func (e relayed) Sends() []aggregate.Outgoing[relayState] {
	return []aggregate.Outgoing[relayState]{
		aggregate.To[relayState](pokes, "target", poke(e)),
		aggregate.To[relayState](pokes, "target", poke{-e.N}).OnDone(relayDone(e)),
	}
}

type relayDone struct{ N int }

func (relayDone) Decide(relayState) ([]aggregate.Event[relayState], error) { return nil, nil }

type pokeState struct{}

type poke struct{ N int }

func (c poke) Decide(pokeState) ([]aggregate.Event[pokeState], error) {
	return []aggregate.Event[pokeState]{poked(c)}, nil
}

type poked struct{ N int }

func (poked) Evolve(*pokeState) {}

var pokes = aggregate.Define("poke", aggregate.Accepts[poke]("poke"), aggregate.Records[poked]("poked"))

var relays = aggregate.Define("relay",
	aggregate.Accepts[relayIn]("in"), aggregate.Accepts[relayDone]("done"), aggregate.Records[relayed]("relayed"),
	aggregate.Reacts(pokes, func(e poked, o aggregate.Origin) (string, aggregate.Command[relayState]) {
		if e.N == 0 {
			return "", nil
		}
		return fmt.Sprint("from-", o.ID), relayIn(e)
	}))

// office is a log, and who delivers.
type office struct {
	t     *testing.T
	store persistence.Store

	mu        sync.Mutex
	fences    map[persistence.Partition]persistence.Fence
	versions  map[persistence.Stream]persistence.Version
	delivered []aggregate.Request
	answer    func(ctx context.Context, r *aggregate.Request) error
}

func newOffice(t *testing.T, store persistence.Store) *office {
	o := &office{t: t, store: store, fences: map[persistence.Partition]persistence.Fence{}, versions: map[persistence.Stream]persistence.Version{}}
	require.NoError(t, store.Join(t.Context(), persistence.Node{ID: "a", Cluster: "test", State: persistence.Active}))
	for p := range store.Meta().Partitions {
		o.claim(persistence.Partition(p))
	}
	return o
}

func (o *office) claim(p persistence.Partition) {
	won, err := o.store.Claim(context.Background(), p, o.fences[p].Epoch, "a")
	require.NoError(o.t, err)
	o.mu.Lock()
	o.fences[p] = persistence.Fence{Partition: p, Epoch: won.Epoch, Head: won.Head}
	o.mu.Unlock()
}

func (o *office) owned(p persistence.Partition) (persistence.NodeID, persistence.Epoch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return "a", o.fences[p].Epoch
}

func (o *office) deliver(ctx context.Context, r *aggregate.Request) (aggregate.Response, error) {
	o.mu.Lock()
	answer := o.answer
	o.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, r); err != nil {
			return aggregate.Response{}, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delivered = append(o.delivered, *r)
	return aggregate.Response{Receipt: aggregate.Receipt{Command: r.Command, Events: 1}}, nil
}

func (o *office) says(answer func(ctx context.Context, r *aggregate.Request) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = answer
}

// got lists what was delivered to an aggregate.
func (o *office) got(typ, id string) (values []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.delivered {
		if r := &o.delivered[i]; r.Definition.Name() == typ && (id == "" || r.ID == id) {
			values = append(values, fmt.Sprint(r.Value))
		}
	}
	return values
}

// record appends an event and returns it.
func (o *office) record(d *aggregate.Definition, id string, event any) persistence.Event {
	o.t.Helper()
	e, err := EncodeEvent(d.MessageOf(event), event)
	require.NoError(o.t, err)
	return o.append(persistence.Stream{Type: d.Name(), ID: id}, e)
}

func (o *office) append(s persistence.Stream, e persistence.NewEvent) persistence.Event {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	p := persistence.PartitionOf(s, o.store.Meta().Partitions)
	f := o.fences[p]
	c := &persistence.Commit{
		Stream: s, Partition: p, Epoch: f.Epoch, Expected: o.versions[s], At: time.Now(),
		Command: persistence.CommandID(aggregate.NewCommandID()), Events: []persistence.NewEvent{e},
	}
	o.store.Append(context.Background(), &persistence.Batch{Owner: "a", Fences: []persistence.Fence{f}, Commits: []*persistence.Commit{c}})
	require.NoError(o.t, c.Err)
	f.Head++
	o.fences[p] = f
	o.versions[s]++
	return persistence.Event{
		Partition: p, Offset: c.Offset, Epoch: f.Epoch, Stream: s, Version: o.versions[s], Type: e.Type, At: c.At, Command: c.Command, Payload: e.Payload,
	}
}

// courier starts one that owns everything.
func (o *office) courier(change func(*CourierConfig)) *Courier {
	o.t.Helper()
	config := CourierConfig{
		Process: relays.Definition(), Store: o.store, Deliver: o.deliver, Owned: o.owned, Poll: 5 * time.Millisecond, Patience: time.Second,
		Backoff: time.Millisecond,
	}
	if change != nil {
		change(&config)
	}
	c, err := StartCourier(config)
	require.NoError(o.t, err)
	o.t.Cleanup(c.Stop)
	for p := range o.store.Meta().Partitions {
		c.Own(persistence.Partition(p))
	}
	return c
}

func (o *office) eventually(what string, is func() bool) {
	o.t.Helper()
	require.Eventually(o.t, is, patience, 2*time.Millisecond, what)
}

func onOfficeStores(t *testing.T, test func(t *testing.T, o *office)) {
	open := map[string]func(t *testing.T) (persistence.Store, error){
		"memory": func(*testing.T) (persistence.Store, error) { return memory.Open(memory.Config{Partitions: 4}) },
		"sqlite": func(t *testing.T) (persistence.Store, error) {
			return sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: 4})
		},
		"postgres": func(t *testing.T) (persistence.Store, error) {
			return postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: 4})
		},
	}
	for name, open := range open {
		t.Run(name, func(t *testing.T) {
			store, err := open(t)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			test(t, newOffice(t, store))
		})
	}
}

func TestEventsBecomeInputsAndSendsInTheirOrder(t *testing.T) {
	onOfficeStores(t, func(t *testing.T, o *office) {
		c := o.courier(nil)
		for n := 1; n <= 5; n++ {
			o.record(pokes.Definition(), "p", poked{n})
			o.record(pokes.Definition(), "p", poked{0}) // none of its business
			e := o.record(relays.Definition(), "r", relayed{n})
			c.Publish([]persistence.Event{e})
		}
		o.eventually("all is delivered", func() bool { return len(o.got("relay", "")) == 10 && len(o.got("poke", "")) == 10 })
		require.Equal(t, []string{"{1}", "{2}", "{3}", "{4}", "{5}"}, o.got("relay", "from-p"))
		require.Equal(t, []string{"{1}", "{2}", "{3}", "{4}", "{5}"}, o.got("relay", "r"), "acknowledgements")
		require.Equal(t, []string{"{1}", "{-1}", "{2}", "{-2}", "{3}", "{-3}", "{4}", "{-4}", "{5}", "{-5}"}, o.got("poke", "target"))
		o.mu.Lock()
		defer o.mu.Unlock()
		seen := map[aggregate.CommandID]bool{}
		for i := range o.delivered {
			r := &o.delivered[i]
			require.True(t, r.Caused)
			require.NotEmpty(t, r.Metadata.Correlation)
			require.False(t, seen[r.Command], "every command has an id of its own")
			seen[r.Command] = true
		}
	})
}

func TestWhatWasUnderWayIsSentAgainUnderTheSameIds(t *testing.T) {
	onOfficeStores(t, func(t *testing.T, o *office) {
		held := make(chan struct{}, 100)
		o.says(func(ctx context.Context, r *aggregate.Request) error {
			if r.Value == any(poke{-3}) {
				held <- struct{}{}
				<-ctx.Done()
				return aggregate.UnknownOutcome(aggregate.ReasonDeadline, ctx.Err())
			}
			return nil
		})
		first := o.courier(nil)
		for n := 1; n <= 3; n++ {
			o.record(relays.Definition(), "r", relayed{n})
		}
		<-held
		first.Stop()
		before := len(o.delivered)
		o.says(nil)
		o.courier(nil)
		o.eventually("the rest is delivered", func() bool { return len(o.got("relay", "r")) >= 3 })
		ids := map[string]aggregate.CommandID{}
		for i := range o.delivered {
			r := &o.delivered[i]
			key := fmt.Sprintf("%s %v", r.ID, r.Value)
			if id, again := ids[key]; again {
				require.Equal(t, id, r.Command)
			}
			ids[key] = r.Command
		}
		require.Greater(t, len(o.delivered), before)
		require.Len(t, ids, 9)
	})
}

func TestATargetThatDoesNotAnswerHoldsUpNobodyElse(t *testing.T) {
	o := newOffice(t, memoryStore(t, 1)) // all in one partition
	o.says(func(ctx context.Context, r *aggregate.Request) error {
		if r.Value == any(poke{1}) {
			<-ctx.Done()
			return aggregate.UnknownOutcome(aggregate.ReasonDeadline, ctx.Err())
		}
		return nil
	})
	c := o.courier(func(config *CourierConfig) { config.Parallel, config.Patience = 4, 20*time.Millisecond })
	for i := range 8 { // more than there are workers
		o.record(relays.Definition(), fmt.Sprint("stuck", i), relayed{1})
	}
	for i := range 40 {
		o.record(relays.Definition(), fmt.Sprint("free", i), relayed{2})
	}
	o.eventually("the others go on", func() bool { return len(o.got("poke", "target")) == 80 })
	require.Equal(t, 8, c.Progress().Pending)
	require.Positive(t, c.Progress().Retries)
	cursors, err := o.store.LoadCheckpoints(t.Context(), courierName("relay"))
	require.NoError(t, err)
	for _, at := range cursors {
		require.Zero(t, at.After, "what is not done is not passed")
	}
	o.says(nil)
	o.eventually("it gets through at last", func() bool { return c.Progress().Pending == 0 })
}

func TestThoseThatFailedBeforeLeaveHalfOfTheWorkersToOthers(t *testing.T) {
	o := newOffice(t, memoryStore(t, 1))
	var tried sync.Map
	o.says(func(ctx context.Context, r *aggregate.Request) error {
		if r.Value != any(poke{1}) {
			return nil
		}
		if _, again := tried.LoadOrStore(r.Command, true); again {
			<-ctx.Done() // nobody answers
		}
		return aggregate.NotDone(aggregate.ReasonNoOwner, nil)
	})
	c := o.courier(func(config *CourierConfig) { config.Parallel, config.Patience = 4, time.Minute })
	for i := range 8 {
		o.record(relays.Definition(), fmt.Sprint("stuck", i), relayed{1})
	}
	o.eventually("all have failed once", func() bool { return c.Progress().Retries == 8 })
	for i := range 30 {
		o.record(relays.Definition(), fmt.Sprint("free", i), relayed{2})
		o.eventually("the next goes through", func() bool { return len(o.got("poke", "target")) == 2*(i+1) })
	}
}

func TestAFailureThatTimeDoesNotCureParksItsSequenceAlone(t *testing.T) {
	onOfficeStores(t, func(t *testing.T, o *office) {
		boom := aggregate.NotDone(aggregate.ReasonPanic, errors.New("boom"))
		o.says(func(_ context.Context, r *aggregate.Request) error {
			if r.Value == any(poke{1}) && r.Refusal == nil {
				return boom
			}
			return nil
		})
		c := o.courier(nil)
		o.record(relays.Definition(), "bad", relayed{1})
		o.record(relays.Definition(), "bad", relayed{2})
		o.record(relays.Definition(), "good", relayed{3})
		var letters []persistence.DeadLetter
		o.eventually("two letters", func() bool {
			var err error
			letters, err = c.Parked(t.Context(), persistence.DeadLetterKey{}, 10)
			return err == nil && len(letters) == 2
		})
		require.Equal(t, 5, letters[0].Attempts)
		require.Contains(t, letters[0].Cause, "boom")
		o.eventually("the other goes on", func() bool { return len(o.got("relay", "good")) == 1 })
		c.Stop()

		again := o.courier(nil) // another node
		require.ErrorContains(t, again.Resume(t.Context(), "sends of relay/bad"), "boom")
		o.record(relays.Definition(), "bad", relayed{4})
		o.eventually("what comes later stands behind", func() bool {
			letters, err := again.Parked(t.Context(), persistence.DeadLetterKey{}, 10)
			return err == nil && len(letters) == 3
		})
		o.says(nil)
		require.NoError(t, again.Resume(t.Context(), "sends of relay/bad"))
		o.eventually("all of it follows", func() bool { return len(o.got("relay", "bad")) == 3 })
		require.Equal(t, []string{"{1}", "{2}", "{4}"}, o.got("relay", "bad"))
		o.eventually("nothing is parked", func() bool { return again.Progress().Parked == 0 })
	})
}

func TestAFullWindowPutsAsideWhatDoesNotGetThrough(t *testing.T) {
	o := newOffice(t, memoryStore(t, 1))
	down := aggregate.NotDone(aggregate.ReasonNoOwner, nil)
	o.says(func(_ context.Context, r *aggregate.Request) error {
		if r.Value == any(poke{1}) {
			return down
		}
		return nil
	})
	clock := newFastClock()
	c := o.courier(func(config *CourierConfig) { config.Window, config.Clock = 8, clock })
	o.record(relays.Definition(), "stuck", relayed{1})
	for i := range 40 {
		o.record(relays.Definition(), fmt.Sprint("free", i), relayed{2})
	}
	o.eventually("the others go on", func() bool { return len(o.got("poke", "target")) == 80 })
	letters, err := c.Parked(t.Context(), persistence.DeadLetterKey{}, 10)
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Zero(t, letters[0].Attempts, "it goes on being tried")
	o.says(nil)
	o.eventually("it gets through at last", func() bool {
		return c.Progress().Parked == 0 && len(o.got("relay", "stuck")) == 1
	})
}

// fastClock runs a hundred times as fast.
type fastClock struct{ systemClock }

func newFastClock() fastClock { return fastClock{systemClock{time.Now()}} }

func (c fastClock) Now() time.Duration { return 100 * c.systemClock.Now() }

func (c fastClock) AfterFunc(d time.Duration, f func()) func() bool {
	return c.systemClock.AfterFunc(d/100, f)
}

func TestAnOutcomeIsWhatItWas(t *testing.T) {
	for _, r := range []*aggregate.Rejection{nil, aggregate.Reject("no", "never").With("k", "v")} {
		e, err := EncodeOutcome(r)
		require.NoError(t, err)
		require.True(t, IsOutcome(e.Type))
		back, err := DecodeOutcome(e.Payload)
		require.NoError(t, err)
		require.Equal(t, r, back)
	}
}

func TestTheIdOfACausedCommandNeverChanges(t *testing.T) {
	e := &persistence.Event{Partition: 7, Offset: 42, At: time.UnixMilli(1_700_000_000_000)}
	require.Equal(t, "018bcfe5-6800-740b-9c1e-97f4c4dd93f0", causedCommand(causedSend, "transfer", e, 1).String())
	require.True(t, e.At.Equal(causedCommand(causedSend, "transfer", e, 1).Time()))
	all := map[aggregate.CommandID]bool{}
	for _, kind := range []string{causedInput, causedSend, causedReply} {
		for _, process := range []string{"a", "ab"} {
			for index := range 3 {
				all[causedCommand(kind, process, e, index)] = true
			}
		}
	}
	require.Len(t, all, 18)
}

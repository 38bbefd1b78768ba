package actor_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// planned is an event with whatever effects a test wants.
type planned struct {
	Set     []plan   `json:",omitempty"`
	Cancel  []string `json:",omitempty"`
	Claim   []string `json:",omitempty"`
	Release []string `json:",omitempty"`
}

type plan struct {
	Name string
	Due  time.Time
	Ring ring
}

func (planned) Evolve(*lab) {}

func (e planned) Timers() []aggregate.Timer[lab] {
	var timers []aggregate.Timer[lab]
	for _, p := range e.Set {
		timers = append(timers, aggregate.Timer[lab]{Name: p.Name, Due: p.Due, Command: p.Ring})
	}
	return timers
}

func (e planned) Cancels() []string           { return e.Cancel }
func (e planned) Claims() []aggregate.Claim   { return claims(e.Claim) }
func (e planned) Releases() []aggregate.Claim { return claims(e.Release) }

func claims(keys []string) (list []aggregate.Claim) {
	for _, key := range keys {
		list = append(list, aggregate.Claim{Namespace: "name", Key: key})
	}
	return list
}

// ring is what a timer sends.
type ring struct {
	N    int
	Mode string    `json:",omitempty"`
	Due  time.Time `json:",omitzero"`
}

// rings counts the calls of Decide, which the log does not tell.
var rings atomic.Int64

func (c ring) Decide(lab) ([]labEvent, error) {
	rings.Add(1)
	switch c.Mode {
	case "nothing":
		return nil, nil
	case "reject":
		return nil, errNegative
	case "panic":
		panic("ring")
	case "claim":
		return []labEvent{planned{Claim: []string{"bob"}}, noted{N: c.N}}, nil
	case "again":
		return []labEvent{noted{N: c.N}, planned{Set: []plan{{Name: "timer", Due: c.Due, Ring: ring{N: 100 * c.N}}}}}, nil
	}
	return []labEvent{noted{N: c.N}}, nil
}

var alarms = defineLab("alarm", aggregate.Accepts[ring]("ring"), aggregate.Records[planned]("planned"))

func startAlarms(t testing.TB, rules simulated.Rules, changes ...func(*actor.Config)) *fixture {
	f := start(t, append(changes, func(c *actor.Config) {
		c.Types = append(slices.Clone(c.Types), alarms)
		c.Simulated = &simulated.Seams{Without: rules}
	})...)
	f.eventually(f.host.AtRest, "the timers are loaded")
	return f
}

func (f *fixture) in(d time.Duration) time.Time { return f.clock.Wall().Add(d).UTC() }

// after is a command that sets the timer for some time from now.
func (f *fixture) after(d time.Duration, r ring) try {
	return events(planned{Set: []plan{{Name: "timer", Due: f.in(d), Ring: r}}})
}

// stored are the timers of the store.
func (f *fixture) stored() []persistence.Timer {
	f.t.Helper()
	var all []persistence.Partition
	for p := range partitions {
		all = append(all, persistence.Partition(p))
	}
	timers, err := f.store.DueTimers(f.t.Context(), all, f.in(1e6*time.Hour), 1e6)
	require.NoError(f.t, err)
	return timers
}

// settled waits until the timers fired are so many, lets some more time pass and
// makes sure that there are no others.
func (f *fixture) fired(n uint64) {
	f.t.Helper()
	f.eventually(func() bool {
		f.clock.Advance(time.Millisecond)
		return f.host.Stats().TimersFired >= n
	}, fmt.Sprintf("%d timers fire", n))
	f.quiet(time.Minute)
	require.Equal(f.t, n, f.host.Stats().TimersFired)
}

// quiet lets time pass, so that whatever would fire does.
func (f *fixture) quiet(d time.Duration) {
	f.t.Helper()
	for range 4 {
		f.clock.Advance(d / 4)
		f.host.ExtendLease(f.clock.Now() + time.Hour)
		f.eventually(func() bool {
			if f.host.Stats().InFlight == 0 && f.host.AtRest() {
				return true
			}
			f.clock.Advance(time.Millisecond) // for who went to sleep a moment after the time had moved
			return false
		}, "calls are answered, and timers fired")
	}
}

func TestTimerFiresOnceAndNotBeforeItsTime(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	set := f.send(alarms, "a", f.after(10*time.Second, ring{N: 1}), func(c *actor.Call) {
		c.Request.Metadata = aggregate.Metadata{User: "ada", Trace: "00-1"}
	})
	set.ok()
	timer := f.stored()[0]
	f.quiet(9 * time.Second)
	require.Zero(t, f.state(alarms, "a").N)
	f.clock.Advance(timer.Due.Sub(f.clock.Wall()) - time.Microsecond)
	f.eventually(f.host.AtRest, "nothing is due")
	require.Zero(t, f.state(alarms, "a").N)
	f.fired(1)
	require.Equal(t, 1, f.state(alarms, "a").N)
	require.Empty(t, f.stored())

	log, err := f.store.Read(t.Context(), streamOf(alarms, "a"), 1, 10)
	require.NoError(t, err)
	require.Len(t, log, 1)
	require.False(t, log[0].At.Before(timer.Due))
	require.Equal(t, eventsourcing.TimerCommand(&timer), aggregate.CommandID(log[0].Command))
	metadata, err := eventsourcing.DecodeMetadata(log[0].Metadata)
	require.NoError(t, err)
	require.Equal(t, aggregate.Metadata{
		User: "ada", Trace: "00-1", Correlation: set.id.String(), Causation: set.id.String(),
	}, metadata)
	stats := f.host.Stats()
	require.Equal(t, uint64(1), stats.TimersSet)
	require.Zero(t, stats.TimersLate+stats.TimersRetried)
	require.Zero(t, stats.TimerLag)
}

func TestTimerOfLongAgoAndOfLaterThanIsLoaded(t *testing.T) {
	f := startAlarms(t, simulated.Rules{}, func(c *actor.Config) { c.CommandRetention = time.Hour })
	f.send(alarms, "past", f.after(-48*time.Hour, ring{N: 1})).ok()
	f.fired(1)
	f.send(alarms, "future", f.after(50*time.Hour, ring{N: 2})).ok()
	f.quiet(49 * time.Hour)
	require.Equal(t, uint64(1), f.host.Stats().TimersFired)
	f.quiet(2 * time.Hour)
	f.fired(2)
	require.Equal(t, 2, f.state(alarms, "future").N, "though the aggregate had left memory")
	require.Zero(t, f.host.Stats().TimersLate)
}

func TestCancelledAndReplacedTimersDoNotFire(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	f.send(alarms, "a", f.after(10*time.Second, ring{N: 1})).ok()
	f.send(alarms, "b", f.after(10*time.Second, ring{N: 1})).ok()
	f.send(alarms, "a", events(planned{Cancel: []string{"timer", "none"}})).ok()
	f.send(alarms, "b", f.after(20*time.Second, ring{N: 2})).ok()
	f.quiet(15 * time.Second)
	require.Zero(t, f.host.Stats().TimersFired)
	f.quiet(10 * time.Second)
	f.fired(1)
	require.Zero(t, f.state(alarms, "a").N)
	require.Equal(t, 2, f.state(alarms, "b").N)
}

func TestLaterEventsOfACommandWin(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	set := planned{Set: []plan{{Name: "timer", Due: f.in(time.Second), Ring: ring{N: 1}}}, Claim: []string{"bob"}}
	unset := planned{Cancel: []string{"timer"}, Release: []string{"bob"}}
	f.send(alarms, "a", events(set, unset)).ok()
	f.send(alarms, "b", events(unset, set)).ok()
	f.send(alarms, "c", events(noted{N: 1}, set)).fails(aggregate.KindRejected, "claim-taken")
	require.Len(t, f.stored(), 1)
	f.quiet(2 * time.Second)
	f.fired(1)
	require.Zero(t, f.state(alarms, "a").N)
	require.Equal(t, 1, f.state(alarms, "b").N)
	require.Zero(t, f.state(alarms, "c").N, "what was not written is not kept")
	f.send(alarms, "b", events(unset)).ok()
	f.send(alarms, "c", events(noted{N: 1}, set)).ok()
}

// What was decided behind a command whose claim is taken was decided on a state
// that is not to be: it is not done, and may be sent again. What was decided before
// it stands.
func TestTakenClaimTakesNothingElseWithIt(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	f.send(alarms, "holder", events(planned{Claim: []string{"bob"}})).ok()
	stall := f.stallAppends()
	f.send(alarms, "other", note(1))
	await(t, stall.Reached(), "the append")
	before := f.send(alarms, "a", note(1))
	taken := f.send(alarms, "a", events(noted{N: 10}, planned{Claim: []string{"bob"}}))
	behind := f.send(alarms, "a", f.after(time.Second, ring{N: 1000}))
	query := f.send(alarms, "a", look{})
	f.eventually(func() bool { return f.host.Stats().TimersSet == 1 }, "the last of them is decided")
	stall.Release()
	before.ok()
	taken.fails(aggregate.KindRejected, "claim-taken")
	var rejection *aggregate.Rejection
	require.ErrorAs(t, taken.result().Err, &rejection)
	require.Equal(t, map[string]string{"namespace": "name", "key": "bob", "holder": "alarm/holder"}, rejection.Details)
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(behind.result().Err))
	if r := query.result(); r.Err == nil { // by the next activation
		require.Equal(t, 1, r.Response.Answer.(lab).N)
	}
	require.Equal(t, 1, f.state(alarms, "a").N)
	require.Empty(t, f.stored())
	f.quiet(time.Minute)
	require.Zero(t, f.host.Stats().TimersFired, "its timer was never set")
	f.send(alarms, "a", note(1), withID(behind.id)).ok()
}

// A timer that is on its way meets a command that takes it away.
func testOvertaken(t *testing.T, rules simulated.Rules) (n int) {
	f := startAlarms(t, rules)
	f.send(alarms, "a", f.after(time.Second, ring{N: 1})).ok()
	begun, proceed := make(chan struct{}), make(chan struct{})
	cancel := f.send(alarms, "a", try{decide: func(lab) ([]labEvent, error) {
		close(begun)
		<-proceed
		return []labEvent{planned{Cancel: []string{"timer"}}}, nil
	}})
	await(t, begun, "the command")
	f.eventually(func() bool {
		f.clock.Advance(time.Second)
		return f.host.Stats().InFlight == 2
	}, "the timer stands behind it")
	close(proceed)
	cancel.ok()
	f.quiet(time.Minute)
	return f.state(alarms, "a").N
}

func TestTimerOnItsWayFindsThatItIsCancelled(t *testing.T) {
	require.Zero(t, testOvertaken(t, simulated.Rules{}))
	require.Equal(t, 1, testOvertaken(t, simulated.Rules{TimerCheck: true}), "the rule is not what holds it")
}

// A timer whose cancel is in flight does not fire, and does if the cancel fails.
func testUndone(t *testing.T, rules simulated.Rules, fault persistencetest.Fault) (fired uint64) {
	f := startAlarms(t, rules)
	f.send(alarms, "a", f.after(time.Second, ring{N: 1})).ok()
	stall := persistencetest.NewStall()
	fault.Before = stall.Hold
	var once atomic.Bool
	f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
		if once.Swap(true) {
			return persistencetest.Fault{}
		}
		return fault
	})
	cancel := f.send(alarms, "a", events(planned{Cancel: []string{"timer"}}))
	await(t, stall.Reached(), "the append")
	f.clock.Advance(2 * time.Second)
	require.Zero(t, f.host.Stats().TimersFired)
	stall.Release()
	cancel.result()
	f.quiet(8 * time.Second) // after a while it would be loaded anyway
	return f.host.Stats().TimersFired
}

func TestTimerIsThereAgainWhenItsCancelFailed(t *testing.T) {
	refused := persistencetest.Fault{Outcome: persistencetest.Refused, Err: persistence.ErrTooLarge}
	require.Zero(t, testUndone(t, simulated.Rules{}, persistencetest.Fault{}))
	require.Equal(t, uint64(1), testUndone(t, simulated.Rules{}, refused))
	require.Zero(t, testUndone(t, simulated.Rules{TimerReload: true}, refused), "the rule is not what brings it back")
}

// A timer's command that changes nothing ends the timer, here and for every later
// owner.
func testDecidedOnce(t *testing.T, rules simulated.Rules, mode string) (decided int64, left int) {
	f := startAlarms(t, rules)
	before := rings.Load()
	f.send(alarms, "a", f.after(time.Second, ring{N: 1, Mode: mode})).ok()
	f.quiet(2 * time.Second)
	f.fired(1)
	next := f.takeOver(partitionOf(alarms, "a"), 0)
	next.quiet(time.Minute)
	return rings.Load() - before, len(f.stored())
}

func TestTimerThatIsRejectedIsDone(t *testing.T) {
	for _, mode := range []string{"", "nothing", "reject"} {
		decided, left := testDecidedOnce(t, simulated.Rules{}, mode)
		require.Equal(t, int64(1), decided, mode)
		require.Zero(t, left, mode)
		decided, _ = testDecidedOnce(t, simulated.Rules{TimerCancel: true}, mode)
		require.Greater(t, decided, int64(1), "%s: the rule is not what ends it", mode)
	}
}

func TestTimerThatClaimsATakenValueIsDone(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	f.send(alarms, "holder", events(planned{Claim: []string{"bob"}})).ok()
	f.send(alarms, "a", f.after(time.Second, ring{N: 1, Mode: "claim"})).ok()
	f.quiet(2 * time.Second)
	f.fired(1)
	require.Zero(t, f.state(alarms, "a").N)
	require.Empty(t, f.stored())
}

func TestTimerMaySetItselfAnew(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	f.send(alarms, "a", f.after(time.Second, ring{N: 1, Mode: "again", Due: f.in(10 * time.Second)})).ok()
	f.quiet(2 * time.Second)
	require.Equal(t, 1, f.state(alarms, "a").N)
	require.Len(t, f.stored(), 1)
	f.quiet(10 * time.Second)
	f.fired(2)
	require.Equal(t, 101, f.state(alarms, "a").N)
	require.Empty(t, f.stored())
}

func TestTimerThatPanicsIsTriedAgainWithPauses(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	before := rings.Load()
	f.send(alarms, "bad", f.after(time.Second, ring{Mode: "panic"})).ok()
	f.send(alarms, "good", f.after(3*time.Second, ring{N: 1})).ok()
	for range 300 {
		f.quiet(time.Second)
	}
	f.eventually(func() bool { return f.host.Stats().TimersFired == 1 }, "the other fires")
	require.Equal(t, 1, f.state(alarms, "good").N)
	tries := rings.Load() - before
	require.Greater(t, tries, int64(8))
	require.Less(t, tries, int64(20), "the pauses do not grow")
	stats := f.host.Stats()
	require.GreaterOrEqual(t, stats.Panics, uint64(8))
	require.Equal(t, stats.Panics, stats.TimersRetried)
	require.Greater(t, stats.TimerLag, 4*time.Minute)
	require.Len(t, f.stored(), 1)
}

func TestTimersOfAPartitionFireAtItsOwnerOnly(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	p := partitionOf(alarms, "a")
	f.send(alarms, "a", f.after(time.Second, ring{N: 1})).ok()
	_, err := f.host.Release(t.Context(), p)
	require.NoError(t, err)
	f.quiet(time.Minute)
	require.Zero(t, f.host.Stats().TimersFired)
	require.Len(t, f.stored(), 1)
	next := f.takeOver(p, 0)
	next.fired(1) // at once, though it was due before
	require.Zero(t, f.host.Stats().TimersFired)
	require.Empty(t, f.stored())
	require.Equal(t, 1, next.state(alarms, "a").N)
}

func TestTimerFiresWhenTheStoreIsBack(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	f.send(alarms, "a", f.after(time.Second, ring{N: 1})).ok()
	f.failAppends(3, persistencetest.Fault{Outcome: persistencetest.Refused, Err: persistence.ErrTooLarge})
	for range 10 {
		f.quiet(2 * time.Second)
	}
	f.fired(1)
	require.Equal(t, 1, f.state(alarms, "a").N)
	require.Equal(t, uint64(3), f.host.Stats().TimersRetried)
}

func TestAllTimersOfAFlockFireOnce(t *testing.T) {
	const aggregates, each = 150, 100 // more than a page of one load
	f := startAlarms(t, simulated.Rules{})
	due := f.in(time.Hour)
	for a := range aggregates {
		e := planned{}
		for i := range each {
			e.Set = append(e.Set, plan{Name: fmt.Sprint("timer-", i), Due: due.Add(time.Duration(i%7) * time.Second), Ring: ring{N: 1}})
		}
		f.send(alarms, fmt.Sprint(a), events(e)).ok()
	}
	require.Len(t, f.stored(), aggregates*each)
	f.quiet(2 * time.Hour)
	f.fired(aggregates * each)
	require.Empty(t, f.stored())
	for a := range aggregates {
		_, version := f.replayed(alarms, fmt.Sprint(a))
		require.Equal(t, persistence.Version(each+1), version)
	}
}

// A timer that found no room in memory is loaded when it is due, not when more
// would have been loaded anyway.
func TestTimerThatFoundNoRoomIsNotLate(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	const commands, each = 64, 1024 // as many as are kept in memory
	due := f.in(20 * time.Second)
	for c := range commands {
		e := planned{}
		for i := range each {
			e.Set = append(e.Set, plan{Name: fmt.Sprint("timer-", c, "-", i), Due: due, Ring: ring{N: 1}})
		}
		f.send(alarms, "many", events(e)).ok()
	}
	other := "a"
	for partitionOf(alarms, other) == partitionOf(alarms, "many") {
		other += "a"
	}
	f.send(alarms, other, f.after(5*time.Second, ring{N: 1})).ok()
	f.clock.Advance(5 * time.Second)
	f.host.ExtendLease(f.clock.Now() + time.Hour)
	f.eventually(func() bool {
		f.clock.Advance(time.Millisecond)
		return f.host.Stats().TimersFired == 1
	}, "the timer fires")
	require.Zero(t, f.host.Stats().TimersLate)
}

func TestEffectsThatNoStoreCanKeepAreInvalid(t *testing.T) {
	f := startAlarms(t, simulated.Rules{})
	long := string(make([]byte, 300))
	for what, e := range map[string]labEvent{
		"a long name":    planned{Cancel: []string{long}},
		"no name":        planned{Set: []plan{{Due: f.in(0)}}},
		"no due":         planned{Set: []plan{{Name: "timer"}}},
		"a claim of NUL": planned{Claim: []string{"\x00"}},
	} {
		f.send(alarms, "a", events(noted{N: 1}, e)).fails(aggregate.KindInvalid, aggregate.ReasonBadEffect)
		require.Zero(t, f.state(alarms, "a").N, what)
	}
}

func TestHostWithoutTimersAsksForNone(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	faulty := persistencetest.WithFaults(store)
	var asked atomic.Bool
	faulty.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "DueTimers" {
			asked.Store(true)
		}
		return persistencetest.Fault{}
	})
	f := startOn(t, faulty)
	f.send(labs, "a", note(1)).ok()
	f.quiet(time.Hour)
	require.False(t, asked.Load())
}

// Timers are set, replaced and cancelled at random, while appends are refused, or
// come through without an answer, and the partition changes hands. In the end the
// log has what each timer that was left standing does, once, and the store agrees.
func TestTimersFireOnceWhateverHappens(t *testing.T) {
	random := seeded(t)
	for range 8 {
		f := startAlarms(t, simulated.Rules{})
		owner := f
		const aggregates = 4
		id := func() string { return fmt.Sprint("a", random.IntN(aggregates)) }
		var dice atomic.Uint64
		dice.Store(random.Uint64())
		f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
			switch dice.Add(0x9e3779b97f4a7c15) >> 60 {
			case 0:
				return persistencetest.Fault{Outcome: persistencetest.Refused, Err: persistence.ErrTooLarge}
			case 1:
				return persistencetest.Fault{Outcome: persistencetest.LostAnswer}
			case 2:
				return persistencetest.Fault{Outcome: persistencetest.LostRequest}
			}
			return persistencetest.Fault{}
		})
		for range 60 {
			name := fmt.Sprint("timer", random.IntN(3))
			switch random.IntN(8) {
			case 0, 1, 2:
				owner.send(alarms, id(), events(planned{Set: []plan{{Name: name, Due: f.in(time.Duration(random.IntN(4000)) * time.Millisecond), Ring: ring{N: 1}}}}))
			case 3:
				owner.send(alarms, id(), events(planned{Cancel: []string{name}}))
			case 4:
				owner.send(alarms, id(), note(1))
			case 5:
				if random.IntN(4) == 0 {
					next := f.join()
					for i := range aggregates {
						next.claimOnce(partitionOf(alarms, fmt.Sprint("a", i)))
					}
					t.Cleanup(func() { stopHost(t, next.host) })
					next.host.ExtendLease(f.clock.Now() + time.Hour)
					owner = next
				}
			default:
				f.clock.Advance(time.Duration(random.IntN(1000)) * time.Millisecond)
			}
		}
		f.store.OnAppend(nil)
		owner.eventually(func() bool {
			f.clock.Advance(100 * time.Millisecond)
			owner.host.ExtendLease(f.clock.Now() + time.Hour)
			return owner.host.Stats().InFlight == 0 && owner.host.AtRest() && len(owner.stored()) == 0
		}, "all timers fire")
		differences, err := eventsourcing.CheckEffects(t.Context(), f.store, f.in(-1e6*time.Hour), alarms)
		require.NoError(t, err)
		require.Empty(t, differences, "a timer is lost")
		for i := range aggregates {
			log, err := f.store.Read(t.Context(), streamOf(alarms, fmt.Sprint("a", i)), 0, 10_000)
			require.NoError(t, err)
			seen := map[persistence.CommandID]bool{}
			for _, e := range log {
				require.False(t, seen[e.Command], "a command has happened twice")
				seen[e.Command] = true
			}
		}
	}
}

// claimOnce takes a partition by force, unless it has it.
func (f *fixture) claimOnce(p persistence.Partition) {
	if f.host.Epoch(p) == 0 {
		f.claim(p, 0)
	}
}

// lateTimers is a store whose answer about timers can be held up.
type lateTimers struct {
	persistence.Store
	hold atomic.Pointer[chan struct{}]
	held chan struct{}
}

func (s *lateTimers) DueTimers(ctx context.Context, p []persistence.Partition, until time.Time, limit int) ([]persistence.Timer, error) {
	timers, err := s.Store.DueTimers(ctx, p, until, limit)
	if hold := s.hold.Load(); hold != nil {
		s.held <- struct{}{}
		<-*hold
	}
	return timers, err
}

// What commits do while a load is under way is not undone by what it brings.
func TestLoadedTimersAreNoNewsAgainstCommits(t *testing.T) {
	late := &lateTimers{held: make(chan struct{}, 10)}
	f := startAlarms(t, simulated.Rules{}, func(c *actor.Config) {
		late.Store = c.Store
		c.Store = late
	})
	f.send(alarms, "a", events(planned{Set: []plan{
		{Name: "cancelled", Due: f.in(time.Second), Ring: ring{N: 1}}, {Name: "replaced", Due: f.in(time.Second), Ring: ring{N: 10}},
	}})).ok()
	release := make(chan struct{})
	late.hold.Store(&release)
	next := f.takeOver(partitionOf(alarms, "a"), 0)
	await(t, late.held, "the load")
	late.hold.Store(nil)
	next.send(alarms, "a", events(planned{Cancel: []string{"cancelled"}, Set: []plan{
		{Name: "replaced", Due: f.in(3 * time.Second), Ring: ring{N: 100}}, {Name: "new", Due: f.in(2 * time.Second), Ring: ring{N: 1000}},
	}})).ok()
	f.clock.Advance(1500 * time.Millisecond)
	close(release)
	next.quiet(time.Second)
	require.Equal(t, 1000, next.state(alarms, "a").N)
	next.quiet(10 * time.Second)
	require.Equal(t, 1100, next.state(alarms, "a").N)
	require.Empty(t, next.stored())
}

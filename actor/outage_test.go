package actor_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// attempts counts what comes to a store that is down.
type attempts struct{ appends, calls atomic.Int64 }

// down lets the store refuse what the masks say, and counts it.
func (f *fixture) down(appends, calls bool) *attempts {
	a := &attempts{}
	if appends {
		f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault {
			a.appends.Add(1)
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		})
	}
	if calls {
		f.store.OnCall(func(persistencetest.Call) persistencetest.Fault {
			a.calls.Add(1)
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		})
	}
	return a
}

func (p *pending) isDown() {
	p.t.Helper()
	p.fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
}

// populate brings so many aggregates into memory, each with one event.
func (f *fixture) populate(n int) (ids []string) {
	f.t.Helper()
	for i := range n {
		ids = append(ids, fmt.Sprint("in-memory-", i))
		f.send(labs, ids[i], note(1)).ok()
	}
	return ids
}

func TestMemoryOutlivesTheStore(t *testing.T) {
	f := start(t)
	ids := f.populate(10)
	before := f.host.Stats()
	tried := f.down(true, true)
	f.send(labs, ids[0], note(1)).isDown() // was on its way
	f.send(labs, ids[1], note(1)).isDown() // was let through
	kept := ids[2:]
	for range 20 {
		for _, id := range kept {
			f.send(labs, id, note(1)).isDown()
			f.send(labs, id, refuse()).fails(aggregate.KindRejected, "negative")
			f.send(labs, id, idle()).ok()
			require.Equal(t, 1, f.state(labs, id).N)
		}
	}
	require.EqualValues(t, 2, tried.appends.Load())
	require.Equal(t, before.StoreErrors+2, f.host.Stats().StoreErrors)
	require.Equal(t, before.Refused+20*uint64(len(kept)), f.host.Stats().Refused)

	f.store.Heal()
	f.host.ExtendLease(f.clock.Now() + 2*time.Hour)
	for _, id := range kept {
		f.send(labs, id, note(1)).ok()
		require.Equal(t, 2, f.state(labs, id).N)
	}
	require.Equal(t, before.Loads, f.host.Stats().Loads, "an aggregate without a commit on its way has left memory")
	for _, id := range ids[:2] {
		f.send(labs, id, note(1)).ok()
		require.Equal(t, 2, f.version(labs, id))
	}
	require.Equal(t, before.Loads+2, f.host.Stats().Loads)
}

// While the store takes no commits it may answer reads.
func TestOneCommitIsLetThroughAfterEveryPause(t *testing.T) {
	f := start(t)
	ids := f.populate(3)
	tried := f.down(true, false)
	round := func() {
		for _, id := range ids {
			f.send(labs, id, note(1)).isDown()
		}
	}
	round()
	want := int64(2) // the first, and one to see whether it is more than a hiccup
	require.Equal(t, want, tried.appends.Load())
	for _, pause := range []int{10, 20, 40, 80, 160, 250, 250, 250} {
		f.clock.Advance(time.Duration(pause)*time.Millisecond - 1)
		round()
		require.Equal(t, want, tried.appends.Load(), "before %d ms", pause)
		f.clock.Advance(1)
		round()
		want++
		require.Equal(t, want, tried.appends.Load(), "after %d ms", pause)
	}
	require.Equal(t, 1, f.state(labs, "never seen before").N+1, "reads go on")

	f.store.Heal()
	f.clock.Advance(250 * time.Millisecond)
	f.send(labs, ids[0], note(1)).ok()
	f.down(true, false)
	f.clock.Advance(time.Minute)
	f.send(labs, ids[0], note(1)).isDown()
	f.send(labs, ids[1], note(1)).isDown()
	f.store.Heal()
	f.clock.Advance(10 * time.Millisecond) // the pauses have begun anew
	f.send(labs, ids[0], note(1)).ok()
}

func TestOneReadIsLetThroughAfterEveryPause(t *testing.T) {
	for name, read := range map[string]func(f *fixture, i int) *pending{
		"load": func(f *fixture, i int) *pending { return f.send(labs, fmt.Sprint("cold-", i), look{}) },
		"barrier": func(f *fixture, _ int) *pending {
			f.host.DropLease()
			return f.send(labs, "in-memory-0", look{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.populate(1)
			before := f.host.Stats()
			tried := f.down(false, true)
			round := func() {
				for i := range 20 {
					read(f, i).isDown()
				}
			}
			round()
			require.EqualValues(t, 2, tried.calls.Load())
			f.clock.Advance(10 * time.Millisecond)
			round()
			require.EqualValues(t, 3, tried.calls.Load())
			after := f.host.Stats()
			require.LessOrEqual(t, after.Activations-before.Activations, uint64(3))
			require.EqualValues(t, 3, after.Loads-before.Loads+after.Barriers-before.Barriers)
			f.store.Heal()
			read(f, 0).isDown()
			f.send(labs, "in-memory-0", note(1)).ok() // commits are not concerned, and say that the store is back
			read(f, 0).ok()
		})
	}
}

// Who asked before the outage was known may wait for long. Nobody waits behind him.
func TestNobodyWaitsBehindAnAttemptThatHangs(t *testing.T) {
	f := start(t)
	ids := f.populate(3)
	stall := persistencetest.NewStall()
	f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault { return persistencetest.Fault{Before: stall.Hold} })
	f.store.OnCall(func(persistencetest.Call) persistencetest.Fault { return persistencetest.Fault{Before: stall.Hold} })
	t.Cleanup(stall.Release)
	f.host.DropLease()
	var hanging []*pending
	for _, call := range []struct {
		id      string
		message any
	}{{ids[0], look{}}, {"cold-0", look{}}, {"cold-1", look{}}, {ids[1], note(1)}} { // the barrier, every loader, a lane
		hanging = append(hanging, f.send(labs, call.id, call.message))
		await(t, stall.Reached(), "the attempt")
	}
	hanging = append(hanging, f.send(labs, "cold-2", look{}))
	f.host.LoseStore(errors.New("no lease"))
	// one of each is let through, and hangs too
	hanging = append(hanging, f.send(labs, "cold-3", look{}), f.send(labs, ids[1], note(1)))
	f.turnEnded(labs, ids[1])
	for range 10 {
		f.send(labs, ids[2], note(1)).isDown()
		f.send(labs, ids[2], look{}).isDown()
		f.send(labs, "cold-4", look{}).isDown()
	}
	for _, call := range hanging {
		require.False(t, call.answered())
	}
	stall.Release()
	for _, call := range hanging {
		call.ok()
	}
	f.send(labs, ids[2], note(1)).ok()
	f.send(labs, "cold-4", look{}).ok()
}

// Whatever ends an outage ends it at once, and says so to whoever waits.
func TestAnyAnswerOfTheStoreEndsTheOutage(t *testing.T) {
	for name, answer := range map[string]func(f *fixture, p persistence.Partition){
		"commit": func(f *fixture, _ persistence.Partition) {
			f.clock.Advance(time.Second)
			f.send(labs, "in-memory-0", note(1)).ok()
		},
		"refused commit": func(f *fixture, p persistence.Partition) {
			f.takeOver(p, 0)
			f.clock.Advance(time.Second)
			f.send(labs, "in-memory-0", note(1)).fails(aggregate.KindNotDone, aggregate.ReasonMoved)
		},
		"lease": func(f *fixture, _ persistence.Partition) { f.host.ExtendLease(f.clock.Now() + time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			var back atomic.Int64
			f := start(t, func(c *actor.Config) { c.OnStoreBack = func() { back.Add(1) } })
			f.populate(5)
			p := partitionOf(labs, "in-memory-0")
			other := f.otherPartition(p)
			f.send(labs, other, note(1)).ok()
			f.down(true, true)
			f.host.LoseStore(errors.New("no lease"))
			f.clock.Advance(time.Hour - time.Minute) // the lease is still there
			for range 5 {                            // the first are let through
				f.send(labs, "in-memory-4", note(1)).isDown()
				f.send(labs, "cold", look{}).isDown()
			}
			require.True(t, f.host.StoreLost())
			require.Zero(t, back.Load())
			f.store.Heal()
			f.send(labs, other, note(1)).isDown()
			answer(f, p)
			f.eventually(func() bool { return back.Load() == 2 }, "commits and reads are back")
			require.False(t, f.host.StoreLost())
			for range 5 {
				f.send(labs, other, note(1)).ok()
			}
			require.Equal(t, lab{}, f.state(labs, other+"-cold"))
		})
	}
}

// A lease that is renewed while commits fail all the same does not make the
// store be asked more and more often.
func TestPausesGoOnGrowingUntilACommitIsTaken(t *testing.T) {
	f := start(t)
	ids := f.populate(2)
	tried := f.down(true, false)
	for _, id := range ids {
		f.send(labs, id, note(1)).isDown()
	}
	for i, pause := range []int{20, 40, 80} {
		f.host.ExtendLease(f.clock.Now() + time.Hour)
		for range 3 {
			f.send(labs, ids[0], note(1)).isDown()
		}
		require.EqualValues(t, 3+i, tried.appends.Load())
		f.clock.Advance(time.Duration(pause)*time.Millisecond - 1)
		f.send(labs, ids[0], note(1)).isDown()
		require.EqualValues(t, 3+i, tried.appends.Load())
	}
	f.store.Heal()
	f.host.ExtendLease(f.clock.Now() + time.Hour)
	f.send(labs, ids[0], note(1)).ok()
}

// The clock stands still: only the news ends the pauses of who looks for the
// fate of a commit.
func TestFateOfACommitIsLookedForWhenTheStoreIsBack(t *testing.T) {
	for name, outcome := range map[string]persistencetest.Outcome{
		"happened": persistencetest.LostAnswer, "did not happen": persistencetest.LostRequest,
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			ids := f.populate(5)
			f.store.OnAppend(func(*persistence.Batch) persistencetest.Fault { return persistencetest.Fault{Outcome: outcome} })
			claims := make(chan struct{}, 1000)
			f.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
				if c.Method == "Claim" {
					claims <- struct{}{}
				}
				return persistencetest.Fault{Outcome: persistencetest.Refused}
			})
			unsure := f.send(labs, ids[0], note(1))
			await(t, claims, "the fencing claim")
			f.eventually(f.host.StoreLost, "the outage is known")
			f.store.Heal()
			f.host.ExtendLease(f.clock.Now() + 2*time.Hour)
			unsure.ok()
			require.Equal(t, f.version(labs, ids[0]), f.state(labs, ids[0]).N)
			f.send(labs, ids[1], note(1)).ok()
		})
	}
}

func TestOutageIsLoggedAtItsBeginAndItsEnd(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	lines := func() []string {
		mu.Lock()
		defer mu.Unlock()
		var found []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "store ") {
				found = append(found, line)
			}
		}
		return found
	}
	f := start(t, func(c *actor.Config) { c.Logger = slog.New(slog.NewTextHandler(locked{&mu, &log}, nil)) })
	ids := f.populate(2)
	outage := func(lasting time.Duration) {
		f.down(true, false)
		for range 50 {
			for _, id := range ids {
				f.send(labs, id, note(1)).isDown()
			}
			f.clock.Advance(lasting / 50)
		}
		f.store.Heal()
		f.clock.Advance(250 * time.Millisecond)
		f.send(labs, ids[0], note(1)).ok()
	}
	outage(5 * time.Second)
	require.Len(t, lines(), 2)
	require.Contains(t, lines()[0], "level=WARN msg=\"store not reached\" node="+string(f.config.Node)+" for=commits error=\"injected fault\"")
	require.Contains(t, lines()[1], "level=INFO msg=\"store reached again\" node="+string(f.config.Node)+" for=commits refused=")
	require.Contains(t, lines()[1], "after=5.25s")
	outage(time.Second) // soon after the first, and short
	require.Len(t, lines(), 2)
	outage(6 * time.Second) // soon after it too, and long
	require.Len(t, lines(), 4)
	require.Contains(t, lines()[3], "after=6.25s")
}

// locked is a writer that many goroutines use.
type locked struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// A store that comes and goes: what is acknowledged is in the log, once, and
// nobody is left without an answer.
func TestNothingIsLostWhileTheStoreComesAndGoes(t *testing.T) {
	f := start(t)
	ids := f.populate(20)
	acknowledged := make([]int, len(ids))
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for i, id := range ids {
		acknowledged[i] = 1
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				command := f.send(labs, id, note(1))
				for aggregate.KindOf(command.result().Err) == aggregate.KindNotDone {
					command = f.send(labs, id, note(1), withID(command.id))
				}
				if command.result().Err == nil {
					acknowledged[i]++
				}
			}
		})
	}
	random := seeded(t)
	for i := range 100 {
		dice := persistencetest.NewDice(random.Uint64(), persistencetest.Odds{Refused: 0.3, LostRequest: 0.3, LostAnswer: 0.3})
		var appends atomic.Int64
		f.store.OnAppend(func(b *persistence.Batch) persistencetest.Fault {
			fault := dice.Append(b)
			if appends.Add(1)%2 == 0 {
				fault.Err = persistence.ErrUnreachable
			}
			return fault
		})
		f.store.OnCall(dice.Call)
		f.clock.Advance(20 * time.Millisecond)
		f.store.Heal()
		commits := f.host.Stats().Commits
		if i%2 == 0 {
			f.host.ExtendLease(f.clock.Now() + time.Hour)
		}
		f.eventually(func() bool {
			f.clock.Advance(10 * time.Millisecond)
			return f.host.Stats().Commits > commits
		}, "the store is used again")
	}
	close(stop)
	callers.Wait()
	for i, id := range ids {
		require.Equal(t, acknowledged[i], f.version(labs, id))
		require.Equal(t, acknowledged[i], f.state(labs, id).N)
	}
}

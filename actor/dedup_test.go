package actor_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// sentAgain requires that a repeated command has its first receipt and no
// second effect. // I5
func (f *fixture) sentAgain(a aggregate.Any, first aggregate.Receipt) {
	f.t.Helper()
	before := f.version(a, "a")
	r := f.send(a, "a", note(1000), withID(first.Command)).ok().Receipt
	require.True(f.t, r.Duplicate)
	r.Duplicate = false
	require.Equal(f.t, first, r)
	require.Equal(f.t, before, f.version(a, "a"))
}

func TestOneCommandIDHasOneEffect(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1)).ok().Receipt
	f.sentAgain(labs, first)
	f.send(labs, "a", note(1)).ok()
	f.sentAgain(labs, first)
	f.passivateAll()
	f.sentAgain(labs, first)
	require.Equal(t, uint64(3), f.host.Stats().Duplicates)
	require.Zero(t, f.host.Stats().Lookups, "the window should have known")
}

func TestOneCommandIDHasOneEffectAfterASnapshot(t *testing.T) {
	f := start(t)
	first := f.send(frequent, "a", events(noted{N: 1}, noted{N: 2})).ok().Receipt
	require.Equal(t, 2, first.Events)
	f.passivateAll()
	f.snapshotAt(frequent, "a", 2)
	f.sentAgain(frequent, first)

	// the command that is due for a snapshot is in it, but its offset is not
	var last aggregate.Receipt
	for range 10 {
		last = f.send(frequent, "a", note(1)).ok().Receipt
	}
	f.snapshotAt(frequent, "a", 12)
	require.NoError(t, f.store.Close())
	g := startOn(t, persistencetest.WithFaults(f.store.Unwrap().(*memory.Store).Reopen()))
	g.sentAgain(frequent, last)
	require.Equal(t, uint64(1), g.host.Stats().Lookups)
	g.sentAgain(frequent, first)
}

// snapshotAt waits until the store has a snapshot of a version.
func (f *fixture) snapshotAt(a aggregate.Any, id string, version persistence.Version) {
	f.t.Helper()
	f.eventually(func() bool {
		h, err := f.store.ReadMany(context.Background(), []persistence.Stream{streamOf(a, id)}, 1)
		return err == nil && h[0].Snapshot != nil && h[0].Snapshot.Version == version
	}, "snapshot at version "+strconv.Itoa(int(version)))
}

func TestConcurrentDeliveriesOfOneIDHaveOneEffect(t *testing.T) {
	f := start(t)
	for range 20 {
		id := aggregate.CommandIDAt(f.clock.Wall())
		var group sync.WaitGroup
		var originals atomic.Int32
		for range 16 {
			group.Go(func() {
				if !f.send(labs, "a", note(1), withID(id)).ok().Receipt.Duplicate {
					originals.Add(1)
				}
			})
		}
		group.Wait()
		require.Equal(t, int32(1), originals.Load())
	}
	require.Equal(t, 20, f.state(labs, "a").N)
}

// overflow makes an aggregate forget, in its window, everything up to now.
func (f *fixture) overflow(id string) {
	f.t.Helper()
	f.clock.Advance(20 * time.Second)
	for range 40 {
		f.send(labs, id, note(1)).ok()
	}
}

func TestOneCommandIDHasOneEffectAfterItFellOutOfTheWindow(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", events(noted{N: 1}, noted{N: 1}, noted{N: 1})).ok().Receipt
	f.overflow("a")
	f.sentAgain(labs, first)
	require.Equal(t, uint64(1), f.host.Stats().Lookups)

	// an id that is just as old but was never handled is executed, once
	id := aggregate.CommandIDAt(f.clock.Wall().Add(-time.Minute))
	require.False(t, f.send(labs, "a", note(1), withID(id)).ok().Receipt.Duplicate)
	require.True(t, f.send(labs, "a", note(1), withID(id)).ok().Receipt.Duplicate)
}

// The command leaves the window while its commit is still in flight: neither
// the window nor the log knows it then.
func TestOneCommandIDHasOneEffectWhenTheStoreStalls(t *testing.T) {
	f := start(t)
	f.state(labs, "a")
	stall := f.stallAppends()
	first := f.send(labs, "a", note(1))
	f.clock.Advance(20 * time.Second)
	for range 40 {
		f.send(labs, "a", note(1))
	}
	await(t, stall.Reached(), "the append")
	again := f.send(labs, "a", note(1000), withID(first.id))
	f.turnEnded(labs, "a")
	require.Zero(t, f.host.Stats().Lookups, "the log cannot tell yet")
	stall.Release()
	require.True(t, again.ok().Receipt.Duplicate)
	require.Equal(t, 41, f.state(labs, "a").N)
}

// slowFind is a store that holds what FindCommand has found.
type slowFind struct {
	*memory.Store
	hold func()
}

func (s slowFind) FindCommand(ctx context.Context, stream persistence.Stream, id persistence.CommandID) (persistence.CommandRecord, bool, error) {
	r, found, err := s.Store.FindCommand(ctx, stream, id)
	s.hold()
	return r, found, err
}

// The log said that the id was new, but by the time this is known the command
// has been executed, and has fallen out of the window again.
func TestWhatTheLogSaidOfAnIDMayBeOutdated(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	slow := slowFind{Store: store, hold: func() {
		if calls.Add(1) == 1 {
			close(reached)
			<-goOn
		}
	}}
	f := startOn(t, persistencetest.WithFaults(slow))
	f.send(labs, "a", note(1)).ok()
	f.overflow("a")
	id := aggregate.CommandIDAt(f.clock.Wall().Add(-time.Minute))
	slowly := f.send(labs, "a", note(1), withID(id))
	await(t, reached, "the look-up")
	require.False(t, f.send(labs, "a", note(1), withID(id)).ok().Receipt.Duplicate)
	f.overflow("a")
	close(goOn)
	require.True(t, slowly.ok().Receipt.Duplicate)
	require.Equal(t, 82, f.state(labs, "a").N)
}

func TestRepeatedDoGetsTheAnswerOfThatVersion(t *testing.T) {
	f := start(t)
	first := f.send(labs, "a", note(1), asking)
	require.Equal(t, 1, first.ok().Answer)
	require.Equal(t, 1, f.send(labs, "a", note(1), asking, withID(first.id)).ok().Answer)
	f.send(labs, "a", note(10)).ok()
	require.Equal(t, 1, f.send(labs, "a", note(1), asking, withID(first.id)).ok().Answer)
	f.passivateAll()
	require.Equal(t, 1, f.send(labs, "a", note(1), asking, withID(first.id)).ok().Answer)
	f.overflow("a")
	r := f.send(labs, "a", note(1), asking, withID(first.id)).ok()
	require.Equal(t, 1, r.Answer)
	require.Equal(t, aggregate.Version(1), r.Receipt.Version)
	require.True(t, r.Receipt.Duplicate)
}

func TestCommandIDsThatAreTooOldOrFromTheFutureAreInvalid(t *testing.T) {
	f := start(t, func(c *actor.Config) { c.CommandRetention, c.CommandSkew = time.Hour, time.Minute })
	at := func(d time.Duration) callOption {
		return withID(aggregate.CommandIDAt(f.clock.Wall().Add(d)))
	}
	f.send(labs, "a", note(1), at(-59*time.Minute)).ok()
	f.send(labs, "a", note(1), at(59*time.Second)).ok()
	old := f.send(labs, "a", note(1), at(-time.Hour-time.Second))
	old.fails(aggregate.KindInvalid, aggregate.ReasonCommandTooOld)
	require.Regexp(t, ` was made at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z, the owner's clock says \d{4}-\S+Z; accepted: up to 1m ahead, 1h old$`,
		old.result().Err.Error())
	future := f.send(labs, "a", note(1), at(4*time.Minute+10*time.Second))
	future.fails(aggregate.KindInvalid, aggregate.ReasonCommandTooOld)
	// further away than a time.Duration can tell
	farAhead, farBehind := time.Date(2527, time.March, 1, 12, 0, 0, 5e6, time.UTC), time.UnixMilli(0)
	for made, text := range map[time.Time]string{farAhead: "2527-03-01T12:00:00.005Z", farBehind: "1970-01-01T00:00:00.000Z"} {
		far := f.send(labs, "a", note(1), withID(aggregate.CommandIDAt(made)))
		far.fails(aggregate.KindInvalid, aggregate.ReasonCommandTooOld)
		require.ErrorContains(t, far.result().Err, " was made at "+text+", the owner's clock says ")
	}
	f.send(labs, "a", note(1), at(61*time.Second)).fails(aggregate.KindInvalid, aggregate.ReasonCommandTooOld)
	f.send(labs, "a", note(1), withID(aggregate.CommandID{})).fails(aggregate.KindInvalid, aggregate.ReasonCommandTooOld)
	require.Equal(t, 2, f.state(labs, "a").N)
}

// Callers ask again after their deadline. If the log were still asked on behalf
// of each attempt that nobody awaits, those who wait would never be served.
func TestTheLogIsNotAskedForWhoHasGivenUp(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	goOn, calls := make(chan struct{}), make(chan struct{}, 10)
	f := startOn(t, persistencetest.WithFaults(slowFind{Store: store, hold: func() { calls <- struct{}{}; <-goOn }}))
	f.send(labs, "a", note(1)).ok()
	f.overflow("a")
	old := func() aggregate.CommandID { return aggregate.CommandIDAt(f.clock.Wall().Add(-time.Minute)) }
	first := f.send(labs, "a", note(1), withID(old()))
	await(t, calls, "a look into the log")
	second := f.send(labs, "a", note(1), withID(old()))
	await(t, calls, "another one, so that both loaders are busy")
	late := f.send(labs, "a", note(1), withID(old()), func(c *actor.Call) { c.Deadline = f.clock.Now() + time.Second })
	f.turnEnded(labs, "a") // it has been begun
	f.clock.Advance(2 * time.Second)
	close(goOn)
	late.fails(aggregate.KindNotDone, aggregate.ReasonDeadline)
	first.ok()
	second.ok()
	require.EqualValues(t, 2, f.host.Stats().Lookups)
}

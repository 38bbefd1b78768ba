package actor_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// doctor replaces the stored snapshot by one that says something else, so that
// one can see whether it is used.
func (f *fixture) doctor(a aggregate.Any, change func(s *persistence.Snapshot)) {
	f.t.Helper()
	d, s := a.Definition(), streamOf(a, "a")
	h, err := f.store.ReadMany(f.t.Context(), []persistence.Stream{s}, 1)
	require.NoError(f.t, err)
	require.NotNil(f.t, h[0].Snapshot)
	loaded := eventsourcing.NewJournal(f.store, slog.New(slog.DiscardHandler)).Load(f.t.Context(), []eventsourcing.Target{{Definition: d, Stream: s}})
	instance := d.NewInstance()
	instance.Evolve(noted{N: 1000})
	snapshot, err := eventsourcing.EncodeSnapshot(d, s, h[0].Snapshot.Version, h[0].Snapshot.Last, instance, &loaded[0].Window, f.clock.Wall())
	require.NoError(f.t, err)
	change(&snapshot)
	require.NoError(f.t, f.store.DeleteSnapshots(f.t.Context(), []persistence.Stream{s}))
	require.NoError(f.t, f.store.SaveSnapshots(f.t.Context(), []persistence.Snapshot{snapshot}))
}

func TestSnapshotIsTakenByCountAndUsed(t *testing.T) {
	f := start(t)
	for range 13 {
		f.send(frequent, "a", note(1)).ok()
	}
	f.snapshotAt(frequent, "a", 10)
	f.passivateAll()
	f.snapshotAt(frequent, "a", 13) // by passivation
	require.Equal(t, 13, f.state(frequent, "a").N)

	f.passivateAll()
	f.doctor(frequent, func(*persistence.Snapshot) {})
	require.Equal(t, 1000, f.state(frequent, "a").N)
	f.send(frequent, "a", note(5)).ok() // and only what came after is replayed
	require.Equal(t, 1005, f.state(frequent, "a").N)
}

func TestSnapshotIsTakenByBytes(t *testing.T) {
	f := start(t)
	for range 4 {
		f.send(bulky, "a", events(noted{N: 1, Text: strings.Repeat("x", 300)})).ok()
	}
	f.eventually(func() bool { return f.host.Stats().Snapshots == 1 }, "the snapshot")
	f.passivateAll()
	f.doctor(bulky, func(*persistence.Snapshot) {})
	require.GreaterOrEqual(t, f.state(bulky, "a").N, 1000)
}

func TestNoSnapshotIsTakenWhereTheyAreOff(t *testing.T) {
	f := start(t)
	for range 300 {
		f.send(bare, "a", note(1)).ok()
	}
	f.passivateAll()
	require.Equal(t, 300, f.state(bare, "a").N)
	require.Zero(t, f.host.Stats().Snapshots)
}

// A snapshot must not know of events that are not durable.
func TestSnapshotWaitsForTheCommitsInIt(t *testing.T) {
	for name, notes := range map[string]int{"by count": 9, "by passivation": 3} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(c *actor.Config) { c.MaxResident = 2 })
			f.send(frequent, "z", note(1)).ok()
			for range notes {
				f.send(frequent, "a", note(1)).ok()
			}
			stall := persistencetest.NewStall()
			t.Cleanup(stall.Release)
			f.failAppends(1, persistencetest.Fault{Outcome: persistencetest.Refused, Before: stall.Hold})
			last := f.send(frequent, "a", note(1000))
			await(t, stall.Reached(), "the append")
			for i := range 10 { // each asks the least recently used ones to leave
				f.clock.Advance(2 * time.Second)
				f.state(frequent, fmt.Sprint("other", i))
			}
			f.turnEnded(frequent, "a")
			// snapshots are stored in the order in which they are taken
			f.eventually(func() bool {
				f.clock.Advance(3 * time.Minute)
				return f.host.Stats().Resident == 1
			}, "all but one leave memory")
			f.snapshotAt(frequent, "z", 1)
			h, err := f.store.ReadMany(t.Context(), []persistence.Stream{streamOf(frequent, "a")}, 1)
			require.NoError(t, err)
			require.Nil(t, h[0].Snapshot)
			stall.Release()
			last.fails(aggregate.KindNotDone, aggregate.ReasonStoreDown)
			f.host.ExtendLease(f.clock.Now() + time.Hour)
			require.Equal(t, notes, f.state(frequent, "a").N)
			f.passivateAll()
			f.snapshotAt(frequent, "a", persistence.Version(notes))
		})
	}
}

func TestSnapshotThatCannotBeUsedMeansAReplay(t *testing.T) {
	for name, change := range map[string]func(*persistence.Snapshot){
		"other schema":   func(s *persistence.Snapshot) { s.Schema++ },
		"unknown format": func(s *persistence.Snapshot) { s.Payload[0] = 99 },
		"cut off":        func(s *persistence.Snapshot) { s.Payload = s.Payload[:len(s.Payload)-1] },
		"empty":          func(s *persistence.Snapshot) { s.Payload = nil },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			first := f.send(frequent, "a", note(1)).ok().Receipt
			for range 12 {
				f.send(frequent, "a", note(1)).ok()
			}
			f.passivateAll()
			f.snapshotAt(frequent, "a", 13)
			f.doctor(frequent, change)
			require.Equal(t, 13, f.state(frequent, "a").N)
			f.sentAgain(frequent, first)
		})
	}
}

func TestStateThatCannotBeEncodedOnlyMeansNoSnapshot(t *testing.T) {
	f := start(t)
	for range 25 {
		f.send(brittle, "a", shard{}).ok()
	}
	require.Zero(t, f.host.Stats().Snapshots)
}

// chip is a state that goes off when it is encoded.
type chip struct{ N int }

func (chip) MarshalJSON() ([]byte, error) { panic("no snapshot of this") }

type shard struct{}

func (shard) Decide(chip) ([]aggregate.Event[chip], error) {
	return []aggregate.Event[chip]{splintered{}}, nil
}

type splintered struct{}

func (splintered) Evolve(s *chip) { s.N++ }

var brittle = aggregate.Define("brittle", aggregate.Accepts[shard]("shard"), aggregate.Records[splintered]("splintered"),
	aggregate.Snapshots[chip](aggregate.SnapshotPolicy{Every: 10}))

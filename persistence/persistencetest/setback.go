package persistencetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var setBackCases = []testCase{
	{"TestSnapshotAheadOfTheLogIsNotUsed", testSnapshotAheadOfTheLog},
	{"TestSnapshotOfAnotherEventIsNotUsed", testSnapshotOfAnotherEvent},
	{"TestSnapshotOfACommandThatWasExecutedAgainIsNotUsed", testSnapshotOfACommandExecutedAgain},
	{"TestForeignSnapshotIsReplacedByALowerVersion", testForeignSnapshotIsReplaced},
	{"TestForeignSnapshotIsNotStored", testForeignSnapshotIsNotStored},
}

// lost is a store of one partition and one stream whose versions 3 and 4, of one
// commit, are gone, but not the snapshot of version 4.
type lost struct {
	store persistence.Store
	x     persistence.Stream
	kept  *persistence.Commit // versions 1 and 2
	gone  *persistence.Commit // versions 3 and 4
	next  *owner              // who owns the partition now
	was   persistence.Snapshot
}

func setBack(t *testing.T, h Harness) *lost {
	t.Helper()
	s, o := openOwned(t, h, 1)
	l := &lost{store: s, x: streamIn(0, 1, 0)}
	l.kept, l.gone = commit(l.x, 0, "1", "2"), commit(l.x, 2, "gone", "gone too")
	o.must(l.kept)
	o.must(l.gone)
	l.was = snapshotAt(l.gone, 4, "of what is gone")
	l.save(t, l.was)
	requireSnapshot(t, l.was, snapshotOf(t, s, l.x))
	h.SetBack(t, s, 0, 2)
	l.next = join(t, s, "owner-2")
	require.Equal(t, persistence.Offset(2), l.next.claim(0).Head)
	return l
}

func (l *lost) save(t *testing.T, snapshots ...persistence.Snapshot) {
	t.Helper()
	require.NoError(t, l.store.SaveSnapshots(t.Context(), snapshots))
}

// requireReplay wants all events and no snapshot, but word of a foreign one.
func (l *lost) requireReplay(t *testing.T, foreign persistence.Version, commits ...*persistence.Commit) {
	t.Helper()
	histories, err := l.store.ReadMany(t.Context(), []persistence.Stream{l.x}, 100)
	require.NoError(t, err)
	require.Nil(t, histories[0].Snapshot)
	require.Equal(t, foreign, histories[0].Foreign)
	requireEvents(t, eventsOf(commits...), histories[0].Events)
	require.False(t, histories[0].More)
}

func testSnapshotAheadOfTheLog(t *testing.T, h Harness) {
	l := setBack(t, h)
	l.requireReplay(t, 4, l.kept)
	third := commit(l.x, 2, "3")
	l.next.must(third)
	l.requireReplay(t, 4, l.kept, third)
	l.store = h.Again(t, l.store)
	l.requireReplay(t, 4, l.kept, third)

	// Among others, and page by page.
	y := streamIn(0, 1, 1)
	other := commit(y, 0, "1", "2")
	l.next.must(other)
	good := snapshotAt(other, 1, "good")
	l.save(t, good)
	histories, err := l.store.ReadMany(t.Context(), []persistence.Stream{y, l.x, streamIn(0, 1, 2)}, 1)
	require.NoError(t, err)
	requireSnapshot(t, good, histories[0].Snapshot)
	require.Zero(t, histories[0].Foreign)
	require.Equal(t, other.Offset, histories[0].Anchor)
	requireEvents(t, eventsOf(other)[1:], histories[0].Events)
	require.Nil(t, histories[1].Snapshot)
	require.Equal(t, persistence.Version(4), histories[1].Foreign)
	require.Zero(t, histories[1].Anchor)
	requireEvents(t, eventsOf(l.kept)[:1], histories[1].Events)
	require.True(t, histories[1].More)
	require.Equal(t, persistence.History{}, histories[2])
}

func testSnapshotOfAnotherEvent(t *testing.T, h Harness) {
	l := setBack(t, h)
	others := commit(l.x, 2, "3", "4")
	l.next.must(others)
	l.requireReplay(t, 4, l.kept, others)
	fifth := commit(l.x, 4, "5")
	l.next.must(fifth)
	l.requireReplay(t, 4, l.kept, others, fifth)

	require.NoError(t, l.store.DeleteSnapshots(t.Context(), []persistence.Stream{l.x}))
	l.requireReplay(t, 0, l.kept, others, fifth)
}

// A caller who asks again after the set-back has his command executed again, and
// it can have an event at the version it had before: but after other events.
func testSnapshotOfACommandExecutedAgain(t *testing.T, h Harness) {
	l := setBack(t, h)
	other, again := commit(l.x, 2, "3"), commit(l.x, 3, "4")
	again.Command, again.At = l.gone.Command, l.gone.At.Add(time.Microsecond)
	l.next.must(other, again)
	l.requireReplay(t, 4, l.kept, other, again)
	good := snapshotAt(again, 4, "good")
	l.save(t, l.was, good, l.was)
	requireSnapshot(t, good, snapshotOf(t, l.store, l.x))
}

func testForeignSnapshotIsReplaced(t *testing.T, h Harness) {
	l := setBack(t, h)
	first, second := snapshotAt(l.kept, 1, "1"), snapshotAt(l.kept, 2, "2")
	l.save(t, first)
	requireSnapshot(t, first, snapshotOf(t, l.store, l.x))
	l.save(t, second)
	requireSnapshot(t, second, snapshotOf(t, l.store, l.x))
	l.save(t, first)
	requireSnapshot(t, second, snapshotOf(t, l.store, l.x))
}

// A deposed node, or one that has not noticed yet, stores what it remembers.
func testForeignSnapshotIsNotStored(t *testing.T, h Harness) {
	l := setBack(t, h)
	require.NoError(t, l.store.DeleteSnapshots(t.Context(), []persistence.Stream{l.x}))
	ahead, sameVersion, nameless := l.was, snapshotAt(l.gone, 2, "another second"), snapshotAt(l.kept, 2, "of no event")
	nameless.Last = persistence.Cause{}
	nothing := snapshotAt(l.kept, 0, "before the first event")
	unknown := snapshotAt(l.kept, 1, "of a stream without events")
	unknown.Stream = streamIn(0, 1, 1)
	late := []persistence.Snapshot{ahead, sameVersion, nameless, nothing, unknown}
	l.save(t, late...)
	l.requireReplay(t, 0, l.kept)
	require.Nil(t, snapshotOf(t, l.store, unknown.Stream))

	first := snapshotAt(l.kept, 1, "good")
	l.save(t, append(late, first)...) // what is good is kept
	requireSnapshot(t, first, snapshotOf(t, l.store, l.x))
	l.save(t, append([]persistence.Snapshot{first}, late...)...)
	l.save(t, late...)
	requireSnapshot(t, first, snapshotOf(t, l.store, l.x))
	third := commit(l.x, 2, "3", "4", "5")
	l.next.must(third)
	l.save(t, late...)
	requireSnapshot(t, first, snapshotOf(t, l.store, l.x))
}

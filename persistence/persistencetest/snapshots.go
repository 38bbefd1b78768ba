package persistencetest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var snapshotCases = []testCase{
	{"TestNewestSnapshotWins", testNewestSnapshotWins},
	{"TestConcurrentSnapshotsKeepTheNewest", testConcurrentSnapshotsKeepTheNewest},
	{"TestDeletedSnapshotMeansReplay", testDeletedSnapshotMeansReplay},
	{"TestCheckpointsNeverMoveBackwards", testCheckpointsNeverMoveBackwards},
	{"TestProjectionsAreApart", testProjectionsAreApart},
}

func requireSnapshot(t *testing.T, want persistence.Snapshot, got *persistence.Snapshot) {
	t.Helper()
	require.NotNil(t, got)
	g := *got
	require.True(t, want.At.Equal(g.At), "at %s, want %s", g.At, want.At)
	require.True(t, bytes.Equal(want.Payload, g.Payload), "payload %.80q, want %.80q", g.Payload, want.Payload)
	require.True(t, want.Last.At.Truncate(time.Microsecond).Equal(g.Last.At), "last event of %s, want %s", g.Last.At, want.Last.At)
	want.At, want.Payload, g.At, g.Payload = time.Time{}, nil, time.Time{}, nil
	want.Last.At, g.Last.At = time.Time{}, time.Time{}
	require.Equal(t, want, g)
}

// snapshotAt is a snapshot of a commit's stream at one of the commit's versions.
func snapshotAt(c *persistence.Commit, version persistence.Version, payload string) persistence.Snapshot {
	return persistence.Snapshot{
		Stream: c.Stream, Version: version, Last: persistence.Cause{Command: c.Command, At: c.At}, At: noon, Payload: []byte(payload),
	}
}

func snapshotOf(t *testing.T, s persistence.Store, x persistence.Stream) *persistence.Snapshot {
	t.Helper()
	histories, err := s.ReadMany(t.Context(), []persistence.Stream{x}, 1)
	require.NoError(t, err)
	require.Len(t, histories, 1)
	return histories[0].Snapshot
}

func testNewestSnapshotWins(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x, y := streamIn(0, 2, 0), streamIn(1, 2, 0)
	five, two := commit(x, 0, "1", "2", "3", "4", "5"), commit(y, 0, "1", "2")
	five.At = noon.Add(999 * time.Nanosecond) // which no store keeps
	o.must(five, two)
	save := func(snapshots ...persistence.Snapshot) {
		t.Helper()
		require.NoError(t, s.SaveSnapshots(t.Context(), snapshots))
	}
	third, ofY := snapshotAt(five, 3, "three"), snapshotAt(two, 2, "\x00\xff")
	third.Schema, ofY.At = 7, noon.Add(time.Second)
	save(third, ofY)
	requireSnapshot(t, third, snapshotOf(t, s, x))
	requireSnapshot(t, ofY, snapshotOf(t, s, y))

	save(snapshotAt(five, 2, "older"))
	requireSnapshot(t, third, snapshotOf(t, s, x))
	save(snapshotAt(five, 3, "same version"))
	requireSnapshot(t, third, snapshotOf(t, s, x))

	// One older among newer ones does not spoil them, nor the other way round.
	fifth := snapshotAt(five, 5, strings.Repeat("five", 10_000))
	fifth.Schema = 8
	save(snapshotAt(two, 1, "older"), fifth)
	requireSnapshot(t, fifth, snapshotOf(t, s, x))
	requireSnapshot(t, ofY, snapshotOf(t, s, y))
	save()
	requireSnapshot(t, fifth, snapshotOf(t, h.Again(t, s), x))

	// Several of one stream at once, in any order.
	more := commit(x, 5, "6", "7")
	o.must(more)
	seventh := snapshotAt(more, 7, "seven")
	save(snapshotAt(more, 6, ""), seventh, snapshotAt(five, 4, ""))
	requireSnapshot(t, seventh, snapshotOf(t, s, x))
}

func testConcurrentSnapshotsKeepTheNewest(t *testing.T, h Harness) {
	const savers, each = 4, 10
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	first := commit(x, 0)
	for range savers * each {
		first.Events = append(first.Events, persistence.NewEvent{Type: "e"})
	}
	o.must(first)
	stores := []persistence.Store{s, h.Again(t, s)}
	errs := make([]error, savers)
	var group sync.WaitGroup
	for i := range savers {
		group.Go(func() {
			for v := each; v > 0 && errs[i] == nil; v-- {
				version := persistence.Version(v*savers - i)
				errs[i] = stores[i%2].SaveSnapshots(t.Context(), []persistence.Snapshot{snapshotAt(first, version, fmt.Sprint(version))})
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	requireSnapshot(t, snapshotAt(first, savers*each, fmt.Sprint(savers*each)), snapshotOf(t, s, x))
}

func testDeletedSnapshotMeansReplay(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x, y := streamIn(0, 2, 0), streamIn(1, 2, 0)
	ofX, ofY := commit(x, 0, "1", "2"), commit(y, 0, "1")
	o.must(ofX, ofY)
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshotAt(ofX, 2, "x"), snapshotAt(ofY, 1, "y")}))
	require.NoError(t, s.DeleteSnapshots(t.Context(), []persistence.Stream{x, {Type: "account", ID: "unknown"}}))
	histories, err := s.ReadMany(t.Context(), []persistence.Stream{x, y}, 10)
	require.NoError(t, err)
	require.Nil(t, histories[0].Snapshot)
	require.Len(t, histories[0].Events, 2)
	require.NotNil(t, histories[1].Snapshot)

	lower := snapshotAt(ofX, 1, "again")
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{lower}))
	requireSnapshot(t, lower, snapshotOf(t, s, x))
}

// requireCheckpoints checks a projection's cursors, in any order.
func requireCheckpoints(t *testing.T, s persistence.Store, projection string, want ...persistence.Cursor) {
	t.Helper()
	got, err := s.LoadCheckpoints(t.Context(), projection)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
}

func testCheckpointsNeverMoveBackwards(t *testing.T, h Harness) {
	type cursor = persistence.Cursor
	s := h.Open(t, 4)
	save := func(cursors ...cursor) {
		t.Helper()
		require.NoError(t, s.SaveCheckpoints(t.Context(), "books", cursors))
	}
	requireCheckpoints(t, s, "books")
	save(cursor{Partition: 0, After: 10}, cursor{Partition: 3, After: 5})
	requireCheckpoints(t, s, "books", cursor{Partition: 0, After: 10}, cursor{Partition: 3, After: 5})
	save(cursor{Partition: 0, After: 9}, cursor{Partition: 3, After: 6}, cursor{Partition: 1, After: 1})
	want := []cursor{{Partition: 0, After: 10}, {Partition: 1, After: 1}, {Partition: 3, After: 6}}
	requireCheckpoints(t, s, "books", want...)
	save(want...)
	save()
	requireCheckpoints(t, h.Again(t, s), "books", want...)
	save(cursor{Partition: 1, After: 2}, cursor{Partition: 1, After: 4}, cursor{Partition: 1, After: 3})
	want[1].After = 4
	requireCheckpoints(t, s, "books", want...)
}

func testProjectionsAreApart(t *testing.T, h Harness) {
	type cursor = persistence.Cursor
	s := h.Open(t, 2)
	at := func(after persistence.Offset) []cursor { return []cursor{{Partition: 1, After: after}} }
	require.NoError(t, s.SaveCheckpoints(t.Context(), "books", at(10)))
	require.NoError(t, s.SaveCheckpoints(t.Context(), "Books", at(20)))
	require.NoError(t, s.DeleteCheckpoints(t.Context(), "books"))
	require.NoError(t, s.DeleteCheckpoints(t.Context(), "never seen"))
	requireCheckpoints(t, s, "books")
	requireCheckpoints(t, s, "Books", at(20)...)
	require.NoError(t, s.SaveCheckpoints(t.Context(), "books", at(3)))
	requireCheckpoints(t, s, "books", at(3)...)
}

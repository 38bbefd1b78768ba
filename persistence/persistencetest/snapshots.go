package persistencetest

import (
	"bytes"
	"fmt"
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
	want.At, want.Payload, g.At, g.Payload = time.Time{}, nil, time.Time{}, nil
	require.Equal(t, want, g)
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
	o.must(commit(x, 0, "1", "2", "3", "4", "5"), commit(y, 0, "1", "2"))
	save := func(snapshots ...persistence.Snapshot) {
		t.Helper()
		require.NoError(t, s.SaveSnapshots(t.Context(), snapshots))
	}
	third := persistence.Snapshot{Stream: x, Version: 3, Schema: 7, At: noon, Payload: []byte("three")}
	ofY := persistence.Snapshot{Stream: y, Version: 2, At: noon.Add(time.Second), Payload: []byte{0, 255}}
	save(third, ofY)
	requireSnapshot(t, third, snapshotOf(t, s, x))
	requireSnapshot(t, ofY, snapshotOf(t, s, y))

	save(persistence.Snapshot{Stream: x, Version: 2, Schema: 9, At: noon, Payload: []byte("older")})
	requireSnapshot(t, third, snapshotOf(t, s, x))
	save(persistence.Snapshot{Stream: x, Version: 3, Schema: 9, At: noon, Payload: []byte("same version")})
	requireSnapshot(t, third, snapshotOf(t, s, x))

	// One older among newer ones does not spoil them, nor the other way round.
	fifth := persistence.Snapshot{Stream: x, Version: 5, Schema: 8, At: noon, Payload: bytes.Repeat([]byte("five"), 10_000)}
	save(persistence.Snapshot{Stream: y, Version: 1, At: noon, Payload: []byte("older")}, fifth)
	requireSnapshot(t, fifth, snapshotOf(t, s, x))
	requireSnapshot(t, ofY, snapshotOf(t, s, y))
	save()
	requireSnapshot(t, fifth, snapshotOf(t, h.Again(t, s), x))

	// Several of one stream at once, in any order.
	o.must(commit(x, 5, "6", "7"))
	seventh := persistence.Snapshot{Stream: x, Version: 7, At: noon, Payload: []byte("seven")}
	save(persistence.Snapshot{Stream: x, Version: 6, At: noon}, seventh, persistence.Snapshot{Stream: x, Version: 4, At: noon})
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
				errs[i] = stores[i%2].SaveSnapshots(t.Context(), []persistence.Snapshot{
					{Stream: x, Version: version, At: noon, Payload: fmt.Append(nil, version)},
				})
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	requireSnapshot(t, persistence.Snapshot{Stream: x, Version: savers * each, At: noon, Payload: fmt.Append(nil, savers*each)}, snapshotOf(t, s, x))
}

func testDeletedSnapshotMeansReplay(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x, y := streamIn(0, 2, 0), streamIn(1, 2, 0)
	o.must(commit(x, 0, "1", "2"), commit(y, 0, "1"))
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{
		{Stream: x, Version: 2, At: noon, Payload: []byte("x")}, {Stream: y, Version: 1, At: noon, Payload: []byte("y")},
	}))
	require.NoError(t, s.DeleteSnapshots(t.Context(), []persistence.Stream{x, {Type: "account", ID: "unknown"}}))
	histories, err := s.ReadMany(t.Context(), []persistence.Stream{x, y}, 10)
	require.NoError(t, err)
	require.Nil(t, histories[0].Snapshot)
	require.Len(t, histories[0].Events, 2)
	require.NotNil(t, histories[1].Snapshot)

	lower := persistence.Snapshot{Stream: x, Version: 1, At: noon, Payload: []byte("again")}
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

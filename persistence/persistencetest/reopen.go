package persistencetest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var reopenCases = []testCase{
	{"TestMetaIsWhatTheStoreWasCreatedWith", testMeta},
	{"TestReopenKeepsEverything", testReopenKeepsEverything},
	{"TestHandlesSeeEachOthersWritesAtOnce", testHandlesSeeEachOther},
	{"TestClosedStoreSaysSo", testClosedStoreSaysSo},
	{"TestCloseWaitsForCallsInFlight", testCloseWaitsForCallsInFlight},
}

func testMeta(t *testing.T, h Harness) {
	first, second := h.Open(t, 3), h.Open(t, 300)
	require.Equal(t, 3, first.Meta().Partitions)
	require.Equal(t, 300, second.Meta().Partitions)
	require.NotEmpty(t, first.Meta().StoreID)
	require.NotEqual(t, first.Meta().StoreID, second.Meta().StoreID)
	require.Positive(t, first.Meta().Schema)
	require.False(t, first.Meta().Copied)
	require.Equal(t, first.Meta(), h.Again(t, first).Meta())
	v, err := second.View(t.Context())
	require.NoError(t, err)
	require.Len(t, v.Partitions, 300)
}

func testReopenKeepsEverything(t *testing.T, h Harness) {
	const n = 3
	s, o := openOwned(t, h, n)
	join(t, s, "owner-2")
	require.NoError(t, s.Release(t.Context(), 2, 1, o.node, ""))
	_, err := s.Renew(t.Context(), persistence.Renewal{Node: o.node, State: persistence.Draining, Suspects: []persistence.NodeID{"owner-2"}})
	require.NoError(t, err)
	x, y := streamIn(0, n, 0), streamIn(1, n, 0)
	a, b := commit(x, 0, "1", "2"), commit(y, 0, "1")
	a.Metadata, a.Claims = []byte("m"), []persistence.Claim{claimOf("ada")}
	b.Timers = []persistence.Timer{timerOf(y, "t", noon)}
	o.must(a, b)
	snapshot := snapshotAt(a, 1, "s")
	snapshot.Schema = 2
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshot}))
	require.NoError(t, s.SaveCheckpoints(t.Context(), "books", []persistence.Cursor{{Partition: 1, After: 1}}))
	meta := s.Meta()
	view, err := s.View(t.Context())
	require.NoError(t, err)

	for range 2 {
		require.NoError(t, s.Close())
		s = h.Again(t, s)
		require.Equal(t, meta, s.Meta())
		got, err := s.View(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, view.Nodes, got.Nodes)
		require.Equal(t, view.Partitions, got.Partitions)
		requireEvents(t, eventsOf(a, b), tailAll(t, s))
		requireHolder(t, s, claimOf("ada"), &x)
		requireTimers(t, s, b.Timers, noon)
		requireSnapshot(t, snapshot, snapshotOf(t, s, x))
		requireCheckpoints(t, s, "books", persistence.Cursor{Partition: 1, After: 1})
		_, found, err := s.FindCommand(t.Context(), x, a.Command)
		require.NoError(t, err)
		require.True(t, found)
	}
	o.store = s // its epochs and heads still stand
	o.must(commit(x, 2, "3"), commit(y, 1, "2"))
}

// testHandlesSeeEachOther is two processes' view of one store.
func testHandlesSeeEachOther(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	other := h.Again(t, s)
	x := streamIn(0, 1, 0)
	mine, theirs := o, o.on(other)
	for v := range persistence.Version(10) {
		mine.fences[0].Head = persistence.Offset(v)
		c := claiming(x, v, string(rune('a'+v)))
		mine.must(c)
		require.Len(t, readAll(t, theirs.store, x), int(v)+1)
		requireHolder(t, theirs.store, c.Claims[0], &x)
		_, err := mine.store.Renew(t.Context(), persistence.Renewal{Node: o.node, State: persistence.Active})
		require.NoError(t, err)
		require.Equal(t, int64(v)+1, member(t, theirs.store, o.node).Renewals)
		require.NoError(t, mine.store.SaveCheckpoints(t.Context(), "p", []persistence.Cursor{{After: c.Offset}}))
		requireCheckpoints(t, theirs.store, "p", persistence.Cursor{After: c.Offset})
		mine, theirs = theirs, mine
	}
}

func testClosedStoreSaysSo(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	other := h.Again(t, s)
	x := streamIn(0, 1, 0)
	o.must(commit(x, 0, "x"))
	meta := s.Meta()
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "closing twice is harmless")
	require.Equal(t, meta, s.Meta())
	for name, call := range calls(o, commit(x, 1, "late")) {
		require.ErrorIs(t, call(t.Context(), s), persistence.ErrClosed, name)
	}
	require.Len(t, readAll(t, other, x), 1, "the other handle stays open")
	o.on(other).must(commit(x, 1, "y"))
}

func testCloseWaitsForCallsInFlight(t *testing.T, h Harness) {
	const writers = 4
	s, o := openOwned(t, h, writers)
	other := h.Again(t, s)
	first := make(chan struct{}, writers)
	acked, errs := make([]int, writers), make([]error, writers)
	var closed atomic.Bool
	var group sync.WaitGroup
	for p := range writers {
		w := o.on(s)
		x := streamIn(persistence.Partition(p), writers, 0)
		group.Go(func() {
			for errs[p] == nil {
				late := closed.Load()
				b := w.batch(commit(x, persistence.Version(acked[p]), "x"))
				if errs[p] = appendTo(t.Context(), s, b); errs[p] == nil {
					acked[p]++
				}
				if late && errs[p] == nil {
					errs[p] = errors.New("an append that began after the close was written")
				}
				w.learn(b)
				if acked[p] == 3 || errs[p] != nil {
					first <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-first
	}
	require.NoError(t, s.Close())
	closed.Store(true)
	group.Wait()
	total := 0
	for _, err := range errs {
		require.ErrorIs(t, err, persistence.ErrClosed, "a call either ran before the close or was refused by it")
	}
	for _, n := range acked {
		total += n
	}
	require.Len(t, tailAll(t, other), total)
}

package persistencetest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var readCases = []testCase{
	{"TestReadPagesThroughAStream", testReadPagesThroughAStream},
	{"TestUnknownStreamIsEmpty", testUnknownStreamIsEmpty},
	{"TestNameThatNoStreamHasIsEmpty", testNameThatNoStreamHas},
	{"TestLimitsOfAnySize", testLimitsOfAnySize},
	{"TestReadManyKeepsTheOrderOfItsArgument", testReadManyKeepsTheOrderOfItsArgument},
	{"TestReadManyStartsAtTheSnapshot", testReadManyStartsAtTheSnapshot},
	{"TestFindCommandKnowsWhatACommandLeft", testFindCommand},
}

func testReadPagesThroughAStream(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y := streamIn(0, 1, 0), streamIn(0, 1, 1)
	var commits []*persistence.Commit
	for v := range persistence.Version(5) {
		commits = append(commits, commit(x, 2*v, "a", "b"), commit(y, v, "other"))
	}
	o.must(commits...)
	all := readAll(t, s, x)
	require.Len(t, all, 10)
	for after := range persistence.Version(12) {
		for _, limit := range []int{1, 3, 10, 100} {
			got, err := s.Read(t.Context(), x, after, limit)
			require.NoError(t, err)
			from := min(int(after), len(all))
			requireEvents(t, all[from:min(from+limit, len(all))], got)
		}
	}
}

func testUnknownStreamIsEmpty(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 4)
	o.must(commit(persistence.Stream{Type: "account", ID: "Alice"}, 0, "x"))
	for _, unknown := range []persistence.Stream{
		{Type: "account", ID: "alice"}, {Type: "account", ID: "Alic"}, {Type: "account", ID: "Alice "},
		{Type: "Account", ID: "Alice"}, {Type: "other", ID: "Alice"},
	} {
		events, err := s.Read(t.Context(), unknown, 0, 10)
		require.NoError(t, err)
		require.Empty(t, events, unknown)
		histories, err := s.ReadMany(t.Context(), []persistence.Stream{unknown}, 10)
		require.NoError(t, err)
		require.Len(t, histories, 1)
		require.Nil(t, histories[0].Snapshot)
		require.Empty(t, histories[0].Events)
		require.False(t, histories[0].More)
	}
}

// testNameThatNoStreamHas asks for names that would be stored like that of a
// stream that is there.
func testNameThatNoStreamHas(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := persistence.Stream{Type: "account", ID: "a/b"}
	c := commit(x, 0, "x", "y")
	o.must(c)
	snapshot := snapshotAt(c, 1, "x")
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshot}))
	for _, alias := range []persistence.Stream{{Type: "account/a", ID: "b"}, {Type: "account"}, {ID: "account/a/b"}, {}} {
		events, err := s.Read(t.Context(), alias, 0, 10)
		require.NoError(t, err)
		require.Empty(t, events, alias)
		histories, err := s.ReadMany(t.Context(), []persistence.Stream{alias, x}, 10)
		require.NoError(t, err)
		require.Len(t, histories, 2)
		require.Equal(t, persistence.History{}, histories[0], alias)
		requireSnapshot(t, snapshot, histories[1].Snapshot)
		_, found, err := s.FindCommand(t.Context(), alias, c.Command)
		require.NoError(t, err)
		require.False(t, found, alias)

		newer, wrong := snapshotAt(c, 2, "kept with one that is not"), snapshotAt(c, 2, "wrong")
		wrong.Stream = alias
		require.Error(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{newer, wrong}), alias)
		require.NoError(t, s.DeleteSnapshots(t.Context(), []persistence.Stream{alias}))
		requireSnapshot(t, snapshot, snapshotOf(t, s, x))
	}
}

func testLimitsOfAnySize(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	c := setting(x, 0, noon, noon.Add(time.Second))
	c.Events = append(c.Events, c.Events[0], c.Events[0])
	o.must(c)
	for limit, want := range map[int]int{math.MinInt: 0, -1: 0, 0: 0, 1: 1, math.MaxInt32: 2, math.MaxInt: 2} {
		for _, after := range []int64{-7, 1} { // before the first event is at its start
			want := want
			if after < 0 && want == 2 {
				want = 3
			}
			events, err := s.Read(t.Context(), x, persistence.Version(after), limit)
			require.NoError(t, err)
			require.Len(t, events, want, "limit %d after %d", limit, after)
			events, err = s.Tail(t.Context(), []persistence.Cursor{{After: persistence.Offset(after)}}, limit)
			require.NoError(t, err)
			require.Len(t, events, want, "limit %d after %d", limit, after)
		}
		histories, err := s.ReadMany(t.Context(), []persistence.Stream{x}, limit)
		require.NoError(t, err)
		require.Len(t, histories[0].Events, min(max(limit, 0), 3))
		require.Equal(t, limit < 3, histories[0].More, "limit %d", limit)
		require.Len(t, dueTimers(t, s, noon.Add(time.Hour), limit), want, "limit %d", limit)
	}
}

func testReadManyKeepsTheOrderOfItsArgument(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	var commits []*persistence.Commit
	var names []persistence.Stream
	for i := range 40 {
		name := persistence.Stream{Type: "account", ID: fmt.Sprintf("%02d", (i*17)%40)}
		names = append(names, name)
		if i%5 != 0 { // the others stay unknown
			commits = append(commits, commit(name, 0, name.ID+"-1", name.ID+"-2"))
		}
	}
	o.must(commits...)
	names = append(names, names[1], names[0], names[1]) // known and unknown twice
	histories, err := s.ReadMany(t.Context(), names, 10)
	require.NoError(t, err)
	require.Len(t, histories, len(names))
	for i, name := range names {
		require.Nil(t, histories[i].Snapshot)
		require.False(t, histories[i].More)
		requireEvents(t, readAll(t, s, name), histories[i].Events)
	}
	require.Len(t, histories[1].Events, 2)
	require.Len(t, histories[42].Events, 2)

	none, err := s.ReadMany(t.Context(), nil, 10)
	require.NoError(t, err)
	require.Empty(t, none)
}

func testReadManyStartsAtTheSnapshot(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	bare, behind, level := streamIn(0, 2, 0), streamIn(0, 2, 1), streamIn(1, 2, 0)
	ofBehind, ofLevel := commit(behind, 0, "1", "2", "3", "4", "5"), commit(level, 0, "1", "2", "3", "4", "5")
	o.must(commit(bare, 0, "1", "2", "3", "4", "5"), ofBehind, ofLevel)
	two, five := snapshotAt(ofBehind, 2, "two"), snapshotAt(ofLevel, 5, "five")
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{two, five}))
	names := []persistence.Stream{level, bare, behind}
	for limit, want := range map[int][3]struct {
		first, last persistence.Version
		more        bool
	}{
		1:   {{}, {1, 1, true}, {3, 3, true}},
		2:   {{}, {1, 2, true}, {3, 4, true}},
		3:   {{}, {1, 3, true}, {3, 5, false}},
		5:   {{}, {1, 5, false}, {3, 5, false}},
		100: {{}, {1, 5, false}, {3, 5, false}},
	} {
		histories, err := s.ReadMany(t.Context(), names, limit)
		require.NoError(t, err)
		require.Len(t, histories, 3)
		for i, w := range want {
			require.Equal(t, w.more, histories[i].More, "limit %d, %s", limit, names[i])
			if w.first == 0 {
				require.Empty(t, histories[i].Events)
				continue
			}
			all := readAll(t, s, names[i])
			requireEvents(t, all[w.first-1:w.last], histories[i].Events)
		}
		require.Nil(t, histories[1].Snapshot)
		requireSnapshot(t, five, histories[0].Snapshot)
		requireSnapshot(t, two, histories[2].Snapshot)
	}
}

func testFindCommand(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x, y := streamIn(1, 2, 0), streamIn(1, 2, 1)
	first, second, elsewhere, lost := commit(x, 0, "1"), commit(x, 1, "2", "3", "4"), commit(y, 0, "1"), commit(x, 0, "stale")
	o.append(first, elsewhere, second, lost)
	require.NoError(t, errorsOf(first, elsewhere, second))
	o.must(commit(x, 4, "5"))

	record, found, err := s.FindCommand(t.Context(), x, second.Command)
	require.NoError(t, err)
	require.True(t, found)
	require.True(t, record.At.Equal(noon))
	record.At = noon
	require.Equal(t, persistence.CommandRecord{First: 2, Last: 4, Partition: 1, Offset: 5, At: noon}, record)

	record, found, err = h.Again(t, s).FindCommand(t.Context(), x, first.Command)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, persistence.Version(1), record.First)
	require.Equal(t, persistence.Version(1), record.Last)
	require.Equal(t, persistence.Offset(1), record.Offset)

	for _, c := range []*persistence.Commit{elsewhere, lost} {
		_, found, err = s.FindCommand(t.Context(), x, c.Command)
		require.NoError(t, err)
		require.False(t, found)
	}
	_, found, err = s.FindCommand(t.Context(), persistence.Stream{Type: "account", ID: "unknown"}, first.Command)
	require.NoError(t, err)
	require.False(t, found)
}

func errorsOf(commits ...*persistence.Commit) error {
	for _, c := range commits {
		if c.Err != nil {
			return c.Err
		}
	}
	return nil
}

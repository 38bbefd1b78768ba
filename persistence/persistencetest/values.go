package persistencetest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var valueCases = []testCase{
	{"TestCallerMayReuseTheBatch", testCallerMayReuseTheBatch},
	{"TestCallerOwnsWhatItReads", testCallerOwnsWhatItReads},
	{"TestIDsOfAnyForm", testIDsOfAnyForm},
	{"TestPayloadsOfAnySize", testPayloadsOfAnySize},
	{"TestTimesHaveMicroseconds", testTimesHaveMicroseconds},
}

func testCallerMayReuseTheBatch(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	c := commit(x, 0, "payload", "second")
	c.Metadata = []byte("metadata")
	c.Timers = []persistence.Timer{timerOf(x, "timer", noon)}
	snapshot := snapshotAt(c, 1, "snapshot")
	node := persistence.Node{ID: "another", Cluster: cluster, State: persistence.Active, Types: []string{"account"}}
	o.must(c)
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshot}))
	require.NoError(t, s.Join(t.Context(), node))

	for _, b := range [][]byte{c.Events[0].Payload, c.Events[1].Payload, c.Metadata, c.Timers[0].Payload, snapshot.Payload} {
		for i := range b {
			b[i] = '#'
		}
	}
	node.Types[0] = "#"
	id := c.Timers[0].ID
	c.Events, c.Timers = nil, nil

	events := readAll(t, s, x)
	require.Equal(t, "payload", string(events[0].Payload))
	require.Equal(t, "second", string(events[1].Payload))
	require.Equal(t, "metadata", string(events[1].Metadata))
	timers, err := s.DueTimers(t.Context(), []persistence.Partition{0}, noon, 10)
	require.NoError(t, err)
	require.Len(t, timers, 1)
	require.Equal(t, "timer", string(timers[0].Payload))
	require.Equal(t, id, timers[0].ID)
	histories, err := s.ReadMany(t.Context(), []persistence.Stream{x}, 1)
	require.NoError(t, err)
	require.Equal(t, "snapshot", string(histories[0].Snapshot.Payload))
	require.Equal(t, []string{"account"}, member(t, s, "another").Types)
}

func testCallerOwnsWhatItReads(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	c := commit(x, 0, "payload", "second")
	c.Metadata = []byte("metadata")
	c.Timers = []persistence.Timer{timerOf(x, "timer", noon)}
	o.must(c)
	node := persistence.Node{ID: "another", Cluster: cluster, State: persistence.Active, Types: []string{"account"}}
	require.NoError(t, s.Join(t.Context(), node))
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshotAt(c, 1, "snapshot")}))

	scribble := func(events []persistence.Event) {
		for _, e := range events {
			// Appending must not reach into a neighbour's bytes either.
			for _, b := range [][]byte{e.Payload, e.Metadata} {
				copy(b, "########")
				_ = append(b, "########"...)
			}
		}
	}
	for range 2 {
		events := readAll(t, s, x)
		requireEvents(t, eventsOf(c), events)
		scribble(events)
		events, err := s.Tail(t.Context(), []persistence.Cursor{{Partition: 0}}, 10)
		require.NoError(t, err)
		requireEvents(t, eventsOf(c), events)
		scribble(events)
		histories, err := s.ReadMany(t.Context(), []persistence.Stream{x}, 10)
		require.NoError(t, err)
		require.Equal(t, "snapshot", string(histories[0].Snapshot.Payload))
		copy(histories[0].Snapshot.Payload, "########")
		requireEvents(t, eventsOf(c)[1:], histories[0].Events)
		scribble(histories[0].Events)
		timers := dueTimers(t, s, noon, 10)
		requireSameTimers(t, c.Timers, timers)
		copy(timers[0].Payload, "########")
		view, err := s.View(t.Context())
		require.NoError(t, err)
		for i := range view.Nodes {
			if view.Nodes[i].ID == node.ID {
				require.Equal(t, node, view.Nodes[i])
				view.Nodes[i].Types[0] = "########"
			}
		}
	}
}

func testIDsOfAnyForm(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	ids := []string{
		"plain", "with/slash", "/", "//leading", `quote"double`, "quote'single", `back\slash`, "per%cent_under", "  spaces ", "tab\tnewline\n",
		"ümläut", "日本語", "🦀", "e\u0301", "\u00e9", "A", "a", "NULL", "$1", "?", "--", ";drop table es_event",
		strings.Repeat("x", persistence.MaxIDBytes), strings.Repeat("é", persistence.MaxIDBytes/2),
	}
	var commits []*persistence.Commit
	for i, id := range ids {
		c := commit(persistence.Stream{Type: "account", ID: id}, 0, "event of "+id)
		c.Claims = []persistence.Claim{{Namespace: "id", Key: id}}
		c.Timers = []persistence.Timer{timerOf(c.Stream, id, noon.Add(time.Duration(i)*time.Second))}
		if len(id) > persistence.MaxTimerBytes {
			c.Timers[0].Name = id[:persistence.MaxTimerBytes]
		}
		commits = append(commits, c)
	}
	longType := commit(persistence.Stream{Type: strings.Repeat("t", persistence.MaxTypeBytes), ID: "x"}, 0, "e")
	longType.Events[0].Type = strings.Repeat("e", persistence.MaxTypeBytes)
	commits = append(commits, longType)
	o.must(commits...)

	again := h.Again(t, s)
	for _, c := range commits {
		requireEvents(t, eventsOf(c), readAll(t, again, c.Stream))
		for _, claim := range c.Claims {
			requireHolder(t, again, claim, &c.Stream)
		}
		record, found, err := again.FindCommand(t.Context(), c.Stream, c.Command)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, c.Offset, record.Offset)
	}
	require.Len(t, tailAll(t, again), len(commits))
	var want []persistence.Timer
	for _, c := range commits {
		want = append(want, c.Timers...)
	}
	requireTimers(t, again, want, noon.Add(time.Hour))
}

func testPayloadsOfAnySize(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	payloads := [][]byte{nil, {}, {0}, every, bytes.Repeat(every, 40), bytes.Repeat(every, 4096)} // the last is 1 MiB
	var want []*persistence.Commit
	for i, p := range payloads {
		for _, metadata := range [][]byte{nil, {}, every} {
			c := commit(persistence.Stream{Type: "blob", ID: string(rune('a' + i))}, 0)
			c.Expected = persistence.Version(len(readAll(t, s, c.Stream)))
			c.Metadata = metadata
			c.Events = []persistence.NewEvent{{Type: "stored", Payload: p}}
			o.must(c)
			want = append(want, c)
		}
	}
	requireEvents(t, eventsOf(want...), tailAll(t, h.Again(t, s)))
}

func testTimesHaveMicroseconds(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	moments := []time.Time{
		noon,
		time.Date(2026, 1, 1, 0, 0, 0, 1_000, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
		time.Date(2099, 12, 31, 23, 59, 59, 999_999_000, time.FixedZone("east", 5*3600+1800)),
	}
	var commits []*persistence.Commit
	for i, at := range moments {
		c := commit(streamIn(0, 1, i), 0, "x")
		c.At = at
		commits = append(commits, c)
	}
	o.must(commits...)
	requireEvents(t, eventsOf(commits...), tailAll(t, s))
	record, found, err := s.FindCommand(t.Context(), commits[0].Stream, commits[0].Command)
	require.NoError(t, err)
	require.True(t, found)
	require.True(t, record.At.Equal(moments[0]))

	fine := commit(streamIn(0, 1, 9), 0, "x")
	fine.At = noon.Add(789 * time.Nanosecond)
	o.must(fine)
	got := readAll(t, s, fine.Stream)[0].At
	require.WithinDuration(t, fine.At, got, time.Microsecond)
	require.Zero(t, got.Nanosecond()%1000, "finer than a microsecond: another store would return another time")
}

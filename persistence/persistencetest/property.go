package persistencetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var propertyCases = []testCase{
	{"HeadsAreWherePartitionsEnd", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 3)
		o.must(commit(streamIn(0, 3, 0), 0, "a", "b"), commit(streamIn(2, 3, 0), 0, "c"))
		require.Equal(t, []persistence.Cursor{{Partition: 0, After: 2}, {Partition: 1}, {Partition: 2, After: 1}}, heads(t, s))
	}},
	{"StreamsAreListedByTheirFirstEvents", func(t *testing.T, h Harness) {
		s, o := openOwned(t, h, 2)
		a, b, c := streamIn(0, 2, 0), streamIn(0, 2, 1), streamIn(0, 2, 2)
		o.must(commit(a, 0, "1"), commit(b, 0, "1", "2"), commit(a, 1, "2"), commit(c, 0, "1"), commit(a, 2, "3"))
		o.must(commit(streamIn(1, 2, 0), 0, "1"))
		want := []persistence.StreamInfo{
			{Stream: a, First: 1, Version: 3, Last: 6}, {Stream: b, First: 2, Version: 2, Last: 3}, {Stream: c, First: 5, Version: 1, Last: 5},
		}
		var got []persistence.StreamInfo
		for after := persistence.Offset(0); ; {
			page, err := s.Streams(t.Context(), 0, after, 2)
			require.NoError(t, err)
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			after = page[len(page)-1].First
		}
		require.Equal(t, want, got)
		_, err := s.Streams(t.Context(), 2, 0, 1)
		require.Error(t, err)
	}},
	{"ImportedEventsAreAsTheyWere", func(t *testing.T, h Harness) {
		from, o := openOwned(t, h, 4)
		fill(o, 4)
		o.claim(1) // so that epochs differ
		o.must(commit(streamIn(1, 4, 9), 0, "late"))
		want := tailAll(t, from)
		to := h.Open(t, 4)
		source := from.Meta().StoreID
		require.NoError(t, to.Import(t.Context(), source, nil))
		for chunk := range slices.Chunk(want, 7) {
			require.NoError(t, to.Import(t.Context(), source, chunk))
		}
		requireEvents(t, want, tailAll(t, to))
		require.Equal(t, heads(t, from), heads(t, to))

		next := join(t, to, "next")
		for p := range persistence.Partition(4) {
			row := ownership(t, to, p)
			require.Empty(t, row.Owner)
			tenure := next.claim(p)
			require.Greater(t, tenure.Epoch, ownership(t, from, p).Epoch-1, "epochs count on")
			require.Equal(t, heads(t, from)[p].After, tenure.Head)
		}
		stream := streamIn(1, 4, 9)
		next.must(commit(stream, 1, "goes on"))
		require.ErrorAs(t, to.Import(t.Context(), source, nil), new(*persistence.ImportError), "a node has joined")
		require.Len(t, readAll(t, h.Again(t, to), stream), 2)
	}},
	{"ImportIsWholeOrNothing", func(t *testing.T, h Harness) {
		from, o := openOwned(t, h, 2)
		fill(o, 2)
		events := tailAll(t, from)
		to := h.Open(t, 2)
		half := len(events) / 2
		require.NoError(t, to.Import(t.Context(), "a", events[:half]))
		before := tailAll(t, to)
		refused := func(why, source string, events []persistence.Event) {
			t.Helper()
			require.ErrorAs(t, to.Import(t.Context(), source, events), new(*persistence.ImportError), why)
			requireEvents(t, before, tailAll(t, to))
		}
		refused("another source", "b", events[half:])
		refused("no source", "", events[half:])
		refused("a gap", "a", events[half+1:])
		refused("again", "a", events[half-1:])
		for why, change := range map[string]func(e *persistence.Event){
			"another partition":  func(e *persistence.Event) { e.Partition = 1 - e.Partition },
			"no such partition":  func(e *persistence.Event) { e.Partition = 2 },
			"an offset too many": func(e *persistence.Event) { e.Offset++ },
			"a version too many": func(e *persistence.Event) { e.Version++ },
			"an old version":     func(e *persistence.Event) { e.Version-- },
			"no type":            func(e *persistence.Event) { e.Type = "" },
			"no stream":          func(e *persistence.Event) { e.Stream.ID = "" },
			"erased in half":     func(e *persistence.Event) { e.Type = persistence.ErasedType },
		} {
			damaged := slices.Clone(events[half:])
			change(&damaged[len(damaged)-1])
			refused(why, "a", damaged)
		}
		require.NoError(t, to.Import(t.Context(), "a", events[half:]))
		requireEvents(t, events, tailAll(t, to))
		filled, o2 := openOwned(t, h, 2)
		o2.must(commit(streamIn(0, 2, 0), 0, "own"))
		require.ErrorAs(t, filled.Import(t.Context(), "a", events), new(*persistence.ImportError), "it is not empty")
	}},
	{"ErasedStreamKeepsItsPlaces", func(t *testing.T, h Harness) { eraseStream(t, h) }},
	{"DeposedOwnerErasesNothing", func(t *testing.T, h Harness) {
		s, old := openOwned(t, h, 2)
		stream := streamIn(0, 2, 0)
		old.must(commit(stream, 0, "a"))
		short := *old.fences[0]
		short.Head = 0
		var fenced *persistence.FencedError
		_, err := s.Erase(t.Context(), old.node, short, stream)
		require.ErrorAs(t, err, &fenced, "the log is another")
		require.EqualValues(t, 1, fenced.StoreHead)
		next := join(t, h.Again(t, s), "owner-2")
		next.claim(0)
		_, err = s.Erase(t.Context(), old.node, *old.fences[0], stream)
		require.ErrorAs(t, err, &fenced)
		require.Equal(t, persistence.NodeID("owner-2"), fenced.Owner)
		_, err = s.Erase(t.Context(), old.node, *old.fences[1], stream)
		require.Error(t, err, "it lives in the other partition")
		require.Equal(t, "a", string(readAll(t, s, stream)[0].Payload))
		_, err = next.store.Erase(t.Context(), next.node, *next.fences[0], persistence.Stream{})
		require.Error(t, err)
	}},
	{"FirstKeyWins", func(t *testing.T, h Harness) {
		s := h.Open(t, 1)
		again := h.Again(t, s)
		const workers = 8
		winners := make([]persistence.Key, workers)
		errs := make([]error, workers)
		var all sync.WaitGroup
		for i := range workers {
			all.Go(func() {
				handle := s
				if i%2 == 0 {
					handle = again
				}
				key := persistence.Key{Subject: "s", Secret: fmt.Appendf(nil, "secret %d", i), At: noon}
				winners[i], errs[i] = handle.PutKey(t.Context(), key, false)
			})
		}
		all.Wait()
		for i := range workers {
			require.NoError(t, errs[i])
			require.Equal(t, winners[0], winners[i])
		}
		_, err := s.PutKey(t.Context(), persistence.Key{Subject: "a", Secret: []byte("a"), At: noon}, false)
		require.NoError(t, err)
		found, err := again.FindKeys(t.Context(), []string{"s", "S", "a", "s"})
		require.NoError(t, err)
		require.Len(t, found, 2)
		require.Equal(t, "a", found[0].Subject)
		require.Equal(t, winners[0], found[1])
		found, err = again.FindKeys(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, found)
	}},
	{"ForgottenSubjectStaysForgotten", func(t *testing.T, h Harness) {
		s := h.Open(t, 1)
		key := persistence.Key{Subject: "s\xff", Secret: []byte{0, 1, 2}, At: noon}
		_, err := s.PutKey(t.Context(), key, false)
		require.NoError(t, err)
		later := noon.Add(time.Hour)
		require.NoError(t, s.DeleteKey(t.Context(), key.Subject, later))
		require.NoError(t, s.DeleteKey(t.Context(), key.Subject, later.Add(time.Hour)))
		marker := persistence.Key{Subject: key.Subject, Forgotten: true, At: later}
		left, err := h.Again(t, s).FindKeys(t.Context(), []string{key.Subject})
		require.NoError(t, err)
		require.Len(t, left, 1)
		requireKey(t, marker, left[0])
		found, err := s.PutKey(t.Context(), key, false)
		require.NoError(t, err)
		requireKey(t, marker, found)
		found, err = s.PutKey(t.Context(), key, true)
		require.NoError(t, err)
		requireKey(t, key, found)
		found, err = s.PutKey(t.Context(), persistence.Key{Subject: key.Subject, Secret: []byte("other"), At: noon}, true)
		require.NoError(t, err)
		requireKey(t, key, found)
		require.NoError(t, s.DeleteKey(t.Context(), "never had one", noon))
		_, err = s.PutKey(t.Context(), persistence.Key{Subject: "a", Secret: []byte("a"), At: noon}, false)
		require.NoError(t, err)
		all, err := s.ListKeys(t.Context(), "", 10)
		require.NoError(t, err)
		require.Equal(t, []string{"a", "never had one", "s\xff"}, []string{all[0].Subject, all[1].Subject, all[2].Subject})
		page, err := s.ListKeys(t.Context(), "a", 1)
		require.NoError(t, err)
		require.Len(t, page, 1)
		require.True(t, page[0].Forgotten)
		for _, unfit := range []persistence.Key{{}, {Subject: "x"}, {Secret: []byte("x")}, {Subject: "x", Secret: []byte("x"), Forgotten: true}} {
			_, err := s.PutKey(t.Context(), unfit, false)
			require.Error(t, err)
		}
	}},
}

func requireKey(t *testing.T, want, got persistence.Key) {
	t.Helper()
	require.True(t, want.At.Equal(got.At), got.At)
	require.Equal(t, string(want.Secret), string(got.Secret))
	require.Equal(t, want.Subject, got.Subject)
	require.Equal(t, want.Forgotten, got.Forgotten)
}

// eraseStream erases one stream among others, twice, and looks for what is left.
func eraseStream(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	gone, stays := streamIn(0, 2, 0), streamIn(0, 2, 1)
	secret := commit(gone, 0, "secret 1", "secret 2")
	secret.Metadata = []byte("secret 3")
	secret.Claims = []persistence.Claim{{Namespace: "name", Key: "alice"}}
	secret.Timers = []persistence.Timer{{TimerKey: persistence.TimerKey{Stream: gone, Name: "t"}, Due: noon, ID: secret.Command, Payload: []byte("secret 4")}}
	other := commit(stays, 0, "kept")
	other.Claims = []persistence.Claim{{Namespace: "name", Key: "bob"}}
	o.must(commit(stays, 0+0, "first"), secret)
	other.Expected = 1
	o.must(other, commit(gone, 2, "secret 5"))
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{
		{Stream: gone, Version: 2, Last: persistence.Cause{Command: secret.Command, At: secret.At}, At: noon, Payload: []byte("secret 6")},
	}))
	park := persistence.Step{Projection: "p", Park: []persistence.DeadLetter{letter(0, 2), letter(0, 1)}}
	park.Park[0].Stream, park.Park[1].Stream = gone, stays
	require.NoError(t, s.Advance(t.Context(), park, nil))
	before := tailAll(t, s)

	version, err := s.Erase(t.Context(), o.node, *o.fences[0], gone)
	require.NoError(t, err)
	require.EqualValues(t, 3, version)
	version, err = s.Erase(t.Context(), o.node, *o.fences[0], gone)
	require.NoError(t, err, "again")
	require.Zero(t, version)

	require.Empty(t, readAll(t, s, gone))
	histories, err := s.ReadMany(t.Context(), []persistence.Stream{gone}, 10)
	require.NoError(t, err)
	require.Nil(t, histories[0].Snapshot)
	require.Zero(t, histories[0].Foreign, "a snapshot is left behind")
	require.Empty(t, histories[0].Events)
	due, err := s.DueTimers(t.Context(), []persistence.Partition{0}, noon, 10)
	require.NoError(t, err)
	require.Empty(t, due)
	_, held, err := s.FindClaim(t.Context(), secret.Claims[0])
	require.NoError(t, err)
	require.False(t, held)
	holder, held, err := s.FindClaim(t.Context(), other.Claims[0])
	require.NoError(t, err)
	require.True(t, held)
	require.Equal(t, stays, holder)
	left := letters(t, s, "p")
	require.Len(t, left, 1)
	require.Equal(t, stays, left[0].Stream)
	_, found, err := s.FindCommand(t.Context(), gone, secret.Command)
	require.NoError(t, err)
	require.False(t, found)

	after, err := s.Tail(t.Context(), []persistence.Cursor{{Partition: 0}}, 100)
	require.NoError(t, err)
	var first persistence.Offset
	for i := range before {
		if before[i].Stream != gone {
			continue
		}
		if first == 0 {
			first = before[i].Offset
		}
		before[i].Stream, before[i].Type = persistence.ErasedStream(0, first), persistence.ErasedType
		before[i].Command, before[i].Metadata, before[i].Payload = persistence.CommandID{}, nil, nil
		require.True(t, before[i].Erased())
	}
	requireEvents(t, before, after)
	streams, err := s.Streams(t.Context(), 0, 0, 10)
	require.NoError(t, err)
	require.Len(t, streams, 1)
	require.Equal(t, stays, streams[0].Stream)

	o.must(commit(gone, 0, "anew"))
	require.Equal(t, "anew", string(readAll(t, s, gone)[0].Payload))
	conflict := commit(gone, 3, "of before")
	o.append(conflict)
	require.ErrorAs(t, conflict.Err, new(*persistence.ConflictError))
	version, err = s.Erase(t.Context(), o.node, *o.fences[0], gone)
	require.NoError(t, err)
	require.EqualValues(t, 1, version, "the stream that began anew")
	to := h.Open(t, 2)
	events, err := s.Tail(t.Context(), []persistence.Cursor{{Partition: 0}}, 100)
	require.NoError(t, err)
	require.NoError(t, to.Import(t.Context(), "a", events), "erased events can be imported")
	o.must(commit(stays, 2, "goes on"))
}

// fill writes a few streams into every partition.
func fill(o *owner, partitions int) {
	o.t.Helper()
	for p := range partitions {
		for i := range 3 {
			stream := streamIn(persistence.Partition(p), partitions, i)
			c := commit(stream, 0, "1", "2")
			c.Metadata = []byte{0xff}
			o.must(c, commit(stream, 2, "", "4"))
		}
	}
}

func heads(t *testing.T, s interface {
	Heads(context.Context) ([]persistence.Cursor, error)
}) []persistence.Cursor {
	t.Helper()
	found, err := s.Heads(t.Context())
	require.NoError(t, err)
	return found
}

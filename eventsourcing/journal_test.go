package eventsourcing

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

func TestEveryFormOfAnEventIsUnderstood(t *testing.T) {
	b := newBook(t)
	b.append("a", 0, stored("deposited", `{"Dollars":1}`))
	b.append("a", 1, stored("deposited/2", `{"Dollars":2,"Cents":50}`))
	b.append("a", 2, encoded(t, deposited{Cents: 7}), stored("renamed", "\x08\x2a"))
	state, l := b.loadOne("a")
	require.Equal(t, account{Cents: 357, Name: "42"}, state)
	require.Equal(t, persistence.Version(4), l.Version)
	b.append("a", 4, encoded(t, rename("alice")))
	state, _ = b.loadOne("a")
	require.Equal(t, "alice", state.Name)
}

func TestEventsAreStoredUnderTheirNewestName(t *testing.T) {
	require.Equal(t, stored("deposited/3", `{"Cents":7}`), encoded(t, deposited{Cents: 7}))
	require.Equal(t, stored("renamed/2", "\n\x05alice"), encoded(t, rename("alice")))
}

func TestUnknownAggregateIsAnEmptyOne(t *testing.T) {
	b := newBook(t)
	state, l := b.loadOne("nobody")
	require.Zero(t, state)
	require.Zero(t, l.Version)
	require.Zero(t, l.Window.Len())
}

func TestUnreadableEventConcernsItsAggregateOnly(t *testing.T) {
	for name, e := range map[string]persistence.NewEvent{
		"unknown name":      stored("embezzled", "{}"),
		"future version":    stored("deposited/4", "{}"),
		"version 1 by name": stored("deposited/1", "{}"),
		"malformed version": stored("deposited/x", "{}"),
		"padded version":    stored("deposited/02", "{}"),
		"signed version":    stored("deposited/+2", "{}"),
		"a command":         stored("deposit", "{}"),
		"broken JSON":       stored("deposited/3", "{"),
		"broken protobuf":   stored("renamed/2", "\n\xff"),
		"panic in Evolve":   stored("deposited/3", `{"Note":"panic"}`),
		"panic in upcast":   stored("deposited", `{"Dollars":666}`),
		"panic in decoder":  stored("touchy", `{}`),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			good := encoded(t, deposited{Cents: 1})
			b.append("before", 0, good)
			b.append("bad", 0, good)
			b.append("bad", 1, e)
			b.append("bad", 2, good)
			b.append("behind", 0, good)
			loaded := b.load("before", "bad", "behind")
			require.NoError(t, loaded[0].Err)
			require.NoError(t, loaded[2].Err)
			var unreadable *UnreadableError
			require.ErrorAs(t, loaded[1].Err, &unreadable)
			require.Equal(t, streamOf("bad"), unreadable.Stream)
			require.Equal(t, persistence.Version(2), unreadable.Version)
			require.Equal(t, e.Type, unreadable.Type)

			_, err := NewJournal(b.store, nil).LoadAt(t.Context(), target("bad"), 1)
			require.NoError(t, err)
			_, err = NewJournal(b.store, nil).LoadAt(t.Context(), target("bad"), 3)
			require.ErrorAs(t, err, &unreadable)
		})
	}
}

func TestBrokenOrderOfVersionsIsUnreadable(t *testing.T) {
	b := newBook(t)
	for v := range persistence.Version(4) {
		b.append("a", v, encoded(t, deposited{Cents: 1}))
	}
	for name, lie := range map[string]func([]persistence.Event) []persistence.Event{
		"gap":       func(e []persistence.Event) []persistence.Event { return slices.Delete(e, 1, 2) },
		"late":      func(e []persistence.Event) []persistence.Event { return e[1:] },
		"repeated":  func(e []persistence.Event) []persistence.Event { return slices.Insert(e, 2, e[1]) },
		"backwards": func(e []persistence.Event) []persistence.Event { slices.Reverse(e); return e },
	} {
		t.Run(name, func(t *testing.T) {
			l := NewJournal(lying{b.store, lie}, nil).Load(t.Context(), []Target{target("a")})
			var unreadable *UnreadableError
			require.ErrorAs(t, l[0].Err, &unreadable)
			require.ErrorContains(t, unreadable, "it follows version")
		})
	}
}

func TestStoreThatCannotBeAskedIsNotAnUnreadableEvent(t *testing.T) {
	b := newBook(t)
	journal := NewJournal(down{b.store}, nil)
	for _, l := range journal.Load(t.Context(), []Target{target("a"), target("b")}) {
		require.ErrorIs(t, l.Err, errDown)
		var unreadable *UnreadableError
		require.NotErrorAs(t, l.Err, &unreadable)
	}
	_, err := journal.LoadAt(t.Context(), target("a"), 1)
	require.ErrorIs(t, err, errDown)
}

func TestLongStreamIsReadInPages(t *testing.T) {
	for _, length := range []int{loadPage - 1, loadPage, loadPage + 1, 2*loadPage + 500} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			b := newBook(t)
			events := slices.Repeat([]persistence.NewEvent{encoded(t, deposited{Cents: 1})}, length)
			b.append("a", 0, events...)
			b.append("short", 0, events[0])
			for _, l := range b.load("a", "short") {
				require.NoError(t, l.Err)
				require.Equal(t, int64(l.Version), l.Instance.State().(*account).Cents)
			}
			state, l := b.loadOne("a")
			require.Equal(t, int64(length), state.Cents)
			require.Equal(t, persistence.Version(length), l.Version)
			require.Equal(t, length*len(events[0].Payload), l.Bytes)
			handled := l.Window.Handled() // one command, though it spans pages
			require.Len(t, handled, 1)
			require.Equal(t, length, handled[0].Events)
		})
	}
}

func TestLoadAtIsTheStateOfThatTime(t *testing.T) {
	b := newBook(t)
	b.append("a", 0, slices.Repeat([]persistence.NewEvent{encoded(t, deposited{Cents: 1})}, loadPage+50)...)
	journal := NewJournal(b.store, nil)
	for _, v := range []persistence.Version{0, 1, 7, loadPage, loadPage + 1, loadPage + 50} {
		instance, err := journal.LoadAt(t.Context(), target("a"), v)
		require.NoError(t, err)
		require.Equal(t, int64(v), instance.State().(*account).Cents)
	}
	_, err := journal.LoadAt(t.Context(), target("a"), loadPage+51)
	require.ErrorContains(t, err, "the stream ends at 2050")
}

func TestCommandsOfTheLogAreRemembered(t *testing.T) {
	b := newBook(t)
	e := encoded(t, deposited{Cents: 1})
	one := b.append("a", 0, e)
	three := b.append("a", 1, e, e, e)
	_, l := b.loadOne("a")
	require.Equal(t, []Handled{
		{Command: aggregate.CommandID(one.Command), Version: 1, Offset: one.Offset, Events: 1},
		{Command: aggregate.CommandID(three.Command), Version: 4, Offset: three.Offset + 2, Events: 3},
	}, l.Window.Handled())
}

// snapshot stores a state of which the log knows nothing, so that one can see
// that it is used.
func (b *book) snapshot(id string, version persistence.Version, change func(*persistence.Snapshot)) {
	b.t.Helper()
	instance := definition.NewInstance()
	instance.Evolve(deposited{Cents: 1_000_000})
	_, l := b.loadOne(id)
	last, err := b.store.Read(b.t.Context(), streamOf(id), version-1, 1)
	require.NoError(b.t, err)
	require.Len(b.t, last, 1)
	cause := persistence.Cause{Command: last[0].Command, At: last[0].At}
	s, err := EncodeSnapshot(definition, streamOf(id), version, cause, instance, &l.Window, time.Now())
	require.NoError(b.t, err)
	if change != nil {
		change(&s)
	}
	require.NoError(b.t, b.store.SaveSnapshots(b.t.Context(), []persistence.Snapshot{s}))
}

func TestOnlyWhatCameAfterTheSnapshotIsReplayed(t *testing.T) {
	for _, tail := range []int{0, 1, loadPage, loadPage + 10} {
		t.Run(fmt.Sprint(tail), func(t *testing.T) {
			b := newBook(t)
			e := encoded(t, deposited{Cents: 1})
			first := b.append("a", 0, e, e)
			b.snapshot("a", 2, nil)
			if tail > 0 {
				b.append("a", 2, slices.Repeat([]persistence.NewEvent{e}, tail)...)
			}
			state, l := b.loadOne("a")
			require.Equal(t, int64(1_000_000+tail), state.Cents)
			require.Equal(t, persistence.Version(2), l.Snapshot)
			require.Equal(t, persistence.Version(2+tail), l.Version)
			last, err := b.store.Read(t.Context(), streamOf("a"), l.Version-1, 1)
			require.NoError(t, err)
			require.Equal(t, persistence.Cause{Command: last[0].Command, At: last[0].At}, l.Last)
			require.Equal(t, tail*len(e.Payload), l.Bytes)
			_, verdict := l.Window.Find(aggregate.CommandID(first.Command))
			require.Equal(t, Seen, verdict)
		})
	}
}

// A log that was set back, and then went another way, is folded from its first
// event until there is a snapshot of it.
func TestSnapshotOfALostStateMeansAReplay(t *testing.T) {
	b := newBook(t)
	e := encoded(t, deposited{Cents: 1})
	p := b.append("a", 0, e, e).Partition
	b.append("a", 2, e)
	b.snapshot("a", 3, nil)
	require.NoError(t, b.store.SetBack(p, 2))
	fence := b.heads[p]
	fence.Head = 2
	b.heads[p] = fence
	var said strings.Builder
	load := func() (account, Loaded) {
		said.Reset()
		l := NewJournal(b.store, slog.New(slog.NewTextHandler(&said, nil))).Load(t.Context(), []Target{target("a")})[0]
		require.NoError(t, l.Err)
		return *l.Instance.State().(*account), l
	}
	for version := persistence.Version(2); version < 5; version++ { // ahead of the log, beside it, behind it
		state, l := load()
		require.Equal(t, int64(version), state.Cents)
		require.Equal(t, version, l.Version)
		require.Zero(t, l.Snapshot)
		require.Contains(t, said.String(), `msg="snapshot not usable, replaying" stream=account/a version=3 error="its last event is not in the log`)
		b.append("a", version, e)
	}
	b.snapshot("a", 2, nil) // of a lower version than the one that is of no use
	state, l := load()
	require.Equal(t, int64(1_000_003), state.Cents)
	require.Equal(t, persistence.Version(2), l.Snapshot)
	require.Empty(t, said.String())
}

func TestSnapshotThatCannotBeUsedMeansAReplay(t *testing.T) {
	for name, change := range map[string]func(*persistence.Snapshot){
		"earlier schema": func(s *persistence.Snapshot) { s.Schema = 2 },
		"later schema":   func(s *persistence.Snapshot) { s.Schema = 4 },
		"no bytes":       func(s *persistence.Snapshot) { s.Payload = nil },
		"later format":   func(s *persistence.Snapshot) { s.Payload[0] = 2 },
		"cut off":        func(s *persistence.Snapshot) { s.Payload = s.Payload[:len(s.Payload)-3] },
		"too long":       func(s *persistence.Snapshot) { s.Payload = append(s.Payload, 0) },
		"broken state": func(s *persistence.Snapshot) {
			s.Payload = []byte(strings.Replace(string(s.Payload), "Cents", "Cent\"", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			e := encoded(t, deposited{Cents: 1})
			c := b.append("a", 0, slices.Repeat([]persistence.NewEvent{e}, loadPage+5)...)
			b.snapshot("a", loadPage, change)
			state, l := b.loadOne("a")
			require.Equal(t, int64(loadPage+5), state.Cents)
			require.Zero(t, l.Snapshot)
			require.Len(t, l.Window.Handled(), 1)
			_, verdict := l.Window.Find(aggregate.CommandID(c.Command))
			require.Equal(t, Seen, verdict)
		})
	}
}

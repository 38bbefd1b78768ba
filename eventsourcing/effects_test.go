package eventsourcing

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

type user struct{ Name string }

type remind struct{ Text string }

func (remind) Decide(user) ([]aggregate.Event[user], error) { return nil, nil }

// registered claims a name, and sets a timer.
type registered struct {
	Name string
	Due  time.Time
}

func (e registered) Evolve(u *user) { u.Name = e.Name }
func (e registered) Claims() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "username", Key: e.Name}}
}

func (e registered) Timers() []aggregate.Timer[user] {
	return []aggregate.Timer[user]{{Name: "reminder", Due: e.Due, Command: remind{"hello " + e.Name}}}
}

type left struct{ Name string }

func (left) Evolve(u *user) { u.Name = "" }
func (e left) Releases() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "username", Key: e.Name}}
}
func (left) Cancels() []string { return []string{"reminder"} }

type reminded struct{}

func (reminded) Evolve(*user) {}

var users = aggregate.Define("user", aggregate.Accepts[remind]("remind"), aggregate.Records[registered]("registered"),
	aggregate.Records[left]("left"), aggregate.Records[reminded]("reminded"))

var due = time.Date(2030, 1, 2, 3, 4, 5, 678_000, time.UTC)

func TestTimerFormatStays(t *testing.T) {
	d := users.Definition()
	var lines strings.Builder
	for _, set := range []aggregate.TimerSet{
		{Name: "reminder", Due: due, Message: d.Message(aggregate.KindCommand, "remind"), Command: remind{"hello"}},
		{Name: "long ago", Due: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), Message: d.Message(aggregate.KindCommand, "remind"), Command: remind{}},
	} {
		timer, err := EncodeTimer(persistence.Stream{Type: "user", ID: "a/b"}, 3, &set, persistence.CommandID(commandID(1)),
			&aggregate.Metadata{User: "ada", Correlation: "c"})
		require.NoError(t, err)
		fmt.Fprintf(&lines, "%s %s\n", TimerCommand(&timer), timer.Payload)
		r, err := DecodeTimer(d, &timer)
		require.NoError(t, err)
		require.Equal(t, set.Command, r.Value)
		require.Equal(t, aggregate.Metadata{User: "ada", Correlation: "c", Causation: commandID(1).String()}, r.Metadata)
		parsed, err := aggregate.ParseCommandID(r.Command.String())
		require.NoError(t, err, "it is no UUID of version 7")
		require.Equal(t, max(set.Due.UnixMilli(), 0), parsed.Time().UnixMilli())
	}
	require.Equal(t, golden(t, "timer.golden", lines.String()), lines.String())
}

func TestTimersThatDifferHaveOtherCommands(t *testing.T) {
	base := persistence.Timer{
		TimerKey: persistence.TimerKey{Stream: persistence.Stream{Type: "user", ID: "ab"}, Name: "c"}, Due: due, ID: persistence.CommandID(commandID(1)),
	}
	seen := map[aggregate.CommandID]string{TimerCommand(&base): "itself"}
	for what, change := range map[string]func(*persistence.Timer){
		"type": func(t *persistence.Timer) { t.Stream.Type = "us" }, "stream": func(t *persistence.Timer) { t.Stream.ID = "a" },
		"name": func(t *persistence.Timer) { t.Name = "bc" }, "both": func(t *persistence.Timer) { t.Stream.ID, t.Name = "a", "bc" },
		"due": func(t *persistence.Timer) { t.Due = due.Add(time.Microsecond) },
		"set": func(t *persistence.Timer) { t.ID = persistence.CommandID(commandID(2)) },
	} {
		timer := base
		change(&timer)
		id := TimerCommand(&timer)
		require.Empty(t, seen[id], what)
		seen[id] = what
	}
}

func FuzzDecodeTimer(f *testing.F) {
	f.Add([]byte(`{"command":"remind","json":{"Text":"x"}}`))
	f.Add([]byte(`{"command":"remind","bytes":"AA=="}`))
	f.Fuzz(func(_ *testing.T, payload []byte) {
		_, _ = DecodeTimer(users.Definition(), &persistence.Timer{Payload: payload})
	})
}

// effectStores opens each store, with three partitions.
func effectStores(t *testing.T) map[string]persistence.Store {
	t.Helper()
	inMemory, err := memory.Open(memory.Config{Partitions: 3})
	require.NoError(t, err)
	onDisk, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Partitions: 3})
	require.NoError(t, err)
	server, err := postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: 3})
	require.NoError(t, err)
	stores := map[string]persistence.Store{"memory": inMemory, "sqlite": onDisk, "postgres": server}
	for _, s := range stores {
		t.Cleanup(func() { require.NoError(t, s.Close()) })
	}
	return stores
}

// scribe writes users as an owner does, and spoils what they hold.
type scribe struct {
	t       *testing.T
	store   persistence.Store
	fences  map[persistence.Partition]*persistence.Fence
	version map[string]persistence.Version
	n       byte
}

func newScribe(t *testing.T, s persistence.Store) *scribe {
	w := &scribe{t: t, store: s, fences: map[persistence.Partition]*persistence.Fence{}, version: map[string]persistence.Version{}}
	require.NoError(t, s.Join(t.Context(), persistence.Node{ID: "scribe", Cluster: "effects", State: persistence.Active}))
	for p := range persistence.Partition(3) {
		won, err := s.Claim(t.Context(), p, 0, "scribe")
		require.NoError(t, err)
		w.fences[p] = &persistence.Fence{Partition: p, Epoch: won.Epoch, Head: won.Head}
	}
	return w
}

func (w *scribe) commit(id string, change func(c *persistence.Commit), events ...any) persistence.Commit {
	w.t.Helper()
	stream := persistence.Stream{Type: "user", ID: id}
	fence := w.fences[persistence.PartitionOf(stream, 3)]
	w.n++
	c := persistence.Commit{
		Stream: stream, Partition: fence.Partition, Epoch: fence.Epoch, Expected: w.version[id], Command: persistence.CommandID(commandID(w.n)), At: due,
	}
	for _, e := range events {
		stored, err := EncodeEvent(users.Definition().MessageOf(e), e)
		require.NoError(w.t, err)
		c.Events = append(c.Events, stored)
	}
	require.NoError(w.t, EncodeEffects(users.Definition(), events, &aggregate.Metadata{User: "ada"}, &c))
	if change != nil {
		change(&c)
	}
	w.store.Append(w.t.Context(), &persistence.Batch{Owner: "scribe", Fences: []persistence.Fence{*fence}, Commits: []*persistence.Commit{&c}})
	require.NoError(w.t, c.Err)
	fence.Head += persistence.Offset(len(events))
	w.version[id] += persistence.Version(len(events))
	return c
}

func (w *scribe) differences(fired time.Time) (texts []string) {
	w.t.Helper()
	list, err := CheckEffects(w.t.Context(), w.store, fired, users)
	require.NoError(w.t, err)
	for _, d := range list {
		texts = append(texts, d.String())
	}
	return texts
}

func TestEffectsAreCheckedAgainstTheLogAndRepaired(t *testing.T) {
	for name, store := range effectStores(t) {
		t.Run(name, func(t *testing.T) {
			w := newScribe(t, store)
			w.commit("ada", nil, registered{"ada", due})
			w.commit("bob", nil, registered{"bob", due}, left{"bob"})
			w.commit("eve", nil, registered{"eve", due}, left{"eve"}, registered{"eva", due.Add(time.Hour)})
			fires := w.commit("fay", nil, registered{"fay", due})
			w.commit("fay", func(c *persistence.Commit) {
				c.Command = persistence.CommandID(TimerCommand(&fires.Timers[0]))
				c.Cancels = []persistence.TimerKey{fires.Timers[0].TimerKey}
			}, reminded{})
			require.Empty(t, w.differences(due.Add(-time.Second)))
			events, err := store.Read(t.Context(), fires.Stream, 0, 10)
			require.NoError(t, err)
			held, err := Effects(users.Definition(), fires.Partition, events)
			require.NoError(t, err)
			require.Equal(t, Held{Claims: fires.Claims, Timers: []persistence.Timer{}}, held)

			// now spoil it
			w.commit("ada", func(c *persistence.Commit) {
				c.Releases = []persistence.Claim{{Namespace: "username", Key: "ada"}}
				c.Cancels = []persistence.TimerKey{{Stream: c.Stream, Name: "reminder"}}
			})
			w.commit("bob", func(c *persistence.Commit) {
				c.Claims = []persistence.Claim{{Namespace: "username", Key: "odd"}}
				c.Timers = []persistence.Timer{{TimerKey: persistence.TimerKey{Stream: c.Stream, Name: "odd"}, Partition: c.Partition, Due: due, ID: c.Command}}
			})
			w.commit("eve", func(c *persistence.Commit) {
				c.Releases = []persistence.Claim{{Namespace: "username", Key: "eva"}}
				c.Timers = []persistence.Timer{{TimerKey: persistence.TimerKey{Stream: c.Stream, Name: "reminder"}, Partition: c.Partition, Due: due, ID: c.Command}}
			})
			w.commit("gus", func(c *persistence.Commit) { c.Claims = []persistence.Claim{{Namespace: "username", Key: "eva"}} })
			want := []string{
				`user/ada: timer "reminder", due 2030-01-02T03:04:05.000678Z is in the log, and not stored`,
				`user/ada: username "ada" is in the log, and not stored`,
				`user/bob: timer "odd", due 2030-01-02T03:04:05.000678Z is stored, and not in the log`,
				`user/bob: username "odd" is stored, and not in the log`,
				`user/eve: timer "reminder", due 2030-01-02T03:04:05.000678Z is stored, and not in the log`,
				`user/eve: timer "reminder", due 2030-01-02T04:04:05.000678Z is in the log, and not stored`,
				`user/eve: username "eva" is in the log, and held by user/gus`,
				`user/gus: username "eva" is stored, and not in the log`,
			}
			require.ElementsMatch(t, want, w.differences(due.Add(-time.Second)))
			require.Len(t, w.differences(due), len(want)-1, "what was due counts as fired")

			list, err := CheckEffects(t.Context(), store, due.Add(-time.Second), users)
			require.NoError(t, err)
			m := Maintenance{Cluster: "effects", Node: "repair-1", Patience: time.Microsecond}
			left, err := RepairEffects(t.Context(), store, m, list)
			require.NoError(t, err)
			require.Empty(t, left)
			require.Empty(t, w.differences(due.Add(-time.Second)))
			view, err := store.View(t.Context())
			require.NoError(t, err)
			require.Empty(t, view.Nodes)
			all, err := store.Tail(t.Context(), []persistence.Cursor{{Partition: 0}, {Partition: 1}, {Partition: 2}}, 100)
			require.NoError(t, err)
			require.Len(t, all, 8, "a repair writes no events")
		})
	}
}

// renewing is a store whose members renew whenever somebody looks.
type renewing struct {
	persistence.Store
	t *testing.T
}

func (s renewing) View(ctx context.Context) (persistence.View, error) {
	v, err := s.Store.View(ctx)
	for _, n := range v.Nodes {
		_, renewErr := s.Renew(ctx, persistence.Renewal{Node: n.ID, State: n.State})
		require.NoError(s.t, renewErr)
	}
	return v, err
}

func TestRepairRefusesWhileNodesRun(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 3})
	require.NoError(t, err)
	newScribe(t, store)
	_, err = RepairEffects(t.Context(), renewing{store, t}, Maintenance{Cluster: "effects", Node: "repair", Patience: time.Microsecond}, nil)
	require.ErrorContains(t, err, "node scribe at  is running")
}

func TestValueThatTwoStreamsClaimStaysWithItsHolder(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 3})
	require.NoError(t, err)
	w := newScribe(t, store)
	w.commit("ada", nil, registered{"ada", due})
	w.commit("eve", func(c *persistence.Commit) { c.Claims = nil }, registered{"ada", due})
	list, err := CheckEffects(t.Context(), store, due, users)
	require.NoError(t, err)
	require.Len(t, list, 1)
	left, err := RepairEffects(t.Context(), store, Maintenance{Cluster: "effects", Node: "repair", Patience: time.Microsecond}, list)
	require.NoError(t, err)
	require.Equal(t, list, left)
	require.Equal(t, "user/eve: username \"ada\" is in the log, and held by user/ada", left[0].String())
}

func TestUnreadableEventEndsTheCheck(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 3})
	require.NoError(t, err)
	w := newScribe(t, store)
	w.commit("ada", func(c *persistence.Commit) { c.Events[0].Type = "unheard of" }, reminded{})
	_, err = CheckEffects(t.Context(), store, due, users)
	require.ErrorAs(t, err, new(*UnreadableError))
}

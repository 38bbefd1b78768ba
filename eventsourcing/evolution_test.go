package eventsourcing

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/ingrain-go/ingrain/aggregate"
	movedv1 "github.com/ingrain-go/ingrain/eventsourcing/testdata/proto/v1"
	movedv2 "github.com/ingrain-go/ingrain/eventsourcing/testdata/proto/v2"
	"github.com/ingrain-go/ingrain/persistence"
)

// charged is an event that is new in the later program, to which sold was split.
type charged struct{ Fee int64 }

func (e charged) Evolve(a *account) { a.Cents -= e.Fee }

type sold struct{ Cents, Fee int64 }

// later is the program of accounts in a later version.
var later = aggregate.Define("account",
	aggregate.Records[deposited]("deposited", aggregate.From(1, upcastV1),
		aggregate.From(2, upcastV2, func(e deposited) depositedV2 { return depositedV2{e.Cents / 100, e.Cents % 100} })),
	aggregate.Records[charged]("charged", aggregate.ReadAs(func(e charged) deposited { return deposited{Cents: -e.Fee} })),
	aggregate.Records[noticed]("noticed", aggregate.Optional()),
	aggregate.Retires("sold", func(s sold) []event {
		return []event{deposited{Cents: s.Cents}, charged{s.Fee}, deposited{Cents: 1}}
	}),
	aggregate.Drops[account]("viewed"),
	aggregate.Snapshots[account](aggregate.SnapshotPolicy{Schema: 4}),
)

type noticed struct{ By string }

func (noticed) Evolve(*account) {}

func encodedLater(t *testing.T, event any) persistence.NewEvent {
	t.Helper()
	require.NoError(t, aggregate.Validate(later))
	e, err := EncodeEvent(later.Definition().MessageOf(event), event)
	require.NoError(t, err)
	return e
}

// The stored form of an event with ways back: old bytes stay for ever.
func TestStoredFormsBesideEachOther(t *testing.T) {
	var now strings.Builder
	for _, e := range []any{deposited{Cents: 305, Note: "ü"}, charged{Fee: 7}, noticed{By: "x"}} {
		stored := encodedLater(t, e)
		fmt.Fprintf(&now, "%s\t%q\n", stored.Type, stored.Payload)
	}
	old := golden(t, "forms.golden", now.String())
	require.Equal(t, old, now.String())
	// the program of before reads what it knows of them
	want := [][]any{{deposited{Cents: 305}}, {deposited{Cents: -7}}, nil}
	first := aggregate.Define("account", aggregate.Records[deposited]("deposited", aggregate.From(1, func(v depositedV2) deposited { return upcastV2(v) })))
	for i, line := range strings.Split(strings.TrimSpace(old), "\n") {
		name, payload, _ := strings.Cut(line, "\t")
		var b []byte
		_, err := fmt.Sscanf(payload, "%q", &b)
		require.NoError(t, err)
		events, err := DecodeEvents(nil, later.Definition(), name, b)
		require.NoError(t, err)
		require.Equal(t, []any{[]any{deposited{Cents: 305, Note: "ü"}, charged{Fee: 7}, noticed{By: "x"}}[i]}, events)
		if i == 0 {
			events, err = DecodeEvents(nil, first.Definition(), name, b)
			require.NoError(t, err, "form 2, not the newest")
			require.Len(t, events, 1)
			continue
		}
		if i == 2 {
			events, err = DecodeEvents(nil, first.Definition(), name, b)
			require.NoError(t, err)
			require.Equal(t, want[2], events, "passed over")
			continue
		}
		events, err = DecodeEvents(nil, definition, name, b)
		require.NoError(t, err)
		require.Equal(t, want[i], events)
	}
}

func TestMalformedFormsAreErrors(t *testing.T) {
	for _, payload := range []string{"", "x", "5:abc", ":", "-1:a", "99999999999:a", "1:", "0x1:ab"} {
		_, err := DecodeEvents(nil, later.Definition(), "deposited/3+deposited/2", []byte(payload))
		require.Error(t, err, payload)
	}
}

func TestWhatWasRetiredIsFoldedAsTheEventsOfToday(t *testing.T) {
	b := newBook(t)
	b.append("a", 0, stored("deposited", `{"Dollars":3}`))
	b.append("a", 1, stored("sold", `{"Cents":50,"Fee":5}`), stored("viewed", `garbage`))
	last := b.append("a", 3, encodedLater(t, charged{Fee: 2}), encodedLater(t, noticed{}))
	of := func(d *aggregate.Definition) Loaded {
		return NewJournal(b.store, slog.New(slog.DiscardHandler)).Load(t.Context(), []Target{{Definition: d, Stream: streamOf("a")}})[0]
	}
	l := of(later.Definition())
	require.NoError(t, l.Err)
	require.Equal(t, int64(300+50-5+1-2), l.Instance.State().(*account).Cents)
	require.EqualValues(t, 5, l.Version, "versions are those of what is stored")
	handled, verdict := l.Window.Find(aggregate.CommandID(last.Command))
	require.NotEqual(t, New, verdict)
	require.Equal(t, 2, handled.Events)

	journal := NewJournal(b.store, slog.New(slog.DiscardHandler))
	at, err := journal.LoadAt(t.Context(), Target{Definition: later.Definition(), Stream: streamOf("a")}, 2)
	require.NoError(t, err)
	require.Equal(t, int64(346), at.State().(*account).Cents)

	var unreadable *UnreadableError
	require.ErrorAs(t, of(definition).Err, &unreadable, "a program without the name cannot read it")
	require.EqualValues(t, 2, unreadable.Version)
}

// A way back is what lets an older program go on with what a newer one has stored.
func TestAnOlderProgramReadsWhatANewerOneStored(t *testing.T) {
	older := aggregate.Define("account", aggregate.Records[depositedV2Event]("deposited", aggregate.From(1, func(v depositedV1) depositedV2Event {
		return depositedV2Event{Dollars: v.Dollars}
	})))
	require.NoError(t, aggregate.Validate(older))
	b := newBook(t)
	b.append("a", 0, encodedLater(t, deposited{Cents: 305}), encodedLater(t, charged{Fee: 100}), encodedLater(t, noticed{}))
	l := NewJournal(b.store, nil).Load(t.Context(), []Target{{Definition: older.Definition(), Stream: streamOf("a")}})[0]
	require.NoError(t, l.Err)
	require.Equal(t, int64(205), l.Instance.State().(*account).Cents)
	require.EqualValues(t, 3, l.Version)
}

type depositedV2Event depositedV2

func (e depositedV2Event) Evolve(a *account) { a.Cents += 100*e.Dollars + e.Cents }

func TestAProjectionHandlesThePartsOfASplitEvent(t *testing.T) {
	l := newLedger(t, memoryStore(t, 2))
	l.record("a", stored("deposited", `{"Dollars":1}`), stored("viewed", `garbage`), stored("sold", `{"Cents":50,"Fee":5}`), encodedLater(t, charged{Fee: 2}))
	type seen struct{ log []string }
	failed := false
	view := NewView(Settings{Name: "seen", Backoff: time.Millisecond}, func() *seen { return &seen{} },
		On(later, func(_ context.Context, s *seen, e deposited, f Fact) error {
			s.log = append(s.log, fmt.Sprintf("%d.%d %s %d", f.Offset, f.Part, f.Event, e.Cents))
			return nil
		}),
		On(later, func(_ context.Context, s *seen, e charged, f Fact) error {
			if f.Part == 1 && !failed {
				failed = true
				return errors.New("once")
			}
			s.log = append(s.log, fmt.Sprintf("%d.%d %s -%d", f.Offset, f.Part, f.Event, e.Fee))
			return nil
		}))
	p := l.project("a", nil, view)
	l.wait(p, "seen")
	view.Read(func(s *seen) {
		require.Equal(t, []string{
			"1.0 deposited 100", "3.0 sold 50", "3.1 sold -5", "3.2 sold 1", "4.0 charged+deposited/3+deposited/2 -2",
		}, s.log, "each part once, whatever failed in between")
	})
	require.True(t, failed)

	var parts []string
	for e, err := range NewReader(ReaderConfig{Store: l.store, Aggregates: []aggregate.Any{later}, Unknown: Stop}).Stream(t.Context(), "account", "a", 0) {
		require.NoError(t, err)
		parts = append(parts, fmt.Sprintf("%d.%d %T", e.Offset, e.Part, e.Value))
	}
	require.Equal(t, []string{
		"1.0 eventsourcing.deposited", "3.0 eventsourcing.deposited", "3.1 eventsourcing.charged",
		"3.2 eventsourcing.deposited", "4.0 eventsourcing.charged",
	}, parts)
}

func TestATableHasThePartsOfASplitEventOnce(t *testing.T) {
	onSQL(t, func(t *testing.T, store persistence.Store) {
		l := newLedger(t, store)
		l.record("a", stored("sold", `{"Cents":50,"Fee":5}`))
		failed := false
		table := NewTable(Settings{Name: "balances", Backoff: time.Millisecond}, balances,
			On(later, addTo(store)),
			On(later, func(ctx context.Context, tx *Tx, e charged, f Fact) error {
				if !failed {
					failed = true
					return errors.New("once")
				}
				return addTo(store)(ctx, tx, deposited{Cents: -e.Fee}, f)
			}))
		l.wait(l.project("a", nil, table), "balances")
		require.Equal(t, map[string]row{"a": {Cents: 46, Events: 3}}, rowsOf(t, store, table.Name("balances")))
		require.True(t, failed)
	})
}

// What an older program reads of a newer one's event, its projections read, too.
func TestAProjectionReadsTheFormItKnows(t *testing.T) {
	l := newLedger(t, memoryStore(t, 2))
	l.record("a", encodedLater(t, charged{Fee: 2}), encodedLater(t, noticed{}), encodedLater(t, deposited{Cents: 10}))
	view := sumView(Settings{Name: "sums", Unknown: Stop})
	l.wait(l.project("a", nil, view), "sums")
	view.Read(func(s *sums) { require.Equal(t, int64(8), s.cents["a"]) })
}

// gobCodec is a codec of the user's own.
type gobCodec struct{}

func (gobCodec) Name() string { return "gob" }

func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// A snapshot in another codec is one that cannot be decoded: it is replayed.
func TestASnapshotInAnotherCodecIsNotUsed(t *testing.T) {
	b := newBook(t)
	last := b.append("a", 0, stored("deposited/3", `{"Cents":5}`))
	instance := definition.NewInstance()
	instance.State().(*account).Cents = 99 // so that it shows if it is used
	s, err := EncodeSnapshot(definition, streamOf("a"), 1, persistence.Cause{Command: last.Command, At: last.At}, instance, &Window{}, time.Now())
	require.NoError(t, err)
	require.NoError(t, b.store.SaveSnapshots(t.Context(), []persistence.Snapshot{s}))
	state, _ := b.loadOne("a")
	require.Equal(t, int64(99), state.Cents)
	other := aggregate.Define("account", aggregate.Records[deposited]("deposited", aggregate.From(1, upcastV1), aggregate.From(2, upcastV2)),
		aggregate.Snapshots[account](aggregate.SnapshotPolicy{Schema: 3, Codec: gobCodec{}}))
	l := NewJournal(b.store, slog.New(slog.DiscardHandler)).Load(t.Context(), []Target{{Definition: other.Definition(), Stream: streamOf("a")}})[0]
	require.NoError(t, l.Err)
	require.Equal(t, int64(5), l.Instance.State().(*account).Cents)
}

// The state that protobuf events are folded into.
type journey struct {
	Places []string
	Metres int64
	Wheels int32
}

type (
	moved    struct{ movedv2.Moved }
	movedOld struct{ movedv1.Moved }
)

func (e *moved) Evolve(j *journey) {
	j.Places = append(append(j.Places, e.GetVia()...), e.GetTo())
	j.Metres += e.GetMetres()
	j.Wheels = e.GetVehicle().GetWheels()
}

func (e *movedOld) Evolve(j *journey) {
	j.Places = append(j.Places, e.GetTo())
	j.Metres += e.GetMetres()
}

var (
	journeys    = aggregate.Define("journey", aggregate.Records[*moved]("moved"))
	journeysOld = aggregate.Define("journey", aggregate.Records[*movedOld]("moved"))
)

// Fields that were added to a message are zero in old events, and harmless to an
// old program, which carries them along.
func TestProtobufEventsWithAddedFields(t *testing.T) {
	require.NoError(t, aggregate.Validate(journeys))
	require.NoError(t, aggregate.Validate(journeysOld))
	before := &movedOld{}
	before.To, before.Metres = "Rome", 700
	after := &moved{}
	after.To, after.Metres, after.Via, after.Vehicle = "Oslo", 800, []string{"Ulm"}, &movedv2.Vehicle{Name: "bus", Wheels: 6}
	encode := func(d *aggregate.Definition, e any) persistence.NewEvent {
		stored, err := EncodeEvent(d.MessageOf(e), e)
		require.NoError(t, err)
		return stored
	}
	old, now := encode(journeysOld.Definition(), before), encode(journeys.Definition(), after)
	bytesNow := fmt.Sprintf("%s\t%q\n%s\t%q\n", old.Type, old.Payload, now.Type, now.Payload)
	require.Equal(t, golden(t, "protobuf.golden", bytesNow), bytesNow)

	fold := func(typ aggregate.Any) journey {
		instance := typ.Definition().NewInstance()
		for _, e := range []persistence.NewEvent{old, now} {
			require.NoError(t, evolve(typ.Definition(), instance, &persistence.Event{Type: e.Type, Payload: e.Payload}))
		}
		return *instance.State().(*journey)
	}
	require.Equal(t, journey{Places: []string{"Rome", "Ulm", "Oslo"}, Metres: 1500, Wheels: 6}, fold(journeys))
	require.Equal(t, journey{Places: []string{"Rome", "Oslo"}, Metres: 1500}, fold(journeysOld))

	seen, err := DecodeEvent(journeysOld.Definition(), now.Type, now.Payload)
	require.NoError(t, err)
	again := encode(journeysOld.Definition(), seen)
	back, err := DecodeEvent(journeys.Definition(), again.Type, again.Payload)
	require.NoError(t, err)
	require.True(t, proto.Equal(after, back.(*moved)), "what it did not know is still in it")
}

package eventsourcing

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Stored bytes live for ever (I6): a golden file is added when a format is, and
// never changed again. The flag writes those that are missing.
var writeMissing = flag.Bool("golden", false, "write the golden files that are missing")

func golden(t *testing.T, name, now string) string {
	t.Helper()
	path := filepath.Join("testdata", name)
	if _, err := os.Stat(path); os.IsNotExist(err) && *writeMissing {
		require.NoError(t, os.WriteFile(path, []byte(now), 0o644))
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// commandID is a fixed id.
func commandID(n byte) aggregate.CommandID {
	return aggregate.CommandID{0x01, 0x8f, 0, 0, 0, n, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n}
}

func goldenWindow() *Window {
	w := &Window{floor: 1_700_000_000_000}
	w.Add(Handled{Command: commandID(1), Version: 1, Offset: 300, Events: 1})
	w.Add(Handled{Command: commandID(2), Version: 200, Offset: 0, Events: 199})
	return w
}

func TestSnapshotFormat1(t *testing.T) {
	instance := definition.NewInstance()
	*instance.State().(*account) = account{Cents: -5, Name: "älice", Tags: map[string]int{"b": 2, "a": 1}}
	s, err := EncodeSnapshot(definition, streamOf("a"), 200, persistence.Cause{}, instance, goldenWindow(), time.Unix(0, 0))
	require.NoError(t, err)
	require.Equal(t, 3, s.Schema)
	now := hex.Dump(s.Payload)
	old := golden(t, "snapshot-1.golden", now)
	require.Equal(t, old, now, "new snapshots look different: give them another format")

	decoded, window, err := decodeSnapshot(definition, &persistence.Snapshot{Version: 200, Schema: 3, Payload: undump(t, old)})
	require.NoError(t, err)
	require.Equal(t, instance.State(), decoded.State())
	require.Equal(t, goldenWindow().Handled(), window.Handled())
	require.Equal(t, goldenWindow().floor, window.floor)
}

// undump reads what hex.Dump writes.
func undump(t *testing.T, dump string) (b []byte) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(dump))
	for lines.Scan() {
		hexes, _, _ := strings.Cut(lines.Text()[10:], "|")
		line, err := hex.DecodeString(strings.ReplaceAll(hexes, " ", ""))
		require.NoError(t, err)
		b = append(b, line...)
	}
	return b
}

// What each stored event is, for ever.
func TestStoredEventFormats(t *testing.T) {
	events := []struct {
		stored  string
		payload string
		want    any
	}{
		{"deposited", `{"Dollars":3}`, deposited{Cents: 300}},
		{"deposited/2", `{"Dollars":3,"Cents":4}`, deposited{Cents: 304}},
		{"deposited/3", `{"Cents":5,"Note":"grüße \u003c"}`, deposited{Cents: 5, Note: "grüße <"}},
		{"deposited/3", `{"Cents":6,"Added":"later"}`, deposited{Cents: 6}},
		{"renamed", "\x08\x2a", rename("42")},
		{"renamed/2", "\n\x05alice", rename("alice")},
	}
	var now strings.Builder
	for _, e := range events {
		fmt.Fprintf(&now, "%s\t%q\n", e.stored, e.payload)
	}
	require.Equal(t, golden(t, "events.golden", now.String()), now.String())
	for _, e := range events {
		got, err := DecodeEvent(definition, e.stored, []byte(e.payload))
		require.NoError(t, err, e.stored)
		if want, ok := e.want.(*renamed); ok {
			require.Equal(t, want.GetValue(), got.(*renamed).GetValue())
			continue
		}
		require.Equal(t, e.want, got)
	}
	require.Equal(t, stored("deposited/3", `{"Cents":5,"Note":"grüße \u003c"}`), encoded(t, events[2].want))
}

func TestStoredMetadataFormat(t *testing.T) {
	full := aggregate.Metadata{
		Correlation: "c", Causation: "d", User: "u", Tenant: "t", Trace: "00-1-2-01", Extra: map[string]string{"b": "2", "a": "1"},
	}
	b, err := EncodeMetadata(&full)
	require.NoError(t, err)
	old := golden(t, "metadata.golden", string(b))
	require.Equal(t, old, string(b))
	decoded, err := DecodeMetadata([]byte(old))
	require.NoError(t, err)
	require.Equal(t, full, decoded)

	b, err = EncodeMetadata(&aggregate.Metadata{})
	require.NoError(t, err)
	require.Nil(t, b)
	decoded, err = DecodeMetadata(nil)
	require.NoError(t, err)
	require.True(t, decoded.IsZero())
	_, err = DecodeMetadata([]byte("{"))
	require.ErrorContains(t, err, "decode metadata")
}

// upper is a codec of the user's own.
type upper struct{ aggregate.Codec }

func (upper) Name() string { return "upper" }

func TestCodecIsChosenByTypeUnlessOneIsNamed(t *testing.T) {
	own := upper{JSON}
	named := aggregate.Define("named",
		aggregate.Records[deposited]("deposited", aggregate.Encoded(own), aggregate.From(1, func(depositedV1) deposited { return deposited{} })),
		aggregate.Snapshots[account](aggregate.SnapshotPolicy{Codec: own}),
	).Definition()
	require.Equal(t, "upper", CodecFor(named.Message(aggregate.KindEvent, "deposited")).Name())
	require.Equal(t, "upper", FormCodec(named.Message(aggregate.KindEvent, "deposited"), 1).Name())
	require.Equal(t, "upper", StateCodec(named).Name())

	require.Equal(t, "json", CodecFor(definition.Message(aggregate.KindEvent, "deposited")).Name())
	require.Equal(t, "protobuf", CodecFor(definition.Message(aggregate.KindEvent, "renamed")).Name())
	require.Equal(t, "protobuf", FormCodec(definition.Message(aggregate.KindEvent, "renamed"), 1).Name())
	require.Equal(t, "json", StateCodec(definition).Name())
}

func TestProtobufCodecTakesMessagesAndPointersToThem(t *testing.T) {
	b, err := Protobuf.Marshal(wrapperspb.String("x"))
	require.NoError(t, err)
	var into wrapperspb.StringValue
	require.NoError(t, Protobuf.Unmarshal(b, &into))
	require.Equal(t, "x", into.GetValue())
	var pointer *wrapperspb.StringValue
	require.NoError(t, Protobuf.Unmarshal(b, &pointer))
	require.Equal(t, "x", pointer.GetValue())

	_, err = Protobuf.Marshal(account{})
	require.ErrorContains(t, err, "not a proto.Message")
	require.ErrorContains(t, Protobuf.Unmarshal(b, new(account)), "cannot decode into")
	require.ErrorContains(t, Protobuf.Unmarshal(b, account{}), "cannot decode into")
	require.Error(t, Protobuf.Unmarshal([]byte("\n\xff"), &into))
	require.Error(t, Protobuf.Unmarshal([]byte("\n\xff"), &pointer))
}

func FuzzDecodeSnapshot(f *testing.F) {
	for _, w := range []*Window{{}, goldenWindow()} {
		s, err := EncodeSnapshot(definition, streamOf("a"), 200, persistence.Cause{}, definition.NewInstance(), w, time.Unix(0, 0))
		require.NoError(f, err)
		f.Add(s.Payload)
	}
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{1, 2, '{', '}', 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		instance, window, err := decodeSnapshot(definition, &persistence.Snapshot{Version: 200, Schema: 3, Payload: payload})
		if err != nil {
			require.Nil(t, instance)
			require.Zero(t, window.Len())
			return
		}
		again, err := EncodeSnapshot(definition, streamOf("a"), 200, persistence.Cause{}, instance, &window, time.Unix(0, 0))
		require.NoError(t, err)
		same, kept, err := decodeSnapshot(definition, &again)
		require.NoError(t, err)
		require.Equal(t, instance.State(), same.State())
		require.Equal(t, min(window.Len(), windowStored), kept.Len())
		for range windowMin + 2 { // whatever it holds, it goes on working
			window.Add(Handled{Command: aggregate.NewCommandID(), Version: 201, Events: 1})
		}
		window.Trim()
	})
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add("deposited", []byte(`{"Dollars":3}`))
	f.Add("deposited/2", []byte(`{"Dollars":3,"Cents":4}`))
	f.Add("deposited/3", []byte(`{"Cents":5}`))
	f.Add("deposited/-1", []byte(`{}`))
	f.Add("deposited/2/3", []byte(`null`))
	f.Add("renamed/2", []byte("\n\x05alice"))
	f.Add("renamed", []byte("\x08\x2a"))
	f.Add("touchy", []byte("{}"))
	f.Add("deposited/3+deposited", []byte(`11:{"Cents":5}{"Dollars":3}`))
	f.Add("deposited/9+deposited/2+", []byte(`2:{}13:{"Dollars":3}`))
	f.Fuzz(func(t *testing.T, name string, payload []byte) {
		instance := definition.NewInstance()
		err := evolve(definition, instance, &persistence.Event{Type: name, Payload: payload})
		if err != nil {
			return
		}
		known := strings.HasSuffix(name, "+") // it may be missed
		for _, m := range definition.Messages() {
			for v := 1; m.Kind() == aggregate.KindEvent && v <= m.Version(); v++ {
				for _, form := range strings.Split(name, "+") {
					known = known || form == m.Name() && v == 1 || form == fmt.Sprintf("%s/%d", m.Name(), v) && v > 1
				}
			}
		}
		require.True(t, known, "%q is no stored name", name)
	})
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add([]byte(`{"correlation":"c","extra":{"a":"1"}}`))
	f.Add([]byte(`{"extra":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMetadata(b)
		if err != nil {
			return
		}
		again, err := EncodeMetadata(&m)
		require.NoError(t, err)
		same, err := DecodeMetadata(again)
		require.NoError(t, err)
		if len(m.Extra) == 0 {
			m.Extra, same.Extra = nil, nil
		}
		require.Equal(t, m, same)
	})
}

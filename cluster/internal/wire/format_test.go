package wire

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What nodes of an earlier version send is understood for ever: a golden file is
// added when fields are, and never changed again. The flag writes those that are
// missing.
var writeMissing = flag.Bool("golden", false, "write the golden files that are missing")

func golden(t *testing.T, name, now string) string {
	t.Helper()
	path := filepath.Join("testdata", name)
	if _, err := os.Stat(path); os.IsNotExist(err) && *writeMissing {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(now), 0o600))
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// The envelopes of the past, the newest last: whoever adds a field adds one.
var envelopes = []string{"envelope-1"}

func TestEnvelopesOfThePastAreUnderstood(t *testing.T) {
	full := &Envelope{}
	fill(full.ProtoReflect(), 0)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(full)
	require.NoError(t, err)
	for _, name := range envelopes {
		old := golden(t, name+".golden", hex.Dump(b))
		fields := golden(t, name+".txt", listing(full))
		wire := undump(t, old)
		decoded := &Envelope{}
		require.NoError(t, proto.Unmarshal(wire, decoded))
		require.Equal(t, fields, listing(decoded), "%s: a field has another name, number, type or meaning than it had", name)
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(decoded)
		require.NoError(t, err)
		require.Equal(t, old, hex.Dump(again), "%s is sent in other bytes", name)
	}
}

// A field that is not in the newest golden file could be changed unnoticed.
func TestEveryFieldOfTheEnvelopeIsInAGoldenFile(t *testing.T) {
	full := &Envelope{}
	fill(full.ProtoReflect(), 0)
	newest := &Envelope{}
	require.NoError(t, proto.Unmarshal(undump(t, golden(t, envelopes[len(envelopes)-1]+".golden", "")), newest))
	require.Equal(t, listing(full), listing(newest), "a field was added: add a golden file, with -golden")
}

// fill gives every field a value of its own.
func fill(m protoreflect.Message, base int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		n := base + int(f.Number())
		switch {
		case f.IsMap():
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("key").MapKey(), protoreflect.ValueOfString(fmt.Sprint("value", n)))
		case f.IsList() && f.Message() != nil:
			fill(m.Mutable(f).List().AppendMutable().Message(), 100*n)
		case f.IsList():
			m.Mutable(f).List().Append(scalar(f, n))
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), 100*n)
		default:
			m.Set(f, scalar(f, n))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor, n int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprint("text", n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(n), 0, 1})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	}
	panic(f.Kind().String() + " is not in the envelope yet")
}

// listing is one line for each field that is set.
func listing(m *Envelope) string {
	var b strings.Builder
	list(&b, "", m.ProtoReflect())
	return b.String()
}

func list(b *strings.Builder, path string, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		name := fmt.Sprintf("%s%s(%d)", path, f.Name(), f.Number())
		switch v := m.Get(f); {
		case f.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				fmt.Fprintf(b, "%s %s = %s\n", name, key, value)
				return true
			})
		case f.IsList() && f.Message() != nil:
			for k := range v.List().Len() {
				list(b, name+".", v.List().Get(k).Message())
			}
		case f.IsList():
			for k := range v.List().Len() {
				fmt.Fprintf(b, "%s %s = %v\n", name, f.Kind(), v.List().Get(k))
			}
		case f.Message() != nil:
			list(b, name+".", v.Message())
		default:
			fmt.Fprintf(b, "%s %s = %v\n", name, f.Kind(), v)
		}
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		fmt.Fprintf(b, "%s unknown %x\n", path, unknown)
	}
}

// undump reads what hex.Dump writes.
func undump(t *testing.T, dump string) (b []byte) {
	t.Helper()
	for line := range strings.Lines(dump) {
		hexes, _, _ := strings.Cut(line[10:], "|")
		decoded, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(hexes), " ", ""))
		require.NoError(t, err)
		b = append(b, decoded...)
	}
	return b
}

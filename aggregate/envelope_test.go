package aggregate_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

// The example of RFC 9562, A.6. These bytes never change.
var goldenID = aggregate.CommandID{
	0x01, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7c, 0xc3, 0x98, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f,
}

const goldenText = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"

func TestCommandIDGolden(t *testing.T) {
	require.Equal(t, goldenText, goldenID.String())
	require.Equal(t, time.Date(2022, 2, 22, 19, 22, 22, 0, time.UTC), goldenID.Time().UTC())
	for _, text := range []string{goldenText, strings.ToUpper(goldenText), strings.ReplaceAll(goldenText, "-", "")} {
		id, err := aggregate.ParseCommandID(text)
		require.NoError(t, err)
		require.Equal(t, goldenID, id)
	}
	at := aggregate.CommandIDAt(goldenID.Time())
	require.Equal(t, goldenID[:6], at[:6], "48 bits of time in milliseconds, big endian")
}

func TestCommandIDIsAUUIDOfVersion7(t *testing.T) {
	now := time.UnixMilli(time.Now().UnixMilli())
	var ones, zeros aggregate.CommandID
	for i := range zeros {
		zeros[i] = 0xff
	}
	for range 1000 {
		id := aggregate.CommandIDAt(now)
		require.Equal(t, byte(7), id[6]>>4)
		require.Equal(t, byte(2), id[8]>>6)
		require.True(t, now.Equal(id.Time()))
		require.False(t, id.IsZero())
		for i, b := range id {
			ones[i] |= b
			zeros[i] &= b
		}
	}
	// In a thousand ids each of the 74 random bits was once set and once not.
	require.Equal(t, []byte{0x7f, 0xff, 0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ones[6:])
	require.Equal(t, []byte{0x70, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00}, zeros[6:])
	require.True(t, aggregate.CommandID{}.IsZero())
}

func TestCommandIDsAreOrderedByTime(t *testing.T) {
	start := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	previous := aggregate.CommandIDAt(start)
	for i := range 1000 {
		next := aggregate.CommandIDAt(start.Add(time.Duration(i+1) * time.Millisecond))
		require.Negative(t, bytes.Compare(previous[:], next[:]))
		require.Less(t, previous.String(), next.String())
		previous = next
	}
	before := time.Now().Truncate(time.Millisecond)
	made := aggregate.NewCommandID().Time()
	require.False(t, made.Before(before) || made.After(time.Now()))
}

func TestWhatIsNoCommandID(t *testing.T) {
	for _, text := range []string{
		"", "x", goldenText[1:], goldenText + "0", " " + goldenText, "{" + goldenText + "}",
		"-" + strings.ReplaceAll(goldenText, "-", ""), "017f22e279b0-7cc3-98c4-dc0c-0c07398f",
		strings.Replace(goldenText, "f", "g", 1),
		"00000000-0000-0000-0000-000000000000",
		"f47ac10b-58cc-4372-a567-0e02b2c3d479", // version 4
		"017f22e2-79b0-7cc3-18c4-dc0c0c07398f", // another variant
	} {
		id, err := aggregate.ParseCommandID(text)
		require.ErrorContains(t, err, "parse command id", text)
		require.True(t, id.IsZero())
	}
}

func TestCommandIDsInJSONHaveTheUsualForm(t *testing.T) {
	type order struct{ ID, Before aggregate.CommandID }
	stored, err := json.Marshal(order{ID: goldenID})
	require.NoError(t, err)
	require.JSONEq(t, `{"ID":"`+goldenText+`","Before":"00000000-0000-0000-0000-000000000000"}`, string(stored))
	read := order{Before: goldenID}
	require.NoError(t, json.Unmarshal(stored, &read))
	require.Equal(t, order{ID: goldenID}, read, "also the one that was never set")

	require.ErrorContains(t, json.Unmarshal([]byte(`{"ID":"f47ac10b-58cc-4372-a567-0e02b2c3d479"}`), &read), "not a UUID of version 7")
	require.Equal(t, goldenID, read.ID, "left alone by what cannot be read")
}

func FuzzParseCommandID(f *testing.F) {
	f.Add(goldenText)
	f.Add(strings.ToUpper(goldenText))
	f.Add(strings.ReplaceAll(goldenText, "-", ""))
	f.Add("017f22e2-79b0-7cc3-98c4-")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := aggregate.ParseCommandID(text)
		if err != nil {
			require.True(t, id.IsZero())
			return
		}
		require.Equal(t, strings.ToLower(strings.ReplaceAll(text, "-", "")), strings.ReplaceAll(id.String(), "-", ""))
		again, err := aggregate.ParseCommandID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}

func TestMetadataTravelsInTheContext(t *testing.T) {
	require.Zero(t, aggregate.MetadataFrom(t.Context()))
	m := aggregate.Metadata{User: "bob", Extra: map[string]string{"a": "b"}}
	require.Equal(t, m, aggregate.MetadataFrom(aggregate.WithMetadata(t.Context(), m)))
}

func TestMetadataIsZero(t *testing.T) {
	require.True(t, new(aggregate.Metadata).IsZero())
	require.True(t, (&aggregate.Metadata{Extra: map[string]string{}}).IsZero())
	for _, m := range []aggregate.Metadata{
		{Correlation: "x"}, {Causation: "x"}, {User: "x"}, {Tenant: "x"}, {Trace: "x"}, {Extra: map[string]string{"x": ""}},
	} {
		require.False(t, m.IsZero())
	}
}

package eventsourcing

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// An event is stored under its name and the version of its form: "deposited/2". One
// that has ways back is stored in several forms side by side, the newest first, so
// that programs which do not know the newest read the first that they know:
//
//	type      deposited/2+deposited
//	payload   13:{"Cents":300}{"Dollars":3}
//
// Each form but the last begins with its length, in decimal digits, and a colon. An
// event stored as optional ends with a plus, behind which there is nothing
// (testdata/forms.golden).

// EncodeEvent gives an event its stored form, or forms.
func EncodeEvent(m *aggregate.Message, event any) (persistence.NewEvent, error) {
	forms := m.Forms()
	if len(forms) == 1 {
		payload, err := CodecFor(m).Marshal(event)
		if err != nil {
			return persistence.NewEvent{}, fmt.Errorf("encode event %q: %w", m.Name(), err)
		}
		return persistence.NewEvent{Type: m.StoredName(), Payload: payload}, nil
	}
	var payload []byte
	for i, f := range forms {
		var form []byte
		if f.Message != nil {
			var err error
			if form, err = FormCodec(f.Message, f.Version).Marshal(f.Of(event)); err != nil {
				return persistence.NewEvent{}, fmt.Errorf("encode event %q as %q: %w", m.Name(), f.Name, err)
			}
		}
		if i < len(forms)-1 {
			payload = strconv.AppendInt(payload, int64(len(form)), 10)
			payload = append(payload, ':')
		}
		payload = append(payload, form...)
	}
	return persistence.NewEvent{Type: m.StoredName(), Payload: payload}, nil
}

// DecodeEvents reads a stored event by its name, through the upcasts, and appends
// what it is today: one event; several when it was split; none when it was dropped.
func DecodeEvents(to []any, d *aggregate.Definition, stored string, payload []byte) ([]any, error) {
	k, err := d.Find(stored)
	if err != nil {
		return to, err
	}
	return appendKnown(to, k, payload)
}

func appendKnown(to []any, k aggregate.Known, payload []byte) ([]any, error) {
	if k.Nothing() {
		return to, nil
	}
	if k.Of > 1 {
		var err error
		if payload, err = formAt(payload, k.Place, k.Of); err != nil {
			return to, err
		}
	}
	return k.Append(to, FormCodec(k.Message, k.Version), payload)
}

// DecodeEvent is [DecodeEvents] for a stored event that is one event today; for any
// other it fails.
func DecodeEvent(d *aggregate.Definition, stored string, payload []byte) (any, error) {
	var one [1]any
	events, err := DecodeEvents(one[:0], d, stored, payload)
	if err == nil && len(events) != 1 {
		err = fmt.Errorf("event %q is %d events today", stored, len(events))
	}
	if err != nil {
		return nil, err
	}
	return events[0], nil
}

var errForms = errors.New("malformed forms of an event")

// formAt finds the bytes of one of several forms.
func formAt(payload []byte, place, of int) ([]byte, error) {
	for i := range of - 1 {
		digits, rest, ok := bytes.Cut(payload, []byte{':'})
		if !ok || len(digits) > 10 {
			return nil, errForms
		}
		n, err := strconv.ParseUint(string(digits), 10, 63)
		if err != nil || n > uint64(len(rest)) {
			return nil, errForms
		}
		if i == place {
			return rest[:n], nil
		}
		payload = rest[n:]
	}
	return payload, nil
}

// EventName is the name of an event as stored, without forms and versions.
func EventName(stored string) string {
	if i := strings.IndexAny(stored, "/+"); i >= 0 {
		return stored[:i]
	}
	return stored
}

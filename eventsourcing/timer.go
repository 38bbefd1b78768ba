package eventsourcing

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// storedTimer is the payload of a timer, as JSON: the command by its stored name,
// in its own codec, and the metadata of the command that set the timer.
type storedTimer struct {
	Command string `json:"command"`
	// JSON is the command if its codec is JSON, Bytes otherwise.
	JSON     json.RawMessage     `json:"json,omitempty"`
	Bytes    []byte              `json:"bytes,omitempty"`
	Metadata *aggregate.Metadata `json:"metadata,omitempty"`
}

// EncodeTimer gives a timer its stored form. Command and metadata are those of the
// command whose event sets it.
func EncodeTimer(stream persistence.Stream, partition persistence.Partition, set *aggregate.TimerSet,
	command persistence.CommandID, metadata *aggregate.Metadata,
) (persistence.Timer, error) {
	codec := CodecFor(set.Message)
	body, err := codec.Marshal(set.Command)
	if err != nil {
		return persistence.Timer{}, fmt.Errorf("encode command %q of timer %q: %w", set.Message.Name(), set.Name, err)
	}
	stored := storedTimer{Command: set.Message.Name()}
	if codec == JSON {
		stored.JSON = body
	} else {
		stored.Bytes = body
	}
	if !metadata.IsZero() {
		stored.Metadata = metadata
	}
	payload, err := json.Marshal(&stored)
	if err != nil {
		return persistence.Timer{}, fmt.Errorf("encode timer %q: %w", set.Name, err)
	}
	return persistence.Timer{
		TimerKey: persistence.TimerKey{Stream: stream, Name: set.Name}, Partition: partition,
		Due: set.Due.UTC().Truncate(time.Microsecond), ID: command, Payload: payload,
	}, nil
}

// DecodeTimer makes the request that a timer stands for: its command, under the
// id that [TimerCommand] gives it, with the metadata of the command that set it,
// which is the cause.
func DecodeTimer(d *aggregate.Definition, t *persistence.Timer) (r *aggregate.Request, err error) {
	defer func() {
		if p := recover(); p != nil { // a codec's
			r, err = nil, fmt.Errorf("decode timer %q of %s: panic: %v", t.Name, t.Stream, p)
		}
	}()
	var stored storedTimer
	if err := json.Unmarshal(t.Payload, &stored); err != nil {
		return nil, fmt.Errorf("decode timer %q of %s: %w", t.Name, t.Stream, err)
	}
	m := d.Message(aggregate.KindCommand, stored.Command)
	if m == nil {
		return nil, fmt.Errorf("decode timer %q of %s: aggregate %q accepts no command %q", t.Name, t.Stream, d.Name(), stored.Command)
	}
	body := []byte(stored.JSON)
	if body == nil {
		body = stored.Bytes
	}
	value, err := m.Decode(CodecFor(m), body)
	if err != nil {
		return nil, fmt.Errorf("decode command %q of timer %q of %s: %w", stored.Command, t.Name, t.Stream, err)
	}
	r = &aggregate.Request{
		Definition: d, ID: t.Stream.ID, Message: m, Value: value, Command: TimerCommand(t), Expect: -1,
	}
	if stored.Metadata != nil {
		r.Metadata = *stored.Metadata
	}
	cause := aggregate.CommandID(t.ID).String()
	if r.Metadata.Correlation == "" {
		r.Metadata.Correlation = cause
	}
	r.Metadata.Causation = cause
	return r, nil
}

// TimerCommand is the id of the command that a timer sends: always the same for
// the same timer, and another one for a timer that was set by another command, for
// another stream, under another name or for another time (I10). It has the form of
// a UUID of version 7 whose time is when the timer is due. It is part of the stored
// format: its value for a timer never changes.
func TimerCommand(t *persistence.Timer) aggregate.CommandID {
	h := sha256.New()
	var buf [8]byte
	part := func(s string) {
		binary.BigEndian.PutUint64(buf[:], uint64(len(s)))
		h.Write(buf[:])
		h.Write([]byte(s))
	}
	part(t.Stream.Type)
	part(t.Stream.ID)
	part(t.Name)
	binary.BigEndian.PutUint64(buf[:], uint64(t.Due.UnixMicro())) //nolint:gosec // two's complement
	h.Write(buf[:])
	h.Write(t.ID[:])
	id := aggregate.CommandID(h.Sum(nil)[:16])
	ms := uint64(min(max(t.Due.UnixMilli(), 0), 1<<48-1)) //nolint:gosec // within 48 bits
	binary.BigEndian.PutUint64(id[:8], ms<<16|0x7000|uint64(id[6]&0x0f)<<8|uint64(id[7]))
	id[8] = id[8]&0x3f | 0x80
	return id
}

// EncodeEffects puts the effects of a command's events into its commit, which has
// its stream, partition and command already. One that no store could keep is an
// invalid failure.
func EncodeEffects(d *aggregate.Definition, events []any, metadata *aggregate.Metadata, c *persistence.Commit) error {
	var effects aggregate.Effects
	for _, event := range events {
		m := d.MessageOf(event)
		if err := d.AddEffects(&effects, m, event); err != nil {
			return err
		}
		if _, err := d.SendsOf(m, event); err != nil {
			return err
		}
	}
	if effects.Empty() {
		return nil
	}
	return encodeEffects(&effects, c, metadata)
}

func encodeEffects(e *aggregate.Effects, c *persistence.Commit, metadata *aggregate.Metadata) error {
	for _, claim := range e.Claims {
		c.Claims = append(c.Claims, persistence.Claim(claim))
	}
	for _, claim := range e.Releases {
		c.Releases = append(c.Releases, persistence.Claim(claim))
	}
	for _, name := range e.Cancels {
		c.Cancels = append(c.Cancels, persistence.TimerKey{Stream: c.Stream, Name: name})
	}
	for i := range e.Timers {
		t, err := EncodeTimer(c.Stream, c.Partition, &e.Timers[i], c.Command, metadata)
		if err != nil {
			return aggregate.Invalid(aggregate.ReasonBadPayload, err)
		}
		c.Timers = append(c.Timers, t)
	}
	return nil
}

package aggregate

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"
)

// The integers of a receipt have types of their own.
type (
	// Version is how many events an aggregate has had.
	Version int64
	// Partition numbers one of the store's logs.
	Partition int32
	// Offset is an event's dense place in its partition.
	Offset int64
)

// CommandID is a command's identity: a UUID of version 7 (RFC 9562), so that its
// age can be told. One id has one effect, however often it is sent (I5).
type CommandID [16]byte

// NewCommandID makes an id from the current time and 74 random bits.
func NewCommandID() CommandID { return CommandIDAt(time.Now()) }

// CommandIDAt makes an id for a given time.
func CommandIDAt(t time.Time) CommandID {
	var id CommandID
	binary.BigEndian.PutUint64(id[:8], uint64(t.UnixMilli())<<16|0x7000|rand.Uint64()&0x0fff)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()&^(3<<62)|2<<62)
	return id
}

// Time is when the id was made, in milliseconds.
func (c CommandID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(c[:8]) >> 16))
}

// IsZero reports whether the id was never set.
func (c CommandID) IsZero() bool { return c == CommandID{} }

func (c CommandID) isVersion7() bool { return c[6]>>4 == 7 && c[8]>>6 == 2 }

// String is the usual dashed form.
func (c CommandID) String() string {
	h := hex.EncodeToString(c[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseCommandID reads what String writes, or the same without dashes.
func ParseCommandID(s string) (CommandID, error) {
	digits := s
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		digits = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(CommandID{}) {
		return CommandID{}, fmt.Errorf("parse command id %q: want 32 hexadecimal digits", s)
	}
	id := CommandID(b)
	if !id.isVersion7() {
		return CommandID{}, fmt.Errorf("parse command id %q: not a UUID of version 7", s)
	}
	return id, nil
}

// MarshalText is String, so that JSON has the usual form.
func (c CommandID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is [ParseCommandID], and also reads the zero id, so that a field
// that was never set survives.
func (c *CommandID) UnmarshalText(text []byte) error {
	if string(text) == (CommandID{}).String() {
		*c = CommandID{}
		return nil
	}
	id, err := ParseCommandID(string(text))
	if err != nil {
		return err
	}
	*c = id
	return nil
}

// Metadata travels with a command to its events and onward to whatever they
// cause, by default and without any code. It says who and why, never what.
type Metadata struct {
	// Correlation is shared by everything that one first cause set off. When
	// empty, nothing is stored: who reads the event takes the id of its command,
	// which stands beside it, and passes that on.
	Correlation string `json:"correlation,omitempty"`
	// Causation is what directly caused the command: an event or a request.
	Causation string `json:"causation,omitempty"`
	User      string `json:"user,omitempty"`
	Tenant    string `json:"tenant,omitempty"`
	// Trace is a W3C traceparent.
	Trace string `json:"trace,omitempty"`
	// Extra is for everything else.
	Extra map[string]string `json:"extra,omitempty"`
}

// IsZero reports whether nothing is set.
func (m *Metadata) IsZero() bool {
	return m.Correlation == "" && m.Causation == "" && m.User == "" && m.Tenant == "" && m.Trace == "" && len(m.Extra) == 0
}

type metadataKey struct{}

// WithMetadata returns a context whose commands carry the metadata. Set it once
// where a request enters the program.
func WithMetadata(ctx context.Context, m Metadata) context.Context {
	return context.WithValue(ctx, metadataKey{}, m)
}

// MetadataFrom returns what WithMetadata put into the context.
func MetadataFrom(ctx context.Context) Metadata {
	m, _ := ctx.Value(metadataKey{}).(Metadata)
	return m
}

// Receipt is what a command's caller gets back: the events are durable. That of
// a query, see [Into], has Version and Partition only.
type Receipt struct {
	Command CommandID
	// Version of the aggregate after the command, or the one a query read.
	Version Version
	// Events is how many events the command caused; 0 when there was nothing
	// to do.
	Events int
	// Partition and Offset are the place of the command's last event in the
	// log: a token with which a reader can wait until it has seen it. Offset is
	// 0 when there was no event.
	Partition Partition
	Offset    Offset
	// Duplicate says that the command had been handled before; the rest is the
	// receipt of that time.
	Duplicate bool
}

// Request is a command or query on its way. The gateway must not change it.
type Request struct {
	Definition *Definition
	ID         string
	// Message is the schema entry of Value.
	Message *Message
	Value   any
	// Answer asks for the result of a query, or of a command that answers.
	Answer bool
	// Command identifies a command; zero for a query.
	Command CommandID
	// Expect is the version the caller has seen; negative when any will do.
	Expect   Version
	Metadata Metadata
	// Caused says that an event caused the command. Its id is made from the event,
	// and may have any age; and what becomes of it is kept in the log of its
	// aggregate, even if it has no events or is rejected, so that the command has
	// that outcome for ever.
	Caused bool
	// Refusal is what becomes of a caused command that has no outcome yet, instead
	// of what Decide would say.
	Refusal *Rejection

	into *Receipt // set by Into
	err  error    // an option's
}

// refuse makes the request invalid before it is sent. The first reason counts.
func (r *Request) refuse(reason string, err error) {
	if r.err == nil {
		r.err = Invalid(reason, err)
	}
}

// Response is what came back.
type Response struct {
	Receipt Receipt
	// Answer is the result, of the query's own Go type.
	Answer any
}

// Gateway carries requests to the one activation of their aggregate, wherever
// it is. *cluster.Node is one. It is safe for concurrent use and returns only
// errors that [KindOf] can sort. The deadline is ctx's, or one of its own when
// ctx has none.
type Gateway interface {
	Deliver(ctx context.Context, request *Request) (Response, error)
}

package eventsourcing

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// OutcomeType is the stored name of an event that keeps what became of a command
// that an event caused, and that did nothing: it was rejected, or there was nothing
// to do. No definition can have it. It counts as a version of its stream and
// evolves nothing; projections and readers pass over it.
const OutcomeType = "$outcome"

// IsOutcome reports whether an event of that stored name is an outcome.
func IsOutcome(stored string) bool { return stored == OutcomeType }

// storedOutcome is the payload of an outcome, as JSON; without a code there was
// nothing to do.
type storedOutcome struct {
	Code    string            `json:"code,omitempty"`
	Message string            `json:"message,omitempty"`
	Details map[string]string `json:"details,omitempty"`
}

// EncodeOutcome gives an outcome its stored form; nil is that there was nothing to
// do.
func EncodeOutcome(r *aggregate.Rejection) (persistence.NewEvent, error) {
	var stored storedOutcome
	if r != nil {
		stored = storedOutcome(*r)
		if stored.Code == "" {
			stored.Code = aggregate.CodeUnspecified
		}
	}
	payload, err := json.Marshal(&stored)
	if err != nil {
		return persistence.NewEvent{}, fmt.Errorf("encode outcome: %w", err)
	}
	return persistence.NewEvent{Type: OutcomeType, Payload: payload}, nil
}

// DecodeOutcome undoes EncodeOutcome.
func DecodeOutcome(payload []byte) (*aggregate.Rejection, error) {
	var stored storedOutcome
	if err := json.Unmarshal(payload, &stored); err != nil {
		return nil, fmt.Errorf("decode outcome: %w", err)
	}
	if stored.Code == "" {
		return nil, nil
	}
	r := aggregate.Rejection(stored)
	return &r, nil
}

// openNamespace is where processes that may end are claimed while they are open.
const openNamespace = "$process"

// OpenClaim is the claim that a process holds from its first event until its end,
// so that the open ones can be listed.
func OpenClaim(stream persistence.Stream) persistence.Claim {
	return persistence.Claim{Namespace: openNamespace, Key: stream.String()}
}

// The kinds of caused commands, which tell their ids apart.
const (
	causedInput = "input" // of a process, by an event of another aggregate
	causedSend  = "send"  // of a process, by an event of its own
	causedReply = "reply" // to a process, by what became of a send
)

// causedCommand is the id of the command that an event causes for a process: the
// same whenever it is asked, and another one for another kind of command, process,
// place of the event, or place among what the event causes (I10). It has the form
// of a UUID of version 7 whose time is the event's. It is part of the stored
// format: its value never changes.
func causedCommand(kind, process string, e *persistence.Event, index int) aggregate.CommandID {
	h := sha256.New()
	var buf [8]byte
	number := func(n int64) {
		binary.BigEndian.PutUint64(buf[:], uint64(n)) //nolint:gosec // two's complement
		h.Write(buf[:])
	}
	for _, s := range [...]string{kind, process} {
		number(int64(len(s)))
		h.Write([]byte(s))
	}
	number(int64(e.Partition))
	number(int64(e.Offset))
	number(int64(index))
	id := aggregate.CommandID(h.Sum(nil)[:16])
	ms := uint64(min(max(e.At.UnixMilli(), 0), 1<<48-1)) //nolint:gosec // within 48 bits
	binary.BigEndian.PutUint64(id[:8], ms<<16|0x7000|uint64(id[6]&0x0f)<<8|uint64(id[7]))
	id[8] = id[8]&0x3f | 0x80
	return id
}

// onward is the metadata of what an event causes: the event's own, in the same
// correlation, caused by the event's command.
func onward(e *persistence.Event) aggregate.Metadata {
	m, err := DecodeMetadata(e.Metadata)
	if err != nil {
		m = aggregate.Metadata{} // of a form that this program does not know: a new chain begins
	}
	cause := aggregate.CommandID(e.Command).String()
	if m.Correlation == "" {
		m.Correlation = cause
	}
	m.Causation = cause
	return m
}

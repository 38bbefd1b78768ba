package eventsourcing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// snapshotFormat is the first byte of a stored snapshot. The formats are never
// edited, only added (testdata/snapshot-1.golden).
//
//	1: state length, state, floor, number of commands, and for each of them
//	   id (16 bytes), version, events, offset. Numbers are unsigned varints.
const snapshotFormat = 1

var (
	errSnapshot = errors.New("malformed snapshot")
	errForeign  = errors.New("its last event is not in the log, which was set back, or it does not say which it is")
)

// EncodeSnapshot stores the state of an aggregate, all of whose events up to
// version are durable, and the commands it remembers. Of these events, last is
// the one of that version.
func EncodeSnapshot(d *aggregate.Definition, stream persistence.Stream, version persistence.Version, last persistence.Cause,
	instance aggregate.Instance, window *Window, at time.Time,
) (persistence.Snapshot, error) {
	state, err := StateCodec(d).Marshal(instance.State())
	if err != nil {
		return persistence.Snapshot{}, fmt.Errorf("encode state of %s: %w", stream, err)
	}
	handled, floor := window.stored(windowStored)
	b := make([]byte, 0, len(state)+32+24*len(handled))
	b = append(b, snapshotFormat)
	b = binary.AppendUvarint(b, uint64(len(state)))
	b = append(b, state...)
	b = binary.AppendUvarint(b, uint64(floor))
	b = binary.AppendUvarint(b, uint64(len(handled)))
	for _, h := range handled {
		b = append(b, h.Command[:]...)
		b = binary.AppendUvarint(b, uint64(h.Version))
		b = binary.AppendUvarint(b, uint64(h.Events))
		b = binary.AppendUvarint(b, uint64(h.Offset))
	}
	return persistence.Snapshot{
		Stream: stream, Version: version, Last: last, Schema: d.Snapshots().Schema, At: at, Payload: b,
	}, nil
}

// decodeSnapshot undoes EncodeSnapshot. Any error means: replay.
func decodeSnapshot(d *aggregate.Definition, s *persistence.Snapshot) (_ aggregate.Instance, _ Window, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if want := d.Snapshots().Schema; s.Schema != want {
		return nil, Window{}, fmt.Errorf("snapshot has schema %d, the definition %d", s.Schema, want)
	}
	b := s.Payload
	if len(b) == 0 || b[0] != snapshotFormat {
		return nil, Window{}, errSnapshot
	}
	r := reader{rest: b[1:]}
	state := r.bytes(r.uvarint())
	floor, n := int64(r.uvarint()), r.uvarint()
	var handled []Handled
	for i := uint64(0); i < n && !r.bad; i++ {
		var h Handled
		copy(h.Command[:], r.bytes(uint64(len(h.Command))))
		h.Version = persistence.Version(r.uvarint())
		h.Events = int(r.uvarint())
		h.Offset = persistence.Offset(r.uvarint())
		handled = append(handled, h)
	}
	if r.bad || len(r.rest) > 0 {
		return nil, Window{}, errSnapshot
	}
	instance := d.NewInstance()
	if err = instance.Restore(StateCodec(d), state); err != nil {
		return nil, Window{}, fmt.Errorf("decode state: %w", err)
	}
	return instance, restoreWindow(handled, floor), nil
}

type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad = true
		r.rest = nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.bad = true
		r.rest = nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

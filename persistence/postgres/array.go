package postgres

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ingrain-go/ingrain/persistence"
)

// array is a one-dimensional array in PostgreSQL's binary format, built element
// by element in a buffer that is used again: the statements of an append get
// their parameters without an allocation per event.
type array struct {
	oid uint32
	buf []byte
	n   uint32
}

const (
	arrayHeader = 20 // dimensions, has nulls, element type, length, lower bound
	null        = 0xffffffff
	// keepBuffer bounds what an idle lane keeps for each parameter.
	keepBuffer = 1 << 20
)

func newArray(oid uint32) array { return array{oid: oid} }

func (a *array) reset() {
	if cap(a.buf) > keepBuffer {
		a.buf = nil
	}
	a.n = 0
	a.buf = append(a.buf[:0], make([]byte, arrayHeader)...)
}

// value returns the parameter. It is valid until the next reset.
func (a *array) value() []byte {
	dimensions, nulls := uint32(1), uint32(0)
	if a.n == 0 {
		dimensions = 0
	}
	if a.oid == pgtype.ByteaOID {
		nulls = 1 // may have some
	}
	binary.BigEndian.PutUint32(a.buf, dimensions)
	binary.BigEndian.PutUint32(a.buf[4:], nulls)
	binary.BigEndian.PutUint32(a.buf[8:], a.oid)
	if a.n == 0 {
		return a.buf[:12]
	}
	binary.BigEndian.PutUint32(a.buf[12:], a.n)
	binary.BigEndian.PutUint32(a.buf[16:], 1)
	return a.buf
}

// only returns the array's one element as a parameter of the element's type.
func (a *array) only() []byte {
	if binary.BigEndian.Uint32(a.buf[arrayHeader:]) == null {
		return nil
	}
	return a.buf[arrayHeader+4:]
}

func (a *array) element(length int) {
	a.n++
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(length)) //nolint:gosec // bounded by maxCommitBytes
}

func (a *array) int4(v int32) {
	a.element(4)
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(v)) //nolint:gosec // two's complement
}

func (a *array) int8(v int64) {
	a.element(8)
	a.buf = binary.BigEndian.AppendUint64(a.buf, uint64(v)) //nolint:gosec // two's complement
}

func (a *array) text(s string) {
	a.element(len(s))
	a.buf = append(a.buf, s...)
}

func (a *array) stream(s persistence.Stream) {
	a.element(len(s.Type) + 1 + len(s.ID))
	a.buf = append(a.buf, s.Type...)
	a.buf = append(a.buf, '/')
	a.buf = append(a.buf, s.ID...)
}

func (a *array) uuid(id persistence.CommandID) {
	a.element(len(id))
	a.buf = append(a.buf, id[:]...)
}

func (a *array) bytes(b []byte) {
	a.element(len(b))
	a.buf = append(a.buf, b...)
}

func (a *array) null() {
	a.n++
	a.buf = binary.BigEndian.AppendUint32(a.buf, null)
}

// postgresEpoch is 2000-01-01 in microseconds since 1970.
const postgresEpoch = 946_684_800_000_000

func (a *array) timestamp(t time.Time) { a.int8(t.UnixMicro() - postgresEpoch) }

package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// An append is steady when nothing but events is written, the connection knows
// the heads of all partitions, and no version has to be compared: then fence and
// insert are one statement, instead of a call of es_fence and an insert. It
// inserts every row or none. None means that a partition is somebody else's or
// that the witness is gone; the append is then sent the long way, where es_fence
// says what is wrong and the other partitions' commits go on.
//
// So the fence is written twice, in es_fence and here; fence_test.go holds the
// one against the other.
//
// The rows are locked as in es_fence and for the same reasons. That lock and
// insert share a statement, and thus a snapshot from before the lock, is safe
// for two of them. When a claim came first, the lock waits for it and then tests
// epoch and owner on the row as the claim left it, which READ COMMITTED
// promises. And the insert reads nothing that a claim could have changed: what
// it needs to know of the log is proven by the unique indexes, which look past
// snapshots. The locks are taken before the first row is inserted, because the
// condition does not depend on the rows and is evaluated once.
//
// The first five parameters are the same for all: partition, epoch, owner, and
// the witness.
const (
	// One event.
	steadyEventSQL = intoEvents + `select $1::int, $6::bigint, $2::bigint, $7::text, $8::bigint, $9::text, $10::timestamptz, $11::uuid,
		$12::bytea, $13::bytea where ` + ownsOne + witnessed
	// Events of one partition.
	steadyPartSQL = intoEvents + `select $1::int, unnest($6::bigint[]), $2::bigint, unnest($7::text[]), unnest($8::bigint[]), unnest($9::text[]),
		unnest($10::timestamptz[]), unnest($11::uuid[]), unnest($12::bytea[]), unnest($13::bytea[]) where ` + ownsOne + witnessed
	// Events of several, whose numbers and epochs are arrays.
	steadyPartsSQL = intoEvents + `select unnest($6::int[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::text[]), unnest($10::bigint[]),
		unnest($11::text[]), unnest($12::timestamptz[]), unnest($13::uuid[]), unnest($14::bytea[]), unnest($15::bytea[]) where ` + ownsAll + witnessed

	intoEvents = `insert into es_event (part, pos, epoch, stream, version, type, at, cmd, meta, payload) `
	ownsOne    = `exists (select from es_partition p where p.part = $1 and p.epoch = $2 and p.owner = $3 and p.owner <> '' for no key update)`
	ownsAll    = `(select count(*) from (select from es_partition p join unnest($1::int[], $2::bigint[]) i(part, epoch) on p.part = i.part
		where p.epoch = i.epoch and p.owner = $3 and p.owner <> '' order by p.part for no key update of p) locked) = cardinality($1::int[])`
	witnessed = ` and exists (select from es_event e where e.part = $4::int and e.pos = $5::bigint)`
)

const (
	steadyEvent = "steady_event"
	steadyPart  = "steady_part"
	steadyParts = "steady_parts"
)

// steadyStatements are only prepared; their parameters are those of other
// statements.
func steadyStatements() []*statement {
	return []*statement{{name: steadyEvent, sql: steadyEventSQL}, {name: steadyPart, sql: steadyPartSQL}, {name: steadyParts, sql: steadyPartsSQL}}
}

// errUnsteady says that a steady append inserted nothing.
var errUnsteady = errors.New("a partition is fenced or the witness is gone")

// steady reports whether what was planned fits into one statement.
func (l *lane) steady() bool {
	return l.event.rows() > 0 && l.witness.After > 0 && l.fence.params[3].n == 0 &&
		l.expect.rows()+l.claim.rows()+l.timer.rows()+l.cancel.rows() == 0 &&
		len(l.attempt.run) == 0
}

// sendSteady does for a steady append what send does for all.
func (l *lane) sendSteady(ctx context.Context, owner persistence.NodeID) error {
	fence, event := l.fence.params, l.event.params
	name, ofPart, ofEvent := steadyParts, (*array).value, (*array).value
	if fence[0].n == 1 {
		name, ofPart = steadyPart, (*array).only
		if event[0].n == 1 {
			name, ofEvent = steadyEvent, (*array).only
		}
	}
	l.values = append(l.values[:0], ofPart(&fence[0]), ofPart(&fence[1]), []byte(owner))
	l.values = l.appendWitness(l.values)
	for i := range event {
		// The first and the third are the partition and the epoch, which one
		// partition's events share.
		if name == steadyParts || i != 0 && i != 2 {
			l.values = append(l.values, ofEvent(&event[i]))
		}
	}
	tag, err := l.conn.PgConn().ExecPrepared(ctx, name, l.values, binaryFormat, nil).Close()
	l.used = time.Now()
	if err != nil {
		return err
	}
	switch n := tag.RowsAffected(); n {
	case int64(event[0].n):
		return nil
	case 0:
		return errUnsteady
	default:
		return fmt.Errorf("%d of %d events were inserted", n, event[0].n)
	}
}

// appendWitness adds the witness as two parameters.
func (l *lane) appendWitness(values [][]byte) [][]byte {
	l.scalars = binary.BigEndian.AppendUint32(l.scalars[:0], uint32(l.witness.Partition)) //nolint:gosec // never negative
	l.scalars = binary.BigEndian.AppendUint64(l.scalars, uint64(l.witness.After))         //nolint:gosec // never negative
	return append(values, l.scalars[:4], l.scalars[4:])
}

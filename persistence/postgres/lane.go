package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ingrain-go/ingrain/persistence"
)

// statement is a prepared statement of a writer connection and its parameters,
// all of them arrays but for the fence's last three.
type statement struct {
	name, sql string
	params    []array
}

func (st *statement) reset() {
	for i := range st.params {
		st.params[i].reset()
	}
}

// rows is the length of the longest parameter; a statement without rows has
// nothing to do.
func (st *statement) rows() uint32 {
	var rows uint32
	for i := range st.params {
		rows = max(rows, st.params[i].n)
	}
	return rows
}

const (
	fenceSQL  = `select es_fence($1::int[], $2::bigint[], $3::bigint[], $4::int[], $5::bigint[], $6::int, $7::bigint, $8::text)`
	expectSQL = `select es_expect($1::text[], $2::bigint[])`
	claimSQL  = `select es_exchange($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])`
	// Unnesting in the list of columns costs a sixth less than in a FROM clause,
	// which first makes a table of every array.
	eventSQL = intoEvents + `select unnest($1::int[]), unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::bigint[]),
		unnest($6::text[]), unnest($7::timestamptz[]), unnest($8::uuid[]), unnest($9::bytea[]), unnest($10::bytea[])`
	timerSQL = `insert into es_timer (stream, name, part, due, id, payload)
		select * from unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::uuid[], $6::bytea[])
		on conflict (stream, name) do update set due = excluded.due, id = excluded.id, payload = excluded.payload`
	cancelSQL = `delete from es_timer t using unnest($1::text[], $2::text[]) d(stream, name)
		where t.stream = d.stream and t.name = d.name`
)

// lane is a writer connection with the buffers of the append that uses it. One
// append at a time has it.
type lane struct {
	store  *Store
	number int
	config *pgx.ConnConfig
	conn   *pgx.Conn // nil until needed, and after it broke
	used   time.Time // when the connection was last heard of

	// checked counts the transactions ahead that compare all versions before
	// they insert, because one failed that did not.
	checked int

	// What this connection wrote or looked up: the heads of partitions, and the
	// event it wrote last; see es_fence.
	heads   map[persistence.Partition]sighting
	witness persistence.Cursor

	fence, expect, claim, event, timer, cancel statement

	attempt attempt
	values  [][]byte
	scalars []byte
}

// sighting is the end of a partition's log as last seen under an epoch.
type sighting struct {
	epoch persistence.Epoch
	head  persistence.Offset
}

func newLane(s *Store, number int, config *pgx.ConnConfig) *lane {
	arrays := func(oids ...uint32) []array {
		as := make([]array, len(oids))
		for i, oid := range oids {
			as[i] = newArray(oid)
		}
		return as
	}
	const i4, i8, txt, ts, uid, raw = pgtype.Int4OID, pgtype.Int8OID, pgtype.TextOID, pgtype.TimestamptzOID, pgtype.UUIDOID, pgtype.ByteaOID
	return &lane{
		store:  s,
		number: number,
		config: config,
		heads:  make(map[persistence.Partition]sighting),
		fence:  statement{"fence", fenceSQL, arrays(i4, i8, i8, i4, i8)},
		expect: statement{"expect", expectSQL, arrays(txt, i8)},
		claim:  statement{"claim", claimSQL, arrays(txt, txt, txt, txt, txt, txt)},
		event:  statement{"event", eventSQL, arrays(i4, i8, i8, txt, i8, txt, ts, uid, raw, raw)},
		timer:  statement{"timer", timerSQL, arrays(txt, txt, i4, ts, uid, raw)},
		cancel: statement{"cancel", cancelSQL, arrays(txt, txt)},
		attempt: attempt{
			parts:  make(map[persistence.Partition]int),
			chains: make(map[persistence.Stream]int),
		},
	}
}

func (l *lane) statements() [6]*statement {
	return [6]*statement{&l.fence, &l.expect, &l.claim, &l.event, &l.timer, &l.cancel}
}

// ready makes sure that there is a connection and that the server was at its
// other end a moment ago. Nothing of an append has been sent when it fails.
func (l *lane) ready(ctx context.Context) error {
	if l.conn != nil && !l.conn.IsClosed() {
		if time.Since(l.used) < idleCheck {
			return nil
		}
		if l.conn.Ping(ctx) == nil {
			l.used = time.Now()
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	l.disconnect()
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return concise(err)
	}
	l.conn = conn
	if err := l.prepare(ctx); err != nil {
		l.disconnect()
		return err
	}
	l.used = time.Now()
	return nil
}

// prepare makes the session fit for appends.
func (l *lane) prepare(ctx context.Context) error {
	// What is acknowledged must be durable whatever the server's default says.
	if _, err := l.conn.Exec(ctx, `select set_config('synchronous_commit', 'on', false)
		where current_setting('synchronous_commit') = 'off'`); err != nil {
		return err
	}
	all := l.statements()
	for _, st := range append(all[:], steadyStatements()...) {
		if _, err := l.conn.PgConn().Prepare(ctx, st.name, st.sql, nil); err != nil {
			return fmt.Errorf("prepare %s: %w", st.name, err)
		}
	}
	return nil
}

// forget makes the next fence look at every head itself.
func (l *lane) forget() {
	clear(l.heads)
	l.witness = persistence.Cursor{}
}

func (l *lane) disconnect() {
	l.forget()
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // a failing goodbye has no consequence
	l.conn = nil
}

// Results are void or nothing, parameters binary throughout.
var binaryFormat = []int16{pgx.BinaryFormatCode}

// send runs what was planned in one transaction and one round trip: as one
// statement when that will do, otherwise the statements that have something to
// do as one pipeline.
func (l *lane) send(ctx context.Context, owner persistence.NodeID) error {
	if l.steady() {
		return l.sendSteady(ctx, owner)
	}
	var batch pgconn.Batch
	sent := 0
	for _, st := range l.statements() {
		if st.rows() == 0 {
			continue
		}
		l.values = l.values[:0]
		for i := range st.params {
			l.values = append(l.values, st.params[i].value())
		}
		if st == &l.fence {
			l.values = append(l.appendWitness(l.values), []byte(owner))
		}
		batch.ExecPrepared(st.name, l.values, binaryFormat, nil)
		sent++
	}
	if len(l.attempt.run) > 0 {
		return l.sendWithStatements(ctx, &batch, sent)
	}
	err := l.conn.PgConn().ExecBatch(ctx, &batch).Close()
	l.used = time.Now()
	return err
}

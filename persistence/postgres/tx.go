package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/persistence"
)

// tx is the transaction of a step, lent to whoever works in it.
type tx struct {
	conn  *pgx.Conn
	open  *rows
	ended bool
}

var (
	errTxEnded  = errors.New("the transaction has ended")
	errRowsOpen = errors.New("the rows of the query before are open")
)

// Exec runs a statement.
func (t *tx) Exec(ctx context.Context, sql string, args ...any) (int64, error) {
	if err := t.ready(); err != nil {
		return 0, err
	}
	tag, err := t.conn.Exec(ctx, sql, arguments(args)...)
	return tag.RowsAffected(), err
}

// Query runs a statement that returns rows.
func (t *tx) Query(ctx context.Context, sql string, args ...any) (persistence.Rows, error) {
	if err := t.ready(); err != nil {
		return nil, err
	}
	found, err := t.conn.Query(ctx, sql, arguments(args)...)
	if err != nil {
		return nil, err
	}
	t.open = &rows{tx: t, found: found}
	return t.open, nil
}

func (t *tx) ready() error {
	switch {
	case t.ended:
		return errTxEnded
	case t.open != nil:
		return errRowsOpen
	}
	return nil
}

// whole reports why the transaction must not be committed, though the work is
// content.
func (t *tx) whole() error {
	if t.open != nil {
		return errRowsOpen
	}
	return nil
}

// end closes what the work left open.
func (t *tx) end() {
	if t.open != nil {
		_ = t.open.Close() // the transaction is rolled back
	}
	t.ended = true
}

// arguments makes what the driver does not know what it knows.
func arguments(args []any) []any {
	for i := range args {
		switch arg := args[i].(type) {
		case persistence.CommandID:
			args[i] = [16]byte(arg)
		case persistence.Stream:
			args[i] = arg.String()
		}
	}
	return args
}

// rows is a result being read.
type rows struct {
	tx     *tx
	found  pgx.Rows
	closed bool
}

// Next moves to the next row.
func (r *rows) Next() bool {
	if r.closed || r.found.Next() {
		return !r.closed
	}
	_ = r.Close() // is Err
	return false
}

// Scan copies the row that Next moved to.
func (r *rows) Scan(dest ...any) error {
	for i := range dest {
		if id, ok := dest[i].(*persistence.CommandID); ok {
			dest[i] = (*[16]byte)(id)
		}
	}
	return r.found.Scan(dest...)
}

// Err is what ended the reading early.
func (r *rows) Err() error { return r.found.Err() }

// Close ends the reading.
func (r *rows) Close() error {
	if !r.closed {
		r.closed = true
		r.tx.open = nil
		r.found.Close()
	}
	return r.found.Err()
}

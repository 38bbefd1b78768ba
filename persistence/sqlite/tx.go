package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// tx is the transaction of a step, lent to whoever works in it.
type tx struct {
	conn  *conn
	open  *rows
	ended bool
	broke error // of the store, not of a statement: the transaction is lost
}

var (
	errTxEnded  = errors.New("the transaction has ended")
	errRowsOpen = errors.New("the rows of the query before are open")
)

// Exec runs a statement.
func (t *tx) Exec(ctx context.Context, sql string, args ...any) (int64, error) {
	raw, values, err := t.prepare(ctx, sql, args)
	if err != nil {
		return 0, err
	}
	result, err := raw.stmt.(driver.StmtExecContext).ExecContext(context.Background(), values)
	var affected int64
	if err == nil {
		affected, err = result.RowsAffected()
	}
	return affected, t.note(errors.Join(err, raw.release()))
}

// Query runs a statement that returns rows.
func (t *tx) Query(ctx context.Context, sql string, args ...any) (persistence.Rows, error) {
	raw, values, err := t.prepare(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	found, err := raw.stmt.(driver.StmtQueryContext).QueryContext(context.Background(), values)
	if err != nil {
		return nil, t.note(errors.Join(err, raw.release()))
	}
	t.open = &rows{tx: t, stmt: raw, found: found, row: make(row, len(found.Columns()))}
	return t.open, nil
}

func (t *tx) prepare(ctx context.Context, sql string, args []any) (lent, []driver.NamedValue, error) {
	switch {
	case t.ended:
		return lent{}, nil, errTxEnded
	case t.open != nil:
		return lent{}, nil, errRowsOpen
	case ctx.Err() != nil:
		return lent{}, nil, ctx.Err()
	}
	values := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		value, err := stepArgument(arg)
		if err != nil {
			return lent{}, nil, fmt.Errorf("argument %d: %w", i+1, err)
		}
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: value}
	}
	raw, err := t.conn.lend(sql)
	return raw, values, t.note(err)
}

// note remembers an error that ended the transaction behind the caller's back.
func (t *tx) note(err error) error {
	if err != nil && ofTheStore(err) && t.broke == nil {
		t.broke = err
	}
	return err
}

// whole reports why the transaction must not be committed, though the work is
// content.
func (t *tx) whole() error {
	if t.open != nil {
		return errRowsOpen
	}
	return t.broke
}

// end closes what the work left open.
func (t *tx) end() {
	if t.open != nil {
		_ = t.open.Close() // the transaction is rolled back
	}
	t.ended = true
}

// stepArgument is argument for the types that a step has besides.
func stepArgument(v any) (driver.Value, error) {
	switch v := v.(type) {
	case persistence.CommandID:
		return v[:], nil
	case persistence.Stream:
		return v.String(), nil
	}
	return argument(v)
}

// lent is a prepared statement that is not ours.
type lent struct {
	stmt driver.Stmt
	kept bool
}

func (l lent) release() error {
	if l.kept {
		return nil
	}
	return l.stmt.Close()
}

// lend prepares a statement, or finds it prepared.
func (c *conn) lend(sql string) (lent, error) {
	if raw := c.others[sql]; raw != nil {
		return lent{raw, true}, nil
	}
	raw, err := c.raw.(driver.ConnPrepareContext).PrepareContext(context.Background(), sql)
	if err != nil {
		return lent{}, err
	}
	if len(c.others) >= maxPrepared {
		return lent{raw, false}, nil
	}
	if c.others == nil {
		c.others = make(map[string]driver.Stmt)
	}
	c.others[sql] = raw
	return lent{raw, true}, nil
}

// rows is a result being read.
type rows struct {
	tx     *tx
	stmt   lent
	found  driver.Rows
	row    row
	on     bool
	err    error
	closed bool
}

// Next moves to the next row.
func (r *rows) Next() bool {
	if r.closed || r.err != nil {
		return false
	}
	if err := r.found.Next(r.row); err != nil {
		if !errors.Is(err, io.EOF) {
			r.err = r.tx.note(err)
		}
		r.on = false
		_ = r.Close() // is Err
		return false
	}
	r.on = true
	return true
}

// Scan copies the row that Next moved to.
func (r *rows) Scan(dest ...any) error {
	if !r.on || r.closed {
		return errors.New("scan: there is no row")
	}
	if len(dest) != len(r.row) {
		return fmt.Errorf("scan: %d columns into %d values", len(r.row), len(dest))
	}
	for i := range dest {
		if err := assign(dest[i], r.row[i]); err != nil {
			return fmt.Errorf("scan column %d: %w", i+1, err)
		}
	}
	return nil
}

// Err is what ended the reading early.
func (r *rows) Err() error { return r.err }

// Close ends the reading.
func (r *rows) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	r.tx.open = nil
	if err := errors.Join(r.found.Close(), r.stmt.release()); r.err == nil {
		r.err = err
	}
	return r.err
}

// scanner is database/sql's Scanner.
type scanner interface{ Scan(src any) error }

// assign copies a column to where dest points.
func assign(dest any, v driver.Value) error {
	switch d := dest.(type) {
	case *any:
		*d = v
		return nil
	case *time.Time:
		switch v := v.(type) {
		case int64:
			*d = time.UnixMicro(v).UTC()
			return nil
		case time.Time:
			*d = v
			return nil
		}
		return fmt.Errorf("%T into a time", v)
	case *persistence.CommandID:
		b, ok := v.([]byte)
		if !ok || len(b) != len(d) {
			return fmt.Errorf("%T into a command id", v)
		}
		copy(d[:], b)
		return nil
	case scanner:
		return d.Scan(v)
	}
	to := reflect.ValueOf(dest)
	if to.Kind() != reflect.Pointer || to.IsNil() {
		return fmt.Errorf("%T is no place to scan into", dest)
	}
	to = to.Elem()
	if to.Kind() == reflect.Pointer { // NULL is nil
		if v == nil {
			to.SetZero()
			return nil
		}
		to.Set(reflect.New(to.Type().Elem()))
		return assign(to.Interface(), v)
	}
	return convert(to, v)
}

func convert(to reflect.Value, v driver.Value) error {
	kind := to.Kind()
	switch v := v.(type) {
	case nil:
		if kind == reflect.Slice {
			to.SetZero()
			return nil
		}
		return fmt.Errorf("NULL into %s", to.Type())
	case int64:
		switch {
		case to.CanInt() && !to.OverflowInt(v):
			to.SetInt(v)
			return nil
		case to.CanUint() && v >= 0 && !to.OverflowUint(uint64(v)):
			to.SetUint(uint64(v))
			return nil
		case to.CanFloat():
			to.SetFloat(float64(v))
			return nil
		case kind == reflect.Bool:
			to.SetBool(v != 0)
			return nil
		}
	case float64:
		if to.CanFloat() {
			to.SetFloat(v)
			return nil
		}
	case bool:
		if kind == reflect.Bool {
			to.SetBool(v)
			return nil
		}
	case string:
		switch {
		case kind == reflect.String:
			to.SetString(v)
			return nil
		case isBytes(to):
			to.SetBytes([]byte(v))
			return nil
		}
	case []byte:
		switch {
		case isBytes(to):
			to.SetBytes(append([]byte{}, v...))
			return nil
		case kind == reflect.String:
			to.SetString(string(v))
			return nil
		}
	}
	return fmt.Errorf("%T into %s", v, to.Type())
}

func isBytes(v reflect.Value) bool {
	return v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8
}

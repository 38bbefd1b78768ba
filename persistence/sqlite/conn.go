package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	modernc "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ingrain-go/ingrain/persistence"
)

// conn is one connection to the database file with its prepared statements.
// It is used by one goroutine at a time.
//
// It speaks to the driver without database/sql in between. No statement gets a
// context that can end: each is short, and cancellation is looked at between
// statements, so that none is ever interrupted half way.
type conn struct {
	raw   driver.Conn
	stmts map[string]*stmt
	// others are prepared statements of commits, by their text; at most maxPrepared
	others map[string]driver.Stmt
}

// connect opens the file, creating it when it is absent, and runs the pragmas.
func connect(path string, pragmas ...string) (*conn, error) {
	raw, err := new(modernc.Driver).Open(dsn(path))
	if err != nil {
		return nil, err
	}
	c := &conn{raw: raw, stmts: make(map[string]*stmt)}
	for _, pragma := range pragmas {
		if err := c.script("pragma " + pragma); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// dsn is a URI, because a plain name ends at its first question mark.
func dsn(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u := url.URL{Scheme: "file", Path: path}
	return u.String()
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.raw.Close())
	}
	for _, s := range c.others {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

// script runs statements without parameters that are not worth preparing.
func (c *conn) script(sql string) error {
	_, err := c.raw.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

// exec runs a prepared statement and returns how many rows it changed.
func (c *conn) exec(sql string, args ...any) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	s.bind(args)
	return s.exec()
}

// query runs a prepared statement and calls each with every row. The row is
// only valid during the call; its texts and blobs may be kept. An error of
// each ends the query, errStop without failing it.
func (c *conn) query(sql string, each func(row) error, args ...any) error {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	s.bind(args)
	return s.query(each)
}

// queryRow is query for a statement of at most one row; it reports whether
// there was one.
func (c *conn) queryRow(sql string, scan func(row), args ...any) (found bool, err error) {
	err = c.query(sql, func(r row) error {
		found = true
		scan(r)
		return errStop
	}, args...)
	return found, err
}

var errStop = errors.New("stop")

func (c *conn) prepare(sql string) (*stmt, error) {
	if s := c.stmts[sql]; s != nil {
		return s, nil
	}
	raw, err := c.raw.(driver.ConnPrepareContext).PrepareContext(context.Background(), sql)
	if err != nil {
		return nil, err
	}
	s := &stmt{raw: raw, args: make([]driver.NamedValue, strings.Count(sql, "?"))}
	for i := range s.args {
		s.args[i].Ordinal = i + 1
	}
	c.stmts[sql] = s
	return s, nil
}

// stmt is a prepared statement with room for its arguments.
type stmt struct {
	raw  driver.Stmt
	args []driver.NamedValue
	row  row
}

func (s *stmt) bind(args []any) {
	for i := range s.args {
		s.args[i].Value = value(args[i])
	}
}

func (s *stmt) exec() (int64, error) {
	result, err := s.raw.(driver.StmtExecContext).ExecContext(context.Background(), s.args)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// run is exec for the one statement that is worth it: what it changed is
// not asked for.
func (s *stmt) run() error {
	_, err := s.raw.(driver.StmtExecContext).ExecContext(context.Background(), s.args)
	return err
}

func (s *stmt) query(each func(row) error) (err error) {
	rows, err := s.raw.(driver.StmtQueryContext).QueryContext(context.Background(), s.args)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := rows.Close(); err == nil {
			err = closeErr
		}
	}()
	if s.row == nil {
		s.row = make(row, len(rows.Columns()))
	}
	for {
		err := rows.Next(s.row)
		if err == nil {
			err = each(s.row)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, errStop):
			return nil
		default:
			return err
		}
	}
}

// value turns one of our types into one that the driver knows.
func value(v any) driver.Value {
	switch v := v.(type) {
	case int:
		return int64(v)
	case persistence.Partition:
		return int64(v)
	case persistence.Offset:
		return int64(v)
	case persistence.Version:
		return int64(v)
	case persistence.Epoch:
		return int64(v)
	case persistence.NodeID:
		return string(v)
	case persistence.NodeState:
		return string(v)
	case persistence.Stream:
		return v.String()
	case persistence.CommandID:
		return v[:]
	case time.Time:
		return v.UnixMicro()
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case []byte:
		if v == nil {
			return nil
		}
		return v
	default:
		return v
	}
}

// row is one row of a result; its methods read a column.
type row []driver.Value

func (r row) int(i int) int64 {
	v, _ := r[i].(int64)
	return v
}

func (r row) text(i int) string {
	v, _ := r[i].(string)
	return v
}

// blob is nil for an empty blob as well as for none.
func (r row) blob(i int) []byte {
	v, _ := r[i].([]byte)
	return v
}

func (r row) time(i int) time.Time { return time.UnixMicro(r.int(i)).UTC() }

func (r row) command(i int) persistence.CommandID {
	var id persistence.CommandID
	copy(id[:], r.blob(i))
	return id
}

func (r row) stream(i int) (persistence.Stream, error) { return persistence.ParseStream(r.text(i)) }

// code is SQLite's extended result code, or 0 when err is not from SQLite.
func code(err error) int {
	var e *modernc.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// isBusy reports that a lock of another connection is in the way, so that the
// same call may succeed a moment later.
func isBusy(err error) bool {
	primary := code(err) & 0xff
	return primary == sqlite3.SQLITE_BUSY || primary == sqlite3.SQLITE_LOCKED || primary == sqlite3.SQLITE_PROTOCOL
}

// scanEvent reads a row of the columns in eventColumns.
func scanEvent(r row) (persistence.Event, error) {
	stream, err := r.stream(3)
	if err != nil {
		return persistence.Event{}, fmt.Errorf("partition %d, offset %d: %w", r.int(0), r.int(1), err)
	}
	return persistence.Event{
		Partition: persistence.Partition(r.int(0)),
		Offset:    persistence.Offset(r.int(1)),
		Epoch:     persistence.Epoch(r.int(2)),
		Stream:    stream,
		Version:   persistence.Version(r.int(4)),
		Type:      r.text(5),
		At:        r.time(6),
		Command:   r.command(7),
		Metadata:  r.blob(8),
		Payload:   r.blob(9),
	}, nil
}

const eventColumns = "part, pos, epoch, stream, version, type, at, cmd, meta, payload"

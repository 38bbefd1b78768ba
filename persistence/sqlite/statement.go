package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ingrain-go/ingrain/persistence"
)

// maxPrepared bounds the prepared statements that a connection keeps of others.
const maxPrepared = 256

// putWithStatements is put and then the commit's statements, all of it or
// nothing: a savepoint keeps what the batch has written before.
func (w *writer) putWithStatements(insert *stmt, t *tenure, c *persistence.Commit) (refusal, err error) {
	head := t.head
	before, remembered := w.versions.get(c.Stream)
	if err := w.conn.script("savepoint es_commit"); err != nil {
		return nil, err
	}
	refusal, err = w.put(insert, t, c)
	for i := range c.Statements {
		if refusal != nil || err != nil {
			break
		}
		if failure := w.conn.foreign(&c.Statements[i]); failure != nil {
			if ofTheStore(failure) {
				return nil, failure
			}
			refusal = fmt.Errorf("append %s: %w", c.Stream, &persistence.StatementError{Index: i, Err: failure})
		}
	}
	if err != nil {
		return nil, err
	}
	if refusal == nil {
		return nil, w.conn.script("release es_commit")
	}
	t.head, c.Offset = head, 0
	if remembered {
		w.versions.put(c.Stream, before)
	} else if len(c.Events) > 0 {
		w.versions.put(c.Stream, known{c.Expected, t.reign, c.Stream.String()})
	}
	return refusal, w.conn.script("rollback to es_commit; release es_commit")
}

// ofTheStore reports whether an error is not the statement's own: the file or the
// machine failed, and with it the whole transaction.
func ofTheStore(err error) bool {
	switch code(err) & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT,
		sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB:
		return true
	}
	return false
}

// foreign runs a statement that is not ours.
func (c *conn) foreign(s *persistence.Statement) (err error) {
	raw, kept := c.others[s.SQL], true
	if raw == nil {
		if raw, err = c.raw.(driver.ConnPrepareContext).PrepareContext(context.Background(), s.SQL); err != nil {
			return err
		}
		if kept = len(c.others) < maxPrepared; kept {
			if c.others == nil {
				c.others = map[string]driver.Stmt{}
			}
			c.others[s.SQL] = raw
		}
	}
	args := make([]driver.NamedValue, len(s.Args))
	for i, arg := range s.Args {
		args[i].Ordinal = i + 1
		if args[i].Value, err = argument(arg); err != nil {
			break
		}
	}
	if err == nil {
		_, err = raw.(driver.StmtExecContext).ExecContext(context.Background(), args)
	}
	if !kept {
		err = errors.Join(err, raw.Close())
	}
	return err
}

// argument turns what a statement may have into what the driver knows. Times are
// microseconds since 1970, as in the store's own tables.
func argument(v any) (driver.Value, error) {
	switch v := v.(type) {
	case time.Time:
		return v.UnixMicro(), nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return v, nil
	}
	return driver.DefaultParameterConverter.ConvertValue(v)
}

func statementBytes(c *persistence.Commit) (size int) {
	for i := range c.Statements {
		size += len(c.Statements[i].SQL)
		for _, arg := range c.Statements[i].Args {
			switch arg := arg.(type) {
			case string:
				size += len(arg)
			case []byte:
				size += len(arg)
			}
		}
	}
	return size
}

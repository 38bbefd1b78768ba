package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ingrain-go/ingrain/persistence"
)

// sendWithStatements sends a transaction whose commits have statements: they come
// last, so that how many results there were tells which of them failed.
func (l *lane) sendWithStatements(ctx context.Context, batch *pgconn.Batch, ours int) error {
	for _, r := range l.attempt.run {
		st := &r.commit.Statements[r.index]
		var args pgx.ExtendedQueryBuilder
		if err := args.Build(l.conn.TypeMap(), nil, st.Args); err != nil {
			return l.attempt.blame(r, err)
		}
		batch.ExecParams(st.SQL, args.ParamValues, nil, args.ParamFormats, nil)
	}
	results, done := l.conn.PgConn().ExecBatch(ctx, batch), 0
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err != nil {
			break
		}
		done++
	}
	err := results.Close()
	l.used = time.Now()
	if at := done - ours; err != nil && at >= 0 && at < len(l.attempt.run) && ofStatement(err) && !l.conn.IsClosed() {
		return l.attempt.blame(l.attempt.run[at], err)
	}
	return err
}

// blame notes why a commit cannot be written, for the next attempt.
func (a *attempt) blame(r running, err error) error {
	if a.failed == nil {
		a.failed = make(map[*persistence.Commit]error)
	}
	a.failed[r.commit] = fmt.Errorf("append %s: %w", r.commit.Stream, &persistence.StatementError{Index: r.index, Err: err})
	return errBlamed
}

// errBlamed says that nothing was written because of one commit's statement.
var errBlamed = errors.New("a statement failed")

// ofStatement reports whether the server refused the statement itself, so that the
// session goes on, and the same would not go well a moment later.
func ofStatement(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.SeverityUnlocalized != "ERROR" {
		return false
	}
	switch pgErr.Code {
	case codeDeadlock, codeSerialization, "25006":
		return false
	}
	return pgErr.Code[:min(2, len(pgErr.Code))] != "53" // out of resources
}

// statementBytes is about what a statement costs on its way, or why it cannot be
// sent.
func statementBytes(s *persistence.Statement) (size int, err error) {
	if !isText(s.SQL) {
		return 0, errors.New("it is not valid text")
	}
	size = len(s.SQL)
	for _, arg := range s.Args {
		switch arg := arg.(type) {
		case string:
			if !isText(arg) {
				return 0, fmt.Errorf("%q is not valid text", arg)
			}
			size += len(arg)
		case []byte:
			size += len(arg)
		default:
			size += 16
		}
	}
	return size, nil
}

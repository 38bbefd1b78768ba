package postgres

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// once is for calls that must not be made twice, repeatable for those that may.
const (
	once       = false
	repeatable = true
)

// try calls f, and calls it again when the pool gave it a connection that had
// died at rest, with the server: then all of them have, and are replaced. What
// may not be repeated is called again only if nothing had been sent.
func try(ctx context.Context, pool *pgxpool.Pool, again bool, f func() error) error {
	err := f()
	if err == nil || ctx.Err() != nil || !isBroken(err) {
		return concise(err)
	}
	pool.Reset()
	if again || pgconn.SafeToRetry(err) {
		err = f()
	}
	return concise(err)
}

// isBroken reports whether an error ended the connection.
func isBroken(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.SeverityUnlocalized != "ERROR"
	}
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}

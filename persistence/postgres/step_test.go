package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// relay stands between a store and its server. When it is armed it lets a commit
// through to the server, and cuts the connection before the answer.
type relay struct {
	listener net.Listener
	server   string
	network  string
	done     sync.WaitGroup

	mu    sync.Mutex
	armed bool
	cut   int
}

func newRelay(t *testing.T, dsn string) (*relay, string) {
	config, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	network, server := pgconn.NetworkAddress(config.Host, config.Port)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{listener: listener, server: server, network: network}
	r.done.Go(r.accept)
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		r.done.Wait()
	})
	host, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	through := fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", host, port, config.User, config.Database)
	if config.Password != "" {
		through += " password=" + config.Password
	}
	return r, through
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(r.network, r.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		var dropping sync.Mutex // held when answers are dropped
		dropped := false
		r.done.Go(func() { // answers
			defer func() { _ = client.Close() }()
			buf := make([]byte, 1<<16)
			for {
				n, err := server.Read(buf)
				if err != nil {
					return
				}
				dropping.Lock()
				gone := dropped
				dropping.Unlock()
				if gone {
					return // the server has answered, so that it has committed
				}
				if _, err := client.Write(buf[:n]); err != nil {
					return
				}
			}
		})
		r.done.Go(func() { // questions
			defer func() { _ = server.Close() }()
			buf := make([]byte, 1<<16)
			for {
				n, err := client.Read(buf)
				if err != nil {
					return
				}
				r.mu.Lock()
				if r.armed && bytes.Contains(buf[:n], []byte("commit\x00")) {
					r.armed = false
					r.cut++
					dropping.Lock()
					dropped = true
					dropping.Unlock()
				}
				r.mu.Unlock()
				if _, err := server.Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
}

// TestLostAnswerToACommitIsOfUnknownOutcome cuts the connection between a commit
// and its answer: the caller loads the checkpoint and finds what has happened.
func TestLostAnswerToACommitIsOfUnknownOutcome(t *testing.T) {
	dsn := postgrestest.DSN(t)
	relay, through := newRelay(t, dsn)
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: through, Partitions: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	work := func(ctx context.Context, tx persistence.Tx) error {
		_, err := tx.Exec(ctx, "create table if not exists once (n int)")
		if err == nil {
			_, err = tx.Exec(ctx, "insert into once values (1)")
		}
		return err
	}
	step := persistence.Step{Projection: "p", Advances: []persistence.Advance{{To: 3}}}
	relay.mu.Lock()
	relay.armed = true
	relay.mu.Unlock()
	require.ErrorIs(t, s.Advance(t.Context(), step, work), persistence.ErrUnknownOutcome)
	require.Equal(t, 1, relay.cut)
	require.Eventually(t, func() bool {
		cursors, err := s.LoadCheckpoints(t.Context(), "p")
		return err == nil && len(cursors) == 1 && cursors[0].After == 3
	}, 20*time.Second, 5*time.Millisecond, "the step has landed")
	var moved *persistence.CheckpointMovedError
	require.ErrorAs(t, s.Advance(t.Context(), step, work), &moved, "whoever does not look has no effect either")
	require.EqualValues(t, 3, moved.Stored)
	var n int
	require.NoError(t, s.Advance(t.Context(), persistence.Step{Projection: "p"}, func(ctx context.Context, tx persistence.Tx) error {
		rows, err := tx.Query(ctx, "select count(*) from once")
		if err != nil {
			return err
		}
		for rows.Next() {
			if err := rows.Scan(&n); err != nil {
				return err
			}
		}
		return rows.Close()
	}))
	require.Equal(t, 1, n)
}

// TestSwallowedErrorIsNotCommitted is about work that goes on after a statement
// has failed: the server has given the transaction up.
func TestSwallowedErrorIsNotCommitted(t *testing.T) {
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: postgrestest.DSN(t), Partitions: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	err = s.Advance(t.Context(), persistence.Step{Projection: "p", Advances: []persistence.Advance{{To: 1}}},
		func(ctx context.Context, tx persistence.Tx) error {
			if _, err := tx.Exec(ctx, "insert into no_such_table values (1)"); err == nil {
				t.Error("there is no such table")
			}
			return nil
		})
	require.ErrorContains(t, err, "rolled back")
	require.NotErrorIs(t, err, persistence.ErrUnknownOutcome)
	cursors, err := s.LoadCheckpoints(t.Context(), "p")
	require.NoError(t, err)
	require.Empty(t, cursors)
}

package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby makes a physical standby of a running server, with data of its own,
// and returns when it streams. From then on the server's commits wait for the
// standby: it loses nothing when it is promoted. Stop the standby as any server.
func (s *Server) Standby(ctx context.Context) (_ *Server, err error) {
	standby, err := unborn("")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, standby.Stop())
		}
	}()
	// s.bin was found by findBinaries, the rest is ours.
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "pg_basebackup"), //nolint:gosec // see above
		"--pgdata", standby.data(), "--host", s.sockets, "--port", strconv.Itoa(s.port), "--username", user,
		"--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
	cmd.Dir = standby.dir
	cmd.SysProcAttr = s.account.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("start standby: pg_basebackup: %w\n%s", err, out)
	}
	if err := standby.Restart(ctx); err != nil {
		return nil, err
	}
	// only now, so that the standby does not wait for one of its own
	for _, statement := range []string{"alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"} {
		if err := s.execute(ctx, statement); err != nil {
			return nil, fmt.Errorf("start standby: %w", err)
		}
	}
	err = s.until(ctx, "select exists (select from pg_stat_replication where sync_state = 'sync')")
	if err != nil {
		return nil, fmt.Errorf("start standby: it does not stream: %w", err)
	}
	return standby, nil
}

// Promote makes a standby a primary, on a timeline of its own, and returns when
// it accepts writes.
func (s *Server) Promote(ctx context.Context) error {
	if err := s.execute(ctx, "select pg_promote()"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if err := s.until(ctx, "select not pg_is_in_recovery()"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return nil
}

func (s *Server) execute(ctx context.Context, sql string) error {
	return execute(ctx, s.DSN("postgres"), sql)
}

// until waits until a query is true.
func (s *Server) until(ctx context.Context, query string) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		var yes bool
		if err := conn.QueryRow(ctx, query).Scan(&yes); err != nil || yes {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

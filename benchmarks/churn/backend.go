package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// backend is where the store is, and what can be done to it.
type backend interface {
	// name for people.
	name() string
	// addr is where the store's server listens; empty when it is none.
	addr() string
	// place is where a node finds the store: at another address, if one is given.
	place(addr string) clustertest.Store
	// tenures is the history of ownership, which the contract keeps to itself.
	tenures(ctx context.Context) ([]check.Tenure, error)
	// blocks reports whether a process that is frozen now would keep all others
	// from writing, for as long as it is.
	blocks(pid int) bool
	kill() error
	restart(ctx context.Context) error
	pause() error
	resume() error
	// close ends the server. Its data goes, too, unless it is to be kept.
	close(keep bool) error
}

var errNoServer = errors.New("a SQLite store has no server")

// file is a SQLite store.
type file struct {
	dir        string
	partitions int
}

func openFile(dir string, partitions int) (backend, error) {
	return &file{dir, partitions}, os.MkdirAll(dir, 0o755)
}

func (f *file) name() string                  { return "SQLite" }
func (f *file) addr() string                  { return "" }
func (f *file) kill() error                   { return errNoServer }
func (f *file) restart(context.Context) error { return errNoServer }
func (f *file) pause() error                  { return errNoServer }
func (f *file) resume() error                 { return errNoServer }
func (f *file) close(bool) error              { return nil }

func (f *file) place(string) clustertest.Store {
	return clustertest.Store{Dir: f.dir, Partitions: f.partitions}
}

func (f *file) tenures(ctx context.Context) (_ []check.Tenure, err error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(f.dir, "ingrain.db")+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "select part, epoch, owner from es_tenure order by part, epoch")
	if err != nil {
		return nil, fmt.Errorf("read the tenures: %w", err)
	}
	defer rows.Close()
	var all []check.Tenure
	for rows.Next() {
		var t check.Tenure
		if err := rows.Scan(&t.Partition, &t.Epoch, &t.Owner); err != nil {
			return nil, fmt.Errorf("read the tenures: %w", err)
		}
		all = append(all, t)
	}
	return all, rows.Err()
}

// blocks looks for SQLite's write lock among the locks of the machine: byte 120
// of the file of shared memory. Who is frozen with it stops everybody, which is
// the file's doing and not what is tested here.
func (f *file) blocks(pid int) bool {
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false
	}
	info, err := os.Stat(filepath.Join(f.dir, "ingrain.db-shm"))
	if err != nil {
		return false
	}
	inode := strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10)
	return holdsByte(string(locks), pid, inode, 120)
}

// holdsByte looks for a write lock on one byte of a file.
//
//	1: POSIX  ADVISORY  WRITE 4711 08:01:1234 120 120
func holdsByte(locks string, pid int, inode string, at int64) bool {
	for line := range strings.Lines(locks) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "POSIX" || f[3] != "WRITE" || f[4] != strconv.Itoa(pid) || !strings.HasSuffix(f[5], ":"+inode) {
			continue
		}
		from, err := strconv.ParseInt(f[6], 10, 64)
		if err != nil {
			continue
		}
		to, err := strconv.ParseInt(f[7], 10, 64)
		if from <= at && (err != nil || at <= to) { // "EOF" is no number
			return true
		}
	}
	return false
}

// server is a PostgreSQL store with a server of its own.
type server struct {
	*postgrestest.Server
	dir        string
	database   string
	partitions int
}

func openServer(ctx context.Context, dir string, partitions int) (_ backend, err error) {
	s, err := postgrestest.Start(ctx, dir)
	if err != nil {
		return nil, err
	}
	b := &server{Server: s, dir: dir, partitions: partitions}
	dsn, err := s.CreateDatabase(ctx)
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	b.database = config.Database
	if err := b.recoverFast(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return b, nil
}

// recoverFast spares a server that was killed the flush of every file it has,
// which before version 14 there is no way round: on a slow disk it takes many
// seconds, and is not what is measured here. The setting counts from the next
// start on.
func (s *server) recoverFast() error {
	data := filepath.Join(s.dir, "data")
	version, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(version)))
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	if major < 14 {
		return nil
	}
	file, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	_, err = file.WriteString("recovery_init_sync_method = syncfs\n")
	return errors.Join(err, file.Close())
}

func (s *server) name() string                      { return "PostgreSQL" }
func (s *server) addr() string                      { return s.Addr() }
func (s *server) kill() error                       { return s.Kill9() }
func (s *server) restart(ctx context.Context) error { return s.Restart(ctx) }
func (s *server) blocks(int) bool                   { return false } // a frozen session is terminated

func (s *server) close(keep bool) error {
	if keep {
		return s.Kill9()
	}
	return s.Stop()
}

func (s *server) place(addr string) clustertest.Store {
	dsn := s.TCP(s.database)
	if addr != "" {
		dsn = strings.Replace(dsn, s.Addr(), addr, 1)
	}
	return clustertest.Store{DSN: dsn, Partitions: s.partitions}
}

func (s *server) tenures(ctx context.Context) (_ []check.Tenure, err error) {
	conn, err := pgx.Connect(ctx, s.TCP(s.database))
	if err != nil {
		return nil, fmt.Errorf("read the tenures: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	rows, err := conn.Query(ctx, "select part, epoch, owner from "+pgx.Identifier{postgres.DefaultSchema}.Sanitize()+".es_tenure order by part, epoch")
	if err != nil {
		return nil, fmt.Errorf("read the tenures: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t check.Tenure, err error) {
		return t, row.Scan(&t.Partition, &t.Epoch, &t.Owner)
	})
}

func (s *server) pause() error  { return s.signal(syscall.SIGSTOP) }
func (s *server) resume() error { return s.signal(syscall.SIGCONT) }

// signal sends a signal to the server and then to all its sessions.
func (s *server) signal(sig syscall.Signal) error {
	text, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("find the server's process: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return fmt.Errorf("find the server's process: %w", err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("send %s to the server: %w", sig, err)
	}
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("find the server's sessions: %w", err)
	}
	for field := range strings.FieldsSeq(string(list)) {
		if session, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(session, sig) // it may have ended
		}
	}
	return nil
}

// move counts how often partitions changed hands after the epochs given: from
// one node to another, whatever lay between.
func moves(before []persistence.Ownership, tenures []check.Tenure) int {
	last := map[persistence.Partition]persistence.NodeID{}
	epoch := map[persistence.Partition]persistence.Epoch{}
	for _, row := range before {
		last[row.Partition], epoch[row.Partition] = row.Owner, row.Epoch
	}
	n := 0
	for _, t := range tenures { // ascending by epoch
		if t.Epoch <= epoch[t.Partition] || t.Owner == "" || t.Owner == last[t.Partition] {
			continue
		}
		last[t.Partition] = t.Owner
		n++
	}
	return n
}

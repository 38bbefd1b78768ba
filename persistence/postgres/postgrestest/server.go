// Package postgrestest runs real PostgreSQL servers for tests and benchmarks.
//
// [DSN] is what most tests want: a fresh database on a server shared by the
// test process. [Start] gives a server of one's own, to be killed and started
// again.
package postgrestest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	user         = "postgres"
	password     = "postgres"
	startTimeout = 60 * time.Second
	// dirPrefix is followed by the pid of the process that owns the directory,
	// so that a later run can tell which ones a killed run left behind.
	dirPrefix = "ingrain-postgres-"
)

// Server is a private PostgreSQL server with fsync on, listening on a unix
// socket (no password) and on a free loopback port (password "postgres"). It is
// safe for concurrent use. The server dies with the process that started it.
type Server struct {
	bin     string
	dir     string // holds data, log and, when it is our own, everything
	sockets string
	port    int
	account *account // whom the server runs as, nil for ourselves

	mu      sync.Mutex
	process *process // nil when it does not run
	serial  atomic.Int64
}

// Start makes a server with its data in dir, which must be empty or absent, and
// returns when it answers. An empty dir means a temporary one. Stop removes
// what Start made. When no PostgreSQL is installed, the error says what to
// install.
func Start(ctx context.Context, dir string) (_ *Server, err error) {
	s, err := unborn(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	if err := s.initialise(ctx); err != nil {
		return nil, err
	}
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// unborn is a server without data.
func unborn(dir string) (_ *Server, err error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir}
	if os.Geteuid() == 0 {
		// PostgreSQL refuses to run as root.
		if s.account, err = unprivileged(); err != nil {
			return nil, err
		}
	}
	if s.dir == "" {
		sweep()
		if s.dir, err = os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-"); err != nil {
			return nil, fmt.Errorf("start postgres: %w", err)
		}
	} else if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	// A socket's path may be no longer than 107 bytes, so it gets its own place.
	if s.sockets, err = os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-"); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	for _, d := range []string{s.dir, s.sockets} {
		if err := s.account.own(d); err != nil {
			return nil, fmt.Errorf("start postgres: %w", err)
		}
	}
	return s, nil
}

func (s *Server) initialise(ctx context.Context) error {
	secret := filepath.Join(s.sockets, "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o644); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	// s.bin was found by findBinaries, the rest is ours.
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), //nolint:gosec // see above
		"--pgdata", s.data(), "--username", user, "--pwfile", secret, "--auth-local", "trust",
		"--auth-host", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	cmd.Dir = s.dir
	cmd.SysProcAttr = s.account.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("start postgres: initdb: %w\n%s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir, "log") }

// Restart starts the server again after [Server.Kill9] or [Server.Shutdown], on
// the same data and the same addresses. On a running server it does nothing.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	fixed := s.port != 0
	for {
		if !fixed {
			port, err := freePort(ctx)
			if err != nil {
				return err
			}
			s.port = port
		}
		err := s.launch(ctx)
		if err == nil {
			return nil
		}
		// The port was taken meanwhile, or the shared memory of a killed
		// server is not gone yet: both pass.
		if ctx.Err() != nil || !errors.Is(err, errExited) {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("start postgres: %w\n%s", err, s.tailLog())
		}
	}
}

var errExited = errors.New("the server exited")

func (s *Server) launch(ctx context.Context) error {
	logFile, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	defer logFile.Close()
	// Not CommandContext: ctx bounds the start, not the server's life.
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), //nolint:gosec,noctx // see above
		"-D", s.data(), "-p", strconv.Itoa(s.port), "-k", s.sockets, "-h", "127.0.0.1",
		"-c", "max_connections=300", "-c", "max_wal_size=4GB", "-c", "checkpoint_timeout=15min",
		"-c", "shared_buffers=256MB", "-c", "wal_buffers=16MB", "-c", "jit=off",
		"-c", "max_prepared_transactions=0", "-c", "unix_socket_permissions=0777")
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = s.account.attributes()
	p, err := start(cmd)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.answers(ctx) {
			s.process = p
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("start postgres: %w\n%s", errExited, s.tailLog())
		case <-ctx.Done():
			p.kill()
			return fmt.Errorf("start postgres: %w\n%s", ctx.Err(), s.tailLog())
		case <-tick.C:
		}
	}
}

func (s *Server) answers(ctx context.Context) bool {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return false
	}
	return conn.Close(ctx) == nil
}

// tailLog returns the end of the server's log, for error messages.
func (s *Server) tailLog() []byte {
	log, err := os.ReadFile(s.log())
	if err != nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-15):], []byte("\n"))
}

// DSN addresses a database over the unix socket.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", s.sockets, s.port, user, database)
}

// TCP addresses a database over the loopback port.
func (s *Server) TCP(database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, s.Addr(), database)
}

// Addr is the loopback address, host:port, for proxies between client and server.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Bin is the folder of the server's programs, pgbench among them.
func (s *Server) Bin() string { return s.bin }

// CreateDatabase makes an empty database and returns its DSN.
func (s *Server) CreateDatabase(ctx context.Context) (string, error) {
	name := fmt.Sprintf("ingrain_%d", s.serial.Add(1))
	if err := createDatabase(ctx, s.DSN("postgres"), name); err != nil {
		return "", err
	}
	return s.DSN(name), nil
}

// Kill9 kills the server and all its sessions at once with SIGKILL, as a power
// failure of the machine would, save that the file system survives. It returns
// when all of them are gone.
func (s *Server) Kill9() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	s.process.kill()
	s.process = nil
	return nil
}

// Stop shuts the server down and removes what Start made. Stopping twice is
// harmless.
func (s *Server) Stop() error {
	if err := s.Shutdown(); err != nil {
		return err
	}
	return s.remove()
}

// Shutdown shuts the server down, disconnecting everybody, and keeps its data for
// [Server.Restart]. It returns when the server is gone.
func (s *Server) Shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		// SIGINT is PostgreSQL's fast shutdown.
		if err := s.process.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop postgres: %w", err)
		}
		select {
		case <-s.process.done:
		case <-time.After(30 * time.Second):
			s.process.kill()
		}
		s.process = nil
	}
	return nil
}

func (s *Server) remove() error {
	return errors.Join(os.RemoveAll(s.dir), os.RemoveAll(s.sockets))
}

// process is a running server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
}

// start runs cmd from a thread that lives as long as the child, because Linux
// sends the parent-death signal when the forking thread ends.
func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// kill ends the server and its sessions. The server is stopped first, so that
// it starts no session while they are being collected.
func (p *process) kill() {
	pid := p.cmd.Process.Pid
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	children := childrenOf(pid)
	_ = p.cmd.Process.Kill()
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	<-p.done
	for _, child := range children {
		for syscall.Kill(child, 0) == nil && !isZombie(child) {
			runtime.Gosched()
		}
	}
}

func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("start postgres: find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sweep removes the directories of processes that were killed before they
// could do so themselves.
func sweep() {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // another run may be sweeping too
		}
	}
}

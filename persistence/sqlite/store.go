// Package sqlite is a [persistence.Store] in one file on a local disk, through
// the pure Go driver modernc.org/sqlite. Several processes may open the same
// directory at once; together they are a cluster on one machine.
//
// SQLite has one write lock for the whole file. Every write here is a
// transaction that takes it at the start (BEGIN IMMEDIATE), so the fence (I1)
// is a plain read inside that transaction, commits have one order (I9), and
// nothing is visible before it is durable (write-ahead log, synchronous=FULL).
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// DefaultPartitions is the number of partitions of a store that is created
	// by a Config that names none.
	DefaultPartitions = 16
	// DefaultReadConns is the number of reading connections unless Config says
	// another.
	DefaultReadConns = 4

	maxPartitions = 65_536
	fileName      = "ingrain.db"
	lockName      = "ingrain.lock"
	// grace is how long Close lets calls in flight wait for locks of other
	// processes.
	grace = 5 * time.Second
)

// Config says where the store is.
type Config struct {
	// Dir is the directory of the store; it is made if absent. It must be on a
	// local disk: the write-ahead log needs memory shared between processes.
	// The database is the file ingrain.db in it.
	Dir string
	// Partitions is the number of partitions, 1 to 65,536, of a store that is
	// created; 0 means [DefaultPartitions]. It is fixed for ever: opening an
	// existing store with another number than its own fails, 0 takes what it
	// has.
	Partitions int
	// ReadConns is how many reads can run at once, each with a page cache of
	// up to 8 MiB; 0 means [DefaultReadConns]. More than the machine has cores
	// is of little use.
	ReadConns int
	// Logger is told about trouble in the background; nil means
	// [slog.Default].
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.ReadConns == 0 {
		c.ReadConns = DefaultReadConns
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Dir == "":
		return setupError("no directory given", nil)
	case c.Partitions < 0 || c.Partitions > maxPartitions:
		return setupError(fmt.Sprintf("%d partitions, want 1 to %d", c.Partitions, maxPartitions), nil)
	case c.ReadConns < 0:
		return setupError(fmt.Sprintf("%d reading connections, want 1 or more", c.ReadConns), nil)
	}
	return nil
}

// Store is an open store. It is safe for concurrent use: writes go one after
// the other through one connection, reads in parallel through others.
//
// A call that finds the file locked by another process tries again until its
// context ends.
type Store struct {
	path string
	meta persistence.Meta

	writer    chan *writer // holds it, or is empty while it is used
	readers   chan *conn   // those that are free
	turnstile *turnstile
	wal       *checkpointer

	closed  chan struct{} // no call starts any more
	abandon chan struct{} // calls in flight stop waiting for locks
	closing sync.Once
	errs    error // of closing
}

var _ persistence.Store = (*Store)(nil)

// Open opens the store in a directory, creating it if there is none and
// bringing an older schema up to date. What is wrong with the place is a
// *[persistence.SetupError]: a directory that cannot be written, a file that
// is no database or another program's, a newer schema, another number of
// partitions. Many processes may open a fresh directory at once.
func Open(ctx context.Context, config Config) (*Store, error) {
	return open(ctx, config, defaultWALLimits)
}

func open(ctx context.Context, config Config, limits walLimits) (_ *Store, err error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, explain(config.Dir, err)
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, explain(config.Dir, setupError("the directory cannot be found", err))
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, explain(dir, setupError("the directory cannot be made", err))
	}
	lock, err := openFileLock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, explain(dir, setupError("the directory cannot be written", err))
	}
	s := &Store{
		path:      filepath.Join(dir, fileName),
		writer:    make(chan *writer, 1),
		readers:   make(chan *conn, config.ReadConns),
		turnstile: &turnstile{lock: lock},
		closed:    make(chan struct{}),
		abandon:   make(chan struct{}),
	}
	var opened []*conn
	defer func() {
		if err != nil {
			err = explain(dir, err)
			for _, c := range opened {
				err = errors.Join(err, c.close())
			}
			err = errors.Join(err, lock.close())
		}
	}()
	connect := func(open func() (*conn, error)) (*conn, error) {
		var c *conn
		err := s.retry(ctx, func() (err error) { c, err = open(); return err })
		if err == nil {
			opened = append(opened, c)
		}
		return c, err
	}

	c, err := connect(s.connectWriter)
	if err != nil {
		return nil, err
	}
	partitions := config.Partitions
	if partitions == 0 {
		partitions = DefaultPartitions
	}
	if err := s.migrate(ctx, c, partitions); err != nil {
		return nil, err
	}
	if err := s.retry(ctx, func() (err error) { s.meta, err = readMeta(c); return err }); err != nil {
		return nil, err
	}
	if s.meta.Copied, err = s.settle(ctx, c); err != nil {
		return nil, err
	}
	if config.Partitions != 0 && config.Partitions != s.meta.Partitions {
		return nil, setupError(fmt.Sprintf("it was created with %d partitions, not %d", s.meta.Partitions, config.Partitions), nil)
	}
	for range config.ReadConns {
		r, err := connect(s.connectReader)
		if err != nil {
			return nil, err
		}
		s.readers <- r
	}
	checkpoints, err := connect(s.connectCheckpointer)
	if err != nil {
		return nil, err
	}
	s.writer <- newWriter(c, s.meta.Partitions, s.connectWriter)
	s.wal = startCheckpointer(s.path, checkpoints, limits, config.Logger, s.alone)
	return s, nil
}

func (s *Store) connectWriter() (*conn, error) {
	return connect(s.path,
		"busy_timeout = 0",
		"synchronous = full",
		"cache_size = -65536", // KiB
		"temp_store = memory",
		fmt.Sprintf("wal_autocheckpoint = %d", autoCheckpoint),
		fmt.Sprintf("journal_size_limit = %d", walKeep),
	)
}

func (s *Store) connectReader() (*conn, error) {
	return connect(s.path, "busy_timeout = 0", "cache_size = -8192", "temp_store = memory", "query_only = on")
}

func (s *Store) connectCheckpointer() (*conn, error) {
	return connect(s.path,
		"synchronous = full",
		fmt.Sprintf("busy_timeout = %d", truncatePatience.Milliseconds()),
		fmt.Sprintf("journal_size_limit = %d", walKeep),
	)
}

// Meta tells what the store was created with.
func (s *Store) Meta() persistence.Meta { return s.meta }

// Close closes the file, once the calls in flight are through; later calls
// fail with [persistence.ErrClosed]. A call in flight that goes on waiting for
// another process's lock is given up after 5 s.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		giveUp := time.AfterFunc(grace, func() { close(s.abandon) })
		defer giveUp.Stop()
		errs := []error{s.wal.stop()}
		w := <-s.writer
		errs = append(errs, w.close())
		for range cap(s.readers) {
			r := <-s.readers
			errs = append(errs, r.close())
		}
		errs = append(errs, s.turnstile.lock.close())
		if err := errors.Join(errs...); err != nil {
			s.errs = fmt.Errorf("close %s: %w", s.path, err)
		}
	})
	return s.errs
}

// read lends a reading connection to fn, which starts again from scratch when
// a lock is in the way.
func (s *Store) read(ctx context.Context, fn func(*conn) error) error {
	c, err := borrow(ctx, s.closed, s.readers)
	if err != nil {
		return err
	}
	defer func() { s.readers <- c }()
	return s.retry(ctx, func() error { return fn(c) })
}

// view is read for several statements that must see the same moment.
func (s *Store) view(ctx context.Context, fn func(*conn) error) error {
	return s.read(ctx, func(c *conn) error {
		if _, err := c.exec("begin"); err != nil {
			return err
		}
		err := fn(c)
		if _, endErr := c.exec("rollback"); err == nil {
			err = endErr
		}
		return err
	})
}

// write lends the writing connection to fn in a transaction, which it commits
// unless fn or ctx says no.
func (s *Store) write(ctx context.Context, fn func(*conn) error) error {
	return s.transact(ctx, func(w *writer) (bool, error) {
		if err := fn(w.conn); err != nil {
			return false, err
		}
		return true, ctx.Err()
	})
}

// transact lends the writer to fn in a transaction, and commits it if fn wants
// that.
func (s *Store) transact(ctx context.Context, fn func(*writer) (commit bool, err error)) error {
	w, err := borrow(ctx, s.closed, s.writer)
	if err != nil {
		return err
	}
	defer func() { s.writer <- w }()
	if err := s.retry(ctx, w.ready); err != nil {
		return err
	}
	if err := s.begin(ctx, w.conn); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // fn panicked
			w.rollback()
		}
	}()
	commit, err := fn(w)
	returned = true
	if err != nil || !commit {
		w.rollback()
		return err
	}
	return s.commit(w)
}

// commit makes w's transaction durable, or leaves its outcome unknown.
func (s *Store) commit(w *writer) error {
	if err := w.commit(); err != nil {
		w.rollback()
		return fmt.Errorf("commit: %w: %w", persistence.ErrUnknownOutcome, err)
	}
	w.touched = w.touched[:0]
	s.wal.wrote()
	return nil
}

// begin starts a transaction that holds the file's write lock.
func (s *Store) begin(ctx context.Context, c *conn) error {
	polite, wait := s.turnstile.enter(ctx, s.abandon), longPause
	if polite {
		wait = shortPause
	}
	err := s.retryEvery(ctx, func(attempt int) time.Duration { return wait(attempt) }, func() error {
		_, err := c.exec("begin immediate")
		if isBusy(err) && !polite && s.turnstile.lock.tryLock() { // it is next now, whoever wrote meanwhile
			polite, wait = true, shortPause
		}
		return err
	})
	if polite {
		s.turnstile.leave()
	}
	return err
}

// alone runs fn while nobody starts to write: this store cannot, and others
// wait at the turnstile.
func (s *Store) alone(ctx context.Context, fn func() error) error {
	w, err := borrow(ctx, s.closed, s.writer)
	if err != nil {
		return err
	}
	defer func() { s.writer <- w }()
	if s.turnstile.enter(ctx, s.abandon) {
		defer s.turnstile.leave()
	}
	return fn()
}

func (s *Store) retry(ctx context.Context, fn func() error) error {
	return s.retryEvery(ctx, longPause, fn)
}

// retryEvery runs fn until no lock is in its way. It takes the place of
// SQLite's busy handler, whose sleeps grow to 100 ms.
func (s *Store) retryEvery(ctx context.Context, wait func(attempt int) time.Duration, fn func() error) error {
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := fn()
		if !isBusy(err) {
			return err
		}
		if stop := pause(ctx, s.abandon, wait(attempt)); stop != nil {
			return fmt.Errorf("%w while the file was locked: %w", stop, err)
		}
	}
}

// borrow takes from a pool. What was borrowed must be put back.
func borrow[T any](ctx context.Context, closed <-chan struct{}, pool <-chan T) (T, error) {
	var none T
	select {
	case <-closed:
		return none, persistence.ErrClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	select {
	case got := <-pool:
		return got, nil
	case <-closed:
		return none, persistence.ErrClosed
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// within reports an error for a partition that the store does not have.
func (s *Store) within(p persistence.Partition) error {
	if p < 0 || int(p) >= s.meta.Partitions {
		return fmt.Errorf("partition %d: the store has %d", p, s.meta.Partitions)
	}
	return nil
}

// isName reports whether a stream can have the name. What is none may have the
// stored form of another's.
func isName(s persistence.Stream) bool { return s.Validate() == nil }

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// autoCheckpoint is after how many pages in the log a commit moves them
	// into the database by itself.
	autoCheckpoint = 10_000
	// walKeep is the size in bytes to which SQLite cuts the log when it starts
	// it over.
	walKeep = 64 << 20
	// truncatePatience is how long a truncation keeps writers waiting for
	// readers that still use the log.
	truncatePatience = 200 * time.Millisecond
)

// walLimits says when the checkpointer does something.
type walLimits struct {
	// idle is how long nobody has written when it tidies up.
	idle time.Duration
	// tidy is the size of the log in bytes below which tidying is not worth it.
	tidy int64
	// full is the size at which the log is truncated, whatever is going on.
	full int64
	// pause is the least time between two truncations.
	pause time.Duration
}

var defaultWALLimits = walLimits{idle: 250 * time.Millisecond, tidy: 1 << 20, full: 160 << 20, pause: time.Second}

// checkpointer moves what the write-ahead log holds into the database, so that
// the log stays short: when writing pauses, so that commits need not do it,
// and when the log has outgrown its bound. The latter happens when readers
// follow upon each other so closely that SQLite never finds a moment to start
// the log over.
type checkpointer struct {
	conn   *conn
	log    string
	limits walLimits
	logger *slog.Logger
	alone  func(context.Context, func() error) error

	wake   chan struct{}
	secret chan struct{} // the log holds what must go
	cancel context.CancelFunc
	done   chan struct{}
}

// startCheckpointer starts the goroutine, which owns c from then on. alone is
// called with what must not be disturbed by writers.
func startCheckpointer(
	path string, c *conn, limits walLimits, logger *slog.Logger, alone func(context.Context, func() error) error,
) *checkpointer {
	ctx, cancel := context.WithCancel(context.Background())
	k := &checkpointer{
		conn: c, log: path + "-wal", limits: limits, logger: logger, alone: alone,
		wake: make(chan struct{}, 1), secret: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}),
	}
	go k.run(ctx)
	return k
}

// wrote tells that there was a commit. It never blocks.
func (k *checkpointer) wrote() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// empty has the log truncated, at once or when readers leave it. It never blocks.
func (k *checkpointer) empty() {
	select {
	case k.secret <- struct{}{}:
	default:
	}
}

// stop waits for the goroutine and closes the connection.
func (k *checkpointer) stop() error {
	k.cancel()
	<-k.done
	return k.conn.close()
}

func (k *checkpointer) run(ctx context.Context) {
	defer close(k.done)
	idle := time.NewTimer(k.limits.idle)
	defer idle.Stop()
	var truncated time.Time
	secret := false
	shred := func() {
		err := k.truncate(ctx)
		if secret = err != nil; secret {
			idle.Reset(k.limits.pause)
		}
		k.check(err)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
			idle.Reset(k.limits.idle)
			if k.size() >= k.limits.full && time.Since(truncated) >= k.limits.pause {
				k.check(k.truncate(ctx))
				truncated = time.Now()
			}
		case <-k.secret:
			shred()
		case <-idle.C:
			if secret {
				shred()
				continue
			}
			if k.size() >= k.limits.tidy {
				_, err := k.checkpoint("passive")
				k.check(err)
			}
		}
	}
}

// size is only asked of the directory: opening the file behind SQLite's back
// would drop this process's locks when it is closed.
func (k *checkpointer) size() int64 {
	info, err := os.Stat(k.log)
	if err != nil {
		return 0 // there is no log while nobody has written
	}
	return info.Size()
}

// truncate empties the log. Most of the work is done while others go on
// writing; the rest keeps them waiting. Readers that begin then read the
// database, not the log, so that only the few from before are waited for.
func (k *checkpointer) truncate(ctx context.Context) error {
	if _, err := k.checkpoint("passive"); err != nil {
		return err
	}
	return k.alone(ctx, func() error {
		done, err := k.checkpoint("truncate")
		if err == nil && !done {
			err = fmt.Errorf("readers or writers have used it for %v", truncatePatience)
		}
		return err
	})
}

func (k *checkpointer) checkpoint(mode string) (done bool, err error) {
	err = k.conn.query("pragma wal_checkpoint("+mode+")", func(r row) error {
		done = r.int(0) == 0
		return nil
	})
	if isBusy(err) { // another process is at it
		return false, nil
	}
	return done, err
}

func (k *checkpointer) check(err error) {
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, persistence.ErrClosed) {
		k.logger.Warn("sqlite: the write-ahead log cannot be shortened", "file", k.log, "error", err)
	}
}

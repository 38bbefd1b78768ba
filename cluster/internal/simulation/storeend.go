package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// storeEnd is the store as one machine reaches it. Every call takes effect at a
// moment of the driver's choosing and is answered at another, if at all.
type storeEnd struct{ m *machine }

var _ persistence.Store = (*storeEnd)(nil)

var (
	errLost    = errors.New("the connection to the store was lost")
	errRefused = fmt.Errorf("%w: it refuses connections", persistence.ErrUnreachable)
	errFull    = errors.New("the store is full")
	errCrashed = errors.New("the machine has crashed")
)

// call is a call to the store that has not been answered.
type call struct {
	m        *machine
	key      string
	mutates  bool
	appends  bool
	needs    []persistence.Partition // whose locks it takes
	run      func() error            // what it does to the store
	answered chan error              // capacity 1; closed over by the caller
	replied  bool
	line     int // of the store's history, when it was sent
}

// through makes a call and waits for its answer. An error that wraps errLost
// leaves open whether the call had an effect.
func through[R any](ctx context.Context, s *storeEnd, key string, mutates bool, effect func() (R, error), needs ...persistence.Partition) (R, error) {
	var result, none R
	m := s.m
	c := &call{m: m, key: key, mutates: mutates, needs: needs, answered: make(chan error, 1)}
	c.run = func() (err error) {
		result, err = effect()
		return err
	}
	if m.crashed {
		return none, errCrashed
	}
	m.w.post(m, "store "+key, func() { m.w.db.receive(c) })
	answered, err := c.await(ctx)
	if !answered {
		return none, err
	}
	return result, err
}

// await waits for what comes first. Of what is there at one moment, an answer
// counts for more than the end of the caller's patience.
func (c *call) await(ctx context.Context) (answered bool, err error) {
	select {
	case err = <-c.answered:
		return true, err
	case <-c.m.dead:
	case <-ctx.Done():
	}
	select {
	case <-c.m.dead:
		return false, errCrashed
	default:
	}
	select {
	case err = <-c.answered:
		return true, err
	default:
		return false, ctx.Err()
	}
}

type unit struct{}

func do(ctx context.Context, s *storeEnd, key string, effect func() error, needs ...persistence.Partition) error {
	_, err := through(ctx, s, key, true, func() (unit, error) { return unit{}, effect() }, needs...)
	return err
}

func ask[R any](ctx context.Context, s *storeEnd, key string, effect func() (R, error)) (R, error) {
	return through(ctx, s, key, false, effect)
}

// Append implements persistence.Log.
func (s *storeEnd) Append(ctx context.Context, batch *persistence.Batch) {
	db := s.m.w.db
	var key strings.Builder
	fmt.Fprintf(&key, "append %s", db.name(batch.Owner))
	sent := &persistence.Batch{Owner: batch.Owner, Fences: slices.Clone(batch.Fences)}
	var partitions []persistence.Partition
	for _, f := range batch.Fences {
		fmt.Fprintf(&key, " %d/%d@%d", f.Partition, f.Epoch, f.Head)
		partitions = append(partitions, f.Partition)
	}
	for _, c := range batch.Commits {
		copied := *c
		copied.Events = slices.Clone(c.Events)
		sent.Commits = append(sent.Commits, &copied)
		fmt.Fprintf(&key, " %s:%d:%x", c.Stream.ID, c.Expected, c.Command[8:12])
	}
	a := &appending{batch: sent}
	m := s.m
	c := &call{m: m, key: key.String(), mutates: true, appends: true, needs: partitions, answered: make(chan error, 1)}
	err := errCrashed
	if !m.crashed {
		m.w.post(m, "store "+c.key, func() { db.receiveAppend(c, a) })
		_, err = c.await(ctx)
	}
	for i, c := range batch.Commits {
		switch {
		case err == nil:
			c.Offset, c.Err = sent.Commits[i].Offset, sent.Commits[i].Err
		case errors.Is(err, errRefused), errors.Is(err, errFull):
			c.Offset, c.Err = 0, err
		default:
			c.Offset, c.Err = 0, fmt.Errorf("%w: %w", persistence.ErrUnknownOutcome, err)
		}
	}
}

// Read implements persistence.Log.
func (s *storeEnd) Read(ctx context.Context, st persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	return ask(ctx, s, fmt.Sprintf("read %s %d", st.ID, after), func() ([]persistence.Event, error) {
		return s.m.w.db.store.Read(always, st, after, limit)
	})
}

// ReadMany implements persistence.Log.
func (s *storeEnd) ReadMany(ctx context.Context, st []persistence.Stream, limit int) ([]persistence.History, error) {
	return ask(ctx, s, fmt.Sprintf("readmany %v", st), func() ([]persistence.History, error) {
		return s.m.w.db.store.ReadMany(always, st, limit)
	})
}

// Tail implements persistence.Log.
func (s *storeEnd) Tail(ctx context.Context, c []persistence.Cursor, limit int) ([]persistence.Event, error) {
	return ask(ctx, s, "tail", func() ([]persistence.Event, error) { return s.m.w.db.store.Tail(always, c, limit) })
}

// FindCommand implements persistence.Log.
func (s *storeEnd) FindCommand(ctx context.Context, st persistence.Stream, id persistence.CommandID) (persistence.CommandRecord, bool, error) {
	found := false
	record, err := ask(ctx, s, fmt.Sprintf("find %s %x", st.ID, id[8:12]), func() (r persistence.CommandRecord, err error) {
		r, found, err = s.m.w.db.store.FindCommand(always, st, id)
		return r, err
	})
	return record, found && err == nil, err
}

// FindClaim implements persistence.Log.
func (s *storeEnd) FindClaim(ctx context.Context, c persistence.Claim) (persistence.Stream, bool, error) {
	found := false
	holder, err := ask(ctx, s, "find claim", func() (st persistence.Stream, err error) {
		st, found, err = s.m.w.db.store.FindClaim(always, c)
		return st, err
	})
	return holder, found && err == nil, err
}

// Claims implements persistence.Log.
func (s *storeEnd) Claims(ctx context.Context, after persistence.Claim, limit int) ([]persistence.HeldClaim, error) {
	return ask(ctx, s, "claims", func() ([]persistence.HeldClaim, error) { return s.m.w.db.store.Claims(always, after, limit) })
}

// SaveSnapshots implements persistence.Snapshots.
func (s *storeEnd) SaveSnapshots(ctx context.Context, list []persistence.Snapshot) error {
	list = slices.Clone(list)
	return do(ctx, s, fmt.Sprintf("snapshots %d", len(list)), func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.SaveSnapshots(always, list) })
	})
}

// DeleteSnapshots implements persistence.Snapshots.
func (s *storeEnd) DeleteSnapshots(ctx context.Context, list []persistence.Stream) error {
	list = slices.Clone(list)
	return do(ctx, s, "delete snapshots", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.DeleteSnapshots(always, list) })
	})
}

// LoadCheckpoints implements persistence.Checkpoints.
func (s *storeEnd) LoadCheckpoints(ctx context.Context, p string) ([]persistence.Cursor, error) {
	return ask(ctx, s, "checkpoints", func() ([]persistence.Cursor, error) { return s.m.w.db.store.LoadCheckpoints(always, p) })
}

// SaveCheckpoints implements persistence.Checkpoints.
func (s *storeEnd) SaveCheckpoints(ctx context.Context, p string, list []persistence.Cursor) error {
	list = slices.Clone(list)
	return do(ctx, s, "save checkpoints", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.SaveCheckpoints(always, p, list) })
	})
}

// DeleteCheckpoints implements persistence.Checkpoints.
func (s *storeEnd) DeleteCheckpoints(ctx context.Context, p string) error {
	return do(ctx, s, "delete checkpoints", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.DeleteCheckpoints(always, p) })
	})
}

// DueTimers implements persistence.Timers.
func (s *storeEnd) DueTimers(ctx context.Context, p []persistence.Partition, until time.Time, limit int) ([]persistence.Timer, error) {
	return ask(ctx, s, "timers", func() ([]persistence.Timer, error) { return s.m.w.db.store.DueTimers(always, p, until, limit) })
}

// Join implements persistence.Membership.
func (s *storeEnd) Join(ctx context.Context, n persistence.Node) error {
	s.m.w.db.christen(s.m, n.ID)
	return do(ctx, s, "join "+s.m.w.db.name(n.ID), func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.Join(always, n) })
	})
}

// Renew implements persistence.Membership.
func (s *storeEnd) Renew(ctx context.Context, r persistence.Renewal) (persistence.View, error) {
	db := s.m.w.db
	r.Suspects = slices.Clone(r.Suspects)
	return through(ctx, s, fmt.Sprintf("renew %s %s %s", db.name(r.Node), r.State, db.namesOf(r.Suspects)), true, func() (v persistence.View, err error) {
		err = db.change(func(st persistence.Store) error {
			v, err = st.Renew(always, r)
			return err
		})
		return db.signed(v), err
	})
}

// View implements persistence.Membership.
func (s *storeEnd) View(ctx context.Context) (persistence.View, error) {
	return ask(ctx, s, "view", func() (persistence.View, error) {
		v, err := s.m.w.db.store.View(always)
		return s.m.w.db.signed(v), err
	})
}

// Leave implements persistence.Membership.
func (s *storeEnd) Leave(ctx context.Context, n persistence.NodeID) error {
	db := s.m.w.db
	return do(ctx, s, "leave "+db.name(n), func() error {
		return db.change(func(st persistence.Store) error { return st.Leave(always, n) })
	}, db.all()...)
}

// Evict implements persistence.Membership.
func (s *storeEnd) Evict(ctx context.Context, n persistence.NodeID, renewals int64) (bool, error) {
	db := s.m.w.db
	return through(ctx, s, fmt.Sprintf("evict %s %d", db.name(n), renewals), true, func() (done bool, err error) {
		err = db.change(func(st persistence.Store) error {
			done, err = st.Evict(always, n, renewals)
			return err
		})
		return done, err
	})
}

// Claim implements persistence.Membership.
func (s *storeEnd) Claim(ctx context.Context, p persistence.Partition, seen persistence.Epoch, n persistence.NodeID) (persistence.Tenure, error) {
	db := s.m.w.db
	needs := []persistence.Partition{p}
	if s.m.w.without.InFlightWait {
		needs = nil
	}
	return through(ctx, s, fmt.Sprintf("claim %d epoch %d for %s", p, seen, db.name(n)), true, func() (won persistence.Tenure, err error) {
		err = db.change(func(st persistence.Store) error {
			won, err = st.Claim(always, p, seen, n)
			return err
		})
		if err == nil {
			db.granted(p, won.Epoch, n)
		}
		return won, err
	}, needs...)
}

// Release implements persistence.Membership.
func (s *storeEnd) Release(ctx context.Context, p persistence.Partition, epoch persistence.Epoch, n, to persistence.NodeID) error {
	db := s.m.w.db
	return do(ctx, s, fmt.Sprintf("release %d epoch %d of %s to %s", p, epoch, db.name(n), db.name(to)), func() error {
		err := db.change(func(st persistence.Store) error { return st.Release(always, p, epoch, n, to) })
		if err == nil {
			db.granted(p, epoch+1, to)
		}
		return err
	}, p)
}

// Verify implements persistence.Membership.
func (s *storeEnd) Verify(ctx context.Context, n persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	db := s.m.w.db
	fences = slices.Clone(fences)
	return ask(ctx, s, fmt.Sprintf("verify %s %v", db.name(n), fences), func() ([]bool, error) {
		for i := range fences {
			if s.m.w.without.HeadCheck {
				fences[i].Head = 0
			}
		}
		return db.store.Verify(always, n, fences)
	})
}

// Meta implements persistence.Store.
func (s *storeEnd) Meta() persistence.Meta { return s.m.w.db.store.Meta() }

// Close implements persistence.Store.
func (s *storeEnd) Close() error { return nil }

// always is the context of what happens inside the store.
var always = context.Background()

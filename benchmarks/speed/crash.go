package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	pgstore "github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

const (
	// crashed is how many aggregates the killed node has in memory. As many may
	// be in the survivor's, which has some of its own already.
	crashed       = 100_000
	crashedEvents = 10
	// hot is how many of them are called at the moment of the kill, and as many
	// others from hotCallers callers each behind the storm.
	hot        = 500
	hotCallers = 4
	// own is how many aggregates the survivor has of its own, called ownRate times
	// a second from before the kill until all is over. So are, at a lower rate,
	// those of the killed node.
	own      = 2000
	ownRate  = 500
	lostRate = 250
)

// crashFigures are the names of what crash measures.
func crashFigures(suffix string) (names []string) {
	for _, name := range []string{"others-p99", "others-max", "hot", "late-hot-p99", "storm", "return"} {
		names = append(names, "crash-"+name+suffix)
	}
	return names
}

// crash kills the owner of 100,000 aggregates and sees what their coming back
// does to the node that takes them over.
func (b *bench) crash(ctx context.Context) (_ []*figure, err error) {
	store, dsn, err := b.openStore(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return b.crashOn(ctx, "", "PostgreSQL", store, Victim{DSN: dsn})
}

// crashSQLite is crash on a directory.
func (b *bench) crashSQLite(ctx context.Context) (_ []*figure, err error) {
	dir, err := os.MkdirTemp("", "ingrain-speed-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := sqlite.Open(ctx, sqlite.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return b.crashOn(ctx, "-sqlite", "SQLite", store, Victim{Dir: dir})
}

func (b *bench) crashOn(ctx context.Context, suffix, on string, store persistence.Store, v Victim) (_ []*figure, err error) {
	w := &wreck{b: b, store: &watchedStore{Store: store}, many: min(b.many, crashed)}
	v.Events, v.Resident = crashedEvents, w.many
	if err := populate(ctx, store, w.many*5/4, crashedEvents); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := w.begin(ctx, v); err != nil {
		return nil, err
	}
	if err := w.run(ctx); err != nil {
		return nil, err
	}
	before, during := w.latencies(ownClass, w.begun, w.killed), w.latencies(ownClass, w.killed, w.over)
	ms := func(d time.Duration) samples { return samples{float64(d.Nanoseconds()) / 1e6} }
	return []*figure{
		{
			Name: "crash-others-p99" + suffix, Unit: "ms", Than: "before the kill",
			What: "p99 of commands to the other aggregates of a node, from the kill of another until the 100,000 aggregates of that are back, " + on,
			Of:   ms(percentile(during, 0.99)), Base: ms(percentile(before, 0.99)),
		},
		{
			Name: "crash-others-max" + suffix, Unit: "ms", Than: "before the kill", What: "the longest of them",
			Of: ms(percentile(during, 1)), Base: ms(percentile(before, 1)),
		},
		{
			Name: "crash-hot" + suffix, Unit: "ms", What: fmt.Sprintf("from the kill until %d aggregates that are called at that moment have all answered", hot),
			Of: ms(w.hotAll),
		},
		{
			Name: "crash-late-hot-p99" + suffix, Unit: "ms", Than: "p99 of the storm's calls",
			What: fmt.Sprintf("p99 of calls to %d aggregates, %d callers each, that come behind a storm on 20,000 others", hot, hotCallers),
			Of:   ms(percentile(w.lateHot, 0.99)), Base: ms(percentile(w.storm, 0.99)),
		},
		{
			Name: "crash-storm" + suffix, Unit: "aggregates/s", What: "a storm on 20,000 aggregates that are not in memory: how fast they answer",
			Of: samples{float64(len(w.storm)) / percentile(w.storm, 1).Seconds()},
		},
		{
			Name: "crash-return" + suffix, Unit: "aggregates/s", What: "all the others come back, as fast as 1,024 callers ask",
			Of: samples{w.returned},
		},
	}, nil
}

// wreck is a cluster of two, one of which is killed.
type wreck struct {
	b      *bench
	store  *watchedStore
	many   int // aggregates of the victim that are measured
	node   *cluster.Node
	victim *child

	mine, lost []aggregate.Ref[account] // mine are the survivor's

	begun, killed, stormed, calmed, over time.Time // moments, in this order
	mu                                   sync.Mutex
	calls                                []crashCall
	hotAll                               time.Duration
	storm, lateHot                       []time.Duration // sorted
	returned                             float64
}

// crashCall is one call of the steady load.
type crashCall struct {
	class crashClass
	due   time.Time
	took  time.Duration
	err   error
}

type crashClass uint8

const (
	ownClass crashClass = iota
	lostClass
)

// begin starts both nodes and brings everything into memory.
func (w *wreck) begin(ctx context.Context, v Victim) (err error) {
	if w.victim, err = w.b.startChild(ctx, "victim", 0); err != nil {
		return err
	}
	if err := w.victim.call(ctx, "Open", v, &struct{}{}); err != nil {
		return err
	}
	w.node, err = startNode(ctx, w.store, func(c *cluster.Config) { c.MaxResident, c.IdleAfter = w.many, time.Hour })
	if err != nil {
		return err
	}
	settled := func() (bool, error) {
		least := w.store.Meta().Partitions / (victimWeight + 1)
		share := 0
		for _, row := range w.node.Partitions() {
			if row.Owner == w.node.ID() {
				share++
			}
		}
		return share >= least && w.node.Ready(ctx) == nil, nil
	}
	if err := await(ctx, "the nodes to settle", settled); err != nil {
		return err
	}
	me := w.node.ID()
	for i := range w.many * 5 / 4 {
		ref := accounts.Ref(w.node, accountID(i))
		switch mine := w.node.Owner(accountType, ref.ID()).Owner == me; {
		case mine && len(w.mine) < own:
			w.mine = append(w.mine, ref)
		case !mine && len(w.lost) < w.many:
			w.lost = append(w.lost, ref)
		}
	}
	if len(w.lost) < w.many*9/10 || len(w.mine) < own/2 {
		return fmt.Errorf("the victim has %d aggregates, the survivor %d", len(w.lost), len(w.mine))
	}
	if err := w.ask(ctx, w.mine); err != nil {
		return err
	}
	return w.ask(ctx, w.lost)
}

// ask asks all of some aggregates, from 1,024 callers, what they have.
func (w *wreck) ask(ctx context.Context, refs []aggregate.Ref[account]) error {
	const callers = 1024
	errs := make([]error, callers)
	var next atomic.Int64
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for errs[c] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(refs) {
					return
				}
				errs[c] = intact(ctx, refs[i])
			}
		})
	}
	wait.Wait()
	return first(errs)
}

// intact asks an aggregate whether it has all its events.
func intact(ctx context.Context, ref aggregate.Ref[account]) error {
	got, err := aggregate.Ask(ctx, ref, entries{})
	if err == nil && got < crashedEvents {
		err = fmt.Errorf("it has %d entries", got)
	}
	if err != nil {
		return fmt.Errorf("account %s: %w", ref.ID(), err)
	}
	return nil
}

// run kills the victim under load.
func (w *wreck) run(ctx context.Context) error {
	stop, over := make(chan struct{}), make(chan error, 1)
	w.begun = time.Now()
	go func() { over <- w.load(ctx, stop) }()
	err := w.fault(ctx)
	close(stop)
	if err := errors.Join(err, <-over); err != nil {
		return err
	}
	var errs []error
	for _, c := range w.calls {
		errs = append(errs, c.err)
	}
	host := w.node.Stats().Host
	w.b.progress("  %d aggregates in memory at most, %d loads at once, %d aggregates in one; %d calls refused",
		w.store.resident.Load(), w.store.mostAtOnce.Load(), w.store.mostInOne.Load(), host.Overloaded)
	for _, class := range []crashClass{ownClass, lostClass} {
		name := [...]string{"survivor's own", "victim's"}[class]
		for _, phase := range []struct {
			name     string
			from, to time.Time
		}{
			{"before the kill", w.begun, w.killed}, {"until the storm", w.killed, w.stormed},
			{"in the storm", w.stormed, w.calmed}, {"while the rest comes back", w.calmed, w.over},
		} {
			l := w.latencies(class, phase.from, phase.to)
			w.b.progress("  %-44s p50 %s, p99 %s, max %s", name+" "+phase.name,
				tenths(percentile(l, 0.5)), tenths(percentile(l, 0.99)), tenths(percentile(l, 1)))
		}
	}
	const atOnce, inOne = 2, 256 // of the loader of a node
	switch {
	case first(errs) != nil:
		return first(errs)
	case host.Overloaded > 0:
		return fmt.Errorf("%d calls were refused", host.Overloaded)
	case w.store.resident.Load() > int64(w.many)+own: // those that are being called cannot leave
		return fmt.Errorf("%d aggregates were in memory, MaxResident is %d", w.store.resident.Load(), w.many)
	case w.store.mostAtOnce.Load() > atOnce || w.store.mostInOne.Load() > inOne:
		return fmt.Errorf("%d loads at once, %d aggregates in one", w.store.mostAtOnce.Load(), w.store.mostInOne.Load())
	}
	return nil
}

func tenths(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// fault is what happens besides the steady load.
func (w *wreck) fault(ctx context.Context) error {
	if err := rest(ctx, 2*w.b.length); err != nil {
		return err
	}
	cold, atKill, late := w.lost[2*hot:], w.lost[:hot], w.lost[hot:2*hot]
	if err := w.victim.cmd.Process.Kill(); err != nil {
		return err
	}
	w.killed = time.Now()
	storm := len(cold) / 5
	for _, ref := range w.lost {
		if w.node.Owner(accountType, ref.ID()).Owner == w.node.ID() {
			return fmt.Errorf("account %s moved before the kill", ref.ID())
		}
	}
	hotDone := make(chan error, 1)
	go func() {
		_, err := burst(ctx, atKill, 1)
		w.hotAll = time.Since(w.killed)
		hotDone <- err
	}()
	err := await(ctx, "the survivor to own everything", func() (bool, error) {
		for _, row := range w.node.Partitions() {
			if row.Owner != w.node.ID() {
				return false, nil
			}
		}
		return true, nil
	})
	if err := errors.Join(err, <-hotDone); err != nil {
		return err
	}
	w.b.progress("  %d partitions taken over; %d hot aggregates have answered %s after the kill", w.node.Stats().Takeovers, hot, tenths(w.hotAll))
	lateDone := make(chan error, 1)
	w.store.onRead(func() { // the storm has begun to be loaded
		go func() {
			var err error
			w.lateHot, err = burst(ctx, late, hotCallers)
			lateDone <- err
		}()
	})
	w.stormed = time.Now()
	w.storm, err = burst(ctx, cold[:storm], 1)
	select {
	case lateErr := <-lateDone:
		err = errors.Join(err, lateErr)
	case <-time.After(patience):
		err = errors.Join(err, errors.New("the storm was not loaded in batches"))
	}
	if err != nil {
		return err
	}
	w.b.progress("  %-44s p50 %s, p99 %s, max %s", plural(storm, "cold aggregate")+" at once",
		tenths(percentile(w.storm, 0.5)), tenths(percentile(w.storm, 0.99)), tenths(percentile(w.storm, 1)))
	w.b.progress("  %-44s p50 %s, p99 %s, max %s", plural(hot, "hot one")+" behind them",
		tenths(percentile(w.lateHot, 0.5)), tenths(percentile(w.lateHot, 0.99)), tenths(percentile(w.lateHot, 1)))
	w.calmed = time.Now()
	if err := w.ask(ctx, cold[storm:]); err != nil {
		return err
	}
	w.over = time.Now()
	w.returned = float64(len(cold)-storm) / w.over.Sub(w.calmed).Seconds()
	return nil
}

// burst asks all of some aggregates at once, each from so many callers, and
// returns how long each waited, sorted.
func burst(ctx context.Context, refs []aggregate.Ref[account], callers int) ([]time.Duration, error) {
	n := len(refs) * callers
	took, errs := make([]time.Duration, n), make([]error, n)
	var wait sync.WaitGroup
	begin := time.Now()
	for i := range n {
		wait.Go(func() {
			errs[i] = intact(ctx, refs[i%len(refs)])
			took[i] = time.Since(begin)
		})
	}
	wait.Wait()
	slices.Sort(took)
	return took, first(errs)
}

// load sends commands at random moments until it is told to stop.
func (w *wreck) load(ctx context.Context, stop <-chan struct{}) error {
	clock, err := newPacer()
	if err != nil {
		return err
	}
	defer clock.close()
	var wait sync.WaitGroup
	defer wait.Wait()
	for due := time.Now(); ; {
		due = due.Add(time.Duration(rand.ExpFloat64() * float64(time.Second) / (ownRate + lostRate)))
		clock.sleepUntil(due)
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		c := crashCall{class: ownClass, due: due}
		ref := w.mine[rand.IntN(len(w.mine))]
		if rand.IntN(ownRate+lostRate) >= ownRate {
			c.class, ref = lostClass, w.lost[2*hot+rand.IntN(len(w.lost)-2*hot)]
		}
		wait.Go(func() {
			_, c.err = ref.Send(ctx, deposit{Cents: 1})
			c.took = time.Since(c.due)
			resident := int64(w.node.Stats().Host.Resident)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.calls = append(w.calls, c)
			w.store.resident.Store(max(w.store.resident.Load(), resident))
		})
	}
}

// latencies of the calls of a class that were due in some time, sorted.
func (w *wreck) latencies(class crashClass, from, to time.Time) (took []time.Duration) {
	for _, c := range w.calls {
		if c.class == class && !c.due.Before(from) && c.due.Before(to) {
			took = append(took, c.took)
		}
	}
	slices.Sort(took)
	return took
}

func (w *wreck) stop() error {
	if w.node != nil {
		stopNode(w.node)
	}
	if w.victim == nil {
		return nil
	}
	_ = w.victim.cmd.Process.Kill() // it has been, unless something went wrong before
	_ = w.victim.stop()             // which says that it was killed
	return nil
}

// watchedStore sees how much is loaded at once.
type watchedStore struct {
	persistence.Store
	now, mostAtOnce, mostInOne, resident atomic.Int64

	mu   sync.Mutex
	tell func()
}

// onRead calls f, once, at the next read of many aggregates.
func (s *watchedStore) onRead(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = f
}

// ReadMany implements persistence.Store.
func (s *watchedStore) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	raise := func(most *atomic.Int64, n int64) {
		for known := most.Load(); n > known; known = most.Load() {
			if most.CompareAndSwap(known, n) {
				return
			}
		}
	}
	raise(&s.mostAtOnce, s.now.Add(1))
	defer s.now.Add(-1)
	raise(&s.mostInOne, int64(len(streams)))
	if len(streams) >= 64 { // not one of the steady load's
		s.mu.Lock()
		if s.tell != nil {
			s.tell()
			s.tell = nil
		}
		s.mu.Unlock()
	}
	return s.Store.ReadMany(ctx, streams, limit)
}

// Victim is the child that is killed: a node with most of the partitions. It is
// told all of this but the rest.
type Victim struct {
	DSN, Dir         string
	Events, Resident int

	store persistence.Store
	node  *cluster.Node
	ctx   context.Context // the child's life
}

// victimWeight makes it the owner of nine partitions in ten.
const victimWeight = 9

func newVictim(ctx context.Context) (service, error) { return &Victim{ctx: ctx}, nil }

// Open starts the node.
func (v *Victim) Open(told Victim, _ *struct{}) (err error) {
	if told.Dir != "" {
		v.store, err = sqlite.Open(v.ctx, sqlite.Config{Dir: told.Dir})
	} else {
		v.store, err = pgstore.Open(v.ctx, pgstore.Config{DSN: told.DSN})
	}
	if err != nil {
		return err
	}
	v.node, err = startNode(v.ctx, v.store, func(c *cluster.Config) {
		c.Weight, c.MaxResident, c.IdleAfter = victimWeight, told.Resident, time.Hour
	})
	return err
}

func (v *Victim) close() error {
	if v.node != nil {
		stopNode(v.node)
	}
	if v.store == nil {
		return nil
	}
	return v.store.Close()
}

// populate writes events for each of the first n accounts, as a node that nobody
// calls.
func populate(ctx context.Context, store persistence.Store, n, events int) (err error) {
	writer, err := rent(ctx, store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, writer.leave(ctx)) }()
	const batchSize = 100 // times events
	at, event := time.Now(), persistence.NewEvent{Type: "deposited", Payload: []byte(`{"Cents":1}`)}
	for from := 0; from < n; from += batchSize {
		var commits []*persistence.Commit
		for i := from; i < min(from+batchSize, n); i++ {
			for version := range events {
				commits = append(commits, &persistence.Commit{
					Stream: persistence.Stream{Type: accountType, ID: accountID(i)}, Expected: persistence.Version(version), At: at,
					Command: persistence.CommandID(aggregate.NewCommandID()), Events: []persistence.NewEvent{event},
				})
			}
		}
		if err := writer.append(ctx, commits); err != nil {
			return err
		}
	}
	return nil
}

// await looks again and again, until something is so.
func await(ctx context.Context, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// rest lets time pass.
func rest(ctx context.Context, d time.Duration) error {
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

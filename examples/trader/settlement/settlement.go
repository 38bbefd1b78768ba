package settlement

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// page is how many events of one partition are worked on at once.
	page = 256
	// inFlight bounds the commands of one settler that are under way.
	inFlight = 128
	// The log is asked for news after a pause that doubles while there is none.
	pauseMin, pauseMax = 5 * time.Millisecond, 40 * time.Millisecond
	// saveEvery is how often cursors are stored. What a crash leaves unsaved is
	// repeated by the next owner, without effect.
	saveEvery = 250 * time.Millisecond
	// attempt bounds one try of one step.
	attempt = 5 * time.Second
	// A step that fails is tried again after a pause that doubles up to retryMax.
	retryMin, retryMax = 20 * time.Millisecond, time.Second
)

// Config says what a settler works on. All fields but Logger are needed.
type Config struct {
	// Store is read for events, and keeps the cursors under Name.
	Store   persistence.Store
	Name    string
	Gateway aggregate.Gateway
	// Owned returns the partitions that this process should look after. Two
	// processes may for a while look after the same one.
	Owned func() []persistence.Partition
	// Welcome is the cash a new user's portfolio is opened with.
	Welcome portfolio.Cents
	Logger  *slog.Logger
}

// Settler follows the partitions that its node owns. [Start] makes one. It is
// safe for concurrent use.
type Settler struct {
	config Config
	cancel context.CancelFunc
	done   chan struct{}
	slots  chan struct{}

	steps, retries, parked atomic.Int64
}

// Stats counts what a settler did.
type Stats struct {
	// Steps were acknowledged, Retries failed and were tried again.
	Steps, Retries int64
	// Parked is how many steps an aggregate refuses at this moment, which no
	// step should be: they are tried again every second, and hold up what
	// follows in their partition.
	Parked int64
}

// Start begins to settle, until Stop.
func Start(config Config) *Settler {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Settler{config: config, cancel: cancel, done: make(chan struct{}), slots: make(chan struct{}, inFlight)}
	go func() {
		defer close(s.done)
		s.run(ctx)
	}()
	return s
}

// Stop ends the work, stores the cursors and waits for both. What was under way
// is left to the next owner of its partition. Stopping twice is harmless.
func (s *Settler) Stop(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats returns the counters.
func (s *Settler) Stats() Stats {
	return Stats{Steps: s.steps.Load(), Retries: s.retries.Load(), Parked: s.parked.Load()}
}

// follower is one partition's place and work.
type follower struct {
	after  persistence.Offset
	saved  persistence.Offset
	busy   bool
	cancel context.CancelFunc // of the work, while busy
}

// result is a finished page.
type result struct {
	partition persistence.Partition
	after     persistence.Offset // 0 when the work was abandoned
}

// run is the only goroutine that touches the followers.
func (s *Settler) run(ctx context.Context) {
	var (
		followers = map[persistence.Partition]*follower{}
		results   = make(chan result)
		workers   sync.WaitGroup
		pause     = pauseMin
		lastSave  = time.Now()
		timer     = time.NewTimer(0)
	)
	defer timer.Stop()
	for ctx.Err() == nil {
		s.adopt(ctx, followers)
		started := s.begin(ctx, followers, results, &workers)
		if pause = min(2*pause, pauseMax); started > 0 {
			pause = pauseMin
		}
		timer.Reset(pause)
	wait:
		for {
			select {
			case <-ctx.Done():
				break wait
			case r := <-results:
				finish(followers, r)
			case <-timer.C:
				break wait
			}
		}
		if time.Since(lastSave) >= saveEvery {
			s.save(ctx, followers)
			lastSave = time.Now()
		}
	}
	busy := 0
	for _, f := range followers {
		if f.busy {
			busy++
		}
	}
	for range busy {
		finish(followers, <-results)
	}
	workers.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), attempt)
	defer cancel()
	s.save(last, followers)
}

func finish(followers map[persistence.Partition]*follower, r result) {
	f := followers[r.partition]
	f.cancel()
	f.busy = false
	if r.after == 0 {
		delete(followers, r.partition)
		return
	}
	f.after = r.after
}

// adopt makes followers for partitions that are new here and ends those that
// went elsewhere.
func (s *Settler) adopt(ctx context.Context, followers map[persistence.Partition]*follower) {
	owned := map[persistence.Partition]bool{}
	fresh := false
	for _, p := range s.config.Owned() {
		owned[p] = true
		fresh = fresh || followers[p] == nil
	}
	for p, f := range followers {
		switch {
		case owned[p]:
		case f.busy:
			f.cancel()
		default:
			delete(followers, p)
		}
	}
	if !fresh {
		return
	}
	saved, err := s.config.Store.LoadCheckpoints(ctx, s.config.Name)
	if err != nil {
		if ctx.Err() == nil {
			s.config.Logger.Warn("cursors not loaded", "error", err)
		}
		return
	}
	at := make(map[persistence.Partition]persistence.Offset, len(saved))
	for _, c := range saved {
		at[c.Partition] = c.After
	}
	for p := range owned {
		if followers[p] == nil {
			followers[p] = &follower{after: at[p], saved: at[p]}
		}
	}
}

// begin reads on in every partition that has no work and starts it there.
func (s *Settler) begin(ctx context.Context, followers map[persistence.Partition]*follower, results chan<- result, workers *sync.WaitGroup) int {
	cursors := make([]persistence.Cursor, 0, len(followers))
	for p, f := range followers {
		if !f.busy {
			cursors = append(cursors, persistence.Cursor{Partition: p, After: f.after})
		}
	}
	if len(cursors) == 0 {
		return 0
	}
	events, err := s.config.Store.Tail(ctx, cursors, page)
	if err != nil {
		if ctx.Err() == nil {
			s.config.Logger.Warn("log not read", "error", err)
		}
		return 0
	}
	pages := map[persistence.Partition][]persistence.Event{}
	for _, e := range events {
		pages[e.Partition] = append(pages[e.Partition], e)
	}
	for p, events := range pages {
		f := followers[p]
		work, cancel := context.WithCancel(ctx)
		f.busy, f.cancel = true, cancel
		workers.Go(func() {
			r := result{partition: p}
			if s.settle(work, events) {
				r.after = events[len(events)-1].Offset
			}
			results <- r
		})
	}
	return len(pages)
}

// settle takes every step that the events cause. It reports whether all were
// acknowledged; the only other reason to return is the end of ctx.
func (s *Settler) settle(ctx context.Context, events []persistence.Event) bool {
	lanes := map[string][]Reaction{}
	for i := range events {
		reactions, err := Reactions(&events[i], s.config.Welcome)
		if err != nil {
			// An event that this program cannot read stops its partition, as
			// long as this program runs: skipping it would lose money.
			s.config.Logger.Error("settlement stopped", "partition", events[i].Partition, "offset", events[i].Offset, "error", err)
			s.parked.Add(1)
			<-ctx.Done()
			s.parked.Add(-1)
			return false
		}
		for _, r := range reactions {
			lanes[r.Lane] = append(lanes[r.Lane], r)
		}
	}
	var group sync.WaitGroup
	var failed atomic.Bool
	for _, lane := range lanes {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			failed.Store(true)
			continue
		}
		group.Go(func() {
			defer func() { <-s.slots }()
			for i := range lane {
				if !s.step(ctx, &lane[i]) {
					failed.Store(true)
					return
				}
			}
		})
	}
	group.Wait()
	return !failed.Load()
}

// step sends one command until it is acknowledged.
func (s *Settler) step(ctx context.Context, r *Reaction) bool {
	send, anew, parked := r.Send, false, false
	defer func() {
		if parked {
			s.parked.Add(-1)
		}
	}()
	for wait := retryMin; ctx.Err() == nil; wait = min(2*wait, retryMax) {
		try, cancel := context.WithTimeout(ctx, attempt)
		err := send(try, s.config.Gateway)
		cancel()
		if err == nil {
			s.steps.Add(1)
			return true
		}
		var failure *aggregate.Failure
		switch {
		case ctx.Err() != nil:
			return false
		case !anew && errors.As(err, &failure) && failure.Reason == aggregate.ReasonCommandTooOld:
			send, anew = r.SendAnew, true
			continue
		}
		s.retries.Add(1)
		if kind := aggregate.KindOf(err); kind == aggregate.KindRejected || kind == aggregate.KindInvalid {
			wait = retryMax
			if !parked {
				parked = true
				s.parked.Add(1)
				s.config.Logger.Error("settlement refused", "lane", r.Lane, "cause", r.Metadata.Causation, "error", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return false
}

// save stores the cursors that moved.
func (s *Settler) save(ctx context.Context, followers map[persistence.Partition]*follower) {
	var moved []persistence.Cursor
	for p, f := range followers {
		if f.after != f.saved {
			moved = append(moved, persistence.Cursor{Partition: p, After: f.after})
		}
	}
	if len(moved) == 0 {
		return
	}
	if err := s.config.Store.SaveCheckpoints(ctx, s.config.Name, moved); err != nil {
		if ctx.Err() == nil {
			s.config.Logger.Warn("cursors not saved", "error", err)
		}
		return
	}
	for _, c := range moved {
		followers[c.Partition].saved = c.After
	}
}

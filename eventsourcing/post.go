package eventsourcing

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// post is a partition, as a courier goes along it. What varies is guarded by the
// courier's mutex.
type post struct {
	courier   *Courier
	partition persistence.Partition
	born      time.Duration
	ctx       context.Context
	cancel    context.CancelFunc
	workers   int
	quiet     chan struct{} // closed when the post is closed and has no workers

	loaded   bool
	cursor   persistence.Offset  // read up to here
	stored   persistence.Offset  // checkpointed up to here
	live     []persistence.Event // pushed, from cursor+1 on, without gaps
	behind   bool                // the log may have events that were not pushed
	jobs     []*job              // not done, and those behind the first such, by offset
	errands  map[string]*errand  // by sequence
	parked   map[string]int      // dead letters by sequence, stored or about to be
	letters  []persistence.DeadLetter
	resolved []*errand // of dead letters that were handled
	closed   bool
}

// job is an event that causes something.
type job struct {
	event    *persistence.Event
	sequence string
	tasks    []task
	next     int   // the first task that is not done
	err      error // why it can not even be begun
	done     bool
}

// errand is what is to be done of one sequence, in order.
type errand struct {
	post     *post
	sequence string
	jobs     []*job
	letter   *persistence.DeadLetter // it is retried; nil for what has just been read
	waiting  bool                    // for a worker, has one, or for its next attempt
	attempts int
	since    time.Duration // of the first failure
	cause    error
}

func newPost(c *Courier, partition persistence.Partition) *post {
	p := &post{
		courier: c, partition: partition, behind: true, born: c.config.Clock.Now(),
		errands: map[string]*errand{}, parked: map[string]int{}, quiet: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(c.ctx)
	return p
}

// close ends the work on a post. The courier is not locked.
func (p *post) close() {
	p.cancel()
	p.courier.mu.Lock()
	defer p.courier.mu.Unlock()
	if p.closed {
		return
	}
	if p.closed = true; p.workers == 0 {
		close(p.quiet)
	}
}

// hear takes pushed events, if they follow on what is there and there is room.
func (p *post) hear(events []persistence.Event) {
	next := p.cursor + persistence.Offset(len(p.live)) + 1
	for len(events) > 0 && events[0].Offset < next {
		events = events[1:]
	}
	if len(events) == 0 {
		return
	}
	if !p.loaded || events[0].Offset != next || len(p.live)+len(events) > p.courier.config.Window {
		p.behind = true
		return
	}
	p.live = append(p.live, events...)
}

// full reports whether nothing more is to be read.
func (p *post) full() bool {
	return len(p.jobs)+len(p.letters) >= p.courier.config.Window || sum(p.parked) >= p.courier.config.MaxParked
}

// watermark is the offset up to which all is done.
func (p *post) watermark() persistence.Offset {
	for len(p.jobs) > 0 && p.jobs[0].done {
		p.jobs[0] = nil
		p.jobs = p.jobs[1:]
	}
	if len(p.jobs) == 0 {
		p.jobs = nil
		return p.cursor
	}
	return p.jobs[0].event.Offset - 1
}

// add puts a job behind its sequence. The courier is locked.
func (p *post) add(j *job) {
	p.jobs = append(p.jobs, j)
	if p.parked[j.sequence] > 0 {
		p.park(j, errBehind, 0)
		return
	}
	e := p.errands[j.sequence]
	if e == nil {
		e = &errand{post: p, sequence: j.sequence}
		p.errands[j.sequence] = e
	}
	e.jobs = append(e.jobs, j)
	p.courier.enqueue(e)
}

// park makes a dead letter of a job, which is stored with the checkpoint that
// passes it.
func (p *post) park(j *job, cause error, attempts int) {
	j.done = true
	p.parked[j.sequence]++
	p.letters = append(p.letters, p.courier.letter(j, cause, attempts))
}

func (c *Courier) letter(j *job, cause error, attempts int) persistence.DeadLetter {
	e := j.event
	return persistence.DeadLetter{
		Projection: c.name, DeadLetterKey: persistence.DeadLetterKey{Partition: e.Partition, Offset: e.Offset},
		Sequence: j.sequence, Stream: e.Stream, Type: e.Type, Cause: cause.Error(), Attempts: attempts, At: c.config.Clock.Wall(),
	}
}

// enqueue lets an errand wait for a worker. The courier is locked.
func (c *Courier) enqueue(e *errand) {
	if e.waiting || len(e.jobs) == 0 {
		return
	}
	e.waiting = true
	if e.attempts > 0 {
		c.strained = append(c.strained, e)
	} else {
		c.fresh = append(c.fresh, e)
	}
	c.assign()
}

// assign starts workers for errands that wait. The courier is locked.
func (c *Courier) assign() {
	take := func(from *[]*errand) *errand {
		e := (*from)[0]
		(*from)[0] = nil
		*from = (*from)[1:]
		return e
	}
	for !c.stopped && c.busy < c.config.Parallel {
		var e *errand
		hard := false
		switch {
		case len(c.fresh) > 0:
			e = take(&c.fresh)
		case len(c.strained) > 0 && c.straining < max(1, c.config.Parallel/2):
			e, hard = take(&c.strained), true
		default:
			return
		}
		if e.post.closed {
			continue
		}
		c.busy++
		if hard {
			c.straining++
		}
		e.post.workers++
		c.workers.Go(func() {
			c.work(e)
			c.mu.Lock()
			if e.post.workers--; e.post.workers == 0 && e.post.closed {
				close(e.post.quiet)
			}
			c.busy--
			if hard {
				c.straining--
			}
			c.assign()
			c.mu.Unlock()
		})
	}
}

// turn is how many jobs of an errand a worker does before others have theirs.
const turn = 64

// work does the jobs of an errand.
func (c *Courier) work(e *errand) {
	for range turn {
		c.mu.Lock()
		if e.post.closed || len(e.jobs) == 0 {
			e.waiting = false
			c.mu.Unlock()
			return
		}
		j := e.jobs[0]
		c.mu.Unlock()
		if !c.settle(e, j, c.perform(e.post.ctx, j, false)) {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.waiting = false
	c.enqueue(e)
}

// settle takes note of what became of an attempt. It reports whether the errand
// goes on at once.
func (c *Courier) settle(e *errand, j *job, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := e.post
	if p.closed || len(e.jobs) == 0 || e.jobs[0] != j { // it was put aside meanwhile
		return false
	}
	now := c.config.Clock.Now()
	if err == nil {
		j.done = true
		e.jobs, e.attempts, e.cause = e.jobs[1:], 0, nil
		switch {
		case e.letter != nil:
			p.resolved = append(p.resolved, e)
			c.nudge()
			return false
		case len(e.jobs) > 0:
			return true
		}
		e.waiting = false
		delete(p.errands, e.sequence)
		if p.full() { // there may be room now
			c.nudge()
		}
		return false
	}
	c.retries.Add(1)
	if e.attempts == 0 {
		e.since = now
	}
	e.attempts++
	e.cause = err
	var final *finalError
	if errors.As(err, &final) && (final.at1 || e.attempts >= c.config.Attempts) {
		c.giveUp(e, err)
		return false
	}
	pause := time.Duration(min(float64(c.config.Backoff)*math.Pow(4, float64(min(e.attempts-1, 20))), float64(10*time.Second)))
	c.config.Clock.AfterFunc(pause, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.waiting = false
		if !e.post.closed {
			c.enqueue(e)
		}
	})
	return false
}

// giveUp parks an errand. The courier is locked.
func (c *Courier) giveUp(e *errand, cause error) {
	p, first := e.post, e.jobs[0]
	c.config.Logger.Error("process parked a sequence", "process", c.process.Name(), "sequence", e.sequence, "partition", p.partition,
		"offset", first.event.Offset, "event", first.event.Type, "attempts", e.attempts, "error", cause)
	delete(p.errands, e.sequence)
	if e.letter != nil { // it is one already
		p.letters = append(p.letters, c.letter(first, cause, e.attempts))
	} else {
		for i, j := range e.jobs {
			if i == 0 {
				p.park(j, cause, e.attempts)
			} else {
				p.park(j, errBehind, 0)
			}
		}
	}
	e.jobs, e.waiting = nil, false
	c.nudge()
}

// aside is for how long a sequence that does not get through may hold up the
// checkpoint of a partition whose window is full.
const aside = 5 * time.Second

// putAside makes dead letters of the first sequence of a post whose window is
// full, so that others can go on. It goes on being tried. The courier is locked.
func (c *Courier) putAside(p *post) {
	if len(p.jobs) == 0 {
		return
	}
	e := p.errands[p.jobs[0].sequence]
	if e == nil || e.attempts == 0 || e.letter != nil || c.config.Clock.Now()-e.since < aside {
		return
	}
	if i := slices.Index(c.strained, e); i >= 0 {
		c.strained = slices.Delete(c.strained, i, i+1)
	}
	delete(p.errands, e.sequence)
	for _, j := range e.jobs {
		p.park(j, e.cause, 0)
	}
	e.jobs = nil
}

package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// The dead letters of a process are those of a projection: see deadletter.go. A
// first letter with no attempts is due, and its owner tries it; one with attempts
// waits for an operator, who resumes it (its attempts become none) or skips it.

// forgetLost drops posts of partitions that this node lost, and was not told.
func (c *Courier) forgetLost() {
	now := c.config.Clock.Now()
	var lost []*post
	c.mu.Lock()
	for partition, p := range c.posts {
		if now-p.born > graceOfOwner && !c.mine(p) {
			delete(c.posts, partition)
			lost = append(lost, p)
		}
	}
	c.mu.Unlock()
	for _, p := range lost {
		p.close()
	}
}

func (c *Courier) mine(p *post) bool {
	_, epoch := c.config.Owned(p.partition)
	return epoch != 0
}

// takeOn asks the store where new posts begin.
func (c *Courier) takeOn() error {
	var fresh []*post
	c.mu.Lock()
	for _, p := range c.posts {
		if !p.loaded && c.mine(p) {
			fresh = append(fresh, p)
		}
	}
	c.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	ctx, cancel := c.storeCall()
	defer cancel()
	cursors, err := c.config.Store.LoadCheckpoints(ctx, c.name)
	if err != nil {
		return err
	}
	at := make(map[persistence.Partition]persistence.Offset, len(cursors))
	for _, cursor := range cursors {
		at[cursor.Partition] = cursor.After
	}
	parked := map[persistence.Partition]map[string]int{}
	err = c.eachLetter(ctx, func(l *persistence.DeadLetter) bool {
		if parked[l.Partition] == nil {
			parked[l.Partition] = map[string]int{}
		}
		parked[l.Partition][l.Sequence]++
		return true
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range fresh {
		p.cursor, p.stored, p.live = at[p.partition], at[p.partition], nil
		p.loaded, p.behind = true, true
		if parked[p.partition] != nil {
			p.parked = parked[p.partition]
		}
	}
	return nil
}

// eachLetter reads dead letters, until f has enough.
func (c *Courier) eachLetter(ctx context.Context, f func(*persistence.DeadLetter) bool) error {
	for after := (persistence.DeadLetterKey{}); ; {
		letters, err := c.config.Store.DeadLetters(ctx, c.name, after, letterPage)
		if err != nil {
			return err
		}
		for i := range letters {
			if !f(&letters[i]) {
				return nil
			}
			after = letters[i].DeadLetterKey
		}
		if len(letters) < letterPage {
			return nil
		}
	}
}

// progress is what a step says of a post.
type progress struct {
	post     *post
	from, to persistence.Offset
	letters  []persistence.DeadLetter
	resolved []*errand
}

// save stores how far posts have come, with their dead letters. Without a tick it
// is only for those that have such.
func (c *Courier) save(tick bool) error {
	var moved []progress
	c.mu.Lock()
	for _, p := range c.posts {
		if !p.loaded {
			continue
		}
		to := p.watermark()
		if len(p.letters)+len(p.resolved) > 0 || tick && to > p.stored {
			moved = append(moved, progress{p, p.stored, to, p.letters, p.resolved})
		}
	}
	c.mu.Unlock()
	if len(moved) == 0 {
		return nil
	}
	err := c.step(moved)
	if err == nil || len(moved) == 1 {
		return err
	}
	var errs []error
	for i := range moved { // whose fault it is shows when each is alone
		errs = append(errs, c.step(moved[i:i+1]))
	}
	return errors.Join(errs...)
}

// step moves checkpoints.
func (c *Courier) step(moved []progress) error {
	step := persistence.Step{Projection: c.name}
	var in []progress
	for _, m := range moved {
		owner, epoch := c.config.Owned(m.post.partition)
		if epoch == 0 || step.Owner != "" && step.Owner != owner {
			continue
		}
		step.Owner = owner
		step.Advances = append(step.Advances, persistence.Advance{Partition: m.post.partition, Epoch: epoch, From: m.from, To: m.to})
		step.Park = append(step.Park, m.letters...)
		for _, e := range m.resolved {
			step.Resolve = append(step.Resolve, e.letter.DeadLetterKey)
		}
		in = append(in, m)
	}
	if len(in) == 0 {
		return nil
	}
	ctx, cancel := c.storeCall()
	defer cancel()
	err := c.config.Store.Advance(ctx, step, nil)
	var fenced *persistence.FencedError
	var elsewhere *persistence.CheckpointMovedError
	switch {
	case err == nil:
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, m := range in {
			m.post.saved(m)
		}
		return nil
	case len(in) > 1:
		return err
	case errors.As(err, &elsewhere), errors.Is(err, persistence.ErrUnknownOutcome):
		c.begin(in[0].post) // anew, from where the store says
		return nil
	case errors.As(err, &fenced) && !c.mine(in[0].post):
		return nil // forgetLost drops it
	}
	return err
}

// saved takes note of what is stored. The courier is locked.
func (p *post) saved(m progress) {
	p.stored = m.to
	p.letters, p.resolved = p.letters[len(m.letters):], p.resolved[len(m.resolved):]
	for _, e := range m.resolved {
		if p.parked[e.sequence]--; p.parked[e.sequence] <= 0 {
			delete(p.parked, e.sequence)
		}
		if p.errands[e.sequence] == e {
			delete(p.errands, e.sequence)
		}
	}
}

// begin takes a post on anew.
func (c *Courier) begin(p *post) {
	c.mu.Lock()
	current := c.posts[p.partition] == p
	c.mu.Unlock()
	if current {
		c.Own(p.partition)
	}
}

// review makes errands of dead letters that are due: the first of its sequence,
// without attempts.
func (c *Courier) review() error {
	parked := false
	c.mu.Lock()
	for _, p := range c.posts {
		parked = parked || p.loaded && len(p.parked) > 0
	}
	c.mu.Unlock()
	if !parked {
		return nil
	}
	ctx, cancel := c.storeCall()
	defer cancel()
	type key struct {
		partition persistence.Partition
		sequence  string
	}
	seen := map[key]bool{}
	var due []persistence.DeadLetter
	err := c.eachLetter(ctx, func(l *persistence.DeadLetter) bool {
		k := key{l.Partition, l.Sequence}
		if !seen[k] && l.Attempts == 0 {
			due = append(due, *l)
		}
		seen[k] = true
		return true
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	for partition, p := range c.posts { // what an operator has skipped
		if !p.loaded || len(p.letters)+len(p.resolved) > 0 {
			continue
		}
		for sequence := range p.parked {
			if !seen[key{partition, sequence}] {
				delete(p.parked, sequence)
			}
		}
	}
	c.mu.Unlock()
	for i := range due {
		if err := c.again(ctx, &due[i]); err != nil {
			return err
		}
	}
	return nil
}

// again makes an errand of a dead letter, unless it is one.
func (c *Courier) again(ctx context.Context, l *persistence.DeadLetter) error {
	busy := func() *post {
		p := c.posts[l.Partition]
		if p == nil || !p.loaded || p.errands[l.Sequence] != nil {
			return nil
		}
		for i := range p.letters { // it has failed again, which is not stored yet
			if p.letters[i].DeadLetterKey == l.DeadLetterKey {
				return nil
			}
		}
		return p
	}
	c.mu.Lock()
	p := busy()
	c.mu.Unlock()
	if p == nil {
		return nil
	}
	j, err := c.jobOf(ctx, l)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if busy() != p {
		return nil
	}
	e := &errand{post: p, sequence: l.Sequence, jobs: []*job{j}, letter: l}
	p.errands[l.Sequence] = e
	c.enqueue(e)
	return nil
}

// jobOf reads the event of a dead letter. One that causes nothing any more is a
// job of no tasks.
func (c *Courier) jobOf(ctx context.Context, l *persistence.DeadLetter) (*job, error) {
	events, err := c.config.Store.Tail(ctx, []persistence.Cursor{{Partition: l.Partition, After: l.Offset - 1}}, 1)
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("event %d of partition %d is not in the log", l.Offset, l.Partition)
	}
	j, err := c.prepare(&events[0])
	if err != nil {
		return nil, err
	}
	if j == nil {
		j = &job{event: &events[0]}
	}
	j.sequence = l.Sequence
	return j, nil
}

// Parked lists up to limit events that the process manager could not carry out, or
// that stand behind such an event in their sequence; those behind after, by
// partition and offset. Any node can be asked. One with Attempts has its cause; one
// without waits behind another, or is being tried.
func (c *Courier) Parked(ctx context.Context, after persistence.DeadLetterKey, limit int) ([]persistence.DeadLetter, error) {
	letters, err := c.config.Store.DeadLetters(ctx, c.name, after, limit)
	for i := range letters {
		letters[i].Projection = c.process.Name()
	}
	return letters, err
}

// Resume lets a parked sequence be tried again by the owner of its partition, and
// returns what becomes of its first event: nil when it was carried out. Any node
// can be asked.
func (c *Courier) Resume(ctx context.Context, sequence string) error {
	letters, err := c.first(ctx, sequence)
	if err != nil {
		return fmt.Errorf("resume %q of process %q: %w", sequence, c.process.Name(), err)
	}
	for i := range letters {
		l := letters[i]
		l.Attempts, l.Projection = 0, ""
		err := c.alter(ctx, &l, func(s *persistence.Step) { s.Park = []persistence.DeadLetter{l} })
		if err == nil {
			c.nudge()
			err = c.await(ctx, &l)
		}
		if err != nil && !errors.Is(err, ErrNoLetter) {
			return fmt.Errorf("resume %q of process %q: %w", sequence, c.process.Name(), err)
		}
	}
	return nil
}

// Skip gives the first event of a parked sequence up. What it sends and has not
// sent counts as rejected with [ErrSkipped], and the process is told so, if it
// expects rejections: it can compensate. The events behind it follow by themselves.
func (c *Courier) Skip(ctx context.Context, sequence string) error {
	letters, err := c.first(ctx, sequence)
	for i := range letters {
		if err != nil {
			break
		}
		l := letters[i]
		var j *job
		if l.Attempts == 0 {
			err = errors.New("its first event is being tried")
		} else if j, err = c.jobOf(ctx, &l); err == nil {
			if err = c.perform(ctx, j, true); err == nil {
				err = c.alter(ctx, &l, func(s *persistence.Step) { s.Resolve = []persistence.DeadLetterKey{l.DeadLetterKey} })
			}
		}
		if err == nil {
			c.config.Logger.Warn("event of a process skipped", "process", c.process.Name(), "sequence", sequence,
				"partition", l.Partition, "offset", l.Offset, "event", l.Type)
		}
	}
	if err != nil {
		return fmt.Errorf("skip %q of process %q: %w", sequence, c.process.Name(), err)
	}
	c.nudge()
	return nil
}

// first finds the first letter of a sequence in each partition.
func (c *Courier) first(ctx context.Context, sequence string) (first []persistence.DeadLetter, err error) {
	err = c.eachLetter(ctx, func(l *persistence.DeadLetter) bool {
		if l.Sequence == sequence && (len(first) == 0 || first[len(first)-1].Partition != l.Partition) {
			first = append(first, *l)
		}
		return true
	})
	if err == nil && len(first) == 0 {
		err = ErrNoLetter
	}
	return first, err
}

// alter changes a letter that is there, between two steps of its owner.
func (c *Courier) alter(ctx context.Context, l *persistence.DeadLetter, change func(*persistence.Step)) error {
	for {
		cursors, err := c.config.Store.LoadCheckpoints(ctx, c.name)
		if err != nil {
			return err
		}
		tie := persistence.Advance{Partition: l.Partition}
		for _, cursor := range cursors {
			if cursor.Partition == l.Partition {
				tie.From, tie.To = cursor.After, cursor.After
			}
		}
		step := persistence.Step{Projection: c.name, Advances: []persistence.Advance{tie}}
		change(&step)
		err = c.config.Store.Advance(ctx, step, func(ctx context.Context, _ persistence.Tx) error {
			_, err := c.find(ctx, l.DeadLetterKey)
			return err
		})
		var moved *persistence.CheckpointMovedError
		if !errors.As(err, &moved) || ctx.Err() != nil {
			return err
		}
	}
}

func (c *Courier) find(ctx context.Context, key persistence.DeadLetterKey) (persistence.DeadLetter, error) {
	before := persistence.DeadLetterKey{Partition: key.Partition, Offset: key.Offset - 1}
	letters, err := c.config.Store.DeadLetters(ctx, c.name, before, 1)
	if err != nil {
		return persistence.DeadLetter{}, err
	}
	if len(letters) == 0 || letters[0].DeadLetterKey != key {
		return persistence.DeadLetter{}, ErrNoLetter
	}
	return letters[0], nil
}

// await waits until a letter is gone, or has failed again.
func (c *Courier) await(ctx context.Context, l *persistence.DeadLetter) error {
	for {
		now, err := c.find(ctx, l.DeadLetterKey)
		switch {
		case err != nil:
			return err
		case now.Attempts > 0:
			return fmt.Errorf("event %d of partition %d: %s", l.Offset, l.Partition, now.Cause)
		}
		due := make(chan struct{})
		stop := c.config.Clock.AfterFunc(20*time.Millisecond, func() { close(due) })
		select {
		case <-due:
		case <-ctx.Done():
			stop()
			return ctx.Err()
		case <-c.ctx.Done():
			stop()
			return errors.New("the node stops")
		}
	}
}

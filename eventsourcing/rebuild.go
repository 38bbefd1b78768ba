package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// Generations of a table. The progress of generation g of "balances" is kept
// under "balances@g". Which one is read is the checkpoint of partition 0 of
// "balances", which all nodes look at and which, like every saved checkpoint,
// never moves backwards:
//
//	2g     g is read            (nothing stored: generation 1)
//	2g+1   g is read, and g+1 is filled beside it
//	2g+2   g+1 is read, and g is gone
func generationKey(name string, generation int64) string {
	return name + "@" + strconv.FormatInt(generation, 10)
}

// generationTicks is in how many ticks the generations are looked at.
const generationTicks = 5

// levelPoll is how often a view that is nearly rebuilt is looked at, while the old
// one waits.
const levelPoll = 5 * time.Millisecond

// firstState is the state of a table that was never rebuilt.
const firstState = 2

// ErrNotReplayed says that a projection is not to be rebuilt: its effects are not
// in a read model.
var ErrNotReplayed = errors.New("a reaction or a local projection is never replayed")

// RebuildProgress is how far a rebuild is: events that the new generation, or the
// new view, has handled, of those that there are to handle.
type RebuildProgress struct{ Done, Total int64 }

// Rebuild makes a read model anew from the log beside the one that is read, which
// goes on meanwhile, and then puts it in its place. The progress is told about
// every Poll; nil for nobody.
//
// A table is rebuilt by all nodes together, each for the partitions it owns, and
// on the word of whoever calls this: if the call ends early, the new generation
// goes on being filled, and the next call waits for it. When it is read, the
// progress of the old one is deleted, and its SQL tables are dropped after a
// pause in which all nodes learn of it. A view is rebuilt on this node alone.
func (p *Projector) Rebuild(ctx context.Context, projection string, progress func(RebuildProgress)) error {
	p.mu.RLock()
	g := p.group(projection)
	p.mu.RUnlock()
	if progress == nil {
		progress = func(RebuildProgress) {}
	}
	var err error
	switch {
	case g == nil:
		err = errors.New("this node has no projection of that name")
	case g.kind == KindView:
		err = p.rebuildView(ctx, g, progress, true)
	case g.kind == KindTable:
		err = p.rebuildTable(ctx, g, progress)
	default:
		err = ErrNotReplayed
	}
	if err != nil {
		return fmt.Errorf("rebuild projection %q: %w", projection, err)
	}
	return nil
}

// rebuildView fills another value, and lets it take the place of the first, when it
// has seen all of the log, and, if it is to be level, all that the first has seen.
func (p *Projector) rebuildView(ctx context.Context, g *group, progress func(RebuildProgress), level bool) error {
	p.mu.Lock()
	if len(g.building) > 0 || p.stopped.Load() {
		p.mu.Unlock()
		return errors.New("it is being rebuilt already, or the node stops")
	}
	old := g.runners[0]
	next, swap := g.renew()
	r := newRunner(p, g.projection, g.runners[0].generation+1, 0)
	r.x, r.guard = func(*Tx) any { return next }, new(sync.Mutex)
	for i := range p.count {
		r.own(persistence.Partition(i), 0)
	}
	g.building = []*runner{r}
	p.list()
	p.workers.Go(r.run)
	r.nudge()
	p.mu.Unlock()
	err := p.follow(ctx, func() (RebuildProgress, bool, error) {
		of := RebuildProgress{Done: int64(r.handled.Load()), Total: p.logged()}
		return of, int(r.reached.Load()) >= p.count && (!level || r.level(old)), nil
	}, progress)
	old.turn <- struct{}{} // it shows nothing more, so that the other can be level with it
	for err == nil && level && !r.level(old) {
		err = p.sleep(ctx, levelPoll)
	}
	r.turn <- struct{}{} // nothing is handled while the value changes hands
	over := r
	if err == nil {
		over = old
		g.guard.Lock() // before mu: who reads the view may ask how it fares
		swap()
		r.x, r.guard = g.x, g.guard
		g.guard.Unlock()
	}
	p.mu.Lock()
	g.building = nil
	if err == nil {
		g.runners = []*runner{r}
	}
	p.list()
	p.mu.Unlock()
	<-r.turn
	<-old.turn
	over.cancel()
	<-over.ended
	return err
}

// Reread rebuilds every view from the log, which is not the one that it was made
// of: the store was set back. It returns at once.
func (p *Projector) Reread() {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.stopped.Load() {
		return
	}
	for i := range p.heads {
		p.heads[i].Store(-1)
	}
	for _, g := range p.groups {
		if g.kind != KindView {
			continue
		}
		p.workers.Go(func() {
			for p.ctx.Err() == nil {
				err := p.rebuildView(p.ctx, g, func(RebuildProgress) {}, false)
				if err == nil {
					p.log.Info("view read anew", "projection", g.settings.Name)
					return
				}
				_ = p.sleep(p.ctx, p.config.Poll) // another rebuild is under way, and began with the old log
			}
		})
	}
}

// level reports whether a runner is not behind another.
func (r *runner) level(other *runner) bool {
	other.mu.Lock()
	at := make(map[persistence.Partition]persistence.Offset, len(other.tracks))
	for partition, t := range other.tracks {
		at[partition] = t.position
	}
	other.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for partition, t := range r.tracks {
		if t.position < at[partition] {
			return false
		}
	}
	return true
}

// logged is how many events there are, as far as this node has heard.
func (p *Projector) logged() (total int64) {
	for i := range p.heads {
		total += max(p.heads[i].Load(), 0)
	}
	return total
}

// follow tells of progress until there is none to be made any more.
func (p *Projector) follow(ctx context.Context, look func() (RebuildProgress, bool, error), progress func(RebuildProgress)) error {
	for {
		at, done, err := look()
		if err != nil {
			return err
		}
		progress(at)
		if done {
			return nil
		}
		if err := p.sleep(ctx, p.config.Poll); err != nil {
			return err
		}
	}
}

// sleep waits; an error when there is no use in waiting on.
func (p *Projector) sleep(ctx context.Context, d time.Duration) error {
	due := make(chan struct{})
	stop := p.clock.AfterFunc(d, func() { close(due) })
	defer stop()
	select {
	case <-due:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return errors.New("the node stops")
	}
}

// rebuildTable begins the next generation, if none has begun, waits until it is
// level with the one that is read, and makes it that.
func (p *Projector) rebuildTable(ctx context.Context, g *group, progress func(RebuildProgress)) error {
	name := g.settings.Name
	state, err := p.readState(ctx, name)
	if err != nil {
		return err
	}
	live := state / 2
	if state%2 == 0 {
		if err := p.saveState(ctx, name, state+1); err != nil {
			return err
		}
		p.log.Info("rebuild begins", "projection", name, "generation", live+1)
	}
	p.readGenerations()
	began := p.clock.Now()
	var target map[persistence.Partition]persistence.Offset
	err = p.follow(ctx, func() (RebuildProgress, bool, error) {
		old, err := p.checkpoints(ctx, generationKey(name, live))
		if err != nil {
			return RebuildProgress{}, false, err
		}
		now, err := p.checkpoints(ctx, generationKey(name, live+1))
		if err != nil {
			return RebuildProgress{}, false, err
		}
		if target == nil {
			target = old
		}
		of, level := RebuildProgress{}, true
		for partition, offset := range old {
			of.Total += int64(offset)
			of.Done += int64(min(offset, now[partition]))
			level = level && now[partition] >= target[partition]
		}
		// level with where the old one was at most a poll ago
		done := level && of.Total-of.Done <= int64(g.settings.Batch)
		target = old
		return of, done, nil
	}, progress)
	if err != nil {
		return err
	}
	if err := p.saveState(ctx, name, 2*(live+1)); err != nil {
		return err
	}
	p.readGenerations()
	p.log.Info("rebuild ends", "projection", name, "generation", live+1, "duration", p.clock.Now()-began)
	if err := p.sleep(ctx, 2*generationTicks*p.config.Poll); err != nil { // the other nodes learn of it
		return err
	}
	if err := p.store.DeleteProjection(ctx, generationKey(name, live)); err != nil {
		return err
	}
	if g.drop == nil {
		return nil
	}
	step := persistence.Step{Projection: generationKey(name, live+1)}
	return p.store.Advance(ctx, step, func(ctx context.Context, tx persistence.Tx) error {
		return g.drop(ctx, &Tx{tx, live})
	})
}

func (p *Projector) checkpoints(ctx context.Context, name string) (map[persistence.Partition]persistence.Offset, error) {
	cursors, err := p.store.LoadCheckpoints(ctx, name)
	at := make(map[persistence.Partition]persistence.Offset, len(cursors))
	for _, c := range cursors {
		at[c.Partition] = c.After
	}
	return at, err
}

func (p *Projector) readState(ctx context.Context, name string) (int64, error) {
	at, err := p.checkpoints(ctx, name)
	return max(int64(at[0]), firstState), err
}

func (p *Projector) saveState(ctx context.Context, name string, state int64) error {
	return p.store.SaveCheckpoints(ctx, name, []persistence.Cursor{{After: persistence.Offset(state)}})
}

// readGenerations begins and ends runners as the states of the tables say. One
// that cannot be read is read again.
func (p *Projector) readGenerations() {
	for _, g := range p.groups { // the list never changes
		if g.kind != KindTable {
			continue
		}
		ctx, cancel := p.storeCall(p.ctx)
		state, err := p.readState(ctx, g.settings.Name)
		cancel()
		if err == nil {
			p.follows(g, state)
		}
	}
}

// follows makes the runners of a table be those of a state.
func (p *Projector) follows(g *group, state int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if state <= g.state || p.stopped.Load() {
		return
	}
	live, building := state/2, state%2 == 1
	var over []*runner
	if len(g.runners) == 0 || g.runners[0].generation != live {
		over = append(over, g.runners...)
		if len(g.building) > 0 && g.building[0].generation == live {
			g.runners, g.building = g.building, nil
		} else {
			over = append(over, g.building...)
			g.building = nil
			p.begin(g, live, false)
		}
		g.live.Store(live)
	}
	if building && len(g.building) == 0 {
		p.begin(g, live+1, true)
	}
	g.state = state
	p.list()
	for _, r := range over {
		r.cancel() // Stop waits for it
	}
}

// liveName is under which name the progress is kept that counts.
func (p *Projector) liveName(g *group) string {
	if g.kind != KindTable {
		return generationKey(g.settings.Name, 1)
	}
	return generationKey(g.settings.Name, g.live.Load())
}

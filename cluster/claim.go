package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/cluster/internal/partition"
	"github.com/ingrain-go/ingrain/persistence"
)

// moving is how many partitions a node claims or hands over at the same time.
const moving = 4

// claims carries out what the placement says: it claims partitions for this node
// and hands over what others should have.
type claims struct {
	node *Node
	wake chan struct{} // capacity 1
	turn turn          // one round at a time: Stop does the last one

	mu     sync.Mutex
	states map[persistence.Partition]*state
	outage outage
}

// state is what is going on with a partition, as far as it is this node's doing.
type state struct {
	busy    errand
	early   *gift             // came while busy: looked at when that is over
	served  persistence.Epoch // the highest under which this node has served it, or tried to give it away
	hold    hold
	awaited persistence.Epoch // given to us, we were told by the table, and await the giver's word
	since   time.Duration
	changed time.Duration // when its present epoch was first seen
}

// errand is what a node is just doing about a partition.
type errand uint8

const (
	none errand = iota
	claiming
	giving
)

// hold is the time until which a tenure's replies are held back (I8).
type hold struct {
	until time.Duration
	// doubt says that we may have taken the partition over without being told.
	// The store would name us as its previous owner.
	doubt bool
}

func newClaims(n *Node) *claims {
	return &claims{node: n, wake: make(chan struct{}, 1), turn: newTurn(), states: map[persistence.Partition]*state{}}
}

// of finds the state of a partition. The claims are locked.
func (c *claims) of(p persistence.Partition) *state {
	s := c.states[p]
	if s == nil {
		s = &state{}
		c.states[p] = s
	}
	return s
}

// begin makes a partition busy; false when it is so already.
func (c *claims) begin(p persistence.Partition, e errand) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.of(p)
	if s.busy != none {
		return false
	}
	s.busy = e
	return true
}

// end ends what begin began, and sees to what has waited for it.
func (c *claims) end(life *life, p persistence.Partition) {
	c.mu.Lock()
	s := c.of(p)
	early := s.early
	s.busy, s.early = none, nil
	c.mu.Unlock()
	if early != nil {
		c.accept(life, early)
	}
	c.node.parking.review(p)
}

func (c *claims) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *claims) run() {
	for !c.node.stopped() {
		select {
		case <-c.wake:
		case <-c.node.done:
			return
		}
		c.round()
	}
}

func (c *claims) round() {
	c.turn.Lock()
	defer c.turn.Unlock()
	if life := c.node.life.Load(); life != nil && !c.node.draining.Load() {
		c.work(c.node.ctx, life)
	}
}

// work does what there is to do now. Whatever fails is seen again in the next
// view.
func (c *claims) work(ctx context.Context, life *life) {
	n := c.node
	view := n.view.Load()
	if view == nil {
		return
	}
	mode := partition.Balanced
	if n.config.Sticky {
		mode = partition.Sticky
	}
	// Members and table are of one moment: news about partitions that came later
	// may be the work of members that came later.
	var take, give []partition.Move
	for _, m := range partition.Moves(view.rows, partition.Members(view.list), mode, life.id) {
		switch {
		case n.table.Owner(m.Partition).Epoch > m.Epoch: // it has moved since the view
		case m.To == life.id:
			take = append(take, m)
		case c.holding(m.Partition) <= 0: // it is given away when its hold is over
			give = append(give, m)
		}
	}
	for _, row := range n.table.Rows() { // given to us, or dropped by the host
		if row.Owner == life.id && life.host.Epoch(row.Partition) == 0 && !c.awaits(row) {
			take = append(take, partition.Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Owner, To: life.id})
		}
	}
	start, before := n.clock.Now(), n.stats.takeovers.Load()
	c.each(take, n.draining.Load, func(m partition.Move) { c.claim(ctx, life, m) })
	if taken := n.stats.takeovers.Load() - before; taken > 0 {
		n.log.Info("partitions taken over", "count", taken, "duration", n.clock.Now()-start)
	}
	c.prepare(ctx, life, give)
	c.each(give, n.draining.Load, func(m partition.Move) { c.handOver(ctx, life, m) })
}

// each runs the moves, a few at a time.
func (c *claims) each(moves []partition.Move, enough func() bool, do func(partition.Move)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, moving)
	for _, m := range moves {
		slots <- struct{}{}
		if enough() {
			break
		}
		wait.Go(func() {
			defer func() { <-slots }()
			do(m)
		})
	}
	wait.Wait()
}

// claim takes a partition over and serves it.
func (c *claims) claim(ctx context.Context, life *life, m partition.Move) {
	n := c.node
	if !c.begin(m.Partition, claiming) {
		return
	}
	defer c.end(life, m.Partition)
	if held := life.host.Epoch(m.Partition); held != 0 && held >= m.Epoch {
		return // the view is older than what we have done since
	}
	life.host.Lose(m.Partition) // what an older tenure remembers must not be served under the new epoch
	ctx, cancel := n.seams.Timeout(ctx, storeTimeout)
	defer cancel()
	won, err := n.store.Claim(ctx, m.Partition, m.Epoch, life.id)
	var lost *persistence.ClaimLostError
	switch {
	case errors.As(err, &lost):
		n.learn(persistence.Ownership{Partition: m.Partition, Epoch: lost.Current, Owner: lost.Owner})
		return
	case errors.Is(err, persistence.ErrNotMember):
		n.renewal.poke()
		return
	case err != nil:
		c.doubt(m.Partition, err)
		return
	}
	if won.Previous != "" && won.Previous != life.id {
		n.stats.takeovers.Add(1)
	}
	n.stats.claims.Add(1)
	row := persistence.Ownership{Partition: won.Partition, Epoch: won.Epoch, Owner: life.id}
	c.mu.Lock()
	s := c.of(won.Partition)
	s.hold = hold{until: max(c.holdUntil(life, &won, s.hold), n.deaths.assumed())}
	s.served = max(s.served, won.Epoch)
	c.outage.over(n.clock.Now())
	own := life.host.Own
	if young := n.clock.Now()-s.changed < n.leaseElsewhere(); young || n.deaths.assumed() > n.clock.Now() {
		own = life.host.OwnUnrevealed // the previous owner may have been holding back itself
	}
	n.beginProjecting(won.Partition, won.Head)
	own(won, s.hold.until)
	s.changed = n.clock.Now()
	c.mu.Unlock()
	n.table.Learn(row)
	n.news.Announce() // a view may have shown the row before it was served
	n.tell(row)
}

// doubt notes that a claim got no answer, and may have been made.
func (c *claims) doubt(p persistence.Partition, err error) {
	n := c.node
	now := n.clock.Now()
	c.mu.Lock()
	c.of(p).hold = hold{until: now + n.leaseElsewhere(), doubt: true}
	failures, log := c.outage.failed(now)
	c.mu.Unlock()
	if log {
		n.log.Warn("partition not claimed", "partition", p, "failures", failures, "error", err)
	}
}

// holdUntil is when no previous owner can answer from memory under a lease any
// more (I8); 0 when none can now. Of ours is known what the last tenure held.
//
//	never owned, or nobody's ... 0: who releases has waited for the end of its own hold
//	given to us ................ 0: likewise
//	ourselves .................. the hold of our last tenure goes on
//	proven dead ................ it may have held back itself, because of a node that was
//	                             evicted before: until all of those are silent
//	anybody else ............... until its lease has certainly run out
//
// A partition that was given to somebody else is that somebody's: whoever is
// given a partition may serve it without claiming it.
func (c *claims) holdUntil(life *life, won *persistence.Tenure, ours hold) time.Duration {
	n := c.node
	switch {
	case n.seams.Without.Hold:
		return 0
	case won.Previous == "" || won.Previous == life.id && won.Released:
		return 0
	case won.Previous == life.id && !ours.doubt:
		return ours.until
	case n.deaths.proven(won.Previous):
		return n.deaths.lastLapse()
	}
	if at, known := n.deaths.lapsed(won.Previous); known {
		return max(at, n.deaths.lastLapse())
	}
	return n.clock.Now() + n.leaseElsewhere()
}

// notice notes when the epochs of rows were first seen.
func (c *claims) notice(rows ...persistence.Ownership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, row := range rows {
		c.of(row.Partition).changed = c.node.clock.Now()
	}
}

// holding is how much longer a partition's replies are held.
func (c *claims) holding(p persistence.Partition) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(p).hold.until - c.node.clock.Now()
}

// outlast waits for the end of all holds, at most a lease. What may be ours
// without our knowing counts too: it is released with the rest. It waits even for
// a caller whose patience is over: whoever is next takes the release for the word
// that nothing is held any more, and answers at once (I8).
func (c *claims) outlast(life *life) {
	var until time.Duration
	c.mu.Lock()
	for p, s := range c.states {
		if s.hold.doubt || life.host.Epoch(p) != 0 {
			until = max(until, s.hold.until)
		}
	}
	c.mu.Unlock()
	if left := until - c.node.clock.Now(); left > 0 {
		over := make(chan struct{})
		c.node.clock.AfterFunc(left, func() { close(over) })
		<-over
	}
}

const (
	// storeTimeout bounds one statement about ownership.
	storeTimeout = 5 * time.Second
	// drainTimeout bounds how long a partition on its way out waits for the
	// calls in it; after that the fence settles what is left.
	drainTimeout = time.Second
)

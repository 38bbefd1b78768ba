package cluster

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/cluster/internal/partition"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
)

// moving is how many partitions a node claims or hands over at the same time.
const moving = 4

// claims carries out what the placement says: it claims partitions for this node
// and hands over what others should have.
type claims struct {
	node *Node
	wake chan struct{} // capacity 1
	turn sync.Mutex    // one round at a time: Stop does the last one

	mu    sync.Mutex
	holds map[persistence.Partition]time.Duration // until when replies are held (I8); inDoubt
}

// inDoubt is the hold of a partition that we may have taken over without being
// told. The store would name us as its previous owner.
const inDoubt time.Duration = math.MaxInt64

func newClaims(n *Node) *claims {
	return &claims{node: n, wake: make(chan struct{}, 1), holds: map[persistence.Partition]time.Duration{}}
}

func (c *claims) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *claims) run() {
	for {
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
	moves := partition.Moves(view.rows, partition.Members(view.list), mode, life.id)
	for _, row := range n.table.Rows() { // given to us, or held by us before a restart of the host
		if row.Owner == life.id && life.host.Epoch(row.Partition) == 0 {
			moves = append(moves, partition.Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Owner, To: life.id})
		}
	}
	start, before := n.clock.Now(), n.stats.takeovers.Load()
	c.each(moves, c.node.draining.Load, func(m partition.Move) {
		switch {
		case m.To == life.id:
			c.claim(ctx, life, m)
		case c.holding(m.Partition) <= 0: // it is given away when its hold is over
			c.handOver(ctx, life, m)
		}
	})
	if taken := n.stats.takeovers.Load() - before; taken > 0 {
		n.log.Info("partitions taken over", "count", taken, "duration", n.clock.Now()-start)
	}
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
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if life.host.Epoch(m.Partition) > m.Epoch {
		return // the view is older than what we have done since
	}
	life.host.Lose(m.Partition) // what an older tenure remembers must not be served under the new epoch
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
		c.setHold(m.Partition, inDoubt)
		n.log.Warn("partition not claimed", "partition", m.Partition, "error", err)
		return
	}
	if won.Previous != "" && won.Previous != life.id && !won.Released {
		n.stats.takeovers.Add(1)
	}
	n.stats.claims.Add(1)
	holdUntil := c.holdUntil(life, &won)
	c.setHold(won.Partition, holdUntil)
	life.host.Own(won, holdUntil)
	n.table.Learn(persistence.Ownership{Partition: won.Partition, Epoch: won.Epoch, Owner: life.id})
	n.news.announce() // a view may have shown the row before it was served
}

// holdUntil is when no previous owner can answer from memory under a lease any
// more (I8); 0 when none can now.
//
//	never owned, or released ... 0: who releases has waited for the end of its own hold
//	ourselves .................. the hold of our last tenure goes on
//	proven dead ................ it may have held back itself, because of a node that was
//	                             evicted before: until all of those are silent
//	anybody else ............... until its lease has certainly run out
func (c *claims) holdUntil(life *life, won *persistence.Tenure) time.Duration {
	n := c.node
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := c.holds[won.Partition]
	switch {
	case won.Previous == "" || won.Released:
		return 0
	case won.Previous == life.id && mine != inDoubt:
		return mine
	case n.deaths.proven(won.Previous):
		return n.deaths.lastLapse()
	}
	if at, known := n.deaths.lapsed(won.Previous); known {
		return max(at, n.deaths.lastLapse())
	}
	return n.clock.Now() + n.leaseElsewhere()
}

func (c *claims) setHold(p persistence.Partition, until time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds[p] = until
}

// holding is how much longer a partition's replies are held.
func (c *claims) holding(p persistence.Partition) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	until := c.holds[p]
	if until == inDoubt {
		return 0 // it is not served, so nothing of it was answered
	}
	return until - c.node.clock.Now()
}

// outlast waits for the end of all holds, at most a lease.
func (c *claims) outlast(life *life) {
	var last time.Duration
	for _, f := range life.host.Owned() {
		last = max(last, c.holding(f.Partition))
	}
	if last > 0 {
		over := make(chan struct{})
		c.node.clock.AfterFunc(last, func() { close(over) })
		<-over
	}
}

// handOver drains a partition and gives it to another node.
func (c *claims) handOver(ctx context.Context, life *life, m partition.Move) {
	n := c.node
	drain, cancel := context.WithTimeout(ctx, drainTimeout)
	epoch, err := life.host.Release(drain, m.Partition)
	cancel()
	if epoch == 0 {
		return // not served here any more
	}
	if err != nil {
		n.log.Warn("partition handed over before it was drained", "partition", m.Partition, "error", err)
	}
	ctx, cancel = context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := n.store.Release(ctx, m.Partition, epoch, life.id, m.To); err != nil {
		n.log.Warn("partition not released", "partition", m.Partition, "error", err)
		return // the table still names us: we claim it again
	}
	n.stats.handovers.Add(1)
	n.learn(persistence.Ownership{Partition: m.Partition, Epoch: epoch + 1, Owner: m.To, Released: true})
	if p := n.peerOf(m.To); p != nil {
		p.tellMoved(&wire.Moved{Partition: int32(m.Partition), Epoch: int64(epoch + 1)})
	}
}

const (
	// storeTimeout bounds one statement about ownership.
	storeTimeout = 5 * time.Second
	// drainTimeout bounds how long a partition on its way out waits for the
	// calls in it; after that the fence settles what is left.
	drainTimeout = time.Second
)

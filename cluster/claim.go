package cluster

import (
	"context"
	"errors"
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
}

func newClaims(n *Node) *claims { return &claims{node: n, wake: make(chan struct{}, 1)} }

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
		if life := c.node.life.Load(); life != nil && c.node.state() == persistence.Active {
			c.work(c.node.ctx, life)
		}
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
	rows := n.table.Rows()
	mode := partition.Balanced
	if n.config.Sticky {
		mode = partition.Sticky
	}
	moves := partition.Moves(rows, partition.Members(view.list), mode, life.id)
	for _, row := range rows { // given to us, or held by us before a restart of the host
		if row.Owner == life.id && life.host.Epoch(row.Partition) == 0 {
			moves = append(moves, partition.Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Owner, To: life.id})
		}
	}
	c.each(ctx, moves, func(m partition.Move) {
		if m.To == life.id {
			c.claim(ctx, life, m)
		} else {
			c.handOver(ctx, life, m)
		}
	})
}

// each runs the moves, a few at a time.
func (c *claims) each(ctx context.Context, moves []partition.Move, do func(partition.Move)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, moving)
	for _, m := range moves {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
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
		n.log.Warn("partition not claimed", "partition", m.Partition, "error", err)
		return
	}
	var holdUntil time.Duration
	if c.mayStillAnswer(life, &won) {
		holdUntil = n.clock.Now() + time.Duration(float64(n.config.Lease)*(1+driftBound))
		n.stats.takeovers.Add(1)
	}
	n.stats.claims.Add(1)
	life.host.Own(won, holdUntil)
	n.learn(persistence.Ownership{Partition: won.Partition, Epoch: won.Epoch, Owner: life.id})
}

// mayStillAnswer reports whether the previous owner could be alive and answer
// from memory under its lease (I8): not if there was none, it was ourselves, it
// gave the partition away, or it is proven dead.
func (c *claims) mayStillAnswer(life *life, won *persistence.Tenure) bool {
	return won.Previous != "" && won.Previous != life.id && !won.Released && !c.node.deaths.proven(won.Previous)
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

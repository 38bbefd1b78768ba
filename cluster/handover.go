package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/internal/partition"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
)

// A hand-over of a partition from A to B:
//
//	A  snapshots what would be long to replay      while serving
//	A  seals: calls that arrive wait, see parking
//	A  drains: calls that were admitted are answered
//	A  releases to B, in the store                 one statement; B owns it now
//	A  tells B the log's end and what was in use, the others the new row,
//	   and those who waited to ask B
//	B  serves at once, and warms what was in use
//
// The store decides and the messages save time: B trusts A about the log's end,
// since the fence refuses whoever is wrong about it (I1), and needs no hold,
// since A has released (I8). If B is never told, it reads of the new row in its
// next view, and claims.
const (
	// hotMost and hotBytes bound the aggregates of a partition that its next
	// owner is told to warm, and that are snapshotted before.
	hotMost  = 256
	hotBytes = 32 << 10
	// prepareTimeout bounds the snapshots before a round of hand-overs.
	prepareTimeout = 500 * time.Millisecond
	// giftPatience is how long a node that reads in the table of a partition
	// given to it awaits the giver's word. Claiming it costs a round trip, and
	// sends calls that were on their way back to ask again.
	giftPatience = 50 * time.Millisecond
)

// prepare shortens the loads at the next owners.
func (c *claims) prepare(ctx context.Context, life *life, give []partition.Move) {
	if len(give) == 0 {
		return
	}
	partitions := make([]persistence.Partition, len(give))
	for i, m := range give {
		partitions[i] = m.Partition
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := c.node.clock.AfterFunc(prepareTimeout, cancel)
	defer stop()
	life.host.SnapshotEarly(ctx, partitions, hotMost)
}

// handOver drains a partition and gives it to another node. It reports whether
// the partition is out of our hands.
func (c *claims) handOver(ctx context.Context, life *life, m partition.Move) (given bool) {
	n := c.node
	if !c.begin(m.Partition, giving) {
		return false
	}
	defer c.end(life, m.Partition)
	n.suspendProjecting(ctx, m.Partition) // while it is served
	hot := life.host.Hot(m.Partition, hotMost, hotBytes)
	drain, cancel := n.seams.Timeout(ctx, drainTimeout)
	fence, err := life.host.Release(drain, m.Partition)
	cancel()
	n.giving.Store(m.Partition, fence.Epoch)
	n.endProjecting(ctx, m.Partition)
	n.giving.Delete(m.Partition)
	served := err == nil
	if fence.Epoch == 0 { // it is ours and not served: nothing is to be drained
		if row := n.table.Owner(m.Partition); row.Owner != life.id || row.Epoch != m.Epoch || c.holding(m.Partition) > 0 {
			return row.Owner != life.id
		}
		fence.Epoch = m.Epoch
	} else if err != nil {
		n.log.Warn("partition handed over before it was drained", "partition", m.Partition, "error", err)
	}
	c.mu.Lock()
	c.of(m.Partition).served = max(c.of(m.Partition).served, fence.Epoch)
	c.mu.Unlock()
	ctx, cancel = n.seams.Timeout(ctx, storeTimeout)
	defer cancel()
	if err := n.store.Release(ctx, m.Partition, fence.Epoch, life.id, m.To); err != nil {
		if !errors.Is(err, persistence.ErrNotMember) { // that the next owner has left is no news worth a line
			n.log.Warn("partition not released", "partition", m.Partition, "error", err)
		}
		n.renewal.poke() // if the table still names us, we claim it again
		return false
	}
	n.stats.handovers.Add(1)
	row := persistence.Ownership{Partition: m.Partition, Epoch: fence.Epoch + 1, Owner: m.To, Released: true}
	if p := n.peerOf(m.To); p != nil {
		moved := &wire.Moved{Partition: int32(row.Partition), Epoch: int64(row.Epoch)}
		if served {
			moved.Served, moved.Head = true, int64(fence.Head)
		}
		for _, s := range hot {
			moved.Hot = append(moved.Hot, &wire.Hot{Type: s.Type, Id: s.ID})
		}
		p.tellMoved(moved)
	}
	n.learn(row)
	n.tell(row)
	return true
}

// hotBytesOf is how much of an envelope the hot list of a message takes.
func hotBytesOf(m *wire.Moved) (bytes int) {
	for _, h := range m.Hot {
		bytes += 8 + len(h.Type) + len(h.Id)
	}
	return bytes
}

// gift is the word of a node that has given us a partition.
type gift struct {
	partition persistence.Partition
	epoch     persistence.Epoch
	head      persistence.Offset
	served    bool // the giver knows the head
	hot       []actor.Target
}

// giftOf reads a message. What it says of aggregates that we do not know, or
// that belong elsewhere, is left out.
func (n *Node) giftOf(m *wire.Moved) *gift {
	g := &gift{
		partition: persistence.Partition(m.Partition), epoch: persistence.Epoch(m.Epoch),
		head: persistence.Offset(m.Head), served: m.Served,
	}
	for _, hot := range m.Hot[:min(len(m.Hot), hotMost)] {
		d, stream := n.types[hot.Type], persistence.Stream{Type: hot.Type, ID: hot.Id}
		if d != nil && aggregate.CheckID(hot.Id) == nil && persistence.PartitionOf(stream, n.partitions) == g.partition {
			g.hot = append(g.hot, actor.Target{Definition: d, Stream: stream})
		}
	}
	return g
}

// accept serves a partition that was given to this node, or sees to it that it
// is claimed. The word may come late, twice, out of order, or while the
// partition is being claimed:
//
//	the table knows a later epoch ...... it is history
//	it was served under this epoch ..... likewise: if it is not any more, it was
//	                                     lost or given away since, perhaps without
//	                                     our being told, and is not to be answered for
//	it is being claimed, or given away . it waits for the end of that
//	the node is draining ............... it is handed on, or released with the rest
func (c *claims) accept(life *life, g *gift) {
	n := c.node
	if g.partition < 0 || int(g.partition) >= n.partitions || g.epoch <= 0 || g.head < 0 {
		return
	}
	row := persistence.Ownership{Partition: g.partition, Epoch: g.epoch, Owner: life.id, Released: true}
	c.mu.Lock()
	s, known := c.of(g.partition), n.table.Owner(g.partition)
	switch {
	case known.Epoch > g.epoch, known.Epoch == g.epoch && known.Owner != life.id, s.served >= g.epoch:
		c.mu.Unlock()
		return
	case s.busy != none:
		if s.early == nil || s.early.epoch < g.epoch {
			s.early = g
		}
		c.mu.Unlock()
		return
	}
	serve := g.served && !n.draining.Load() && n.life.Load() == life
	if serve {
		s.served, s.hold = g.epoch, hold{}
		n.beginProjecting(g.partition, g.head)
		life.host.Own(persistence.Tenure{Partition: g.partition, Epoch: g.epoch, Head: g.head}, 0)
	} else {
		s.awaited, s.since = g.epoch, n.clock.Now()-giftPatience // there is no more to await
	}
	c.mu.Unlock()
	n.table.Learn(row)
	n.news.Announce()
	if !serve {
		c.poke()
		return
	}
	if n.life.Load() != life { // it has ended meanwhile
		life.host.Lose(g.partition)
		return
	}
	n.parking.review(g.partition)
	if len(g.hot) > 0 {
		life.host.Warm(g.partition, g.hot)
	}
}

// awaits reports whether a partition that the table says was given to us is not
// to be claimed yet, because the giver's word is probably on its way.
func (c *claims) awaits(row persistence.Ownership) bool {
	if !row.Released {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, now := c.of(row.Partition), c.node.clock.Now()
	if s.served >= row.Epoch {
		return false
	}
	if s.awaited != row.Epoch {
		s.awaited, s.since = row.Epoch, now
		c.node.clock.AfterFunc(giftPatience, c.poke)
	}
	return now-s.since < giftPatience
}

// leaving reports whether a partition is just being given to another node.
func (c *claims) leaving(p persistence.Partition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(p).busy == giving
}

// tell tells every other member a row that this node has just made, so that
// nobody waits for his next view.
func (n *Node) tell(row persistence.Ownership) {
	view := n.view.Load()
	if view == nil {
		return
	}
	for _, m := range view.list {
		if m.ID == row.Owner {
			continue // this node, or told by itself
		}
		if p := n.peerOf(m.ID); p != nil {
			p.tellRow(&wire.Ownership{
				Partition: int32(row.Partition), Epoch: int64(row.Epoch), Owner: string(row.Owner), Released: row.Released,
			})
		}
	}
}

package cluster

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// parking keeps calls of peers whose partition is on its way. Answered at once,
// they would be told to ask somebody who does not serve it yet.
//
//	being given away by this node ............. until that is done: they ask the new owner
//	on its way here: the table names this ..... until it is served: they begin
//	node, or the caller knows a later epoch
//
// Nobody waits here for longer than its own deadline, or parkPatience.
type parking struct {
	node *Node

	mu      sync.Mutex
	waiting map[persistence.Partition][]*guest
	count   int
	swept   bool // the next sweep is due
}

const (
	// parkLimit bounds the calls that are parked; beyond, they are refused as
	// overloaded.
	parkLimit = 16384
	// parkPatience is how long a call is parked before it is told that nothing
	// has come of it. Its caller asks again.
	parkPatience = time.Second
	// parkSweep is how late a call learns that its time is up.
	parkSweep = 20 * time.Millisecond
)

func newParking(n *Node) *parking {
	return &parking{node: n, waiting: map[persistence.Partition][]*guest{}}
}

// stay is what is to become of a call that the host has turned away.
type stay uint8

const (
	goAway  stay = iota // the partition is not here, and not on its way
	goIn                // it has come meanwhile
	waitOut             // it is being given away
	waitIn              // it is on its way here
)

// fate decides about a call.
func (k *parking) fate(g *guest) stay {
	n, p := k.node, g.call.Partition
	switch row, serves := n.table.Owner(p), g.life.host.Epoch(p); {
	case n.life.Load() != g.life:
		return goAway
	case n.claims.leaving(p):
		return waitOut
	case serves != 0 && (g.call.Epoch == 0 || g.call.Epoch >= row.Epoch):
		return goIn
	case n.draining.Load():
		return goAway
	case serves < row.Epoch && row.Owner == g.life.id, g.call.Epoch > row.Epoch:
		return waitIn
	}
	return goAway
}

// take parks a call that the host has turned away, or sends it in again once, if
// the partition has come meanwhile. It reports whether it has taken care of it.
func (k *parking) take(g *guest) bool {
	if g.life == nil {
		return false
	}
	n := k.node
	k.mu.Lock()
	fate := k.fate(g)
	switch {
	case fate == goIn && !g.again:
		k.mu.Unlock()
		g.again = true
		g.life.host.Run(g.begin)
		return true
	case fate != waitIn && fate != waitOut:
		k.mu.Unlock()
		return false
	case k.count >= parkLimit:
		k.mu.Unlock()
		n.stats.overloaded.Add(1)
		g.refuse(aggregate.NotDone(aggregate.ReasonOverloaded, fmt.Errorf("%d calls wait for partitions on their way", parkLimit)))
		return true
	}
	n.stats.parked.Add(1)
	g.until = n.clock.Coarse() + parkPatience
	k.waiting[g.call.Partition] = append(k.waiting[g.call.Partition], g)
	k.count++
	k.arm()
	k.mu.Unlock()
	return true
}

// review looks at the calls that wait for a partition, about which there is news.
func (k *parking) review(p persistence.Partition) {
	k.mu.Lock()
	var in, away []*guest
	k.waiting[p] = slices.DeleteFunc(k.waiting[p], func(g *guest) bool {
		switch k.fate(g) {
		case goIn:
			in = append(in, g)
		case goAway:
			away = append(away, g)
		default:
			return false
		}
		return true
	})
	k.left(p, len(in)+len(away))
	k.mu.Unlock()
	for _, g := range away {
		if row := k.node.table.Owner(p); row.Epoch > g.call.Epoch && row.Owner != g.life.id {
			k.node.stats.redirected.Add(1)
		}
		g.redirect()
	}
	for chunk := range slices.Chunk(in, serveChunk) {
		chunk[0].life.host.Run(func() {
			for _, g := range chunk {
				g.begin()
			}
		})
	}
}

// left notes that calls have gone. The parking is locked.
func (k *parking) left(p persistence.Partition, calls int) {
	k.count -= calls
	if len(k.waiting[p]) == 0 {
		delete(k.waiting, p)
	}
}

// reviewAll is review for every partition.
func (k *parking) reviewAll() {
	k.mu.Lock()
	partitions := make([]persistence.Partition, 0, len(k.waiting))
	for p := range k.waiting {
		partitions = append(partitions, p)
	}
	slices.Sort(partitions)
	k.mu.Unlock()
	for _, p := range partitions {
		k.review(p)
	}
}

// arm sees to it that a sweep is due while calls wait. The parking is locked.
func (k *parking) arm() {
	if !k.swept && k.count > 0 {
		k.swept = true
		k.node.clock.AfterFunc(parkSweep, k.sweep)
	}
}

// sweep answers the calls whose time is up.
func (k *parking) sweep() {
	now := k.node.clock.Coarse()
	var over []*guest
	k.mu.Lock()
	for _, p := range slices.Sorted(maps.Keys(k.waiting)) {
		before := len(over)
		k.waiting[p] = slices.DeleteFunc(k.waiting[p], func(g *guest) bool {
			if g.until > now && !g.expired(now) {
				return false
			}
			over = append(over, g)
			return true
		})
		k.left(p, len(over)-before)
	}
	k.swept = false
	k.arm()
	k.mu.Unlock()
	for _, g := range over {
		if g.expired(now) {
			g.refuse(aggregate.NotDone(aggregate.ReasonDeadline, fmt.Errorf("partition %d was on its way for too long", g.call.Partition)))
		} else {
			g.redirect()
		}
	}
}

func (g *guest) expired(now time.Duration) bool {
	return g.call.Deadline != 0 && now >= g.call.Deadline
}

// begin hands a call that was kept to the host, unless the peer has given it up
// meanwhile: it may have been asked again since.
func (g *guest) begin() {
	g.caller.serving.RLock()
	defer g.caller.serving.RUnlock()
	if g.caller.session == g.session {
		g.life.host.DeliverInline(&g.call)
	}
}

// Redeliver implements actor.Redeliverer. The turn that calls it may run on a
// goroutine that has begun other calls of the same session.
func (g *guest) Redeliver(*actor.Call) { g.life.host.Run(g.begin) }

// redirect answers a call with who owns its partition.
func (g *guest) redirect() {
	g.life = nil // it is not kept again
	g.Reply(&g.call, actor.Result{NotOwner: true})
}

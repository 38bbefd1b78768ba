package actor

import (
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// item is a reply on its way out, with the commit that it waits for, if any.
type item struct {
	next   *item
	grain  *grain
	call   *Call
	result Result
	// hasCommit says that commit is to be appended. Otherwise the reply only
	// waits for the commits before it.
	hasCommit bool
	commit    persistence.Commit
	events    [1]persistence.NewEvent // backing of commit.Events in the usual case
	bytes     int
	unsure    bool    // an append of the commit may yet have its effect
	doubts    int     // how many of its appends were of unknown outcome
	twins     []*Call // the same command, delivered again meanwhile
	snapshot  *persistence.Snapshot
	asked     chan<- *persistence.Snapshot // who asked for the snapshot; nil for the writer
	reveals   bool                         // depends on a commit of this activation (I8)
	held      bool                         // was held back (I8)
}

type settled struct {
	id     aggregate.CommandID
	offset persistence.Offset
}

// reply queues a reply behind the commits that it depends on. One of them may
// have failed since the turn began. While the store is lost nobody begins to wait
// for a commit, since there is no telling for how long. // I3
func (g *grain) reply(it *item) {
	g.mu.Lock()
	it.reveals = g.revealed
	if g.broken {
		it.result = failed(errMoved)
	}
	if g.queue != nil {
		err := g.host.commits.wait()
		if err == nil || isFailure(it.result.Err) {
			g.push(it)
			g.mu.Unlock()
			return
		}
		it.result = failed(err)
	}
	g.mu.Unlock()
	g.host.release(it)
}

func (g *grain) push(it *item) {
	if g.tail == nil {
		g.queue = it
	} else {
		g.tail.next = it
	}
	g.tail = it
	if it.hasCommit {
		g.commits++
	}
}

// settle is called by the lane, in order, when the fate of a commit is known.
// It appends to free the replies that may now leave.
func (g *grain) settle(it *item, err error, free []*item) []*item {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue != it {
		panic("actor: commits of one grain settled out of order")
	}
	g.host.timers.settled(g.tenure, &it.commit, err)
	switch {
	case err != nil:
		if !g.broken {
			g.broken = true
			g.host.stats.broken.Add(1)
		}
		it.result, it.snapshot = failed(err), nil
	case len(it.commit.Events) == 0:
		it.call.done = true
	default:
		it.call.done = true
		last := it.commit.Offset + persistence.Offset(len(it.commit.Events)) - 1
		it.result.Response.Receipt.Offset = aggregate.Offset(last)
		g.settled = append(g.settled, settled{it.call.id(), last})
		if it.snapshot != nil && it.asked == nil {
			g.host.save(it.snapshot)
		}
	}
	if it.asked != nil {
		it.asked <- it.snapshot
	}
	g.commits--
	free = append(free, it)
	g.queue = it.next
	for g.queue != nil && !g.queue.hasCommit {
		if g.broken { // it was computed on a state that is not the log's
			g.queue.result = failed(errMoved)
		}
		free = append(free, g.queue)
		g.queue = g.queue.next
	}
	if g.queue == nil {
		g.tail = nil
		if g.notify {
			g.notify = false
			g.mailbox.PostUserMessage(settledMessage{})
		}
	}
	if err != nil && !g.notify {
		g.mailbox.PostUserMessage(leaveMessage{})
	}
	return free
}

// finish answers a call that waits for nothing.
func (g *grain) finish(c *Call, r Result) {
	t := g.release(c)
	c.Reply.Reply(c, r)
	t.leave() // a partition is drained when its replies are on their way
}

// release makes room for another call. The partition counts this one until the
// caller of release says that it has left.
func (g *grain) release(c *Call) *tenure {
	t := c.tenure
	g.inflight.Add(-1)
	g.host.inflight.Add(-1)
	c.grain, c.tenure, c.looked = nil, nil, false
	return t
}

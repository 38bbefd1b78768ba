package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
)

// patience ends the waits of callers in this process whose contexts set no
// deadline. They all wait equally long, so a queue does what would otherwise
// take a timer for each call.
type patience struct {
	clock actor.Clock
	limit time.Duration

	mu          sync.Mutex
	first, last *waiter // in the order in which they began to wait
}

// errPatience is the result of a wait that was ended. The reply may still come.
var errPatience = aggregate.UnknownOutcome(aggregate.ReasonDeadline, context.DeadlineExceeded)

func (p *patience) begin(w *waiter) {
	w.until = p.clock.Coarse() + p.limit
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.before = p.last; p.last == nil {
		p.first = w
	} else {
		p.last.behind = w
	}
	p.last = w
}

// end takes a caller out of the queue. Afterwards its wait is not ended any more.
func (p *patience) end(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.before == nil {
		p.first = w.behind
	} else {
		w.before.behind = w.behind
	}
	if w.behind == nil {
		p.last = w.before
	} else {
		w.behind.before = w.before
	}
	w.before, w.behind = nil, nil
}

// run ends waits, up to an eighth of the limit late, until done is closed.
func (p *patience) run(done <-chan struct{}) {
	for {
		due := make(chan struct{})
		stop := p.clock.AfterFunc(p.limit/8, func() { close(due) })
		select {
		case <-due:
			p.expire()
		case <-done:
			stop()
			return
		}
	}
}

func (p *patience) expire() {
	now := p.clock.Coarse()
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := p.first; w != nil && w.until <= now; w = w.behind {
		w.Reply(nil, actor.Result{Err: errPatience})
	}
}

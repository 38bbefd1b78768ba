package postgres

import (
	"context"
	"slices"
	"sync"

	"github.com/ingrain-go/ingrain/persistence"
)

// gate counts the calls in flight, so that Close can wait for them.
type gate struct {
	mu     sync.Mutex
	calls  sync.WaitGroup
	closed bool
}

// enter admits a call; an admitted call must end with leave.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return persistence.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	g.calls.Add(1)
	return nil
}

func (g *gate) leave() { g.calls.Done() }

// shut refuses further calls, waits for those in flight, and reports whether it
// was the first to shut the gate.
func (g *gate) shut() bool {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	g.mu.Unlock()
	g.calls.Wait()
	return first
}

// lanes are the writer connections at rest.
type lanes struct {
	tokens chan struct{} // one for each of the free
	mu     sync.Mutex
	free   []*lane
}

// get takes a lane, waiting while all are busy. A caller that keeps partitions
// apart by their number modulo the lanes gets the same connection every time,
// which then knows the partitions' heads.
func (ls *lanes) get(ctx context.Context, batch *persistence.Batch) (*lane, error) {
	select {
	case <-ls.tokens:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	at := len(ls.free) - 1
	if len(batch.Fences) > 0 {
		wanted := int(batch.Fences[0].Partition) % cap(ls.tokens)
		at = max(slices.IndexFunc(ls.free, func(l *lane) bool { return l.number == wanted }), 0)
	}
	l := ls.free[at]
	ls.free = slices.Delete(ls.free, at, at+1)
	return l, nil
}

func (ls *lanes) put(l *lane) {
	ls.mu.Lock()
	ls.free = append(ls.free, l)
	ls.mu.Unlock()
	ls.tokens <- struct{}{}
}

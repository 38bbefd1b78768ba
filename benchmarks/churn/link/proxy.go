// Package link is what lies between processes and can be cut: TCP proxies on
// loopback. Each direction of each connection can be frozen, slowed down and
// reset on its own, for one of the two who talk or for all.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Condition is the state of one direction. The zero value lets bytes pass.
type Condition struct {
	// Frozen holds bytes back, as a cable that was pulled does: nobody is told,
	// and what TCP still has is delivered when the cable is back.
	Frozen bool
	// Delay is how much later each byte arrives.
	Delay time.Duration
}

// Rule says how the link from one process to another is. It is asked again
// whenever [Proxy.Changed] is called. Who opened a connection may be unknown:
// then it is "".
type Rule func(from, to string) Condition

// Proxy stands before one process and passes connections on to it. It is safe
// for concurrent use.
type Proxy struct {
	owner  string // the process that it stands before
	target string
	who    func(net.Conn) string
	rule   func(from, to string) Condition

	listener net.Listener
	work     sync.WaitGroup
	swallow  atomic.Int64 // how many answers are still to be swallowed

	mu        sync.Mutex
	closed    bool
	refused   func(from, to string) bool
	swallowed int
	pipes     map[*pipe]struct{}
}

// Listen starts a proxy on a free loopback port. owner names the process at
// target; who names the one that opened a connection.
func Listen(owner, target string, who func(net.Conn) string, rule Rule) (*Proxy, error) {
	return ListenAt("127.0.0.1:0", owner, target, who, rule)
}

// ListenAt is Listen at another address.
func ListenAt(address, owner, target string, who func(net.Conn) string, rule Rule) (*Proxy, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("proxy of %s: %w", owner, err)
	}
	p := &Proxy{owner: owner, target: target, who: who, rule: rule, listener: listener, pipes: map[*pipe]struct{}{}}
	p.work.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Changed makes the proxy ask its rule again.
func (p *Proxy) Changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pipe := range p.pipes {
		pipe.change()
	}
}

// Reset breaks the connections between the processes that match, at once, as a
// switch that forgets them does. New ones may be made.
func (p *Proxy) Reset(match func(from, to string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pipe := range p.pipes {
		if match(pipe.from, p.owner) {
			pipe.close()
		}
	}
}

// Refuse breaks the connections between the processes that match, and any that
// are made, until it is called again. Nil refuses none.
func (p *Proxy) Refuse(match func(from, to string) bool) {
	p.mu.Lock()
	p.refused = match
	p.mu.Unlock()
	if match != nil {
		p.Reset(match)
	}
}

// Swallow takes the next n answers away after the process behind the proxy has
// sent them, and breaks their connections: whoever asked does not know what
// became of it, though it was done.
func (p *Proxy) Swallow(n int) { p.swallow.Store(int64(n)) }

// Swallowed is how many answers were.
func (p *Proxy) Swallowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallowed
}

// Close breaks all connections and waits for the proxy's goroutines.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for pipe := range p.pipes {
		pipe.close()
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.work.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.work.Go(func() { p.serve(near) })
	}
}

// serve passes one connection on, until either side ends.
func (p *Proxy) serve(near net.Conn) {
	from := p.who(near)
	p.mu.Lock()
	refused := p.closed || p.refused != nil && p.refused(from, p.owner)
	p.mu.Unlock()
	if refused {
		_ = near.Close() // it was never open
		return
	}
	far, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		_ = near.Close() // as the target would
		return
	}
	link := &pipe{from: from, near: near, far: far, changed: make(chan struct{}), done: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		link.close()
		return
	}
	p.pipes[link] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pass(link, near, far, from, p.owner, false) })
	both.Go(func() { p.pass(link, far, near, p.owner, from, true) })
	both.Wait()
	p.mu.Lock()
	delete(p.pipes, link)
	p.mu.Unlock()
}

// chunkBytes is how much is read at once, and chunkLimit how many are on their
// way when a link is slow.
const (
	chunkBytes = 64 << 10
	chunkLimit = 256
)

// chunk is bytes on their way.
type chunk struct {
	bytes []byte
	at    time.Time
}

// pass carries one direction. A frozen one reads nothing, so that TCP pushes
// back. Answers are those of the process behind the proxy.
func (p *Proxy) pass(link *pipe, in, out net.Conn, from, to string, answers bool) {
	way := make(chan chunk, chunkLimit)
	var writer sync.WaitGroup
	writer.Go(func() {
		defer link.close() // whichever half ends first, when what it read has arrived
		for c := range way {
			if !link.wait(c.at.Add(p.rule(from, to).Delay)) || !p.open(link, from, to) {
				return
			}
			if _, err := out.Write(c.bytes); err != nil {
				return
			}
		}
	})
	defer writer.Wait()
	defer close(way)
	buffer := make([]byte, chunkBytes)
	for p.open(link, from, to) {
		n, err := in.Read(buffer)
		if n > 0 {
			if answers && p.takes() {
				link.close() // the answer is gone, and the connection with it
				return
			}
			select {
			case way <- chunk{append([]byte(nil), buffer[:n]...), time.Now()}:
			case <-link.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// takes reports whether an answer is to be swallowed.
func (p *Proxy) takes() bool {
	if p.swallow.Add(-1) < 0 {
		p.swallow.Store(0)
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallowed++
	return true
}

// open waits until a direction is not frozen; false when the connection ended.
func (p *Proxy) open(link *pipe, from, to string) bool {
	for {
		news := link.news()
		if !p.rule(from, to).Frozen {
			select {
			case <-link.done:
				return false
			default:
				return true
			}
		}
		select {
		case <-news:
		case <-link.done:
			return false
		}
	}
}

// pipe is one connection, with its two halves.
type pipe struct {
	from      string
	near, far net.Conn

	mu      sync.Mutex
	changed chan struct{}
	ended   bool
	done    chan struct{}
}

func (l *pipe) news() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *pipe) change() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait waits for a moment; false when the connection ended first.
func (l *pipe) wait(until time.Time) bool {
	left := time.Until(until)
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}

func (l *pipe) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.done)
	_ = l.near.Close() // either may be broken already
	_ = l.far.Close()
}

// FreePort is a loopback port that nobody listens on.
func FreePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

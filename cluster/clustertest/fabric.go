package clustertest

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// Fabric is a network in memory for several nodes in one process: envelopes are
// encoded and decoded as on a wire, arrive in order, and can be lost, delayed
// and cut off by the test. All methods are safe for concurrent use.
//
//	fabric := clustertest.NewFabric()
//	node, err := cluster.Start(ctx, &cluster.Config{Network: fabric.Network(), ...})
type Fabric struct {
	mu    sync.Mutex
	next  int
	ports map[string]*port
	cut   map[[2]string]bool
	rule  func(Message) Fate
	late  sync.WaitGroup
}

// Message is what a rule of the fabric sees of an envelope.
type Message struct {
	From, To string // addresses
	Calls    int
	Replies  int
	Envelope *wire.Envelope // as sent; it must not be changed
}

// Fate is what becomes of an envelope. The zero value is delivery.
type Fate struct {
	// Drop loses it without a word.
	Drop bool
	// Until, when not nil, delays it until the channel is closed. Later ones
	// overtake it.
	Until <-chan struct{}
}

// NewFabric is a network without nodes.
func NewFabric() *Fabric {
	return &Fabric{ports: map[string]*port{}, cut: map[[2]string]bool{}}
}

// Network is the connection of one more node. Its address is "memory:1" and so
// on, in the order in which the nodes start.
func (f *Fabric) Network() cluster.Network { return &port{fabric: f, gone: make(chan struct{})} }

// OnSend sets the rule that decides about every envelope; nil delivers all. It
// may be called from many goroutines at once.
func (f *Fabric) OnSend(rule func(Message) Fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

// Cut drops everything between two addresses from now on, in both directions,
// and tells both nodes, like a connection that breaks.
func (f *Fabric) Cut(a, b string) {
	f.mu.Lock()
	f.cut[[2]string{a, b}], f.cut[[2]string{b, a}] = true, true
	f.mu.Unlock()
	f.Break(a, b)
}

// Break tells both nodes that the connection between them broke, and loses
// nothing.
func (f *Fabric) Break(a, b string) {
	f.mu.Lock()
	at, bt := f.ports[a], f.ports[b]
	f.mu.Unlock()
	if at != nil {
		at.receiver.Lost(b)
	}
	if bt != nil {
		bt.receiver.Lost(a)
	}
}

// Heal undoes all cuts and the rule.
func (f *Fabric) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.cut)
	f.rule = nil
}

// Send delivers an envelope as if it came from the given address.
func (f *Fabric) Send(from, to string, e *wire.Envelope) {
	f.mu.Lock()
	rule, cut, target := f.rule, f.cut[[2]string{from, to}], f.ports[to]
	f.mu.Unlock()
	if cut || target == nil {
		return
	}
	var fate Fate
	if rule != nil {
		fate = rule(Message{From: from, To: to, Calls: len(e.Calls), Replies: len(e.Replies), Envelope: e})
	}
	switch {
	case fate.Drop:
	case fate.Until != nil:
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.ports[to] != target {
			return
		}
		f.late.Go(func() {
			select {
			case <-fate.Until:
				target.deliver(e)
			case <-target.gone:
			}
		})
	default:
		target.deliver(e)
	}
}

// port is one node's end of the fabric.
type port struct {
	fabric   *Fabric
	address  string
	receiver cluster.Receiver

	mu      sync.RWMutex // held for reading while an envelope is handed over
	stopped bool
	gone    chan struct{}
}

// Start implements cluster.Network.
func (p *port) Start(r cluster.Receiver) (string, error) {
	f := p.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	p.receiver, p.address = r, fmt.Sprintf("memory:%d", f.next)
	f.ports[p.address] = p
	return p.address, nil
}

// Send implements cluster.Network.
func (p *port) Send(address string, e *wire.Envelope) { p.fabric.Send(p.address, address, e) }

// Probe implements cluster.Prober: a node that is not there refuses, and one that
// is cut off in either direction does not answer.
func (p *port) Probe(_ context.Context, address string) error {
	f := p.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.cut[[2]string{p.address, address}] || f.cut[[2]string{address, p.address}]:
		return fmt.Errorf("connect %s: %w", address, context.DeadlineExceeded)
	case f.ports[address] == nil:
		return fmt.Errorf("connect %s: %w", address, syscall.ECONNREFUSED)
	}
	return nil
}

func (p *port) deliver(e *wire.Envelope) {
	encoded, err := proto.Marshal(e)
	if err != nil {
		return // like any network: what cannot be encoded does not arrive
	}
	decoded := &wire.Envelope{}
	if err := proto.Unmarshal(encoded, decoded); err != nil {
		return
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !p.stopped {
		p.receiver.Receive(decoded)
	}
}

// Stop implements cluster.Network.
func (p *port) Stop() {
	f := p.fabric
	f.mu.Lock()
	delete(f.ports, p.address)
	f.mu.Unlock()
	p.mu.Lock()
	if !p.stopped {
		p.stopped = true
		close(p.gone)
	}
	p.mu.Unlock()
}

// Wait returns when no envelope is delayed any more. Call it when all nodes have
// stopped, or all delays are over.
func (f *Fabric) Wait() { f.late.Wait() }

// Listen attaches a receiver that is no node, so that a test can speak for one.
// It returns the address and what detaches it.
func (f *Fabric) Listen(r cluster.Receiver) (address string, detach func()) {
	p := &port{fabric: f, gone: make(chan struct{})}
	address, _ = p.Start(r) // never fails
	return address, p.Stop
}

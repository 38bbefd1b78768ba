package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
	"github.com/ingrain-go/ingrain/persistence"
)

// fleet is the node processes. Its methods may be called by one goroutine at a
// time, but for counters.
type fleet struct {
	o       *options
	backend backend
	world   world
	dir     string
	log     *os.File
	made    int
	nodes   []*node

	mu    sync.Mutex
	total map[string]float64
}

// node is one process. Its name is never used again.
type node struct {
	name  string
	child *process.Child
	hello nodeHello

	mu   sync.Mutex
	last map[string]float64 // counters when they were read last
}

func newFleet(o *options, b backend, w world, dir string) (*fleet, error) {
	log, err := os.OpenFile(filepath.Join(dir, "nodes.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &fleet{o: o, backend: b, world: w, dir: dir, log: log, total: map[string]float64{}}, nil
}

// start starts a node and returns when it has joined.
func (f *fleet) start(ctx context.Context) (*node, error) {
	nodes, err := f.startAll(ctx, 1)
	if err != nil {
		return nil, err
	}
	return nodes[0], nil
}

// startAll starts nodes at the same moment.
func (f *fleet) startAll(ctx context.Context, count int) ([]*node, error) {
	nodes, errs := make([]*node, count), make([]error, count)
	var wait sync.WaitGroup
	for i := range nodes {
		f.made++
		name := fmt.Sprintf("node-%d", f.made)
		wait.Go(func() { nodes[i], errs[i] = f.launch(ctx, name) })
	}
	wait.Wait()
	for _, n := range nodes {
		if n != nil {
			f.nodes = append(f.nodes, n)
		}
	}
	return nodes, errors.Join(errs...)
}

func (f *fleet) launch(ctx context.Context, name string) (*node, error) {
	l, err := f.world.prepare(ctx, name, f.backend.addr())
	if err != nil {
		return nil, err
	}
	setup := nodeSetup{
		Name: name, Store: f.backend.place(l.store), Listen: l.listen, Advertise: l.advertise, Desk: l.desk, Lease: f.o.lease,
		LockDir: filepath.Join(f.dir, "locks"), IdleAfter: f.o.idleAfter, Baseline: f.o.baseline,
	}
	if f.o.noProof {
		setup.LockDir = os.DevNull + "/none"
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience+time.Second)
	defer cancel()
	child, err := process.Start(ctx, process.Spec{
		Name: name, Role: roleNode, Setup: setup, Wrap: l.wrap, Log: &prefixed{f.log, name},
		Launched: func(pid int) { f.world.began(name, pid) },
	})
	if err != nil {
		return nil, errors.Join(err, f.world.gone(name))
	}
	n := &node{name: name, child: child, last: map[string]float64{}}
	if err := child.Hello(&n.hello); err != nil {
		child.Close()
		return nil, err
	}
	return n, nil
}

// prefixed puts a node's name before what it logs.
type prefixed struct {
	file *os.File
	name string
}

func (p *prefixed) Write(b []byte) (int, error) {
	if _, err := fmt.Fprintf(p.file, "[%s] %s", p.name, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// ready waits until a node serves what is its own.
func (n *node) ready(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return n.child.Call(ctx, "ready", nil, nil)
}

// drop takes a node that has ended out of the fleet.
func (f *fleet) drop(n *node) error {
	for i, other := range f.nodes {
		if other == n {
			f.nodes = append(f.nodes[:i:i], f.nodes[i+1:]...)
		}
	}
	n.child.Close()
	return f.world.gone(n.name)
}

// without are the nodes but one.
func (f *fleet) without(n *node) []*node {
	var others []*node
	for _, other := range f.nodes {
		if other != n {
			others = append(others, other)
		}
	}
	return others
}

// figuresPatience is how long a node may take to tell its counters; a frozen one
// tells them later.
const figuresPatience = 300 * time.Millisecond

// figures asks a node for its counters and adds what is new to the total. A node
// begins to count afresh with each incarnation.
func (f *fleet) figures(ctx context.Context, n *node) (*nodeFigures, error) {
	ctx, cancel := context.WithTimeout(ctx, figuresPatience)
	defer cancel()
	var raw json.RawMessage
	if err := n.child.Call(ctx, "figures", nil, &raw); err != nil {
		return nil, err
	}
	var figures nodeFigures
	var tree any
	if err := errors.Join(json.Unmarshal(raw, &figures), json.Unmarshal(raw, &tree)); err != nil {
		return nil, err
	}
	flat := map[string]float64{}
	flatten("", tree, flat)
	n.mu.Lock()
	defer n.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, value := range flat {
		if value >= n.last[key] {
			f.total[key] += value - n.last[key]
		} else {
			f.total[key] += value
		}
		n.last[key] = value
	}
	return &figures, nil
}

// counters are the sums of all nodes that ever were, as of now where a node
// answers.
func (f *fleet) counters(ctx context.Context) map[string]float64 {
	var wait sync.WaitGroup
	for _, n := range f.nodes {
		wait.Go(func() {
			_, _ = f.figures(ctx, n) // who does not answer keeps its last ones
		})
	}
	wait.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := map[string]float64{}
	for key, value := range f.total {
		sum[key] = value
	}
	return sum
}

// flatten turns {"Node":{"Claims":3}} into "Node.Claims": 3.
func flatten(prefix string, tree any, into map[string]float64) {
	switch v := tree.(type) {
	case map[string]any:
		for key, child := range v {
			name := key
			if prefix != "" {
				name = prefix + "." + key
			}
			flatten(name, child, into)
		}
	case float64:
		into[prefix] = v
	}
}

// incarnation is who a node is now.
func (f *fleet) incarnation(ctx context.Context, n *node) persistence.NodeID {
	if figures, err := f.figures(ctx, n); err == nil && figures.ID != "" {
		n.hello.ID = figures.ID
	}
	return n.hello.ID
}

// stop ends all nodes, gently if asked to.
func (f *fleet) stop(ctx context.Context, gently bool) error {
	var errs []error
	for _, n := range append([]*node(nil), f.nodes...) {
		if gently {
			if err := n.child.Terminate(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", n.name, err))
			}
		}
		errs = append(errs, f.drop(n))
	}
	return errors.Join(append(errs, f.log.Close())...)
}

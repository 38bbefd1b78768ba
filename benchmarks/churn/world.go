package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
)

// world is what lies between the nodes, and between them and the store. It is
// safe for concurrent use.
type world interface {
	// prepare makes the links of a node: where it listens, where the others find
	// it, and where it finds the store's server at addr.
	prepare(ctx context.Context, node, addr string) (links, error)
	// began tells which process a node is; gone that it is none any more.
	began(node string, pid int)
	gone(node string) error
	// peers sets the links between a node and all others, store that between it
	// and the store.
	peers(node string, way direction, c link.Condition)
	store(node string, way direction, c link.Condition)
	// reset breaks all connections over those links that are frozen, and refuse
	// new ones, until heal.
	reset(node string, withStore bool)
	// swallow loses the next n answers of the store to a node; swallowed is how
	// many were.
	swallow(node string, n int)
	swallowed(node string) int
	// heal makes all links as they were.
	heal()
	close() error
}

// links are what a node is told of the world.
type links struct {
	listen, advertise string   // for peers
	desk              string   // host for clients; empty is loopback
	store             string   // the store's server
	wrap              []string // what runs the node's program, if not the system
}

// direct is a world without anything between.
type direct struct{}

func (direct) prepare(context.Context, string, string) (links, error) { return links{}, nil }
func (direct) began(string, int)                                      {}
func (direct) gone(string) error                                      { return nil }
func (direct) peers(string, direction, link.Condition)                {}
func (direct) store(string, direction, link.Condition)                {}
func (direct) reset(string, bool)                                     {}
func (direct) swallow(string, int)                                    {}
func (direct) swallowed(string) int                                   { return 0 }
func (direct) heal()                                                  {}
func (direct) close() error                                           { return nil }

// theStore is the store's name among the links.
const theStore = "store"

// proxies is a world in which every node stands behind a proxy, and has another
// between it and the store.
type proxies struct {
	mu      sync.Mutex
	pids    map[int]string
	before  map[string]*link.Proxy
	toStore map[string]*link.Proxy
	rules   map[[2]string]link.Condition // from, to; "*" is every other node
}

func newProxies() *proxies {
	return &proxies{
		pids: map[int]string{}, before: map[string]*link.Proxy{}, toStore: map[string]*link.Proxy{}, rules: map[[2]string]link.Condition{},
	}
}

func (w *proxies) prepare(ctx context.Context, node, addr string) (links, error) {
	listen, err := link.FreePort(ctx)
	if err != nil {
		return links{}, err
	}
	before, err := link.Listen(node, listen, w.who, w.rule)
	if err != nil {
		return links{}, err
	}
	l := links{listen: listen, advertise: before.Addr()}
	var toStore *link.Proxy
	if addr != "" {
		if toStore, err = link.Listen(theStore, addr, func(net.Conn) string { return node }, w.rule); err != nil {
			return links{}, errors.Join(err, before.Close())
		}
		l.store = toStore.Addr()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before[node] = before
	if toStore != nil {
		w.toStore[node] = toStore
	}
	return l, nil
}

func (w *proxies) began(node string, pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids[pid] = node
}

func (w *proxies) gone(node string) error {
	w.mu.Lock()
	before, toStore := w.before[node], w.toStore[node]
	delete(w.before, node)
	delete(w.toStore, node)
	for pid, name := range w.pids {
		if name == node {
			delete(w.pids, pid)
		}
	}
	w.mu.Unlock()
	var errs []error
	for _, p := range []*link.Proxy{before, toStore} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// who names the node that opened a connection; "" when it is none.
func (w *proxies) who(conn net.Conn) string {
	w.mu.Lock()
	var pids []int
	for pid := range w.pids {
		pids = append(pids, pid)
	}
	w.mu.Unlock()
	pid, ok := link.Opener(conn, pids)
	if !ok {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pids[pid]
}

func (w *proxies) rule(from, to string) link.Condition {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from == theStore || to == theStore {
		return w.rules[[2]string{from, to}]
	}
	if c := w.rules[[2]string{from, "*"}]; c != (link.Condition{}) {
		return c
	}
	return w.rules[[2]string{"*", to}]
}

func (w *proxies) peers(node string, way direction, c link.Condition) { w.set(node, "*", way, c) }
func (w *proxies) store(node string, way direction, c link.Condition) { w.set(node, theStore, way, c) }

func (w *proxies) set(node, other string, way direction, c link.Condition) {
	w.mu.Lock()
	if way != in {
		w.rules[[2]string{node, other}] = c
	}
	if way != out {
		w.rules[[2]string{other, node}] = c
	}
	w.mu.Unlock()
	for _, p := range w.all() {
		p.Changed()
	}
}

func (w *proxies) all() []*link.Proxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*link.Proxy
	for _, p := range w.before {
		all = append(all, p)
	}
	for _, p := range w.toStore {
		all = append(all, p)
	}
	return all
}

func (w *proxies) reset(node string, withStore bool) {
	concerned := func(from, to string) bool {
		if from == theStore || to == theStore {
			return withStore && (from == node || to == node)
		}
		return from == node || to == node
	}
	frozen := func(from, to string) bool {
		return concerned(from, to) && (w.rule(from, to).Frozen || w.rule(to, from).Frozen)
	}
	for _, p := range w.all() {
		p.Refuse(frozen)
	}
}

func (w *proxies) swallow(node string, n int) {
	w.mu.Lock()
	p := w.toStore[node]
	w.mu.Unlock()
	if p != nil {
		p.Swallow(n)
	}
}

func (w *proxies) swallowed(node string) int {
	w.mu.Lock()
	p := w.toStore[node]
	w.mu.Unlock()
	if p == nil {
		return 0
	}
	return p.Swallowed()
}

func (w *proxies) heal() {
	w.mu.Lock()
	clear(w.rules)
	w.mu.Unlock()
	for _, p := range w.all() {
		p.Refuse(nil)
		p.Changed()
	}
}

func (w *proxies) close() error {
	w.mu.Lock()
	var nodes []string
	for node := range w.before {
		nodes = append(nodes, node)
	}
	w.mu.Unlock()
	var errs []error
	for _, node := range nodes {
		errs = append(errs, w.gone(node))
	}
	return errors.Join(errs...)
}

// newWorld makes the world that the options ask for.
func newWorld(name string) (world, error) {
	switch name {
	case "direct":
		return direct{}, nil
	case "proxies":
		return newProxies(), nil
	case "namespaces":
		return newNamespaces()
	}
	return nil, fmt.Errorf("there is no world %q", name)
}

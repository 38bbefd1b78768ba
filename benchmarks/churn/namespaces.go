package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
)

// namespaces is a world in which every node has a network of its own, and a
// router between them, this process and the store. What is cut is cut below TCP:
// neither side is told, not even by an acknowledgement, whoever opened the
// connection. It needs root, and Linux with ip(8).
//
//	node 1 ── 100.x.1.0/30 ──┐
//	node 2 ── 100.x.2.0/30 ──┤ router ── 100.x.255.0/29 ── this process: clients at .2,
//	node 3 ── 100.x.3.0/30 ──┘                             the way to the store at .3
//
// Links that are slow need the traffic control of the kernel, which many lack:
// that fault is for proxies. A reset breaks the connections to the store only.
type namespaces struct {
	prefix string // of the names of the namespaces
	subnet string // "100.x"
	router string

	mu    sync.Mutex
	nodes map[string]int // node -> its number in the subnet
	dead  []string       // nodes that are gone; their networks are not yet
	ways  map[string]*link.Proxy
	rules map[[2]string]bool // ip rules there are: from, to
}

const (
	// maxNamespaces is how many nodes there can be at a time.
	maxNamespaces = 250
	namespaceMark = "ingrain-"
)

func newNamespaces() (_ world, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("-world namespaces needs root: network namespaces are made for this run")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, fmt.Errorf("-world namespaces needs ip(8) (Debian, Ubuntu: apt-get install iproute2): %w", err)
	}
	sweepNamespaces()
	pid := os.Getpid()
	w := &namespaces{
		prefix: namespaceMark + strconv.Itoa(pid) + "-", subnet: fmt.Sprintf("100.%d", 64+pid%60),
		nodes: map[string]int{}, ways: map[string]*link.Proxy{}, rules: map[[2]string]bool{},
	}
	w.router = w.prefix + "router"
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	uplink := fmt.Sprintf("ing%dup", pid%100_000)
	return w, all(
		ip("netns", "add", w.router),
		ip("link", "add", uplink, "type", "veth", "peer", "name", "outer", "netns", w.router),
		ip("addr", "add", w.address(255, 2)+"/29", "dev", uplink),
		ip("addr", "add", w.address(255, 3)+"/29", "dev", uplink),
		ip("link", "set", uplink, "up"),
		w.inside(w.router, "addr", "add", w.address(255, 1)+"/29", "dev", "outer"),
		w.inside(w.router, "link", "set", "outer", "up"),
		w.inside(w.router, "link", "set", "lo", "up"),
		ip("route", "add", w.subnet+".0.0/16", "via", w.address(255, 1)),
		command("ip", "netns", "exec", w.router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"),
	)
}

// all runs commands until one fails.
func all(commands ...func() error) error {
	for _, c := range commands {
		if err := c(); err != nil {
			return err
		}
	}
	return nil
}

func command(name string, args ...string) func() error {
	return func() error {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}

func ip(args ...string) func() error { return command("ip", args...) }

func (w *namespaces) inside(namespace string, args ...string) func() error {
	return ip(append([]string{"-n", namespace}, args...)...)
}

func (w *namespaces) address(net, host int) string {
	return fmt.Sprintf("%s.%d.%d", w.subnet, net, host)
}

func (w *namespaces) prepare(_ context.Context, node, addr string) (links, error) {
	if err := w.bury(); err != nil {
		return links{}, err
	}
	n, err := w.number(node)
	if err != nil {
		return links{}, err
	}
	name, near := w.prefix+node, fmt.Sprintf("n%d", n)
	err = all(
		ip("netns", "add", name),
		w.inside(w.router, "link", "add", near, "type", "veth", "peer", "name", "home", "netns", name),
		w.inside(w.router, "addr", "add", w.address(n, 1)+"/30", "dev", near),
		w.inside(w.router, "link", "set", near, "up"),
		w.inside(name, "addr", "add", w.address(n, 2)+"/30", "dev", "home"),
		w.inside(name, "link", "set", "home", "up"),
		w.inside(name, "link", "set", "lo", "up"),
		w.inside(name, "route", "add", "default", "via", w.address(n, 1)),
	)
	if err != nil {
		return links{}, errors.Join(err, w.gone(node))
	}
	l := links{
		listen: w.address(n, 2) + ":0", desk: w.address(n, 2), wrap: []string{"ip", "netns", "exec", name},
	}
	if addr != "" {
		way, err := link.ListenAt(w.address(255, 3)+":0", theStore, addr, func(net.Conn) string { return node },
			func(string, string) link.Condition { return link.Condition{} })
		if err != nil {
			return links{}, errors.Join(err, w.gone(node))
		}
		w.mu.Lock()
		w.ways[node] = way
		w.mu.Unlock()
		l.store = way.Addr()
	}
	return l, nil
}

// number gives a node the smallest number that is free.
func (w *namespaces) number(node string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := map[int]bool{}
	for _, n := range w.nodes {
		taken[n] = true
	}
	for n := 1; n <= maxNamespaces; n++ {
		if !taken[n] {
			w.nodes[node] = n
			return n, nil
		}
	}
	return 0, fmt.Errorf("there are %d namespaces already", maxNamespaces)
}

func (w *namespaces) began(string, int) {}

// gone leaves the node's network as it is until the next node comes or the run
// ends: a machine outlives its processes, and says that nobody listens any more.
func (w *namespaces) gone(node string) error {
	w.mu.Lock()
	way := w.ways[node]
	delete(w.ways, node)
	if _, known := w.nodes[node]; known && !slices.Contains(w.dead, node) {
		w.dead = append(w.dead, node)
	}
	w.mu.Unlock()
	if way != nil {
		return way.Close()
	}
	return nil
}

// bury removes the networks of nodes that are gone.
func (w *namespaces) bury() error {
	w.mu.Lock()
	dead := w.dead
	w.dead = nil
	w.mu.Unlock()
	var errs []error
	for _, node := range dead {
		w.mu.Lock()
		n := w.nodes[node]
		w.mu.Unlock()
		w.forget(w.address(n, 2))
		_ = w.inside(w.router, "link", "del", fmt.Sprintf("n%d", n))() // it goes with the namespace, too
		errs = append(errs, ip("netns", "del", w.prefix+node)())
		w.mu.Lock()
		delete(w.nodes, node)
		w.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (w *namespaces) peers(node string, way direction, c link.Condition) {
	w.mu.Lock()
	me, others := "", []string{}
	for name, n := range w.nodes {
		if name == node {
			me = w.address(n, 2)
		} else {
			others = append(others, w.address(n, 2))
		}
	}
	w.mu.Unlock()
	for _, other := range others {
		w.set(me, other, way, c.Frozen)
	}
}

func (w *namespaces) store(node string, way direction, c link.Condition) {
	w.mu.Lock()
	n := w.nodes[node]
	w.mu.Unlock()
	w.set(w.address(n, 2), w.address(255, 3), way, c.Frozen)
}

// set makes the router drop what goes from one address to another, or no more.
func (w *namespaces) set(me, other string, way direction, cut bool) {
	if way != in {
		w.rule(me, other, cut)
	}
	if way != out {
		w.rule(other, me, cut)
	}
}

func (w *namespaces) rule(from, to string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := [2]string{from, to}
	if w.rules[key] == cut {
		return
	}
	verb := "add"
	if !cut {
		verb = "del"
	}
	if err := w.inside(w.router, "rule", verb, "from", from, "to", to, "blackhole")(); err != nil {
		fmt.Fprintln(os.Stderr, "churn:", err)
		return
	}
	if cut {
		w.rules[key] = true
	} else {
		delete(w.rules, key)
	}
}

// forget removes the rules about an address; with "", all.
func (w *namespaces) forget(address string) {
	w.mu.Lock()
	var keys [][2]string
	for key := range w.rules {
		if address == "" || key[0] == address || key[1] == address {
			keys = append(keys, key)
		}
	}
	w.mu.Unlock()
	for _, key := range keys {
		w.rule(key[0], key[1], false)
	}
}

func (w *namespaces) heal() {
	w.forget("")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, way := range w.ways {
		way.Refuse(nil)
	}
}

func (w *namespaces) reset(node string, withStore bool) {
	w.mu.Lock()
	way := w.ways[node]
	w.mu.Unlock()
	if withStore && way != nil {
		way.Refuse(func(string, string) bool { return true })
	}
}

func (w *namespaces) swallow(node string, n int) {
	w.mu.Lock()
	way := w.ways[node]
	w.mu.Unlock()
	if way != nil {
		way.Swallow(n)
	}
}

func (w *namespaces) swallowed(node string) int {
	w.mu.Lock()
	way := w.ways[node]
	w.mu.Unlock()
	if way == nil {
		return 0
	}
	return way.Swallowed()
}

func (w *namespaces) close() error {
	w.mu.Lock()
	var nodes []string
	for node := range w.nodes {
		nodes = append(nodes, node)
	}
	w.mu.Unlock()
	var errs []error
	for _, node := range nodes {
		errs = append(errs, w.gone(node))
	}
	return errors.Join(append(errs, w.bury(), ip("netns", "del", w.router)())...) // with it goes the uplink
}

// sweepNamespaces removes those of runs that were killed.
func sweepNamespaces() {
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ours := strings.CutPrefix(name, namespaceMark)
		if !ours {
			continue
		}
		text, _, _ := strings.Cut(rest, "-")
		if pid, err := strconv.Atoi(text); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = ip("netns", "del", name)() // another run may be sweeping too
		}
	}
}

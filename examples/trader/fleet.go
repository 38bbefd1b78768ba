package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/examples/trader/figures"
	"github.com/ingrain-go/ingrain/examples/trader/robots"
	"github.com/ingrain-go/ingrain/examples/trader/web"
)

// fleet is the node processes of a run.
type fleet struct {
	children []*child
	told     func(string) // says something to the user
}

// child is one node process, as its parent sees it. The parent writes orders to
// its input and reads reports from its output.
type child struct {
	name  string
	cmd   *exec.Cmd
	log   string // where its standard error goes
	input io.WriteCloser
	ready chan struct{} // closed when it is ready, or over
	quiet chan struct{} // closed when it has halted, or is over
	over  chan struct{} // closed when the process has ended

	mu       sync.Mutex
	peer     *web.Peer
	figures  figures.Figures
	complain string // what it said was wrong
	ending   bool   // it was asked to end
	err      error  // of the process, when over
}

// launch starts the processes and returns when all are ready. What they print
// goes to files in the folder logs.
func launch(ctx context.Context, o *options, at place, acks func(node string) string, told func(string)) (_ *fleet, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start nodes: %w", err)
	}
	logs := filepath.Join(o.data, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("start nodes: %w", err)
	}
	f := &fleet{told: told}
	defer func() {
		if err != nil {
			f.stop(0)
		}
	}()
	host, port, err := o.address()
	if err != nil {
		return nil, err
	}
	for n := range o.nodes {
		name := fmt.Sprintf("node-%d", n+1)
		s := spec{
			Name: name, Place: at, Acks: acks(name), Robots: robots.Names(o.robots, n, o.nodes),
			Host: host, Port: port, Fixed: n == 0,
		}
		if port > 0 {
			s.Port += n
		}
		c, err := f.start(program, s, filepath.Join(logs, name+".log"))
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		f.children = append(f.children, c)
		if n == 0 {
			// It finds out first whether everything is as it should be: the
			// store, the port.
			if err := c.await(ctx, c.ready, startPatience+stopPatience); err != nil {
				return nil, err
			}
		}
	}
	for _, c := range f.children {
		if err := c.await(ctx, c.ready, startPatience+stopPatience); err != nil {
			return nil, err
		}
	}
	var peers []web.Peer
	for _, c := range f.children {
		peers = append(peers, *c.peer)
	}
	f.order(order{Do: "peers", Peers: peers})
	return f, nil
}

func (f *fleet) start(program string, s spec, log string) (*child, error) {
	encoded, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the child has its own
	c := &child{name: s.Name, log: log, ready: make(chan struct{}), quiet: make(chan struct{}), over: make(chan struct{})}
	c.cmd = exec.Command(program)
	c.cmd.Env = append(os.Environ(), specEnv+"="+string(encoded))
	c.cmd.Stderr = file
	if c.input, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go f.follow(c, output)
	return c, nil
}

// follow reads a child's reports until it ends. fleet.stop waits for it.
func (f *fleet) follow(c *child, output io.Reader) {
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // something printed to the standard output
		}
		c.hear(r)
	}
	err := c.cmd.Wait()
	c.mu.Lock()
	c.err = err
	expected := c.ending || c.peer == nil // who never was ready is reported by launch
	c.mu.Unlock()
	closeOnce(c.ready)
	closeOnce(c.quiet)
	close(c.over)
	if !expected {
		f.told(fmt.Sprintf("%s (process %d) ended: %s; the others go on", c.name, c.cmd.Process.Pid, c.reason()))
	}
}

func (c *child) hear(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.Ready != nil:
		c.peer = r.Ready
		closeOnce(c.ready)
	case r.Error != "":
		c.complain = r.Error
	}
	if r.Figures != nil {
		c.figures = *r.Figures
	}
	if r.Halted {
		closeOnce(c.quiet)
	}
}

// closeOnce closes a channel that only one goroutine closes, unless it is
// closed.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// reason says why a child is over.
func (c *child) reason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.complain != "":
		return c.complain
	case c.err != nil:
		return c.err.Error()
	}
	return "it left"
}

// await waits for a signal of a child that is alive.
func (c *child) await(ctx context.Context, signal <-chan struct{}, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-signal:
	case <-ctx.Done():
		return fmt.Errorf("interrupted while %s started", c.name)
	case <-timer.C:
		return fmt.Errorf("%s is not ready after %s, see %s", c.name, patience, c.log)
	}
	if !c.alive() || c.peer == nil {
		return errors.New(c.name + ": " + c.reason())
	}
	return nil
}

func (c *child) alive() bool {
	select {
	case <-c.over:
		return false
	default:
		return true
	}
}

// order tells something to all that are alive.
func (f *fleet) order(o order) {
	line, err := json.Marshal(o)
	if err != nil {
		panic(err) // an order is plain data
	}
	for _, c := range f.alive() {
		_, _ = c.input.Write(append(line, '\n')) // who just died is reported by follow
	}
}

func (f *fleet) alive() []*child {
	var out []*child
	for _, c := range f.children {
		if c.alive() {
			out = append(out, c)
		}
	}
	return out
}

// halt stops all trading and waits until it has stopped.
func (f *fleet) halt(patience time.Duration) error {
	f.order(order{Do: "halt"})
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for _, c := range f.children {
		select {
		case <-c.quiet:
		case <-timer.C:
			return fmt.Errorf("%s did not stop trading within %s, see %s", c.name, patience, c.log)
		}
	}
	return nil
}

// kill ends the last node as a crash would.
func (f *fleet) kill() {
	c := f.children[len(f.children)-1]
	f.told(fmt.Sprintf("killing %s (process %d) with SIGKILL", c.name, c.cmd.Process.Pid))
	if err := c.cmd.Process.Kill(); err != nil {
		f.told(fmt.Sprintf("%s was not killed: %v", c.name, err))
	}
}

// total adds up the figures of all nodes, those that ended included.
func (f *fleet) total() figures.Figures {
	var sum figures.Figures
	for _, c := range f.children {
		c.mu.Lock()
		sum.Add(&c.figures)
		c.mu.Unlock()
	}
	return sum
}

// stop asks all processes to end, kills those that do not, and waits for all.
func (f *fleet) stop(patience time.Duration) {
	for _, c := range f.children {
		c.mu.Lock()
		c.ending = true
		c.mu.Unlock()
		_ = c.input.Close() // ended already, if at all
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for _, c := range f.children {
		select {
		case <-c.over:
			c.mu.Lock()
			bad := patience > 0 && c.complain != "" && c.peer != nil
			c.mu.Unlock()
			if bad {
				f.told(c.name + " did not end well: " + c.reason())
			}
			continue
		case <-timer.C:
			timer.Reset(0) // for the others, too
		}
		if patience > 0 {
			f.told(c.name + " does not end and is killed, see " + c.log)
		}
		_ = c.cmd.Process.Kill() // ended already, if at all
		<-c.over
	}
}

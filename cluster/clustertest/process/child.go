// Package process runs the program it is part of once more, as a child, gives
// the child orders, and does to it what happens to processes: it kills, freezes
// and terminates it. It knows nothing of tests.
//
//	func main() {
//		if role, setup, ok := process.Role(); ok {
//			os.Exit(runAsChild(role, setup)) // serves with process.Listen
//		}
//		child, err := process.Start(ctx, process.Spec{Name: "a", Role: "node", Setup: setup})
//		...
//	}
package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// ErrGone is what an order gets whose child has ended before it answered.
var ErrGone = errors.New("the child process has ended")

const (
	// logLimit is how much of a child's log is kept.
	logLimit = 64 << 10
	// abandonPatience is how long a child may take to say what became of an
	// order that was given up.
	abandonPatience = 2 * time.Second
)

// Spec is what to start.
type Spec struct {
	// Name is what errors call the child.
	Name string
	// Role and Setup are what [Role] returns in the child; Setup travels as JSON.
	Role  string
	Setup any
	// Program is the file to run. Default this process's own.
	Program string
	// Args of the command line. Test binaries need "-test.run=^$".
	Args []string
	// Wrap is a command that runs the program, such as one that puts it into a
	// network of its own. It must become the program (exec), not start it.
	Wrap []string
	// Log gets the child's standard error, besides what [Child.Log] keeps. Nil
	// drops it.
	Log io.Writer
	// Launched is called with the child's process id as soon as there is one.
	Launched func(pid int)
}

// Child is a process of ours. All methods are safe for concurrent use. It ends
// when this process does; until then, whoever started it ends it.
type Child struct {
	name   string
	cmd    *exec.Cmd
	orders io.WriteCloser
	copyTo io.Writer
	ready  chan struct{} // closed with the child's first report
	exited chan struct{} // closed when it has been waited for

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan report
	hello   json.RawMessage
	ended   bool  // no report will come any more
	failure error // what the child said when it ended
	log     []byte
}

// Start starts a child and returns when it says that it is ready. When it cannot,
// or not before ctx ends, the error is what it said itself, if it said anything.
func Start(ctx context.Context, s Spec) (*Child, error) {
	setup, err := json.Marshal(s.Setup)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	program := s.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("start %s: %w", s.Name, err)
		}
	}
	c := &Child{
		name: s.Name, copyTo: s.Log, ready: make(chan struct{}), exited: make(chan struct{}), pending: map[uint64]chan report{},
	}
	line := append(append(append([]string(nil), s.Wrap...), program), s.Args...)
	c.cmd = exec.Command(line[0], line[1:]...) // not CommandContext: ctx bounds the start, not the life
	c.cmd.Env = append(os.Environ(), roleVariable+"="+s.Role, setupVariable+"="+string(setup))
	c.cmd.SysProcAttr = dieWithParent()
	c.cmd.Stderr = (*logWriter)(c)
	if c.orders, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	reports, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	if s.Launched != nil {
		s.Launched(c.PID())
	}
	go c.listen(reports) // ends with the child; Close waits for it
	select {
	case <-c.ready:
		return c, nil
	case <-c.exited:
		return nil, c.LastWords()
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("child %s did not start: %w", s.Name, ctx.Err())
	}
}

// listen takes in reports until the child has ended.
func (c *Child) listen(reports io.Reader) {
	lines := json.NewDecoder(bufio.NewReader(reports))
	for {
		var r report
		if err := lines.Decode(&r); err != nil {
			break
		}
		c.take(r)
	}
	c.mu.Lock()
	c.ended = true
	for _, waiting := range c.pending {
		close(waiting)
	}
	clear(c.pending)
	c.mu.Unlock()
	_ = c.cmd.Wait() // how it ended is in ProcessState
	close(c.exited)
}

func (c *Child) take(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.Number != 0:
		if waiting := c.pending[r.Number]; waiting != nil {
			delete(c.pending, r.Number)
			waiting <- r
		}
	case r.Error != nil:
		c.failure = r.Error.error()
	default:
		c.hello = r.Hello
		close(c.ready)
	}
}

// Hello decodes what the child said when it was ready.
func (c *Child) Hello(into any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return json.Unmarshal(c.hello, into)
}

// Call asks the child to do an op and waits for the result, at most as long as
// ctx. Errors of aggregates come back as what they are. A nil result drops it.
func (c *Child) Call(ctx context.Context, op string, args, result any) error {
	encoded, err := json.Marshal(args)
	if err != nil {
		return err
	}
	o := order{Op: op, Args: encoded}
	if deadline, ok := ctx.Deadline(); ok {
		o.Micros = max(time.Until(deadline).Microseconds(), 1)
	}
	waiting := make(chan report, 1)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return ErrGone
	}
	c.next++
	o.Number = c.next
	c.pending[o.Number] = waiting
	c.mu.Unlock()
	if err := c.order(&o); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case r, ok := <-waiting:
		switch {
		case !ok:
			return ErrGone
		case r.Error != nil:
			return r.Error.error()
		case result != nil:
			return json.Unmarshal(r.Result, result)
		}
		return nil
	case <-ctx.Done():
		return c.abandon(ctx, o.Number, waiting)
	}
}

// abandon gives the child a moment to say what became of an order whose time is
// up: a child that runs answers at once, a frozen one does not.
func (c *Child) abandon(ctx context.Context, number uint64, waiting chan report) error {
	_ = c.order(&order{Number: number, Abandon: true}) // a child that is gone has abandoned it
	select {
	case r, ok := <-waiting:
		if ok && r.Error != nil {
			return r.Error.error()
		}
	case <-time.After(abandonPatience):
	}
	c.mu.Lock()
	delete(c.pending, number)
	c.mu.Unlock()
	return fmt.Errorf("order to child %s: %w", c.name, ctx.Err())
}

// order writes one line. It blocks while the child is frozen and the pipe full.
func (c *Child) order(o *order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = c.orders.Write(append(line, '\n'))
	return err
}

// Name is the child's name.
func (c *Child) Name() string { return c.name }

// PID is the child's process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Exited is closed when the child has ended.
func (c *Child) Exited() <-chan struct{} { return c.exited }

// Kill ends the child with SIGKILL and waits until it is gone.
func (c *Child) Kill(ctx context.Context) error { return c.end(ctx, syscall.SIGKILL) }

// Terminate asks the child with SIGTERM to end, waits until it is gone, and
// returns what it could not finish.
func (c *Child) Terminate(ctx context.Context) error {
	if err := c.end(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	return c.LastWords()
}

func (c *Child) end(ctx context.Context, s syscall.Signal) error {
	if err := c.Signal(s); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("child %s did not end after %s: %w", c.name, s, ctx.Err())
	}
}

// Pause freezes the child with SIGSTOP and waits until no thread of it runs.
func (c *Child) Pause(ctx context.Context) error {
	if err := c.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !isStopped(c.PID()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("child %s did not freeze: %w", c.name, ctx.Err())
		}
	}
	return nil
}

// Resume lets a frozen child go on.
func (c *Child) Resume() error { return c.Signal(syscall.SIGCONT) }

// Signal sends a signal and does not wait.
func (c *Child) Signal(s syscall.Signal) error {
	if err := c.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to child %s: %w", s, c.name, err)
	}
	return nil
}

// LastWords is why the child ended; nil when it ended as it was told.
func (c *Child) LastWords() error {
	<-c.exited
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failure != nil:
		return c.failure
	case c.cmd.ProcessState.Success():
		return nil
	}
	return fmt.Errorf("child %s: %s", c.name, c.cmd.ProcessState)
}

// Log is the end of the child's standard error.
func (c *Child) Log() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.log...)
}

// Close kills the child if it still runs, and waits for it. It may be called
// more than once.
func (c *Child) Close() {
	_ = c.cmd.Process.Kill() // it may have ended long ago
	<-c.exited
	_ = c.orders.Close()
}

// logWriter keeps the end of a child's log.
type logWriter Child

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, b...)
	if over := len(w.log) - logLimit; over > 0 {
		w.log = append(w.log[:0], w.log[over:]...)
	}
	if w.copyTo != nil {
		return w.copyTo.Write(b)
	}
	return len(b), nil
}

package clustertest

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
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// launchPatience bounds the start of a child, the making of the store's
	// tables included.
	launchPatience = 30 * time.Second
	// logLimit is how much of a child's log is kept to be shown by a test that
	// fails.
	logLimit = 64 << 10
)

// ErrGone is what an order gets whose child has ended before it answered.
var ErrGone = errors.New("the child process has ended")

// Process is a node in a process of its own. All methods are safe for
// concurrent use. It ends with the test, and with the test's process.
type Process struct {
	t       testing.TB
	name    string
	cmd     *exec.Cmd
	orders  io.WriteCloser
	address string
	started chan struct{} // closed with the child's first report
	exited  chan struct{} // closed when it has been waited for

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan report
	ended   bool  // no report will come any more
	failure error // what the child said when it ended
	log     []byte
}

// Launch starts a child and returns when its node has joined the cluster. The
// child is killed at the end of the test if it still runs.
func Launch(t testing.TB, name string, spec Spec) *Process {
	t.Helper()
	p, err := launch(t, name, spec)
	if err != nil {
		t.Fatalf("launch %s: %v", name, err)
	}
	return p
}

// TryLaunch is Launch for a child that may not be able to start: the error says
// why, in the child's own words.
func TryLaunch(t testing.TB, name string, spec Spec) (*Process, error) {
	t.Helper()
	return launch(t, name, spec)
}

func launch(t testing.TB, name string, spec Spec) (*Process, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	p := &Process{
		t: t, name: name, started: make(chan struct{}), exited: make(chan struct{}), pending: map[uint64]chan report{},
	}
	p.cmd = exec.Command(os.Args[0], "-test.run=^$")
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	p.cmd.SysProcAttr = dieWithParent()
	p.cmd.Stderr = (*logWriter)(p)
	if p.orders, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	reports, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.listen(reports)
	t.Cleanup(p.cleanUp)
	select {
	case <-p.started:
		return p, nil
	case <-p.exited:
		return nil, p.lastWords()
	case <-time.After(launchPatience):
		return nil, fmt.Errorf("the node of child %s did not start within %s", name, launchPatience)
	}
}

// LaunchAll starts n children at the same moment, named a, b, c and so on.
func LaunchAll(t testing.TB, n int, spec Spec) []*Process {
	t.Helper()
	children := make([]*Process, n)
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range children {
		wait.Go(func() { children[i], errs[i] = launch(t, string(rune('a'+i)), spec) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("launch %d children: %v", n, err)
	}
	return children
}

// listen takes in reports until the child has ended.
func (p *Process) listen(reports io.Reader) {
	lines := json.NewDecoder(bufio.NewReader(reports))
	for {
		var r report
		if err := lines.Decode(&r); err != nil {
			break
		}
		p.take(r)
	}
	p.mu.Lock()
	p.ended = true
	for _, waiting := range p.pending {
		close(waiting)
	}
	clear(p.pending)
	p.mu.Unlock()
	_ = p.cmd.Wait() // how it ended is in ProcessState
	close(p.exited)
}

func (p *Process) take(r report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.Number != 0:
		if waiting := p.pending[r.Number]; waiting != nil {
			delete(p.pending, r.Number)
			waiting <- r
		}
	case r.Error != nil:
		p.failure = r.Error.error()
	default:
		p.address = r.Address
		close(p.started)
	}
}

// Call asks the child to do an op and waits for the result, at most as long as
// ctx. Errors of aggregates come back as what they are. A nil result drops it.
func (p *Process) Call(ctx context.Context, op string, args, result any) error {
	encoded, err := json.Marshal(args)
	if err != nil {
		return err
	}
	o := order{Op: op, Args: encoded}
	if deadline, ok := ctx.Deadline(); ok {
		o.Micros = max(time.Until(deadline).Microseconds(), 1)
	}
	waiting := make(chan report, 1)
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return ErrGone
	}
	p.next++
	o.Number = p.next
	p.pending[o.Number] = waiting
	p.mu.Unlock()
	if err := p.order(&o); err != nil {
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
		return p.abandon(ctx, o.Number, waiting)
	}
}

// abandon gives the child a moment to say what became of an order whose time is
// up: a child that runs answers at once, a frozen one does not.
func (p *Process) abandon(ctx context.Context, number uint64, waiting chan report) error {
	_ = p.order(&order{Number: number, Abandon: true}) // a child that is gone has abandoned it
	select {
	case r, ok := <-waiting:
		if ok && r.Error != nil {
			return r.Error.error()
		}
	case <-time.After(abandonPatience):
	}
	p.mu.Lock()
	delete(p.pending, number)
	p.mu.Unlock()
	return fmt.Errorf("order to child %s: %w", p.name, ctx.Err())
}

const abandonPatience = 2 * time.Second

// order writes one line. It blocks while the child is frozen and the pipe full.
func (p *Process) order(o *order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = p.orders.Write(append(line, '\n'))
	return err
}

// Ready waits until the child's node is ready.
func (p *Process) Ready(ctx context.Context) {
	p.t.Helper()
	if err := p.Call(ctx, "ready", nil, nil); err != nil {
		p.t.Fatalf("child %s never became ready: %v", p.name, err)
	}
}

// Stats asks the child's node for its counters.
func (p *Process) Stats(ctx context.Context) cluster.Stats {
	p.t.Helper()
	return ask[cluster.Stats](ctx, p, "stats")
}

// Members asks the child's node for the members it knows.
func (p *Process) Members(ctx context.Context) []persistence.Node {
	p.t.Helper()
	return ask[[]persistence.Node](ctx, p, "members")
}

// Partitions asks the child's node for the partition table it knows.
func (p *Process) Partitions(ctx context.Context) []persistence.Ownership {
	p.t.Helper()
	return ask[[]persistence.Ownership](ctx, p, "partitions")
}

// ID asks the child's node for its present incarnation.
func (p *Process) ID(ctx context.Context) persistence.NodeID {
	p.t.Helper()
	return ask[persistence.NodeID](ctx, p, "id")
}

func ask[R any](ctx context.Context, p *Process, op string) (result R) {
	p.t.Helper()
	if err := p.Call(ctx, op, nil, &result); err != nil {
		p.t.Fatalf("ask child %s for its %s: %v", p.name, op, err)
	}
	return result
}

// Name is what the test calls the child; Address is where its node listens.
func (p *Process) Name() string { return p.name }

// Address is where the child's node listens.
func (p *Process) Address() string { return p.address }

// Kill ends the child with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.gone("SIGKILL")
}

// Pause freezes the child with SIGSTOP and waits until no thread of it runs.
func (p *Process) Pause(ctx context.Context) {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !isStopped(p.cmd.Process.Pid) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("child %s did not freeze: %v", p.name, ctx.Err())
		}
	}
}

// Resume lets a frozen child go on.
func (p *Process) Resume() {
	p.t.Helper()
	p.signal(syscall.SIGCONT)
}

// Terminate asks the child with SIGTERM to leave the cluster, waits until it is
// gone, and returns what it could not finish.
func (p *Process) Terminate() error {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.gone("SIGTERM")
	return p.lastWords()
}

func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("send %s to child %s: %v", s, p.name, err)
	}
}

func (p *Process) gone(why string) {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(stopPatience + launchPatience):
		p.t.Fatalf("child %s did not end after %s", p.name, why)
	}
}

// lastWords is why the child ended; nil when it left as it was told.
func (p *Process) lastWords() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.failure != nil:
		return p.failure
	case p.cmd.ProcessState.Success():
		return nil
	}
	return fmt.Errorf("child %s: %s", p.name, p.cmd.ProcessState)
}

// cleanUp ends the child if the test has not, and shows the log of a failed
// test.
func (p *Process) cleanUp() {
	_ = p.cmd.Process.Kill() // it may have ended long ago
	<-p.exited
	_ = p.orders.Close()
	if p.t.Failed() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Logf("log of child %s:\n%s", p.name, p.log)
	}
}

// logWriter keeps the end of a child's log.
type logWriter Process

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, b...)
	if over := len(w.log) - logLimit; over > 0 {
		w.log = append(w.log[:0], w.log[over:]...)
	}
	return len(b), nil
}

package clustertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
	"github.com/ingrain-go/ingrain/persistence"
)

// launchPatience bounds the start of a child, the making of the store's tables
// included.
const launchPatience = 30 * time.Second

// ErrGone is what an order gets whose child has ended before it answered.
var ErrGone = process.ErrGone

// Process is a node in a process of its own. All methods are safe for
// concurrent use. It ends with the test, and with the test's process.
type Process struct {
	t       testing.TB
	child   *process.Child
	address string
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
	ctx, cancel := context.WithTimeout(context.Background(), launchPatience)
	defer cancel()
	start := process.Spec{Name: name, Role: childRole, Setup: spec, Program: spec.Binary}
	if spec.Binary == "" {
		start.Args = []string{"-test.run=^$"}
	}
	child, err := process.Start(ctx, start)
	if err != nil {
		return nil, err
	}
	p := &Process{t: t, child: child}
	t.Cleanup(p.cleanUp)
	var h hello
	if err := child.Hello(&h); err != nil {
		return nil, err
	}
	p.address = h.Address
	return p, nil
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

// Call asks the child to do an op and waits for the result, at most as long as
// ctx. Errors of aggregates come back as what they are. A nil result drops it.
func (p *Process) Call(ctx context.Context, op string, args, result any) error {
	return p.child.Call(ctx, op, args, result)
}

// Ready waits until the child's node is ready.
func (p *Process) Ready(ctx context.Context) {
	p.t.Helper()
	if err := p.Call(ctx, "ready", nil, nil); err != nil {
		p.t.Fatalf("child %s never became ready: %v", p.Name(), err)
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
		p.t.Fatalf("ask child %s for its %s: %v", p.Name(), op, err)
	}
	return result
}

// Name is what the test calls the child.
func (p *Process) Name() string { return p.child.Name() }

// PID is the child's process id.
func (p *Process) PID() int { return p.child.PID() }

// Log is the end of what the child's node has logged.
func (p *Process) Log() string { return string(p.child.Log()) }

// Address is where the child's node listens.
func (p *Process) Address() string { return p.address }

// Kill ends the child with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	ctx, cancel := endPatience()
	defer cancel()
	p.must(p.child.Kill(ctx))
}

// Pause freezes the child with SIGSTOP and waits until no thread of it runs.
func (p *Process) Pause(ctx context.Context) {
	p.t.Helper()
	p.must(p.child.Pause(ctx))
}

// Resume lets a frozen child go on.
func (p *Process) Resume() {
	p.t.Helper()
	p.must(p.child.Resume())
}

// Terminate asks the child with SIGTERM to leave the cluster, waits until it is
// gone, and returns what it could not finish.
func (p *Process) Terminate() error {
	p.t.Helper()
	ctx, cancel := endPatience()
	defer cancel()
	err := p.child.Terminate(ctx)
	if ctx.Err() != nil {
		p.t.Fatal(err)
	}
	return err
}

func endPatience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), stopPatience+launchPatience)
}

func (p *Process) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// cleanUp ends the child if the test has not, and shows the log of a failed
// test.
func (p *Process) cleanUp() {
	p.child.Close()
	if p.t.Failed() {
		p.t.Logf("log of child %s:\n%s", p.Name(), p.child.Log())
	}
}

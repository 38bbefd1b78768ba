package clustertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// Program is what a child process can run: a node with these aggregates.
type Program struct {
	Name       string
	Aggregates []aggregate.Any
	// Ops are what the parent can ask of the child's node, besides the ones that
	// every child knows: "ready", "stats", "members", "partitions".
	Ops map[string]Op
}

// Op does something with the node on behalf of the parent. Args and result
// travel as JSON. The context ends when the parent gives up.
type Op func(ctx context.Context, node *cluster.Node, args json.RawMessage) (any, error)

// Do makes an Op of a function with typed arguments.
func Do[Args, Result any](f func(ctx context.Context, node *cluster.Node, args Args) (Result, error)) Op {
	return func(ctx context.Context, node *cluster.Node, raw json.RawMessage) (any, error) {
		var args Args
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, fmt.Errorf("decode %T: %w", args, err)
			}
		}
		return f(ctx, node, args)
	}
}

// childVariable holds the Spec of a child process.
const childVariable = "INGRAIN_CLUSTERTEST_CHILD"

// stopPatience bounds how long a child takes to leave the cluster.
const stopPatience = 20 * time.Second

// Main runs the tests of a package whose test binary is also the child process
// of its tests:
//
//	func TestMain(m *testing.M) { clustertest.Main(m, program) }
//
// It also stops the PostgreSQL server that the tests may have started. It does
// not return.
func Main(m *testing.M, programs ...Program) {
	text, isChild := os.LookupEnv(childVariable)
	if !isChild {
		os.Exit(postgrestest.Main(m))
	}
	c := &child{out: json.NewEncoder(os.Stdout), pending: map[uint64]context.CancelFunc{}}
	if err := c.run(text, programs); err != nil {
		c.tell(report{Error: problemOf(err)})
		os.Exit(1)
	}
	os.Exit(0)
}

// child is this process, when it is one.
type child struct {
	program *Program
	node    *cluster.Node

	mu      sync.Mutex
	out     *json.Encoder
	pending map[uint64]context.CancelFunc
	work    sync.WaitGroup
}

func (c *child) run(text string, programs []Program) (err error) {
	var spec Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("decode the child's spec: %w", err)
	}
	for i := range programs {
		if programs[i].Name == spec.Program {
			c.program = &programs[i]
		}
	}
	if c.program == nil {
		return fmt.Errorf("no program %q was given to clustertest.Main", spec.Program)
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), launchPatience)
	defer cancel()
	store, err := spec.Store.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	config := spec.Cluster.config()
	config.Store, config.Aggregates = store, c.program.Aggregates
	if c.node, err = cluster.Start(ctx, &config); err != nil {
		return err
	}
	go c.obey() // ends with the process
	c.tell(report{Address: c.node.Address()})
	<-terminate
	stopping, cancelStop := context.WithTimeout(context.Background(), stopPatience)
	defer cancelStop()
	err = c.node.Stop(stopping)
	c.work.Wait()
	return err
}

// obey carries out the parent's orders. Without a parent there is nothing to
// live for.
func (c *child) obey() {
	lines := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var o order
		if err := lines.Decode(&o); err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "orders:", err)
			}
			os.Exit(3)
		}
		c.mu.Lock()
		if o.Abandon {
			if cancel := c.pending[o.Number]; cancel != nil {
				cancel()
			}
			c.mu.Unlock()
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		if o.Micros > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), time.Duration(o.Micros)*time.Microsecond)
		}
		c.pending[o.Number] = cancel
		c.mu.Unlock()
		c.work.Go(func() {
			c.tell(c.do(ctx, &o))
			cancel()
			c.mu.Lock()
			delete(c.pending, o.Number)
			c.mu.Unlock()
		})
	}
}

func (c *child) do(ctx context.Context, o *order) report {
	result, err := c.op(ctx, o)
	if err != nil {
		return report{Number: o.Number, Error: problemOf(err)}
	}
	encoded, err := json.Marshal(result)
	if err != nil {
		return report{Number: o.Number, Error: problemOf(err)}
	}
	return report{Number: o.Number, Result: encoded}
}

func (c *child) op(ctx context.Context, o *order) (any, error) {
	switch o.Op {
	case "ready":
		return nil, c.node.Ready(ctx)
	case "stats":
		return c.node.Stats(), nil
	case "members":
		return c.node.Members(), nil
	case "partitions":
		return c.node.Partitions(), nil
	case "id":
		return c.node.ID(), nil
	}
	op := c.program.Ops[o.Op]
	if op == nil {
		return nil, fmt.Errorf("program %q has no op %q", c.program.Name, o.Op)
	}
	return op(ctx, c.node, o.Args)
}

// tell writes one line. If nobody reads it, the end of standard input says so.
func (c *child) tell(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(r)
}

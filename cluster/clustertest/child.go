package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// Program is what a child process can run: a node with these aggregates.
type Program struct {
	Name       string
	Aggregates []aggregate.Any
	// Projections are made anew by each child; nil for none.
	Projections func(store persistence.Store) []eventsourcing.Projection
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

// childRole is the role of the children of a test.
const childRole = "clustertest"

// hello is what a child says when its node has started.
type hello struct{ Address string }

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
	if _, _, isChild := process.Role(); !isChild {
		os.Exit(postgrestest.Main(m))
	}
	Serve(programs...)
}

// Serve is the main function of a binary that is only ever a child: see
// [Spec.Binary]. It does not return.
func Serve(programs ...Program) {
	_, setup, isChild := process.Role()
	if !isChild {
		fmt.Fprintln(os.Stderr, "this program is a child process of a test")
		os.Exit(2)
	}
	c := &child{orders: process.Listen()}
	if err := c.run(setup, programs); err != nil {
		c.orders.Fail(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is this process, when it is one.
type child struct {
	program *Program
	node    *cluster.Node
	orders  *process.Server
}

func (c *child) run(setup json.RawMessage, programs []Program) (err error) {
	var spec Spec
	if err := json.Unmarshal(setup, &spec); err != nil {
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
	ctx, cancel := context.WithTimeout(context.Background(), launchPatience)
	defer cancel()
	store, err := spec.Store.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	config := spec.Cluster.config()
	config.Store, config.Aggregates = store, c.program.Aggregates
	if c.program.Projections != nil {
		config.Projections = c.program.Projections(store)
	}
	if c.node, err = cluster.Start(ctx, &config); err != nil {
		return err
	}
	if err := c.orders.Ready(hello{c.node.Address()}, c.op); err != nil {
		return err
	}
	<-c.orders.Terminated()
	stopping, cancelStop := context.WithTimeout(context.Background(), stopPatience)
	defer cancelStop()
	err = c.node.Stop(stopping)
	c.orders.Wait()
	return err
}

func (c *child) op(ctx context.Context, op string, args json.RawMessage) (any, error) {
	switch op {
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
	do := c.program.Ops[op]
	if do == nil {
		return nil, fmt.Errorf("program %q has no op %q", c.program.Name, op)
	}
	return do(ctx, c.node, args)
}

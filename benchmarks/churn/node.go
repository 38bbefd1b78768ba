package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
	"github.com/ingrain-go/ingrain/persistence"
)

const (
	startPatience = 30 * time.Second
	stopPatience  = 20 * time.Second
)

// nodeSetup is what a node process is told.
type nodeSetup struct {
	Name      string
	Store     clustertest.Store
	Listen    string
	Advertise string
	Desk      string // host where it listens for clients
	Lease     time.Duration
	LockDir   string
	IdleAfter time.Duration
	Baseline  baseline
}

// baseline is what others do instead, or what is left out.
type baseline struct {
	NoFence        bool // a deposed owner appends all the same
	NoDedup        bool // clients ask again under a new command id
	NoCache        bool // every command loads its aggregate
	LockPerCommand bool // every command takes a lock in the database
}

func (b baseline) unsafe() bool { return b.NoFence || b.NoDedup }
func (b baseline) slow() bool   { return b.NoCache || b.LockPerCommand }

// nodeHello is what it says when it has joined.
type nodeHello struct {
	Address string // of the desk
	Peer    string // as peers see it
	ID      persistence.NodeID
}

// nodeFigures are its counters: the node's own, and those of its store.
type nodeFigures struct {
	ID    persistence.NodeID
	Node  cluster.Stats
	Store storeFigures
}

// runNode is the main function of a node process.
func runNode(setup json.RawMessage) int {
	orders := process.Listen()
	if err := serveNode(setup, orders); err != nil {
		orders.Fail(err)
		fmt.Fprintln(os.Stderr, "node:", err)
		return 1
	}
	return 0
}

func serveNode(raw json.RawMessage, orders *process.Server) (err error) {
	var setup nodeSetup
	if err := json.Unmarshal(raw, &setup); err != nil {
		return fmt.Errorf("decode the node's setup: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	inner, err := setup.Store.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inner.Close()) }()
	store := &countingStore{Store: inner}
	config := cluster.Config{
		Store: store, Aggregates: aggregates, Listen: setup.Listen, Advertise: setup.Advertise, Lease: setup.Lease,
		LockDir: setup.LockDir, IdleAfter: setup.IdleAfter,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if setup.Baseline.NoFence {
		config.Store = &unfencedStore{store}
	}
	if setup.Baseline.NoCache {
		config.MaxResident, config.IdleAfter = 1, time.Millisecond
	}
	node, err := cluster.Start(ctx, &config)
	if err != nil {
		return err
	}
	here = func() string { return string(node.ID()) }
	var gateway aggregate.Gateway = node
	if setup.Baseline.LockPerCommand {
		locks, err := openLocks(ctx, setup.Store)
		if err != nil {
			return errors.Join(err, node.Stop(ctx))
		}
		defer func() { err = errors.Join(err, locks.close()) }()
		gateway = &lockingGateway{node, locks}
	}
	desk, err := openDesk(setup.Desk, gateway)
	if err != nil {
		return errors.Join(err, node.Stop(ctx))
	}
	hello := nodeHello{Address: desk.listener.Addr().String(), Peer: node.Address(), ID: node.ID()}
	err = orders.Ready(hello, func(ctx context.Context, op string, _ json.RawMessage) (any, error) {
		switch op {
		case "ready":
			return nil, node.Ready(ctx)
		case "figures":
			return nodeFigures{ID: node.ID(), Node: node.Stats(), Store: store.figures()}, nil
		}
		return nil, fmt.Errorf("a node has no op %q", op)
	})
	if err != nil {
		return err
	}
	<-orders.Terminated()
	desk.drain()
	stopping, cancelStop := context.WithTimeout(context.Background(), stopPatience)
	defer cancelStop()
	err = node.Stop(stopping)
	desk.close()
	orders.Wait()
	return err
}

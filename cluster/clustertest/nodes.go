// Package clustertest starts several nodes, in the test's own process or each in
// a process of its own, kills, freezes and disconnects them, and checks what is
// in the store afterwards. Every wait has a deadline and says what it awaited.
package clustertest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
)

// startPatience bounds the start and the stop of a node in this process.
const startPatience = 30 * time.Second

// Start starts a node in this process and stops it at the end of the test,
// unless the test has.
func Start(t testing.TB, config *cluster.Config) *cluster.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	n, err := cluster.Start(ctx, config)
	if err != nil {
		t.Fatalf("start a node: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startPatience)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			t.Errorf("stop node %s: %v", n.Address(), err)
		}
	})
	return n
}

// StartAll starts n nodes at the same moment, and stops them at the end of the
// test. The configuration is made for each of them.
func StartAll(t testing.TB, n int, config func(i int) *cluster.Config) []*cluster.Node {
	t.Helper()
	nodes := make([]*cluster.Node, n)
	errs := make([]error, n)
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	var wait sync.WaitGroup
	for i := range nodes {
		c := config(i)
		wait.Go(func() { nodes[i], errs[i] = cluster.Start(ctx, c) })
	}
	wait.Wait()
	t.Cleanup(func() { stopAll(t, nodes) })
	for i, err := range errs {
		if err != nil {
			t.Fatalf("start node %d of %d: %v", i+1, n, err)
		}
	}
	return nodes
}

func stopAll(t testing.TB, nodes []*cluster.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	var wait sync.WaitGroup
	for _, n := range nodes {
		if n == nil {
			continue
		}
		wait.Go(func() {
			if err := n.Stop(ctx); err != nil {
				t.Errorf("stop node %s: %v", n.Address(), err)
			}
		})
	}
	wait.Wait()
}

// Ready waits until every partition is owned and every node knows.
func Ready(t testing.TB, nodes ...*cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	for _, n := range nodes {
		if err := n.Ready(ctx); err != nil {
			t.Fatalf("node %s never became ready: %v", n.Address(), err)
		}
	}
}

// Settled waits until every node sees the same members, all of them active, and
// every partition with the same owner in equal shares.
func Settled(t testing.TB, nodes ...*cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		Ready(t, nodes...)
		var views []View
		for _, n := range nodes {
			views = append(views, View{Members: n.Members(), Partitions: n.Partitions()})
		}
		why := Unsettled(len(nodes), views...)
		if why == "" {
			Ready(t, nodes...) // at this very table
			for i, n := range nodes {
				if !slices.Equal(views[i].Partitions, n.Partitions()) {
					why = "the partition table keeps changing"
				}
			}
		}
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d nodes did not settle: %s", len(nodes), why)
		}
	}
}

package cluster_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// What protoactor leaves running after its own shutdown: the throttles of its
// gossip, for a minute, and of its dead letters, for a second; and for a node that was gone when it was last sent
// something, two seconds of sleep and a gRPC connection that is never closed.
var protoactorLeaks = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/cluster.(*Gossiper).StartGossiping.NewThrottle.func3.1"),
	goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/cluster.NewGossipActor.NewThrottleWithLogger.func2.1"),
	goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/actor.NewDeadLetter.NewThrottle.func4.1"),
	goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/remote.(*endpointWriter).initialize"),
	goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/grpcsync.(*CallbackSerializer).run"),
	goleak.IgnoreAnyFunction("google.golang.org/grpc.(*addrConn).resetTransportAndUnlock"),
}

func openMemory(t *testing.T) *memory.Store {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	return store
}

func TestStopLeavesNothingRunning(t *testing.T) {
	options := append([]goleak.Option{goleak.IgnoreCurrent()}, protoactorLeaks...)
	store := openMemory(t)
	config := func() *cluster.Config {
		return &cluster.Config{Store: store, Aggregates: []aggregate.Any{counters, registers}}
	}
	a, err := cluster.Start(t.Context(), config())
	require.NoError(t, err)
	b, err := cluster.Start(t.Context(), config())
	require.NoError(t, err)
	clustertest.Settled(t, a, b)
	for _, n := range []*cluster.Node{a, b} {
		for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
			_, err := counters.Ref(n, id).Send(within(t, patience), add{N: 1})
			require.NoError(t, err)
		}
	}
	require.NoError(t, b.Stop(within(t, patience)))
	last := a.ID()
	require.NoError(t, a.Stop(within(t, patience)))
	require.Equal(t, last, a.ID(), "it still tells who it was")
	goleak.VerifyNone(t, options...)
}

func TestTakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	options := append([]goleak.Option{goleak.IgnoreCurrent()}, protoactorLeaks...)
	store := openMemory(t)
	n, err := cluster.Start(t.Context(), &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{counters}, Listen: taken.Addr().String(),
	})
	require.Nil(t, n)
	require.ErrorContains(t, err, taken.Addr().String())
	require.ErrorContains(t, err, "in use")
	view, err := store.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, view.Nodes, "it did not join")
	goleak.VerifyNone(t, options...)
}

func TestWrongListen(t *testing.T) {
	options := append([]goleak.Option{goleak.IgnoreCurrent()}, protoactorLeaks...)
	for _, listen := range []string{"nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1", "[::1", "no.such.host.invalid:0"} {
		started := make(chan error, 1)
		go func() {
			_, err := cluster.Start(context.Background(), &cluster.Config{
				Store: openMemory(t), Aggregates: []aggregate.Any{counters}, Listen: listen,
			})
			started <- err
		}()
		select {
		case err := <-started:
			require.Error(t, err, listen)
			require.ErrorContains(t, err, "cluster: ")
		case <-time.After(patience):
			t.Fatalf("Start with Listen %q neither fails nor returns", listen)
		}
	}
	goleak.VerifyNone(t, options...)
}

func TestListenOnAllInterfacesNeedsAdvertise(t *testing.T) {
	store := openMemory(t)
	for _, listen := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		n, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}, Listen: listen})
		require.Nil(t, n)
		require.ErrorContains(t, err, "Config.Advertise")
		require.ErrorContains(t, err, listen)
	}
	view, err := store.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, view.Nodes, "none joined")
}

// A second cluster on the store of the first: over the real network, so that all
// of it has to be taken down again.
func TestAnotherClustersStore(t *testing.T) {
	store := openMemory(t)
	first := clustertest.Start(t, &cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}})
	n, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: []aggregate.Any{counters}, Name: "another"})
	require.Nil(t, n)
	require.ErrorContains(t, err, "another")
	require.Len(t, first.Members(), 1)
}

func TestChildSaysWhyItCannotStart(t *testing.T) {
	s := spec(t, clustertest.SQLite(t, partitions))
	s.Cluster.Listen = "127.0.0.1:x"
	_, err := clustertest.TryLaunch(t, "a", s)
	require.ErrorContains(t, err, "127.0.0.1:x")
	s.Program = "nothing"
	_, err = clustertest.TryLaunch(t, "b", s)
	require.ErrorContains(t, err, "nothing")
}

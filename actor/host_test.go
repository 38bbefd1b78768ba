package actor_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

const partitions = 16

type counter struct{ N int }
type event = aggregate.Event[counter]

type add struct{ N int }

func (c add) Decide(s counter) ([]event, error) {
	if c.N < 0 {
		return nil, errNegative
	}
	if c.N == 0 {
		return nil, nil
	}
	return []event{added(c)}, nil
}

// Answer makes add a command that answers.
func (c add) Answer(s counter) (int, error) { return s.N, nil }

type added struct{ N int }

func (e added) Evolve(s *counter) { s.N += e.N }

type total struct{}

func (total) Answer(s counter) (int, error) { return s.N, nil }

type boom struct{}

func (boom) Decide(counter) ([]event, error) { panic("boom") }

var errNegative = aggregate.Reject("negative", "cannot add a negative number")

var counters = aggregate.Define("counter",
	aggregate.Accepts[add]("add"), aggregate.Accepts[boom]("boom"), aggregate.Records[added]("added"), aggregate.Answers[total]("total"))

// quietSystem is a protoactor system that does not log.
func quietSystem() *proto.ActorSystem {
	return proto.NewActorSystem(proto.WithLoggerFactory(func(*proto.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
}

// startHost starts a host that owns every partition of the store, under a lease
// without end.
func startHost(t testing.TB, store persistence.Store, change func(*actor.Config)) *actor.Host {
	ctx := context.Background()
	node := persistence.NodeID("n-" + aggregate.NewCommandID().String())
	require.NoError(t, store.Join(ctx, persistence.Node{ID: node, Cluster: "test", State: persistence.Active}))
	config := actor.Config{System: quietSystem(), Store: store, Node: node, Types: []aggregate.Any{counters}}
	if change != nil {
		change(&config)
	}
	host, err := actor.Start(config)
	require.NoError(t, err)
	view, err := store.View(ctx)
	require.NoError(t, err)
	for _, p := range view.Partitions {
		tenure, err := store.Claim(ctx, p.Partition, p.Epoch, node)
		require.NoError(t, err)
		host.Own(tenure, 0)
	}
	host.ExtendLease(host.Clock().Now() + time.Hour)
	t.Cleanup(func() { stopHost(t, host); config.System.Shutdown() })
	return host
}

func stopHost(t testing.TB, host *actor.Host) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, host.Stop(ctx))
}

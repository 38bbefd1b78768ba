package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	proto "github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

// stranger is a runtime without a cluster: it knows the store and nobody else,
// and takes whatever partition it needs, whoever has it.
type stranger struct {
	store  persistence.Store
	host   *actor.Host
	id     persistence.NodeID
	claims sync.Mutex
	taken  atomic.Uint64
}

func newStranger(t *testing.T, where clustertest.Store, id persistence.NodeID) *stranger {
	t.Helper()
	ctx := within(t, patience)
	store, err := where.Open(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Join(ctx, persistence.Node{ID: id, Cluster: "strangers", Address: string(id) + ":1", State: persistence.Active}))
	system := proto.NewActorSystem(proto.WithLoggerFactory(func(*proto.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	t.Cleanup(system.Shutdown)
	host, err := actor.Start(actor.Config{System: system, Store: store, Node: id, Types: []aggregate.Any{counters}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, host.Stop(within(t, patience))) })
	return &stranger{store: store, host: host, id: id}
}

// take claims a partition that the runtime does not have.
func (s *stranger) take(ctx context.Context, p persistence.Partition) error {
	s.claims.Lock()
	defer s.claims.Unlock()
	if s.host.Epoch(p) != 0 {
		return nil
	}
	view, err := s.store.View(ctx)
	if err != nil {
		return err
	}
	tenure, err := s.store.Claim(ctx, p, view.Partitions[p].Epoch, s.id)
	var lost *persistence.ClaimLostError
	if errors.As(err, &lost) {
		return nil // the other was faster: ask again
	}
	if err != nil {
		return err
	}
	s.taken.Add(1)
	s.host.Own(tenure, 0)
	return nil
}

// Deliver implements aggregate.Gateway. It asks until the command is done.
func (s *stranger) Deliver(ctx context.Context, r *aggregate.Request) (aggregate.Response, error) {
	stream := persistence.Stream{Type: r.Definition.Name(), ID: r.ID}
	p := persistence.PartitionOf(stream, s.store.Meta().Partitions)
	for {
		if err := s.take(ctx, p); err != nil {
			return aggregate.Response{}, err
		}
		reply := make(awaited, 1)
		s.host.Deliver(&actor.Call{Request: r, Stream: stream, Partition: p, Reply: reply})
		result := <-reply
		kind := aggregate.KindOf(result.Err)
		if ctx.Err() != nil || kind != aggregate.KindNotDone && kind != aggregate.KindUnknown {
			return result.Response, result.Err
		}
	}
}

// awaited is where a call's result is awaited.
type awaited chan actor.Result

func (a awaited) Reply(_ *actor.Call, r actor.Result) { a <- r }

// Two runtimes that know nothing of each other write to the same aggregates.
// Neither has a lock that the other would see: what keeps the streams whole is the
// fence in the store.
func TestDrillTwoRuntimesWithoutACluster(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		const callers, commands, ids = 4, 100, 3
		runtimes := []*stranger{newStranger(t, store, "one"), newStranger(t, store, "two")}
		ctx := within(t, patience)
		var mu sync.Mutex
		var acked []ack
		var errs []error
		together(len(runtimes)*callers, func(i int) {
			runtime := runtimes[i%len(runtimes)]
			for n := range commands {
				a := ack{id: fmt.Sprint("shared-", n%ids), command: aggregate.NewCommandID()}
				receipt, err := counters.Ref(runtime, a.id).Send(ctx, add{N: 1}, aggregate.WithCommandID(a.command))
				a.receipt = receipt
				mu.Lock()
				acked, errs = append(acked, a), append(errs, err)
				mu.Unlock()
			}
		})
		require.NoError(t, errors.Join(errs...))
		audit(t, store, "shared-", acked)
		one, two := runtimes[0], runtimes[1]
		fenced := one.host.Stats().Fenced + two.host.Stats().Fenced
		require.NotZero(t, fenced, "they have been in each other's way")
		require.Greater(t, one.taken.Load()+two.taken.Load(), uint64(2*ids), "again and again")
		t.Logf("%d commands on %d aggregates; they took partitions from each other %d and %d times, %d appends were fenced: 0 lost, 0 twice",
			len(acked), ids, one.taken.Load(), two.taken.Load(), fenced)
	})
}

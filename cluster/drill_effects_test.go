package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// visitor signs up under a name that nobody else has, and is greeted later.
type visitor struct {
	Name  string
	Greet int
}

type signUp struct {
	Name string
	// Greet is when; zero for never.
	Greet time.Time
}

func (c signUp) Decide(v visitor) ([]aggregate.Event[visitor], error) {
	if v.Name != "" {
		return nil, aggregate.Reject("signed-up", "has a name already")
	}
	return []aggregate.Event[visitor]{signedUp(c)}, nil
}

type signedUp struct {
	Name  string
	Greet time.Time
}

func (e signedUp) Evolve(v *visitor) { v.Name = e.Name }

func (e signedUp) Claims() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "visitor", Key: e.Name}}
}

func (e signedUp) Timers() []aggregate.Timer[visitor] {
	if e.Greet.IsZero() {
		return nil
	}
	return []aggregate.Timer[visitor]{{Name: "greet", Due: e.Greet, Command: greet{}}}
}

type greet struct{}

func (greet) Decide(visitor) ([]aggregate.Event[visitor], error) {
	return []aggregate.Event[visitor]{greeted{}}, nil
}

type greeted struct{}

func (greeted) Evolve(v *visitor) { v.Greet++ }

type signOff struct{}

func (signOff) Decide(v visitor) ([]aggregate.Event[visitor], error) {
	return []aggregate.Event[visitor]{signedOff{v.Name}}, nil
}

type signedOff struct{ Name string }

func (signedOff) Evolve(v *visitor) { v.Name = "" }

func (e signedOff) Releases() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "visitor", Key: e.Name}}
}

func (signedOff) Cancels() []string { return []string{"greet"} }

var visitors = aggregate.Define("visitor",
	aggregate.Accepts[signUp]("sign-up"), aggregate.Accepts[signOff]("sign-off"), aggregate.Accepts[greet]("greet"),
	aggregate.Records[signedUp]("signed-up"), aggregate.Records[signedOff]("signed-off"), aggregate.Records[greeted]("greeted"))

// visit is what the ops are asked to do.
type visit struct {
	ID      string
	Name    string
	Greet   time.Time
	Command aggregate.CommandID
}

// effectsProgram is a node with claims and timers.
var effectsProgram = clustertest.Program{
	Name:       "effects",
	Aggregates: []aggregate.Any{visitors},
	Ops: map[string]clustertest.Op{
		"sign-up": clustertest.Do(func(ctx context.Context, n *cluster.Node, v visit) (aggregate.Receipt, error) {
			return visitors.Ref(n, v.ID).Send(ctx, signUp{v.Name, v.Greet}, aggregate.WithCommandID(v.Command))
		}),
		"sign-off": clustertest.Do(func(ctx context.Context, n *cluster.Node, v visit) (aggregate.Receipt, error) {
			return visitors.Ref(n, v.ID).Send(ctx, signOff{}, aggregate.WithCommandID(v.Command))
		}),
	},
}

// turnUp asks any node, again under the same id if it has to be, until there is an
// answer.
func turnUp(t *testing.T, nodes *balancer, op string, v visit) error {
	v.Command = aggregate.NewCommandID()
	ctx := within(t, clientPatience)
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptPatience)
		_, err := nodes.call(attempt, op, v, nil)
		cancel()
		switch kind := aggregate.KindOf(err); {
		case err == nil, kind == aggregate.KindRejected, kind == aggregate.KindInvalid, ctx.Err() != nil:
			return err
		}
	}
}

// requireEffects checks claims and timers against the log.
func requireEffects(t *testing.T, store persistence.Store) {
	t.Helper()
	differences, err := eventsourcing.CheckEffects(within(t, patience), store, time.Now(), visitors)
	require.NoError(t, err)
	require.Empty(t, differences)
}

func effectNodes(t *testing.T, at clustertest.Store) ([]*clustertest.Process, persistence.Store) {
	s := spec(t, at)
	s.Program = effectsProgram.Name
	nodes := clustertest.LaunchAll(t, 3, s)
	settled(t, nodes...)
	oldEnough(t, nodes...)
	store, err := at.Open(within(t, patience))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return nodes, store
}

// 200 visitors of all partitions want one name, and a node is killed while they
// ask for it.
func TestDrillSignUp(t *testing.T) {
	const many, before = 200, 40
	onEveryStore(t, func(t *testing.T, at clustertest.Store) {
		nodes, store := effectNodes(t, at)
		all := balance(nodes...)
		for round := range 3 {
			name := fmt.Sprint("ada-", round)
			var answered, won atomic.Int64
			var winner atomic.Value
			half, results := make(chan struct{}), make([]error, many)
			var over sync.WaitGroup
			for i := range many {
				over.Go(func() {
					id := fmt.Sprintf("visitor-%d-%d", round, i)
					if results[i] = turnUp(t, all, "sign-up", visit{ID: id, Name: name}); results[i] == nil {
						won.Add(1)
						winner.Store(id)
					}
					if answered.Add(1) == before {
						close(half)
					}
				})
			}
			if round == 1 {
				<-half
				nodes[0].Kill()
				all.drop(nodes[0])
			}
			over.Wait()
			for _, err := range results {
				if err != nil {
					require.ErrorIs(t, err, aggregate.ErrClaimTaken)
				}
			}
			require.Equal(t, int64(1), won.Load(), "winners of round %d", round)
			holder, found, err := store.FindClaim(within(t, patience), persistence.Claim{Namespace: "visitor", Key: name})
			require.NoError(t, err)
			require.True(t, found)
			require.Equal(t, persistence.Stream{Type: "visitor", ID: winner.Load().(string)}, holder)

			require.NoError(t, turnUp(t, all, "sign-off", visit{ID: holder.ID}))
			require.NoError(t, turnUp(t, all, "sign-up", visit{ID: "next-" + name, Name: name}), "what was released is not free")
		}
		settled(t, nodes[1:]...)
		requireEffects(t, store)
		t.Logf("3 names, %d sign-ups each: one winner of each; %d commits of unknown outcome", many,
			count(within(t, patience), nodes[1:], func(s cluster.Stats) uint64 { return s.Host.Unknown }))
	})
}

// Timers are due all the time; the owner of a third of them is killed.
func TestDrillTimers(t *testing.T) {
	const many, apart, before = 300, 15 * time.Millisecond, 40
	onEveryStore(t, func(t *testing.T, at clustertest.Store) {
		nodes, store := effectNodes(t, at)
		all := balance(nodes...)
		begin := time.Now().Add(2 * time.Second)
		dues := map[string]time.Time{}
		var over sync.WaitGroup
		for i := range many {
			id, due := fmt.Sprint("visitor-", i), begin.Add(time.Duration(i)*apart).UTC().Truncate(time.Microsecond)
			dues[id] = due
			over.Go(func() { require.NoError(t, turnUp(t, all, "sign-up", visit{ID: id, Name: id, Greet: due})) })
		}
		over.Wait()
		ctx := within(t, 2*patience)
		fired := func(of []*clustertest.Process) uint64 {
			return count(ctx, of, func(s cluster.Stats) uint64 { return s.Host.TimersFired })
		}
		require.Eventually(t, func() bool { return fired(nodes) >= before }, patience, 5*time.Millisecond, "timers fire")
		killed := time.Now()
		nodes[0].Kill()
		settled(t, nodes[1:]...)
		taken := time.Now()

		greetings := map[string]persistence.Event{}
		cursors := make([]persistence.Cursor, partitions)
		for p := range cursors {
			cursors[p].Partition = persistence.Partition(p)
		}
		require.Eventually(t, func() bool {
			events, err := store.Tail(ctx, cursors, 1000)
			require.NoError(t, err)
			for _, e := range events {
				cursors[e.Partition].After = e.Offset
				if e.Type == "greeted" {
					require.NotContains(t, greetings, e.Stream.ID, "a timer has fired twice")
					greetings[e.Stream.ID] = e
				}
			}
			return len(greetings) == many
		}, patience, 10*time.Millisecond, "every timer fires")
		var worst, beyond time.Duration
		inTheGap := 0
		for id, e := range greetings {
			late := e.At.Sub(dues[id])
			require.GreaterOrEqual(t, late, time.Duration(0), "before its time")
			worst = max(worst, late)
			if dues[id].After(killed) && dues[id].Before(taken) {
				inTheGap++
			}
			beyond = max(beyond, min(late, e.At.Sub(taken)))
		}
		require.Less(t, beyond, 2*time.Second, "late after the take-over")
		requireEffects(t, store)
		t.Logf("%d timers, %d due while nobody owned the killed node's: the latest fired %s late, %s after all partitions had an owner again",
			many, inTheGap, worst, max(0, beyond))
	})
}

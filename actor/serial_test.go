package actor_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

func TestConcurrentCommandsOfOneAggregateAreExact(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	for name, store := range map[string]persistence.Store{
		"immediate store": store,
		"other store":     persistencetest.WithFaults(store.Reopen()),
	} {
		t.Run(name, func(t *testing.T) {
			const callers, each = 64, 40
			host := startHost(t, store, nil)
			ref := counters.Ref(direct{host}, name)
			answers := make(chan int, callers*each)
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for range each {
						n, _, err := aggregate.Do(t.Context(), ref, add{N: 1})
						if err != nil {
							t.Error(err)
							return
						}
						answers <- n
					}
				})
			}
			group.Wait()
			close(answers)
			seen := map[int]bool{}
			for n := range answers {
				require.False(t, seen[n], "two commands saw %d", n)
				seen[n] = true
			}
			n, err := aggregate.Ask(t.Context(), ref, total{})
			require.NoError(t, err)
			require.Equal(t, callers*each, n)
			events, err := store.Read(t.Context(), streamOf(counters, name), 0, 2*callers*each)
			require.NoError(t, err)
			require.Len(t, events, callers*each)
		})
	}
}

func TestDomainCodeOfOneAggregateNeverRunsTwiceAtOnce(t *testing.T) {
	f := start(t)
	var mu sync.Mutex
	var group sync.WaitGroup
	inside := func() {
		if !mu.TryLock() {
			t.Error("two pieces of domain code at once")
			return
		}
		mu.Unlock()
	}
	for range 16 {
		group.Go(func() {
			for i := range 50 {
				if i%3 == 0 {
					f.send(labs, "a", look{answer: func(s lab) (lab, error) { inside(); return s, nil }}).result()
					continue
				}
				f.send(labs, "a", try{decide: func(lab) ([]labEvent, error) { inside(); return []labEvent{noted{N: 1}}, nil }}).result()
			}
		})
	}
	group.Wait()
}

// Whatever becomes of the appends, what a query sees is what a replay gives. // I2
func TestLiveStateEqualsReplayedState(t *testing.T) {
	random := seeded(t)
	f := start(t)
	dice := persistencetest.NewDice(random.Uint64(), persistencetest.Odds{Refused: 0.1, LostRequest: 0.1, LostAnswer: 0.1})
	f.store.OnAppend(dice.Append)
	types := []aggregate.Any{labs, frequent, bulky}
	for round := range 15 {
		var calls []*pending
		for range 30 {
			typ, id, n := types[random.IntN(len(types))], fmt.Sprint(random.IntN(3)), random.IntN(100)
			var command any
			switch random.IntN(8) {
			case 0:
				command = refuse()
			case 1:
				command = idle()
			case 2:
				command = events(noted{N: n}, noted{N: n + 1, Text: fmt.Sprint(n)})
			case 3:
				command = events(noted{N: n}, noted{Bomb: true})
			case 4:
				command = try{decide: func(lab) ([]labEvent, error) { panic("in Decide") }}
			case 5:
				command = look{}
			default:
				command = note(n)
			}
			calls = append(calls, f.send(typ, id, command))
		}
		for _, c := range calls {
			c.result()
		}
		for _, typ := range types {
			for id := range 3 {
				want, version := f.replayed(typ, fmt.Sprint(id))
				got := f.send(typ, fmt.Sprint(id), look{}).ok()
				require.Equal(t, want, got.Answer, "round %d", round)
				require.Equal(t, aggregate.Version(version), got.Receipt.Version)
			}
		}
		if round%5 == 4 {
			f.passivateAll()
		}
	}
	require.NotZero(t, f.host.Stats().Unknown)
	require.NotZero(t, f.host.Stats().StoreErrors)
}

func TestCommandsOfOneAggregateShareABatchAndAreAnsweredInOrder(t *testing.T) {
	const n = 200
	f := start(t)
	f.state(labs, "a")
	stall := f.stallAppends()
	var mu sync.Mutex
	var order []int
	var calls []*pending
	for i := range n {
		p := &pending{t: t, ch: make(chan actor.Result, 1), onReply: func() {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
		}}
		var command any = note(1)
		if i%4 == 3 {
			command = refuse()
		}
		f.send(labs, "a", command, func(c *actor.Call) { c.Reply = p })
		calls = append(calls, p)
	}
	await(t, stall.Reached(), "the first append")
	f.turnEnded(labs, "a")
	stall.Release()
	for i, c := range calls {
		if i%4 == 3 {
			c.fails(aggregate.KindRejected, "negative")
			continue
		}
		require.Equal(t, aggregate.Version(i/4*3+i%4+1), c.ok().Receipt.Version)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, order, n)
	require.IsIncreasing(t, order)
	require.LessOrEqual(t, f.host.Stats().Batches, uint64(2))
}

// turnEnded returns when the grain has dealt with everything sent before.
func (f *fixture) turnEnded(a aggregate.Any, id string) {
	f.t.Helper()
	reached := make(chan struct{})
	f.send(a, id, look{answer: func(s lab) (lab, error) { close(reached); return s, nil }})
	await(f.t, reached, "the aggregate's turn")
}

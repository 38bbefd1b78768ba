package actor_test

import (
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What an aggregate costs while it is in memory and nobody uses it, besides its
// state and what the store keeps of it.
func TestIdleAggregateCostsAtMost2KB(t *testing.T) {
	for name, commands := range map[string]int{"after a command": 1, "after a burst": 200} {
		t.Run(name, func(t *testing.T) {
			aggregates := 20_000 / commands
			store, err := memory.Open(memory.Config{Partitions: partitions})
			require.NoError(t, err)
			clock := newFakeClock()
			host := startHost(t, store, func(c *actor.Config) { c.Clock = clock })
			for range commands {
				for i := range aggregates {
					p := sendTo(t, host, counters, strconv.Itoa(i), add{N: 1})
					p.ok()
				}
			}
			require.Eventually(t, func() bool {
				clock.Advance(2 * time.Minute)
				return host.Stats().Resident == 0
			}, patience, time.Millisecond)
			empty := heap()
			host.ExtendLease(clock.Now() + time.Hour)
			for i := range aggregates {
				sendTo(t, host, counters, strconv.Itoa(i), total{}).ok()
			}
			used, each := clock.Now(), int64(0)
			require.Eventually(t, func() bool {
				if clock.Now()-used < 90*time.Second { // not so long that they leave memory
					clock.Advance(30 * time.Second)
				}
				each = (heap() - empty) / int64(aggregates)
				return each <= 2048
			}, patience, 10*time.Millisecond, "%d bytes for each aggregate", each)
			require.Equal(t, aggregates, host.Stats().Resident)
			t.Logf("%d bytes for each aggregate", each)
			runtime.KeepAlive(store)
		})
	}
}

// The way of a command from the reference to the memory store and back.
func TestLocalCommandAllocatesLittle(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: partitions})
	require.NoError(t, err)
	host := startHost(t, store, nil)
	ref := counters.Ref(direct{host}, "a")
	send := func() {
		if _, err := ref.Send(t.Context(), add{N: 1}); err != nil {
			t.Fatal(err)
		}
	}
	ask := func() {
		if _, err := aggregate.Ask(t.Context(), ref, total{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10_000 { // the window has its size
		send()
	}
	commands, queries := testing.AllocsPerRun(2000, send), testing.AllocsPerRun(2000, ask)
	t.Logf("%.0f allocations for each command, %.0f for each query", commands, queries)
	require.LessOrEqual(t, commands, 20.0)
	require.LessOrEqual(t, queries, 10.0)
}

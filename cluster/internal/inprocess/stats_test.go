package inprocess_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// meter collects what one node publishes.
type meter struct {
	noop.Meter
	mu       sync.Mutex
	counters map[string]bool // by name; false for a gauge
	collect  metric.Callback
}

type observedCounter struct {
	noop.Int64ObservableCounter
	name string
}

type observedGauge struct {
	noop.Int64ObservableGauge
	name string
}

func (m *meter) note(name string, counter bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters[name] = counter
}

func (m *meter) Int64ObservableCounter(name string, _ ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	m.note(name, true)
	return observedCounter{name: name}, nil
}

func (m *meter) Int64ObservableGauge(name string, _ ...metric.Int64ObservableGaugeOption) (metric.Int64ObservableGauge, error) {
	m.note(name, false)
	return observedGauge{name: name}, nil
}

func (m *meter) RegisterCallback(f metric.Callback, _ ...metric.Observable) (metric.Registration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.collect = f
	return noop.Registration{}, nil
}

// observations are the values of one collection, by name.
type observations struct {
	noop.Observer
	values map[string]int64
}

func (o observations) ObserveInt64(instrument metric.Int64Observable, value int64, _ ...metric.ObserveOption) {
	switch i := instrument.(type) {
	case observedCounter:
		o.values[i.name] = value
	case observedGauge:
		o.values[i.name] = value
	}
}

func (m *meter) read(t *testing.T) map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := observations{values: map[string]int64{}}
	require.NoError(t, m.collect(context.Background(), seen))
	return seen.values
}

// A node that comes back as another incarnation goes on counting.
func TestCountersNeverFall(t *testing.T) {
	m := &meter{counters: map[string]bool{}}
	h := build(t, 2, func(i int, c *cluster.Config) {
		if i == 0 {
			c.Meter = m
		}
	})
	victim, stays := h.nodes[0], h.nodes[1]
	id := h.idOn(victim)
	for range 5 {
		_, err := counters.Ref(victim, id).Send(within(t, patience), add{N: 1})
		require.NoError(t, err)
	}
	before := m.read(t)
	require.Len(t, before, len(m.counters), "all instruments are observed")
	require.EqualValues(t, 5, before["ingrain.commits"])
	require.EqualValues(t, 1, before["ingrain.resident"])
	fallen := map[string]int64{} // what it fell to
	last := maps.Clone(before)
	watch := func() {
		now := m.read(t)
		for name, counter := range m.counters {
			if counter && now[name] < last[name] {
				fallen[name] = now[name]
			}
		}
		last = now
	}
	watching, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watching)
		for tick := time.NewTicker(100 * time.Microsecond); ; <-tick.C {
			select {
			case <-stop:
				tick.Stop()
				return
			default:
				watch()
			}
		}
	}()
	lived := victim.ID()
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Node == lived && c.Method != "Evict" { // it does not learn of its eviction yet
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		}
		return persistencetest.Fault{}
	})
	h.evict(victim, stays, id)
	h.store.Heal()
	require.Eventually(t, func() bool { return victim.Stats().Rejoins == 1 }, patience, time.Millisecond, "it comes back")
	clustertest.Settled(t, h.nodes...)
	close(stop)
	<-watching
	require.Empty(t, fallen)
	require.NotEqual(t, lived, victim.ID())

	back := h.idOn(victim)
	commits := victim.Stats().Host.Commits
	require.GreaterOrEqual(t, commits, uint64(5))
	_, err := counters.Ref(victim, back).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	watch()
	require.Empty(t, fallen)
	require.EqualValues(t, commits+1, last["ingrain.commits"], "both incarnations count")
	require.EqualValues(t, 1, last["ingrain.resident"], "what was in the memory of the first is gone")
}

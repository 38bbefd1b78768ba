package cluster_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// access is one operation on a register.
type access struct {
	id    string
	write bool
	value int
}

// registerModel is a register that is 0 at first. A read whose result nobody saw
// fits anywhere.
var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byID := map[string][]porcupine.Operation{}
		for _, o := range history {
			id := o.Input.(access).id
			byID[id] = append(byID[id], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byID {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		in := input.(access)
		if in.write {
			return true, in.value
		}
		return output.(int) == state.(int), state
	},
	DescribeOperation: func(input, output any) string {
		in := input.(access)
		if in.write {
			return fmt.Sprintf("%s = %d", in.id, in.value)
		}
		return fmt.Sprintf("%s? %v", in.id, output)
	},
}

// history records what clients of registers did and saw.
type history struct {
	t       *testing.T
	started time.Time
	values  atomic.Int64
	clients atomic.Int64
	stop    chan struct{}
	wait    sync.WaitGroup

	mu         sync.Mutex
	operations []porcupine.Operation
	failed     []string // calls that did not succeed, for the log
}

func newHistory(t *testing.T) *history {
	return &history{t: t, started: time.Now(), stop: make(chan struct{})}
}

const registerCount = 6

// client writes and reads registers through a child until the history ends.
func (h *history) client(c *clustertest.Process) {
	id := int(h.clients.Add(1))
	h.wait.Go(func() {
		for n := id; ; n++ {
			select {
			case <-h.stop:
				return
			default:
			}
			key := fmt.Sprint("r", n%registerCount)
			if n%3 == 0 {
				h.write(c, id, key)
			} else {
				h.read(c, id, key)
			}
		}
	})
}

func (h *history) write(c *clustertest.Process, client int, key string) {
	in := access{id: key, write: true, value: int(h.values.Add(1))}
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	call := h.now()
	err := c.Call(ctx, "set", assignment{ID: key, Value: in.value}, nil)
	switch {
	case err == nil:
		h.add(porcupine.Operation{ClientId: client, Input: in, Call: call, Return: h.now()}, nil)
	case aggregate.KindOf(err) == aggregate.KindNotDone:
		h.add(porcupine.Operation{}, err)
	default: // it may take effect at any later time
		h.add(porcupine.Operation{ClientId: client, Input: in, Call: call, Return: math.MaxInt64}, err)
	}
}

func (h *history) read(c *clustertest.Process, client int, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	call, got := h.now(), 0
	err := c.Call(ctx, "get", key, &got)
	h.add(porcupine.Operation{ClientId: client, Input: access{id: key}, Output: got, Call: call, Return: h.now()}, err)
}

func (h *history) now() int64 { return int64(time.Since(h.started)) }

func (h *history) add(o porcupine.Operation, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.failed = append(h.failed, err.Error())
	}
	if in, ok := o.Input.(access); ok && (err == nil || in.write) {
		h.operations = append(h.operations, o)
	}
}

func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.operations)
}

func (h *history) progress(more int) {
	h.t.Helper()
	goal := h.count() + more
	require.Eventually(h.t, func() bool { return h.count() >= goal }, patience, time.Millisecond, "%d more operations", more)
}

// end stops the clients and requires that all of them saw one register each.
func (h *history) end() {
	h.t.Helper()
	close(h.stop)
	h.wait.Wait()
	verdict := porcupine.CheckOperationsTimeout(registerModel, h.operations, patience)
	require.Equal(h.t, porcupine.Ok, verdict, "%d operations are linearizable, %d failed: %v", len(h.operations), len(h.failed), h.failed)
	h.t.Logf("%d operations are linearizable, %d calls failed: %v", len(h.operations), len(h.failed), h.failed)
}

// A frozen node wakes up with its memory intact, believing that it owns what
// others have changed meanwhile, and with orders waiting.
func TestFrozenOwnerCannotHarm(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		children := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, children...)
		victim, others := children[0], children[1:]
		ctx := within(t, patience)
		h := newHistory(t)
		for _, c := range others {
			for range 3 {
				h.client(c)
			}
		}
		h.client(victim) // one order is on its way in whenever it freezes
		l := startLoad(t, others...)
		h.progress(200)
		before := victim.ID(ctx)
		pauseBetweenWrites(t, victim, others[0])
		h.wait.Go(func() { // and more are waiting when it wakes up
			for key := range registerCount {
				h.write(victim, 100, fmt.Sprint("r", key))
			}
		})
		for key := range registerCount {
			h.wait.Go(func() { h.read(victim, 200+key, fmt.Sprint("r", key)) })
		}
		require.Eventually(t, func() bool {
			for _, row := range others[0].Partitions(ctx) {
				if row.Owner == before {
					return false
				}
			}
			return len(others[0].Members(ctx)) == 2
		}, patience, 20*time.Millisecond, "the frozen node's partitions are taken over")
		h.progress(300)
		l.progress(100)
		victim.Resume()
		require.Eventually(t, func() bool {
			id := victim.ID(ctx)
			return id != before && id != ""
		}, patience, 5*time.Millisecond, "the frozen node comes back as another incarnation")
		settled(t, children...)
		h.progress(200)
		acked := l.end()
		h.end()
		require.Positive(t, victim.Stats(ctx).Rejoins)
		requireLog(t, store, acked, children...)
		t.Logf("longest call %s", worst(acked).Round(time.Millisecond))
	})
}

// pauseBetweenWrites freezes a child at a moment when it does not hold the lock
// of the store. PostgreSQL ends the session of a frozen writer; of a SQLite
// store that a frozen process has locked, nobody can write until it goes on. It
// returns when the child froze.
func pauseBetweenWrites(t *testing.T, victim, witness *clustertest.Process) (at time.Time) {
	t.Helper()
	ctx := within(t, patience)
	for {
		at = time.Now()
		victim.Pause(ctx)
		before, now := witness.Stats(ctx), witness.Stats(ctx)
		require.Eventually(t, func() bool {
			now = witness.Stats(ctx)
			return now.RenewalsFailed > before.RenewalsFailed || now.Renewals >= before.Renewals+3
		}, patience, 5*time.Millisecond, "child %s renews or fails to", witness.Name())
		if now.RenewalsFailed == before.RenewalsFailed {
			return at
		}
		victim.Resume()
	}
}

func TestReadsAndWritesAreLinearizableWhenAnOwnerIsKilled(t *testing.T) {
	store := clustertest.SQLite(t, partitions)
	s := spec(t, store)
	s.Cluster.LockDir = "/dev/null/no-such-directory" // the slower, harder way
	children := clustertest.LaunchAll(t, 3, s)
	settled(t, children...)
	victim, others := children[0], children[1:]
	h := newHistory(t)
	for _, c := range others {
		for range 3 {
			h.client(c)
		}
	}
	h.progress(200)
	victim.Kill()
	settled(t, others...)
	h.progress(200)
	h.end()
}

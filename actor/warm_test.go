package actor_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/persistence"
)

// What is in memory because of a call does not leave for what somebody may call.
func TestNothingLeavesMemoryForWhatIsWarmed(t *testing.T) {
	const most = 4
	f := start(t, func(c *actor.Config) { c.MaxResident = most })
	p := partitionOf(labs, "a")
	var ids []string // of one partition
	for i := 0; len(ids) < 3*most; i++ {
		if id := fmt.Sprint("w", i); partitionOf(labs, id) == p {
			ids = append(ids, id)
		}
	}
	for _, id := range ids[:most-1] {
		f.state(labs, id)
	}
	var targets []actor.Target
	for _, id := range ids[most:] {
		targets = append(targets, actor.Target{Definition: labs.Definition(), Stream: streamOf(labs, id)})
	}
	f.host.Warm(p, targets)
	f.eventually(func() bool { return f.host.Stats().Warmed == 1 && f.host.Stats().Loads == most }, "one is warmed: there is no more room")
	f.state(labs, ids[0]) // loads take their turn: whatever was to be warmed has been looked at
	f.host.Warm(p, targets[1:])
	f.clock.Advance(2 * time.Second)
	loads := f.host.Stats().Loads
	for _, id := range ids[:most-1] {
		f.state(labs, id)
	}
	require.Equal(t, loads, f.host.Stats().Loads, "they have stayed")
	require.EqualValues(t, 1, f.host.Stats().Warmed)
	require.Zero(t, f.host.Stats().Passivations)
	require.Equal(t, most, f.host.Stats().Resident)
}

// reads is a store that tells of its loads, and holds them back.
type reads struct {
	persistence.Store
	open chan struct{}

	mu      sync.Mutex
	batches [][]persistence.Stream
	now     int
	most    int // at once
}

func (r *reads) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	r.mu.Lock()
	r.batches = append(r.batches, slices.Clone(streams))
	r.now++
	r.most = max(r.most, r.now)
	r.mu.Unlock()
	<-r.open
	defer func() {
		r.mu.Lock()
		r.now--
		r.mu.Unlock()
	}()
	return r.Store.ReadMany(ctx, streams, limit)
}

func (r *reads) loaded() [][]persistence.Stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.batches)
}

// After a crash very many aggregates come back at once: in batches, those first
// for which several calls wait, and yet no other has to wait for all of these.
func TestAggregatesComeBackInBatchesTheHotOnesFirst(t *testing.T) {
	r := &reads{open: make(chan struct{})}
	f := start(t, func(c *actor.Config) { r.Store, c.Store = c.Store, r })
	var calls []*pending
	ask := func(id string) { calls = append(calls, f.send(labs, id, look{})) }
	const batch, cold, hot = 256, 3000, 500
	for i := range 2 { // keep both loaders busy
		ask(fmt.Sprint("busy", i))
		f.eventually(func() bool { return len(r.loaded()) == i+1 }, "a load")
	}
	for i := range cold {
		ask(fmt.Sprint("cold", i))
	}
	for range 2 {
		for i := range hot {
			ask(fmt.Sprint("hot", i))
		}
	}
	f.eventually(func() bool { return f.host.Hurried() == hot }, "two calls wait for each of the hot ones")
	close(r.open)
	for _, c := range calls {
		c.ok()
	}
	batches := r.loaded()[2:]
	seen := map[persistence.Stream]int{}
	for i, b := range batches {
		require.LessOrEqual(t, len(b), batch)
		hots := 0
		for _, s := range b {
			if seen[s]++; s.ID[:3] == "hot" {
				hots++
			}
		}
		if i < hot/(batch/2) {
			require.Equal(t, batch/2, hots, "batch %d: half of it is for the hot ones", i)
		}
	}
	require.Len(t, seen, cold+hot)
	for s, n := range seen {
		require.Equal(t, 1, n, "loads of %s", s)
	}
	require.LessOrEqual(t, r.most, 2)
}

// returned is a replier that wants its call back.
type returned struct {
	*pending
	back chan *actor.Call
}

func (r returned) Redeliver(c *actor.Call) { r.back <- c }

// Whoever may have given a call up decides whether it is delivered again. // I5
func TestCallsBehindAStopGoBackToTheirSender(t *testing.T) {
	f := start(t)
	pid := f.host.PID(labs.Definition(), streamOf(labs, "a"), partitionOf(labs, "a"))
	computing, goOn := make(chan struct{}), make(chan struct{})
	f.send(labs, "a", look{answer: func(s lab) (lab, error) { close(computing); <-goOn; return s, nil }})
	await(t, computing, "the query")
	back := make(chan *actor.Call, 1)
	behind := f.send(labs, "a", note(1), func(c *actor.Call) { c.Reply = returned{c.Reply.(*pending), back} })
	f.config.System.Root.Stop(pid)
	close(goOn)
	var c *actor.Call
	select {
	case c = <-back:
	case <-time.After(patience):
		require.Fail(t, "the call does not come back")
	}
	require.Equal(t, 0, f.state(labs, "a").N, "it was not begun")
	require.False(t, behind.answered())
	f.host.Deliver(c)
	behind.ok()
	require.Equal(t, 1, f.state(labs, "a").N)
}

package actor

import (
	"context"
	"log/slog"
	"testing"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// The moments below are a few instructions long, so that these tests stand
// inside the package to stop there.

// A partition that is lost while a batch is put together: the commits of one
// grain must all go into the batch or all stay out, or they settle out of order.
func TestBatchTreatsAllCommitsOfAGrainAlike(t *testing.T) {
	l := newLane(&Host{})
	old, next := &tenure{partition: 3}, &tenure{partition: 3}
	require.True(t, l.place(old))
	old.lost.Store(true)
	require.True(t, l.place(old), "the second commit has another fate than the first")
	require.False(t, l.place(next), "one fence cannot stand for two tenures")
	require.Len(t, l.batch.Fences, 1)

	clear(l.placed)
	l.batch.Fences = nil
	require.False(t, l.place(old))
	require.True(t, l.place(next), "a lost tenure must not keep its successor out")
	require.False(t, l.place(old))
	require.True(t, l.place(next))
	require.Len(t, l.batch.Fences, 1)
}

type tally struct{ N int }

type count struct{}

func (count) Decide(tally) ([]aggregate.Event[tally], error) {
	return []aggregate.Event[tally]{counted{}}, nil
}

type counted struct{}

func (counted) Evolve(s *tally) { s.N++ }

var tallies = aggregate.Define("tally", aggregate.Accepts[count]("count"), aggregate.Records[counted]("counted"))

type answers chan Result

func (a answers) Reply(_ *Call, r Result) { a <- r }

func (a answers) next(t *testing.T) error {
	t.Helper()
	select {
	case r := <-a:
		return r.Err
	case <-time.After(20 * time.Second):
		require.FailNow(t, "a call was not answered")
		return nil
	}
}

// Calls that were admitted before the host's goroutines ended, and come to one
// of their queues only now.
func TestCallThatMeetsAStoppedHostIsAnswered(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 1})
	require.NoError(t, err)
	system := proto.NewActorSystem(proto.WithLoggerFactory(func(*proto.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
	defer system.Shutdown()
	require.NoError(t, store.Join(t.Context(), persistence.Node{ID: "n", Cluster: "test", State: persistence.Active}))
	// behind the wrapper the store is no longer immediate
	h, err := Start(Config{System: system, Store: persistencetest.WithFaults(store), Node: "n", Types: []aggregate.Any{tallies}})
	require.NoError(t, err)
	claimed, err := store.Claim(t.Context(), 0, 0, "n")
	require.NoError(t, err)
	h.Own(claimed, 0)

	d, s := tallies.Definition(), persistence.Stream{Type: "tally", ID: "a"}
	tn, replies := h.tenures[0].Load(), make(answers, 4)
	admitted := func() *Call {
		c := &Call{Stream: s, Reply: replies, tenure: tn, Request: &aggregate.Request{
			Definition: d, ID: "a", Message: d.Message(aggregate.KindCommand, "count"), Value: count{},
			Command: aggregate.NewCommandID(), Expect: -1,
		}}
		require.True(t, tn.enter())
		h.inflight.Add(1)
		return c
	}
	loading, committing, proving, reading := admitted(), admitted(), admitted(), admitted()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, h.Stop(ctx))

	g := tn.grain(d, s)
	g.inflight.Add(4)
	g.mailbox.PostUserMessage(loading)
	require.Error(t, replies.next(t))

	g = &grain{host: h, tenure: tn, def: d, stream: s}
	g.inflight.Add(3)
	g.mailbox.grain = g
	g.mailbox.running = true // it has no actor to run
	it := &item{grain: g, call: committing, hasCommit: true}
	g.push(it)
	tn.lane.submit(it)
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(replies.next(t)))
	h.barrier.add(&item{grain: g, call: proving})
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(replies.next(t)))
	h.lookup(g, reading)
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(replies.next(t)))
	<-tn.drained
}

// A mailbox whose messages come as fast as they are handled is never empty. // I11
func TestMailboxThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	m := &mailbox{running: true} // nobody runs it but the test
	const waiting, messages = 10, 100_000
	posted := 0
	post := func() {
		m.PostUserMessage(posted)
		posted++
	}
	for range waiting {
		post()
	}
	for i := range messages {
		post()
		message, system, ok := m.next()
		require.True(t, ok && !system)
		require.Equal(t, i, message)
		require.Equal(t, waiting, m.UserMessageCount())
		require.LessOrEqual(t, cap(m.user), 4*turnLength)
	}
}

// The queue of a pool outlives its workers: what stood in it when they ended is
// run by stop, and what comes later by whoever brings it.
func TestTurnThatMeetsAStoppingPoolIsRun(t *testing.T) {
	p := &pool{turns: make(chan func(), 2), stopped: make(chan struct{})} // without workers
	ran := make(chan int, 3)
	for i := range 3 { // the last of them finds the queue full
		p.Schedule(func() { ran <- i })
	}
	require.Equal(t, 2, <-ran)
	p.stop()
	require.Len(t, ran, 2)
	require.Zero(t, <-ran)
	require.Equal(t, 1, <-ran)
	for i := range 3 {
		p.Schedule(func() { ran <- i })
		select {
		case n := <-ran:
			require.Equal(t, i, n)
		case <-time.After(20 * time.Second):
			require.FailNow(t, "a turn was not run")
		}
	}
}

package inprocess_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// giver is a member that is no node: it does to a partition what the test says,
// and says about it what the test says.
type giver struct {
	*stranger
	node *cluster.Node
	id   persistence.NodeID
	row  persistence.Ownership // of the counter
	name string                // the counter's id
}

// besideAGiver is one node, and a giver that has taken a partition from it. There
// is a counter in it, with the value 1.
func besideAGiver(t *testing.T) *giver {
	t.Helper()
	h := build(t, 1, nil)
	g := &giver{stranger: h.stranger(), node: h.nodes[0], id: "giver", name: "given"}
	_, err := counters.Ref(g.node, g.name).Send(within(t, patience), add{N: 1})
	require.NoError(t, err)
	like := g.node.Members()[0]
	like.ID, like.Address, like.State, like.Lock = g.id, g.address, persistence.Joining, ""
	require.NoError(t, h.store.Join(within(t, patience), like))
	alive, stop := context.WithCancel(context.Background())
	var renewing sync.WaitGroup
	renewing.Go(func() { // it is not to be evicted
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for alive.Err() == nil {
			select {
			case <-tick.C:
				_, _ = h.store.Unwrap().Renew(alive, persistence.Renewal{Node: g.id, State: persistence.Joining})
			case <-alive.Done():
			}
		}
	})
	t.Cleanup(func() { stop(); renewing.Wait() })
	g.row = g.node.Owner("counter", g.name)
	g.claim()
	require.Eventually(t, func() bool { return g.node.Owner("counter", g.name).Owner == g.id }, patience, time.Millisecond, "the node knows")
	return g
}

// claim takes the partition from whoever has it.
func (g *giver) claim() {
	g.t.Helper()
	won, err := g.house.store.Unwrap().Claim(within(g.t, patience), g.row.Partition, g.row.Epoch, g.id)
	require.NoError(g.t, err)
	g.row.Epoch, g.row.Owner = won.Epoch, g.id
}

// release gives the partition to the node, in the store.
func (g *giver) release() {
	g.t.Helper()
	require.NoError(g.t, g.house.store.Unwrap().Release(within(g.t, patience), g.row.Partition, g.row.Epoch, g.id, g.node.ID()))
	g.row.Epoch++
	g.row.Owner = g.node.ID()
}

// word is what a giver that has served says: the counter's commit is all there
// is in the log.
func (g *giver) word() *wire.Moved {
	return &wire.Moved{Partition: int32(g.row.Partition), Epoch: int64(g.row.Epoch), Head: 1, Served: true,
		Hot: []*wire.Hot{{Type: "counter", Id: g.name}, {Type: "ledger", Id: "x"}, {Type: "counter", Id: "of another partition, probably"}}}
}

func (g *giver) say(e *wire.Envelope) {
	e.From, e.Address, e.Session = string(g.id), g.address, g.session
	if e.To == "" {
		e.To = string(g.node.ID())
	}
	g.house.fabric.Send(g.address, g.node.Address(), e)
}

func (g *giver) tell(m *wire.Moved) { g.say(&wire.Envelope{Moved: []*wire.Moved{m}}) }

// blind keeps the node from reading the tables, until the result is called.
func (g *giver) blind() (see func()) {
	g.house.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Renew" || c.Method == "View" || c.Method == "Claim" {
			return persistencetest.Fault{Outcome: persistencetest.Refused}
		}
		return persistencetest.Fault{}
	})
	return g.house.store.Heal
}

// epochOf is the epoch under which the last command was written.
func (g *giver) epochOf() persistence.Epoch {
	events := g.house.log().Events
	return events[len(events)-1].Epoch
}

func (g *giver) add() {
	g.t.Helper()
	_, err := counters.Ref(g.node, g.name).Send(within(g.t, patience), add{N: 1})
	require.NoError(g.t, err)
}

func TestGivenPartitionIsServedAtOnce(t *testing.T) {
	g := besideAGiver(t)
	see := g.blind() // nothing but the giver's word tells of it
	g.release()
	g.tell(g.word())
	g.add()
	require.Equal(t, g.row.Epoch, g.epochOf(), "nothing was claimed")
	require.Eventually(t, func() bool { return g.node.Stats().Host.Activations >= 2 }, patience, time.Millisecond)
	g.tell(g.word())
	g.add()
	require.Equal(t, g.row.Epoch, g.epochOf(), "told twice")
	require.Zero(t, g.node.Stats().Host.Held, "who gives has released")
	see()
	renewals := g.node.Stats().Renewals
	require.Eventually(t, func() bool { return g.node.Stats().Renewals > renewals+1 }, patience, time.Millisecond, "it reads the table")
	g.add()
	require.Equal(t, g.row.Epoch, g.epochOf(), "what is served is not claimed")
}

func TestGivenPartitionIsWarmed(t *testing.T) {
	g := besideAGiver(t)
	g.release()
	g.tell(g.word())
	require.Eventually(t, func() bool { return g.node.Stats().Host.Warmed == 1 }, patience, time.Millisecond, "the counter is in memory")
	loads := g.node.Stats().Host.Loads
	g.add()
	require.Equal(t, loads, g.node.Stats().Host.Loads)
}

func TestLostWordIsHealedByTheTable(t *testing.T) {
	g := besideAGiver(t)
	g.release()
	g.say(&wire.Envelope{To: "an earlier life", Moved: []*wire.Moved{g.word()}}) // for somebody else
	require.Eventually(t, func() bool { return g.node.Owner("counter", g.name).Owner == g.node.ID() }, patience, time.Millisecond)
	g.add()
	require.Equal(t, g.row.Epoch+1, g.epochOf(), "it was claimed")
}

func TestWordWithoutTheHeadIsAClaim(t *testing.T) {
	g := besideAGiver(t)
	g.release()
	word := g.word()
	word.Served, word.Head = false, 0
	g.tell(word)
	g.add()
	require.Equal(t, g.row.Epoch+1, g.epochOf())
}

// A wrong head costs a detour: the fence refuses it. // I1
func TestWrongHeadIsHealed(t *testing.T) {
	g := besideAGiver(t)
	g.release()
	word := g.word()
	word.Head = 7
	g.tell(word)
	g.add()
	require.Equal(t, g.row.Epoch+1, g.epochOf(), "it was claimed")
	require.Equal(t, 2, sum(t, g.node, g.name))
}

// A word that comes again when the partition is in other hands must not bring
// it back: the node would answer from memory what its owner has changed. // I7
func TestOldWordDoesNotBringAPartitionBack(t *testing.T) {
	g := besideAGiver(t)
	g.release()
	word := g.word()
	g.tell(word)
	g.add()
	g.blind()
	g.claim() // the node does not know
	_, err := counters.Ref(g.node, g.name).Send(within(t, 200*time.Millisecond), add{N: 1})
	require.Error(t, err, "the store refuses it")
	require.EqualValues(t, 1, g.node.Stats().Host.Fenced)
	require.Equal(t, word.Epoch, int64(g.node.Owner("counter", g.name).Epoch), "the table is old")
	word.Head = 2
	g.tell(word)
	_, err = aggregate.Ask(within(t, 100*time.Millisecond), counters.Ref(g.node, g.name), total{})
	require.Error(t, err, "it is not its own any more")
}

func TestWordOlderThanTheTableIsHistory(t *testing.T) {
	g := besideAGiver(t)
	g.release()
	word := g.word()
	g.blind()
	g.say(&wire.Envelope{Rows: []*wire.Ownership{{Partition: word.Partition, Epoch: word.Epoch + 1, Owner: string(g.id)}}})
	g.tell(word)
	require.Equal(t, g.id, g.node.Owner("counter", g.name).Owner)
	_, err := aggregate.Ask(within(t, 100*time.Millisecond), counters.Ref(g.node, g.name), total{})
	require.Error(t, err)
}

// A word that meets a claim of the same partition waits for its end.
func TestWordDuringAClaim(t *testing.T) {
	for name, outcome := range map[string]persistencetest.Outcome{
		"that is made": persistencetest.Pass, "that fails": persistencetest.Refused, "whose answer is lost": persistencetest.LostAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			g := besideAGiver(t)
			stall := persistencetest.NewStall()
			t.Cleanup(stall.Release)
			var once sync.Once
			g.house.store.OnCall(func(c persistencetest.Call) (fault persistencetest.Fault) {
				if c.Method == "Claim" {
					once.Do(func() { fault = persistencetest.Fault{Before: stall.Hold, Outcome: outcome} })
				}
				return fault
			})
			g.release()
			<-stall.Reached()
			g.tell(g.word())
			_, err := aggregate.Ask(within(t, 50*time.Millisecond), counters.Ref(g.node, g.name), total{})
			require.Error(t, err, "the claim may yet change the epoch")
			stall.Release()
			g.add()
			want := g.row.Epoch
			switch outcome {
			case persistencetest.Pass:
				want++
			case persistencetest.LostAnswer:
				want += 2 // under the epoch of the word it was refused
			}
			require.Equal(t, want, g.epochOf())
			require.Equal(t, 2, sum(t, g.node, g.name))
		})
	}
}

// call sends a command under an epoch, and does not wait.
func (g *giver) call(epoch persistence.Epoch, session uint64) {
	q := command(g.name)
	q.Epoch, q.Patience = int64(epoch), patience.Microseconds()
	g.session = session
	g.say(&wire.Envelope{Kinds: []*wire.Kind{&q.Kind}, Calls: []*wire.Call{&q.Call}})
}

// reply is the next reply; the node's other words are passed over.
func (g *giver) reply() *wire.Reply {
	g.t.Helper()
	for {
		select {
		case e := <-g.replies:
			if len(e.Replies) > 0 {
				return e.Replies[0]
			}
		case <-time.After(patience):
			g.t.Fatal("no reply")
		}
	}
}

func (g *giver) parked(n uint64) {
	g.t.Helper()
	require.Eventually(g.t, func() bool { return g.node.Stats().Parked == n }, patience, time.Millisecond, "%d calls are parked", n)
}

// Whoever hears of the new owner before the new owner does is not sent away.
func TestCallsWaitForAPartitionOnItsWay(t *testing.T) {
	g := besideAGiver(t)
	see := g.blind()
	g.release()
	g.call(g.row.Epoch, 1)
	g.parked(1)
	require.Empty(t, g.replies)
	g.tell(g.word())
	reply := g.reply()
	require.Nil(t, reply.NotOwner)
	require.EqualValues(t, 2, reply.Version)
	see()

	t.Run("and are sent on when it goes elsewhere", func(t *testing.T) {
		g := besideAGiver(t)
		g.call(g.row.Epoch+1, 1)
		g.parked(1)
		g.say(&wire.Envelope{Rows: []*wire.Ownership{{Partition: int32(g.row.Partition), Epoch: int64(g.row.Epoch + 1), Owner: "somebody"}}})
		reply := g.reply()
		require.Equal(t, "somebody", reply.NotOwner.GetOwner())
	})
	t.Run("but not for ever", func(t *testing.T) {
		g := besideAGiver(t)
		g.call(g.row.Epoch+1, 1)
		reply := g.reply()
		require.Equal(t, string(g.id), reply.NotOwner.GetOwner())
		require.EqualValues(t, 1, g.node.Stats().Parked)
	})
}

// A call that was parked and given up by its sender with the session must not
// begin after its successor was answered.
func TestParkedCallsOfAnEndedSessionAreDropped(t *testing.T) {
	g := besideAGiver(t)
	g.blind()
	g.release()
	g.call(g.row.Epoch, 1)
	g.parked(1)
	g.call(g.row.Epoch, 2)
	g.parked(2)
	g.tell(g.word())
	require.EqualValues(t, 2, g.reply().Version)
	g.house.store.Heal()
	require.Equal(t, 2, sum(t, g.node, g.name))
	require.Len(t, g.house.log().Events, 2)
}

// Calls that meet a partition on its way out wait until they can be told whom to
// ask, and are not answered into the void.
func TestCallsWaitForAPartitionThatLeaves(t *testing.T) {
	h := build(t, 2, nil)
	leaver, stays := h.nodes[0], h.nodes[1]
	id := h.idOn(leaver)
	require.Zero(t, sum(t, stays, id))
	before := stays.Stats()
	p := leaver.Owner("counter", id).Partition
	stall := persistencetest.NewStall()
	t.Cleanup(stall.Release)
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Release" && c.Partition == p {
			return persistencetest.Fault{Before: stall.Hold}
		}
		return persistencetest.Fault{}
	})
	stopped := make(chan error, 1)
	go func() { stopped <- leaver.Stop(within(t, patience)) }()
	<-stall.Reached()
	const calls = 8
	answered := make(chan error, calls)
	for range calls {
		go func() {
			_, err := counters.Ref(stays, id).Send(within(t, patience), add{N: 1})
			answered <- err
		}()
	}
	require.Eventually(t, func() bool { return leaver.Stats().Parked == calls }, patience, time.Millisecond, "all wait at the leaver")
	require.Empty(t, answered)
	stall.Release()
	for range calls {
		require.NoError(t, <-answered)
	}
	require.NoError(t, <-stopped)
	require.EqualValues(t, calls, leaver.Stats().Redirected)
	require.EqualValues(t, calls, stays.Stats().Retries-before.Retries, "each asks its new owner once")
	require.Equal(t, calls, sum(t, stays, id))
}

// A node does not hang up while its peers wait for replies.
func TestLeavingNodeWaitsForItsReplies(t *testing.T) {
	h := build(t, 2, nil)
	leaver, stays := h.nodes[0], h.nodes[1]
	id := h.idOn(leaver)
	require.Zero(t, sum(t, stays, id))
	arrive, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.fabric.OnSend(func(m clustertest.Message) (fate clustertest.Fate) {
		if m.From == leaver.Address() && m.Replies > 0 {
			once.Do(func() { fate.Until = arrive; close(held) })
		}
		return fate
	})
	answered := make(chan error, 1)
	go func() {
		_, err := counters.Ref(stays, id).Send(within(t, patience), add{N: 1})
		answered <- err
	}()
	<-held
	retries := stays.Stats().Retries
	stopped := make(chan error, 1)
	go func() { stopped <- leaver.Stop(within(t, patience)) }()
	require.Eventually(t, func() bool { return stays.Owner("counter", id).Owner == stays.ID() }, patience, time.Millisecond, "it has given all away")
	renewals := stays.Stats().Renewals
	require.Eventually(t, func() bool { return stays.Stats().Renewals > renewals }, patience, time.Millisecond)
	require.Empty(t, stopped, "it waits")
	close(arrive)
	require.NoError(t, <-answered)
	require.Equal(t, retries, stays.Stats().Retries, "the reply was not lost")
	require.NoError(t, <-stopped)
	require.Equal(t, 1, sum(t, stays, id))
}

// Whoever was given a partition may answer for it from memory, although it has
// not claimed it. // I8
func TestTakeOverOfAGivenPartitionIsInvisible(t *testing.T) {
	h := build(t, 1, nil)
	h.nodes = append(h.nodes, clustertest.Start(t, h.config(1, nil)))
	clustertest.Settled(t, h.nodes...)
	requireInvisibleTakeOver(t, h, h.nodes[1], h.nodes[0])
}

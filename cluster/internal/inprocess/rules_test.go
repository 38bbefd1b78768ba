package inprocess_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// Who reads in the table that a partition was given to him awaits the giver's
// word for a moment: to claim it would cost a round trip.
func TestTheWordOfTheGiverIsAwaited(t *testing.T) {
	const awaited = 50 * time.Millisecond
	g := besideAGiver(t)
	var claimed atomic.Int64 // when, since the beginning
	begin := time.Now()
	g.house.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Claim" && c.Partition == g.row.Partition {
			claimed.CompareAndSwap(0, int64(time.Since(begin)))
		}
		return persistencetest.Fault{}
	})
	g.release()
	told := time.Since(begin)
	g.say(&wire.Envelope{Rows: []*wire.Ownership{{
		Partition: int32(g.row.Partition), Epoch: int64(g.row.Epoch), Owner: string(g.row.Owner), Released: true,
	}}})
	require.Eventually(t, func() bool { return claimed.Load() != 0 }, patience, time.Millisecond, "the giver says nothing")
	require.GreaterOrEqual(t, time.Duration(claimed.Load())-told, awaited)
	g.add()
	require.Equal(t, g.row.Epoch+1, g.epochOf())
}

// A node that comes back as another incarnation counts its sessions on: what it
// asked before must not begin after what it asks now. // I5
func TestSessionsBelongToTheProcess(t *testing.T) {
	h := build(t, 1, nil)
	n, s := h.nodes[0], h.stranger()
	ask := func(from string, process, session uint64) {
		q := command("a")
		q.Number = session
		h.fabric.Send(s.address, n.Address(), &wire.Envelope{
			From: from, To: string(n.ID()), Address: s.address, Process: process, Session: session,
			Kinds: []*wire.Kind{&q.Kind}, Calls: []*wire.Call{&q.Call},
		})
	}
	reply := func(number uint64) {
		t.Helper()
		e := <-s.replies
		require.Len(t, e.Replies, 1)
		require.Equal(t, number, e.Replies[0].Number)
	}
	const process, another = 11, 12
	ask("before", process, 1)
	reply(1)
	ask("now", process, 3)
	reply(3)
	ask("before", process, 2) // has been on its way for long
	ask("now", process, 4)
	reply(4)
	ask("somebody else", another, 1)
	reply(1)
	require.Equal(t, 4, sum(t, n, "a"))
	require.Len(t, h.log().Events, 4)
}

// A node that was evicted and forgotten may have calls on their way that it has
// asked again since. // I5
func TestSessionsOutliveTheMembership(t *testing.T) {
	h := build(t, 1, nil)
	n, s := h.nodes[0], h.stranger()
	ask := func(from string, session uint64) {
		q := command("a")
		q.Number = session
		h.fabric.Send(s.address, n.Address(), &wire.Envelope{
			From: from, To: string(n.ID()), Address: s.address, Process: 11, Session: session,
			Kinds: []*wire.Kind{&q.Kind}, Calls: []*wire.Call{&q.Call},
		})
	}
	ask("before", 2)
	require.EqualValues(t, 2, (<-s.replies).Replies[0].Number)
	seen := n.Stats().Renewals
	require.Eventually(t, func() bool { return n.Stats().Renewals > seen+12 }, patience, time.Millisecond, "it is missing from many views")
	ask("before", 1)
	require.Never(t, func() bool { return len(h.log().Events) > 1 }, 100*time.Millisecond, 5*time.Millisecond, "it was asked again since")
	ask("now", 3)
	require.EqualValues(t, 3, (<-s.replies).Replies[0].Number)
}

// Replies to a node between two incarnations are lost: nobody knows it. When it is
// back it asks again.
func TestWhatWasAskedBetweenTwoLivesIsAskedAgain(t *testing.T) {
	h := build(t, 2, nil)
	owner, asker := h.nodes[0], h.nodes[1]
	id, former := h.idOn(owner), asker.ID()
	require.Zero(t, sum(t, asker, id))
	joining := persistencetest.NewStall()
	t.Cleanup(joining.Release)
	h.store.OnCall(func(c persistencetest.Call) persistencetest.Fault {
		if c.Method == "Join" {
			return persistencetest.Fault{Before: joining.Hold}
		}
		return persistencetest.Fault{}
	})
	dropped := make(chan struct{})
	var once sync.Once
	h.fabric.OnSend(func(m clustertest.Message) (fate clustertest.Fate) {
		if m.Replies > 0 && m.Envelope.To == string(former) {
			fate.Drop = true
			once.Do(func() { close(dropped) })
		}
		return fate
	})
	h.expel(former)
	<-joining.Reached()
	answered := make(chan error, 1)
	go func() {
		_, err := counters.Ref(asker, id).Send(within(t, patience), add{N: 1})
		answered <- err
	}()
	select {
	case <-dropped:
	case <-time.After(patience):
		require.Fail(t, "nothing was asked")
	}
	joining.Release()
	require.NoError(t, <-answered)
	require.Equal(t, 1, sum(t, owner, id), "once")
	require.Len(t, h.log().Events, 1)
}

// A node that leaves waits for a farewell, but not for ever.
func TestStopBesideASilentPeerEnds(t *testing.T) {
	h := build(t, 2, nil)
	leaver, mute := h.nodes[0], h.nodes[1]
	id := h.idOn(mute)
	require.Zero(t, sum(t, leaver, id))
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		return clustertest.Fate{Drop: m.From == mute.Address() && m.Envelope.Pong == 0}
	})
	begin := time.Now()
	require.NoError(t, leaver.Stop(within(t, patience)))
	require.Less(t, time.Since(begin), patience/2)
	require.Contains(t, mute.Members(), mute.Members()[0], "it has been there all the time")
}

// What would be long to replay is snapshotted before it moves, and the next owner
// begins there.
func TestWhatMovesIsSnapshottedBefore(t *testing.T) {
	h := build(t, 2, nil)
	leaver, stays := h.nodes[0], h.nodes[1]
	long, short := h.idOn(leaver), ""
	for i := 0; short == ""; i++ {
		id := "short" + string(rune('a'+i))
		if leaver.Owner("counter", id).Owner == leaver.ID() {
			short = id
		}
	}
	const events = 120 // a snapshot is due after 200, and worth its while here after half as many
	send := func(id string, n int) {
		for range n {
			_, err := counters.Ref(leaver, id).Send(within(t, patience), add{N: 1})
			require.NoError(t, err)
		}
	}
	send(long, events)
	send(short, 3)
	require.NoError(t, leaver.Stop(within(t, patience)))
	histories, err := h.store.Unwrap().ReadMany(within(t, patience),
		[]persistence.Stream{{Type: "counter", ID: long}, {Type: "counter", ID: short}}, events)
	require.NoError(t, err)
	require.NotNil(t, histories[0].Snapshot)
	require.EqualValues(t, events, histories[0].Snapshot.Version)
	require.Empty(t, histories[0].Events, "nothing is replayed")
	require.Nil(t, histories[1].Snapshot, "it is read as fast without one")
	require.Equal(t, events, sum(t, stays, long))
	require.Equal(t, 3, sum(t, stays, short))
}

package inprocess_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// prompt bounds a call that takes the way round: it waits for nobody's suspicion.
const prompt = 2 * time.Second

// severs is a rule that loses what goes over a link, in one direction or both.
func severs(a, b string, back bool) func(clustertest.Message) clustertest.Fate {
	return func(m clustertest.Message) clustertest.Fate {
		return clustertest.Fate{Drop: m.From == a && m.To == b || back && m.From == b && m.To == a}
	}
}

// relayed waits until a node sends round.
func relayed(t *testing.T, nodes ...*cluster.Node) {
	t.Helper()
	for _, n := range nodes {
		require.Eventually(t, func() bool { return n.Stats().Relayed > 0 }, patience, time.Millisecond, "it sends round")
	}
}

// later sends one command on a goroutine of its own.
func later(t *testing.T, n *cluster.Node, id string) <-chan error {
	answered, ctx := make(chan error, 1), within(t, patience)
	go func() {
		_, err := counters.Ref(n, id).Send(ctx, add{N: 1})
		answered <- err
	}()
	return answered
}

// requirePrompt sends commands through a node, each of which is answered at once.
func requirePrompt(t *testing.T, n *cluster.Node, id string, times int) {
	t.Helper()
	for range times {
		ctx, cancel := context.WithTimeout(context.Background(), prompt)
		_, err := counters.Ref(n, id).Send(ctx, add{N: 1})
		cancel()
		require.NoError(t, err)
	}
}

// A broken link between two of three costs the time it takes to notice, and
// nothing else.
func TestBrokenLinkIsBypassed(t *testing.T) {
	for name, cut := range map[string]func(h *house, a, b string){
		"both ways":          func(h *house, a, b string) { h.fabric.OnSend(severs(a, b, true)) },
		"there":              func(h *house, a, b string) { h.fabric.OnSend(severs(a, b, false)) },
		"back":               func(h *house, a, b string) { h.fabric.OnSend(severs(b, a, false)) },
		"both ways and loud": func(h *house, a, b string) { h.fabric.Cut(a, b) },
	} {
		t.Run(name, func(t *testing.T) {
			logs := make([]lines, 3)
			h := build(t, 3, logged(logs))
			lives := livesOf(h)
			a, b, c := h.nodes[0], h.nodes[1], h.nodes[2]
			there, back := h.idOn(b), h.idOn(a)
			requirePrompt(t, a, there, 1)
			requirePrompt(t, b, back, 1)

			cut(h, a.Address(), b.Address())
			before := []<-chan error{later(t, a, there), later(t, b, back)}
			relayed(t, a, b)
			for _, answered := range before {
				require.NoError(t, <-answered, "what was asked before anybody noticed is asked again")
			}
			requirePrompt(t, a, there, 50)
			requirePrompt(t, b, back, 50)
			renewals(t, enough, h.nodes...)
			requirePrompt(t, a, there, 50)
			require.Equal(t, lives, livesOf(h), "nobody is evicted")
			require.Positive(t, c.Stats().Passed)
			require.Zero(t, c.Stats().Relayed)
			for i, n := range []*cluster.Node{a, b} {
				require.EqualValues(t, 1, n.Stats().Unreached, "what passes through another is no contact")
				require.Zero(t, n.Stats().Passed)
				require.Len(t, logs[i].with("level=WARN", "peer reached through another", "relay="+string(c.ID())), 1)
			}

			h.fabric.Heal()
			for i := range 2 {
				require.Eventually(t, func() bool { return len(logs[i].with("level=INFO", "peer reached directly again")) == 1 },
					patience, time.Millisecond, "node %d sees that the link is back", i)
			}
			renewals(t, 1, a, b) // what came round before was the last
			requirePrompt(t, a, there, 1)
			requirePrompt(t, b, back, 1)
			direct := []uint64{a.Stats().Relayed, b.Stats().Relayed, c.Stats().Passed}
			requirePrompt(t, a, there, 50)
			requirePrompt(t, b, back, 50)
			require.Equal(t, direct, []uint64{a.Stats().Relayed, b.Stats().Relayed, c.Stats().Passed})
			require.Equal(t, 1+1+50+50+1+50, sum(t, c, there))
			require.Equal(t, 1+1+50+1+50, sum(t, c, back))
			h.log()
		})
	}
}

// When the relay cannot pass on any more, another does.
func TestAnotherRelayWhenOneFails(t *testing.T) {
	for name, fail := range map[string]func(h *house, a, b, relay *cluster.Node){
		"it loses the peer": func(h *house, a, b, relay *cluster.Node) {
			h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
				return clustertest.Fate{Drop: severs(a.Address(), b.Address(), true)(m).Drop || severs(relay.Address(), b.Address(), true)(m).Drop}
			})
		},
		"it is lost": func(h *house, a, b, relay *cluster.Node) {
			h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
				return clustertest.Fate{Drop: severs(a.Address(), b.Address(), true)(m).Drop || m.From == relay.Address() || m.To == relay.Address()}
			})
		},
		"it says that it cannot": func(h *house, a, b, relay *cluster.Node) {
			h.fabric.Send(relay.Address(), a.Address(), &wire.Envelope{
				From: string(relay.ID()), To: string(a.ID()), Address: relay.Address(), Unpassed: &wire.Unpassed{To: string(b.ID())},
			})
		},
		"it leaves": func(h *house, _, _, relay *cluster.Node) {
			require.NoError(h.t, relay.Stop(within(h.t, patience)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t, 4, nil)
			a, b := h.nodes[0], h.nodes[1]
			first, id := b.ID(), h.idOn(b)
			h.fabric.OnSend(severs(a.Address(), b.Address(), true))
			requirePrompt(t, a, id, 1)
			relayed(t, a)
			requirePrompt(t, a, id, 10)
			relay, other := h.nodes[2], h.nodes[3]
			if relay.Stats().Passed == 0 {
				relay, other = other, relay
			}
			require.Zero(t, other.Stats().Passed, "one is enough")

			fail(h, a, b, relay)
			require.NoError(t, <-later(t, a, id))
			require.Positive(t, other.Stats().Passed, "the other passes on")
			require.Equal(t, first, b.ID(), "it is not evicted")
			h.log()
		})
	}
}

// Without a third node there is no way round.
func TestNoWayRoundWithoutAThird(t *testing.T) {
	h := build(t, 2, nil)
	lives := livesOf(h)
	a, b := h.nodes[0], h.nodes[1]
	id := h.idOn(b)
	h.fabric.OnSend(severs(a.Address(), b.Address(), true))
	renewals(t, enough, h.nodes...)
	_, err := counters.Ref(a, id).Send(within(t, 100*time.Millisecond), add{N: 1})
	requireFailure(t, err, aggregate.KindUnknown, aggregate.ReasonDeadline)
	require.Zero(t, a.Stats().Relayed+b.Stats().Relayed)
	require.Equal(t, lives, livesOf(h))

	third := clustertest.Start(t, h.config(2, nil))
	require.NoError(t, <-later(t, a, id), "it comes, and passes on")
	require.Positive(t, third.Stats().Passed)
}

// Who is cut off from all is evicted as ever, and what waits for it is answered by
// whoever takes over.
func TestPeerIsEvictedWhileCallsToItGoRound(t *testing.T) {
	h := build(t, 3, nil)
	a, b, c := h.nodes[0], h.nodes[1], h.nodes[2]
	first, id := b.ID(), h.idOn(b)
	h.fabric.OnSend(severs(a.Address(), b.Address(), true))
	requirePrompt(t, a, id, 1)
	relayed(t, a)
	requirePrompt(t, a, id, 10)
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		return clustertest.Fate{Drop: m.From == b.Address() || m.To == b.Address()}
	})
	require.NoError(t, <-later(t, a, id))
	require.NotEqual(t, first, a.Owner("counter", id).Owner)
	require.Positive(t, a.Stats().Evictions+c.Stats().Evictions)
	h.fabric.Heal()
	clustertest.Settled(t, h.nodes...)
	require.NotEqual(t, first, b.ID())
	require.Equal(t, 12, sum(t, b, id))
	h.log()
}

// What has been passed on once goes no further, and proves no contact.
func TestWhatWasPassedOnGoesNoFurther(t *testing.T) {
	h := build(t, 2, nil)
	n, other := h.nodes[0], h.nodes[1]
	renewals(t, 2, n, other) // they have contact
	var further, pongs atomic.Int64
	h.fabric.OnSend(func(m clustertest.Message) (fate clustertest.Fate) {
		if m.Envelope.Pass != nil || len(m.Envelope.Passed) > 0 || m.Envelope.Unpassed != nil {
			further.Add(1)
		}
		if m.Envelope.Pong == 1<<40 {
			pongs.Add(1)
		}
		return fate
	})
	encode := func(e *wire.Envelope) []byte {
		encoded, err := proto.Marshal(e)
		require.NoError(t, err)
		return encoded
	}
	ping := &wire.Envelope{From: "stranger", To: string(other.ID()), Address: n.Address(), Ping: 1 << 40}
	nested := &wire.Envelope{
		From: "stranger", To: string(n.ID()), Address: other.Address(), Ping: 1 << 40,
		Pass: &wire.Pass{To: string(other.ID()), Envelope: encode(ping)}, Passed: [][]byte{encode(ping)},
	}
	h.fabric.Send("memory:stranger", n.Address(), &wire.Envelope{From: string(other.ID()), To: string(n.ID()), Passed: [][]byte{encode(nested), []byte("junk")}})
	require.Zero(t, n.Stats().Passed)
	renewals(t, 1, n)
	require.EqualValues(t, 1, further.Load(), "what the test has sent")
	require.Zero(t, pongs.Load())

	h.fabric.Send("memory:stranger", n.Address(), &wire.Envelope{
		From: "stranger", To: string(n.ID()), Address: other.Address(), Pass: &wire.Pass{To: "nobody", Envelope: encode(ping)},
	})
	require.EqualValues(t, 3, further.Load(), "it says that it cannot")
}

// Whoever gives up a way says so, since replies may have been lost with it, and who
// hears that asks again.
func TestWhoGivesUpAWaySaysSo(t *testing.T) {
	h := build(t, 3, nil)
	a, b := h.nodes[0], h.nodes[1]
	requirePrompt(t, a, h.idOn(b), 1)
	requirePrompt(t, b, h.idOn(a), 1)
	var said [2]atomic.Bool
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		if m.Envelope.Pass != nil {
			inner := &wire.Envelope{}
			if proto.Unmarshal(m.Envelope.Pass.Envelope, inner) == nil && inner.Detoured {
				said[0].Store(said[0].Load() || inner.From == string(a.ID()))
				said[1].Store(said[1].Load() || inner.From == string(b.ID()))
			}
		}
		return severs(a.Address(), b.Address(), true)(m)
	})
	for i := range said {
		require.Eventually(t, said[i].Load, patience, time.Millisecond, "node %d says so", i)
	}

	h.fabric.Heal()
	require.Eventually(t, func() bool {
		before := a.Stats().Relayed + b.Stats().Relayed
		requirePrompt(t, a, h.idOn(b), 1)
		renewals(t, 1, a, b)
		return a.Stats().Relayed+b.Stats().Relayed == before
	}, patience, time.Millisecond, "the link is back")
	id, retries := h.idOn(b), a.Stats().Retries
	var once atomic.Bool
	lost := make(chan struct{})
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		if m.From != b.Address() || m.To != a.Address() || m.Replies == 0 || once.Swap(true) {
			return clustertest.Fate{}
		}
		close(lost)
		return clustertest.Fate{Drop: true}
	})
	answered := later(t, a, id)
	<-lost
	h.fabric.Send(b.Address(), a.Address(), &wire.Envelope{From: string(b.ID()), To: string(a.ID()), Address: b.Address(), Detoured: true})
	require.NoError(t, <-answered)
	require.Equal(t, retries+1, a.Stats().Retries)
}

// A reply that comes directly to what was asked round shows only that one direction
// works.
func TestReplyToWhatWentRoundIsNoContact(t *testing.T) {
	h := build(t, 3, nil)
	a, b := h.nodes[0], h.nodes[1]
	h.fabric.OnSend(severs(a.Address(), b.Address(), false))
	relayed(t, a)
	reply := func() *wire.Envelope {
		return &wire.Envelope{From: string(b.ID()), To: string(a.ID()), Address: b.Address(), Replies: []*wire.Reply{{Number: 1}}}
	}
	require.Eventually(t, func() bool {
		h.fabric.Send(b.Address(), a.Address(), reply())
		return a.Stats().Unreached == 1
	}, 5*time.Second, 10*time.Millisecond, "it is a suspect")
}

package inprocess_test

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// gate is an aggregate whose one command stands still until the test opens it.
type gate struct{}

type pass struct{}

// gates are what the commands of one test tell and wait for.
type gates struct{ entered, open chan struct{} }

var standing gates

func (pass) Decide(gate) ([]aggregate.Event[gate], error) {
	standing.entered <- struct{}{}
	<-standing.open
	return nil, nil
}

type passed struct{}

func (passed) Evolve(*gate) {}

var gateType = aggregate.Define("gate", aggregate.Accepts[pass]("pass"), aggregate.Records[passed]("passed"))

// Calls may have been received, but not begun, when their session ends. What the
// peer has asked since is begun first, or instead.
func TestCallsOfAnEndedSessionAreNotBegun(t *testing.T) {
	standing = gates{make(chan struct{}), make(chan struct{})}
	h := build(t, 1, func(_ int, c *cluster.Config) { c.Aggregates = append(c.Aggregates, gateType) })
	n, id := h.nodes[0], "a"
	envelope := func(from string, s *stranger, session uint64, q *question) *wire.Envelope {
		return &wire.Envelope{
			From: from, To: string(n.ID()), Address: s.address, Session: session,
			Kinds: []*wire.Kind{&q.Kind}, Calls: []*wire.Call{&q.Call},
		}
	}
	busy, s := h.stranger(), h.stranger()
	const workersPerCore = 2 // of the host's pool
	for i := range workersPerCore * runtime.GOMAXPROCS(0) {
		q := command(strconv.Itoa(i))
		q.Type, q.Name, q.Payload = "gate", "pass", []byte("{}")
		n.Receive(envelope("busy", busy, 1, q))
		<-standing.entered
	}
	old, next := command(id), command(id)
	old.Number, next.Number = 1, 2
	n.Receive(envelope("stranger", s, 1, old))
	n.Receive(envelope("stranger", s, 2, next))
	n.Receive(envelope("stranger", s, 1, old))
	close(standing.open)
	e := <-s.replies
	require.Len(t, e.Replies, 1)
	require.EqualValues(t, 2, e.Replies[0].Number)
	require.EqualValues(t, 1, e.Replies[0].Version, "the old call had no effect before")
	require.Equal(t, 1, sum(t, n, id))
	require.Empty(t, s.replies)
	require.Len(t, h.log().Events, 1)
}

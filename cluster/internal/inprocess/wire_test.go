package inprocess_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// stranger speaks for a node that is none: one of another version, or a broken
// one.
type stranger struct {
	t       *testing.T
	house   *house
	address string
	replies chan *wire.Envelope
	session uint64
}

func (s *stranger) Receive(e *wire.Envelope) { s.replies <- e }
func (*stranger) Lost(string)                {}

func (h *house) stranger() *stranger {
	s := &stranger{t: h.t, house: h, replies: make(chan *wire.Envelope, 100), session: 1}
	var detach func()
	s.address, detach = h.fabric.Listen(s)
	h.t.Cleanup(detach)
	return s
}

// question is a call and what it is about.
type question struct {
	wire.Kind
	wire.Call
}

// ask sends one call and waits for its reply.
func (s *stranger) ask(to *cluster.Node, incarnation string, q *question) *wire.Reply {
	s.t.Helper()
	s.house.fabric.Send(s.address, to.Address(), &wire.Envelope{
		From: "stranger", To: incarnation, Address: s.address, Session: s.session, Kinds: []*wire.Kind{&q.Kind}, Calls: []*wire.Call{&q.Call},
	})
	select {
	case e := <-s.replies:
		require.Len(s.t, e.Replies, 1)
		require.Equal(s.t, q.Number, e.Replies[0].Number)
		require.Equal(s.t, to.Address(), e.Address)
		return e.Replies[0]
	case <-time.After(patience):
		s.t.Fatal("no reply")
		return nil
	}
}

func command(id string) *question {
	c := aggregate.NewCommandID()
	q := &question{}
	q.Type, q.Name = "counter", "add"
	q.Number, q.Id, q.Payload = 7, id, []byte(`{"N":1}`)
	q.CommandHigh, q.CommandLow = binary.BigEndian.Uint64(c[:8]), binary.BigEndian.Uint64(c[8:])
	return q
}

func TestBadCallsFromPeersAreRefused(t *testing.T) {
	const limit = 1000
	h := build(t, 1, func(_ int, c *cluster.Config) { c.MaxPayload = limit })
	n, s := h.nodes[0], h.stranger()
	id := h.idOn(n)
	cases := map[string]struct {
		change func(c *question)
		reason string
	}{
		"type of a newer node":    {func(c *question) { c.Type = "ledger" }, aggregate.ReasonUnknownType},
		"command of a newer node": {func(c *question) { c.Name = "multiply" }, aggregate.ReasonUnknownName},
		"query of a newer node":   {func(c *question) { c.Name, c.Query = "average", true }, aggregate.ReasonUnknownName},
		"event as a command":      {func(c *question) { c.Name = "added" }, aggregate.ReasonUnknownName},
		"answer of a mute one":    {func(c *question) { c.Name, c.Answer = "idle", true }, aggregate.ReasonUnknownName},
		"undecodable":             {func(c *question) { c.Payload = []byte(`{"N":`) }, aggregate.ReasonBadPayload},
		"wrong type":              {func(c *question) { c.Payload = []byte(`{"N":"x"}`) }, aggregate.ReasonBadPayload},
		"oversized":               {func(c *question) { c.Payload = []byte(`{"Text":"` + strings.Repeat("x", limit) + `"}`) }, aggregate.ReasonTooLarge},
		"no command id":           {func(c *question) { c.CommandHigh, c.CommandLow = 0, 0 }, aggregate.ReasonCommandTooOld},
		"kind out of range":       {func(c *question) { c.Call.Kind = 1 }, aggregate.ReasonUnknownName},
		"bad metadata":            {func(c *question) { c.Metadata = []byte("\xff\xff") }, aggregate.ReasonBadPayload},
		"empty id":                {func(c *question) { c.Id = "" }, aggregate.ReasonBadID},
		"long id":                 {func(c *question) { c.Id = strings.Repeat("x", 513) }, aggregate.ReasonBadID},
		"activation of a bad id":  {func(c *question) { c.Id, c.Activate = "", true }, aggregate.ReasonBadID},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			call := command(id)
			c.change(call)
			reply := s.ask(n, string(n.ID()), call)
			require.Nil(t, reply.NotOwner)
			require.Zero(t, reply.Version)
			require.NotNil(t, reply.Error)
			require.EqualValues(t, aggregate.KindInvalid, reply.Error.Kind, "%v", reply.Error)
			require.Equal(t, c.reason, reply.Error.Code)
			require.NotEmpty(t, reply.Error.Message)
		})
	}
	t.Run("answer too large", func(t *testing.T) {
		long := command(id)
		long.Name, long.Query, long.Payload = "long", true, []byte(`{"Bytes":2000}`)
		reply := s.ask(n, string(n.ID()), long)
		require.Equal(t, aggregate.ReasonTooLarge, reply.Error.GetCode())
		require.Empty(t, reply.Result)
	})
	require.Zero(t, sum(t, n, id), "none had an effect")
	require.Empty(t, h.log().Events)
	reply := s.ask(n, string(n.ID()), command(id))
	require.Nil(t, reply.Error)
	require.EqualValues(t, 1, reply.Version, "the node lives")
}

func TestCallsForAnotherIncarnationAreNotExecuted(t *testing.T) {
	h := build(t, 2, nil)
	n, s := h.nodes[0], h.stranger()
	id := h.idOn(n)
	row := n.Owner("counter", id)
	for _, to := range []string{"", "an earlier life"} {
		reply := s.ask(n, to, command(id))
		require.NotNil(t, reply.NotOwner)
		require.EqualValues(t, row.Partition, reply.NotOwner.Partition)
		require.EqualValues(t, row.Epoch, reply.NotOwner.Epoch)
		require.Equal(t, string(row.Owner), reply.NotOwner.Owner)
	}
	elsewhere := h.idOn(h.nodes[1])
	reply := s.ask(n, string(n.ID()), command(elsewhere))
	require.NotNil(t, reply.NotOwner, "not its partition")
	require.Equal(t, string(h.nodes[1].ID()), reply.NotOwner.Owner)
	activate := command(elsewhere)
	activate.Activate = true
	require.NotNil(t, s.ask(n, string(n.ID()), activate).NotOwner)
	require.Empty(t, h.log().Events)
}

// What a peer says about the table is a hint: a lie costs a detour.
func TestWrongEpochsAndLiesAreHarmless(t *testing.T) {
	h := build(t, 2, nil)
	n, s := h.nodes[0], h.stranger()
	id := h.idOn(n)
	call := command(id)
	call.Epoch = 1 << 40
	require.EqualValues(t, 1, s.ask(n, string(n.ID()), call).Version, "the owner knows better")
	row := n.Owner("counter", id)
	h.fabric.Send(s.address, n.Address(), &wire.Envelope{
		From: "stranger", To: string(n.ID()), Address: s.address,
		Moved:   []*wire.Moved{{Partition: -1, Epoch: 9}, {Partition: partitions, Epoch: 9}, {Partition: int32(row.Partition), Epoch: int64(row.Epoch)}},
		Replies: []*wire.Reply{{Number: 0}, {Number: 1 << 63}},
	})
	require.Equal(t, 1, sum(t, n, id))
	require.Equal(t, 1, sum(t, h.nodes[1], id))
	require.Equal(t, row, n.Owner("counter", id))
}

// The same envelope twice, as a network may deliver it, counts once.
func TestEnvelopesThatArriveTwiceCountOnce(t *testing.T) {
	h := build(t, 1, nil)
	n, s := h.nodes[0], h.stranger()
	id := h.idOn(n)
	call := command(id)
	first := s.ask(n, string(n.ID()), call)
	second := s.ask(n, string(n.ID()), call)
	require.True(t, second.Duplicate)
	require.Equal(t, first.Offset, second.Offset)
	require.Equal(t, 1, sum(t, n, id))
}

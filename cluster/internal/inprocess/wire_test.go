package inprocess_test

import (
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

// ask sends one call and waits for its reply.
func (s *stranger) ask(to *cluster.Node, incarnation string, c *wire.Call) *wire.Reply {
	s.t.Helper()
	s.house.fabric.Send(s.address, to.Address(), &wire.Envelope{
		From: "stranger", To: incarnation, Address: s.address, Session: s.session, Calls: []*wire.Call{c},
	})
	select {
	case e := <-s.replies:
		require.Len(s.t, e.Replies, 1)
		require.Equal(s.t, c.Number, e.Replies[0].Number)
		require.Equal(s.t, to.Address(), e.Address)
		return e.Replies[0]
	case <-time.After(patience):
		s.t.Fatal("no reply")
		return nil
	}
}

func command(id string) *wire.Call {
	c := aggregate.NewCommandID()
	return &wire.Call{Number: 7, Type: "counter", Id: id, Name: "add", Payload: []byte(`{"N":1}`), Command: c[:]}
}

func TestBadCallsFromPeersAreRefused(t *testing.T) {
	const limit = 1000
	h := build(t, 1, func(_ int, c *cluster.Config) { c.MaxPayload = limit })
	n, s := h.nodes[0], h.stranger()
	id := h.idOn(n)
	cases := map[string]struct {
		change func(c *wire.Call)
		reason string
	}{
		"type of a newer node":    {func(c *wire.Call) { c.Type = "ledger" }, aggregate.ReasonUnknownType},
		"command of a newer node": {func(c *wire.Call) { c.Name = "multiply" }, aggregate.ReasonUnknownName},
		"query of a newer node":   {func(c *wire.Call) { c.Name, c.Query = "average", true }, aggregate.ReasonUnknownName},
		"event as a command":      {func(c *wire.Call) { c.Name = "added" }, aggregate.ReasonUnknownName},
		"answer of a mute one":    {func(c *wire.Call) { c.Name, c.Answer = "idle", true }, aggregate.ReasonUnknownName},
		"undecodable":             {func(c *wire.Call) { c.Payload = []byte(`{"N":`) }, aggregate.ReasonBadPayload},
		"wrong type":              {func(c *wire.Call) { c.Payload = []byte(`{"N":"x"}`) }, aggregate.ReasonBadPayload},
		"oversized":               {func(c *wire.Call) { c.Payload = []byte(`{"Text":"` + strings.Repeat("x", limit) + `"}`) }, aggregate.ReasonTooLarge},
		"no command id":           {func(c *wire.Call) { c.Command = nil }, aggregate.ReasonBadPayload},
		"short command id":        {func(c *wire.Call) { c.Command = c.Command[:15] }, aggregate.ReasonBadPayload},
		"old command id":          {func(c *wire.Call) { clear(c.Command) }, aggregate.ReasonCommandTooOld},
		"bad metadata":            {func(c *wire.Call) { c.Metadata = []byte("\xff\xff") }, aggregate.ReasonBadPayload},
		"empty id":                {func(c *wire.Call) { c.Id = "" }, aggregate.ReasonBadID},
		"long id":                 {func(c *wire.Call) { c.Id = strings.Repeat("x", 513) }, aggregate.ReasonBadID},
		"activation of a bad id":  {func(c *wire.Call) { c.Id, c.Activate = "", true }, aggregate.ReasonBadID},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			call := command(id)
			c.change(call)
			reply := s.ask(n, string(n.ID()), call)
			require.Nil(t, reply.NotOwner)
			require.Nil(t, reply.Receipt)
			require.NotNil(t, reply.Error)
			require.EqualValues(t, aggregate.KindInvalid, reply.Error.Kind, "%v", reply.Error)
			require.Equal(t, c.reason, reply.Error.Code)
			require.NotEmpty(t, reply.Error.Message)
		})
	}
	t.Run("answer too large", func(t *testing.T) {
		reply := s.ask(n, string(n.ID()), &wire.Call{Number: 8, Type: "counter", Id: id, Name: "long", Query: true, Payload: []byte(`{"Bytes":2000}`)})
		require.Equal(t, aggregate.ReasonTooLarge, reply.Error.GetCode())
		require.Empty(t, reply.Result)
	})
	require.Zero(t, sum(t, n, id), "none had an effect")
	require.Empty(t, h.log().Events)
	reply := s.ask(n, string(n.ID()), command(id))
	require.Nil(t, reply.Error)
	require.EqualValues(t, 1, reply.Receipt.Version, "the node lives")
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
	require.EqualValues(t, 1, s.ask(n, string(n.ID()), call).Receipt.Version, "the owner knows better")
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
	require.True(t, second.Receipt.Duplicate)
	require.Equal(t, first.Receipt.Offset, second.Receipt.Offset)
	require.Equal(t, 1, sum(t, n, id))
}

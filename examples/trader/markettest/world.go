// Package markettest is the market in memory: aggregates behind a gateway, and
// their log, one thing after another. It shows what the domain and the
// settlement do when nothing goes wrong, or when a test makes it go wrong.
package markettest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/settlement"
	"github.com/ingrain-go/ingrain/persistence"
)

// Partitions of the world's log.
const Partitions = 8

// Welcome is the cash a new user gets.
const Welcome portfolio.Cents = 1_000_000

// World is an [aggregate.Gateway] with a log. It is not safe for concurrent use.
type World struct {
	t testing.TB
	// Log is everything that happened, in order.
	Log      []persistence.Event
	Receipts []aggregate.Receipt

	instances map[persistence.Stream]aggregate.Instance
	versions  map[persistence.Stream]persistence.Version
	heads     map[persistence.Partition]persistence.Offset
	handled   map[handled]aggregate.Receipt
	settled   int // events of the log whose reactions were sent
}

type handled struct {
	stream  persistence.Stream
	command aggregate.CommandID
}

// New makes an empty world.
func New(t testing.TB) *World {
	return &World{
		t: t, instances: map[persistence.Stream]aggregate.Instance{},
		versions: map[persistence.Stream]persistence.Version{}, heads: map[persistence.Partition]persistence.Offset{},
		handled: map[handled]aggregate.Receipt{},
	}
}

// Deliver executes a request at once.
func (w *World) Deliver(_ context.Context, r *aggregate.Request) (aggregate.Response, error) {
	stream := persistence.Stream{Type: r.Definition.Name(), ID: r.ID}
	instance := w.instances[stream]
	if instance == nil {
		instance = r.Definition.NewInstance()
		w.instances[stream] = instance
	}
	var response aggregate.Response
	if r.Message.Kind() == aggregate.KindCommand {
		receipt, err := w.execute(stream, instance, r)
		if err != nil {
			return response, err
		}
		response.Receipt = receipt
	}
	if r.Answer {
		answer, err := instance.Answer(r.Message, r.Value)
		if err != nil {
			return response, aggregate.AsRejection(err)
		}
		response.Answer = answer
	}
	return response, nil
}

func (w *World) execute(stream persistence.Stream, instance aggregate.Instance, r *aggregate.Request) (aggregate.Receipt, error) {
	if had, ok := w.handled[handled{stream, r.Command}]; ok {
		had.Duplicate = true
		return had, nil
	}
	events, err := instance.Decide(r.Value)
	if err != nil {
		return aggregate.Receipt{}, aggregate.AsRejection(err)
	}
	partition := persistence.PartitionOf(stream, Partitions)
	receipt := aggregate.Receipt{Command: r.Command, Events: len(events), Partition: aggregate.Partition(partition)}
	for _, e := range events {
		stored, err := eventsourcing.EncodeEvent(r.Definition.MessageOf(e), e)
		require.NoError(w.t, err)
		instance.Evolve(e)
		w.versions[stream]++
		w.heads[partition]++
		w.Log = append(w.Log, persistence.Event{
			Partition: partition, Offset: w.heads[partition], Epoch: 1, Stream: stream, Version: w.versions[stream],
			Type: stored.Type, At: time.UnixMilli(1_700_000_000_000), Command: persistence.CommandID(r.Command), Payload: stored.Payload,
		})
		receipt.Offset = aggregate.Offset(w.heads[partition])
	}
	receipt.Version = aggregate.Version(w.versions[stream])
	if len(events) > 0 {
		w.handled[handled{stream, r.Command}] = receipt
		w.Receipts = append(w.Receipts, receipt)
	}
	return receipt, nil
}

// Settle sends the reactions to everything that happened since the last time,
// until nothing happens any more.
func (w *World) Settle() {
	for ; w.settled < len(w.Log); w.settled++ {
		w.React(w.settled)
	}
}

// React sends the reactions to one event of the log.
func (w *World) React(n int) {
	reactions, err := settlement.Reactions(&w.Log[n], Welcome)
	require.NoError(w.t, err)
	for _, r := range reactions {
		require.NoError(w.t, r.Send(context.Background(), w), "%s %s", w.Log[n].Stream, w.Log[n].Type)
	}
}

// ReactAnew does so under other command ids, as if the world did not know
// commands again.
func (w *World) ReactAnew(n int) {
	reactions, err := settlement.Reactions(&w.Log[n], Welcome)
	require.NoError(w.t, err)
	for _, r := range reactions {
		require.NoError(w.t, r.SendAnew(context.Background(), w), "%s %s", w.Log[n].Stream, w.Log[n].Type)
	}
}

// Send executes a command that must be accepted.
func Send[S any](w *World, typ *aggregate.Type[S], id string, command aggregate.Command[S]) aggregate.Receipt {
	w.t.Helper()
	receipt, err := typ.Ref(w, id).Send(context.Background(), command)
	require.NoError(w.t, err, "%T", command)
	return receipt
}

// Order reserves for an order of a user and returns its id. It goes to the book
// by Settle.
func (w *World) Order(user string, b portfolio.BookID, side portfolio.Side, quantity portfolio.Quantity, limit portfolio.Cents) portfolio.OrderID {
	w.t.Helper()
	request := aggregate.NewCommandID()
	id := portfolio.NewOrderID(user, request)
	_, err := portfolio.Portfolios.Ref(w, user).Send(context.Background(), portfolio.Reserve{
		Order: portfolio.OrderID(id.String()), Request: request.String(), Book: b, Side: side, Quantity: quantity, Limit: limit,
	}, aggregate.WithCommandID(id))
	require.NoError(w.t, err)
	return portfolio.OrderID(id.String())
}

// Find returns the place in the log of the n-th event of a type, from 0.
func (w *World) Find(stream persistence.Stream, typ string, n int) int {
	w.t.Helper()
	for i, e := range w.Log {
		if e.Type == typ && e.Stream == stream {
			if n == 0 {
				return i
			}
			n--
		}
	}
	w.t.Fatalf("no such event: %s %s", stream, typ)
	return -1
}

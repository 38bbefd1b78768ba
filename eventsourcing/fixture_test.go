package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

func TestMain(m *testing.M) {
	code := postgrestest.Main(m)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

type account struct {
	Cents int64
	Name  string
	Tags  map[string]int `json:",omitempty"`
}

type event = aggregate.Event[account]

type deposit struct{ Cents int64 }

func (c deposit) Decide(account) ([]event, error) { return []event{deposited{Cents: c.Cents}}, nil }

// deposited had two earlier forms: whole dollars, then dollars and cents.
type deposited struct {
	Cents int64
	Note  string `json:",omitempty"`
}

func (e deposited) Evolve(a *account) {
	if e.Note == "panic" {
		panic("the program of today cannot digest this")
	}
	a.Cents += e.Cents
}

type (
	depositedV1 struct{ Dollars int64 }
	depositedV2 struct{ Dollars, Cents int64 }
)

func upcastV1(v1 depositedV1) depositedV2 {
	if v1.Dollars == 666 {
		panic("an upcast that cannot cope")
	}
	return depositedV2{Dollars: v1.Dollars}
}

func upcastV2(v2 depositedV2) deposited { return deposited{Cents: v2.Dollars*100 + v2.Cents} }

// renamed is a Protocol Buffers message, whose first form was a number.
type renamed struct{ wrapperspb.StringValue }

func (e *renamed) Evolve(a *account) { a.Name = e.GetValue() }

func upcastName(v1 *wrapperspb.Int64Value) *renamed {
	return rename(strconv.FormatInt(v1.GetValue(), 10))
}

func rename(name string) *renamed {
	e := &renamed{}
	e.Value = name
	return e
}

// touchy panics when it is decoded.
type touchy struct{}

func (touchy) Evolve(*account)              {}
func (*touchy) UnmarshalJSON([]byte) error  { panic("in UnmarshalJSON") }
func (touchy) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

var accounts = aggregate.Define("account",
	aggregate.Accepts[deposit]("deposit"),
	aggregate.Records[deposited]("deposited", aggregate.From(1, upcastV1), aggregate.From(2, upcastV2)),
	aggregate.Records[*renamed]("renamed", aggregate.From(1, upcastName)),
	aggregate.Records[touchy]("touchy"),
	aggregate.Snapshots[account](aggregate.SnapshotPolicy{Schema: 3}),
)

var definition = accounts.Definition()

// book is a store with one owner, who appends as he is told.
type book struct {
	t     *testing.T
	store *memory.Store
	heads map[persistence.Partition]persistence.Fence
}

const owner = persistence.NodeID("owner")

func newBook(t *testing.T) *book {
	require.NoError(t, aggregate.Validate(accounts))
	store, err := memory.Open(memory.Config{})
	require.NoError(t, err)
	require.NoError(t, store.Join(t.Context(), persistence.Node{ID: owner, Cluster: "test", State: persistence.Active}))
	return &book{t: t, store: store, heads: map[persistence.Partition]persistence.Fence{}}
}

func streamOf(id string) persistence.Stream { return persistence.Stream{Type: "account", ID: id} }

func target(id string) Target { return Target{Definition: definition, Stream: streamOf(id)} }

// append writes one commit.
func (b *book) append(id string, expected persistence.Version, events ...persistence.NewEvent) *persistence.Commit {
	b.t.Helper()
	s := streamOf(id)
	p := persistence.PartitionOf(s, b.store.Meta().Partitions)
	fence, ok := b.heads[p]
	if !ok {
		tenure, err := b.store.Claim(b.t.Context(), p, 0, owner)
		require.NoError(b.t, err)
		fence = persistence.Fence{Partition: p, Epoch: tenure.Epoch}
	}
	c := &persistence.Commit{
		Stream: s, Partition: p, Epoch: fence.Epoch, Expected: expected, At: time.Now(),
		Command: persistence.CommandID(aggregate.NewCommandID()), Events: events,
	}
	b.store.Append(context.Background(), &persistence.Batch{Owner: owner, Fences: []persistence.Fence{fence}, Commits: []*persistence.Commit{c}})
	require.NoError(b.t, c.Err)
	fence.Head += persistence.Offset(len(events))
	b.heads[p] = fence
	return c
}

func (b *book) load(ids ...string) []Loaded {
	targets := make([]Target, len(ids))
	for i, id := range ids {
		targets[i] = target(id)
	}
	return NewJournal(b.store, slog.New(slog.DiscardHandler)).Load(b.t.Context(), targets)
}

func (b *book) loadOne(id string) (account, Loaded) {
	b.t.Helper()
	l := b.load(id)[0]
	require.NoError(b.t, l.Err)
	return *l.Instance.State().(*account), l
}

func stored(typ, payload string) persistence.NewEvent {
	return persistence.NewEvent{Type: typ, Payload: []byte(payload)}
}

func encoded(t *testing.T, event any) persistence.NewEvent {
	t.Helper()
	e, err := EncodeEvent(definition.MessageOf(event), event)
	require.NoError(t, err)
	return e
}

// lying is a store that changes what it has read.
type lying struct {
	persistence.Store
	events func([]persistence.Event) []persistence.Event
}

func (l lying) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	h, err := l.Store.ReadMany(ctx, streams, limit)
	for i := range h {
		h[i].Events = l.events(h[i].Events)
	}
	return h, err
}

var errDown = errors.New("the store is down")

// down is a store that cannot be asked.
type down struct{ persistence.Store }

func (down) ReadMany(context.Context, []persistence.Stream, int) ([]persistence.History, error) {
	return nil, errDown
}

func (down) Read(context.Context, persistence.Stream, persistence.Version, int) ([]persistence.Event, error) {
	return nil, errDown
}

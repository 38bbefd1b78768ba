package memory_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

func TestContract(t *testing.T) {
	closed := func(t *testing.T, s *memory.Store) persistence.Store {
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	persistencetest.Run(t, persistencetest.Harness{
		Open: func(t *testing.T, partitions int) persistence.Store {
			s, err := memory.Open(memory.Config{Partitions: partitions})
			require.NoError(t, err)
			return closed(t, s)
		},
		Again: func(t *testing.T, s persistence.Store) persistence.Store {
			return closed(t, s.(*memory.Store).Reopen())
		},
		SetBack: func(t *testing.T, s persistence.Store, p persistence.Partition, head persistence.Offset) {
			require.NoError(t, s.(*memory.Store).SetBack(p, head))
		},
	})
}

// TestLogIsSetBackAndGrowsAgain goes back to every place in a piece of the log.
func TestLogIsSetBackAndGrowsAgain(t *testing.T) {
	a, ctx := newAppender(t), t.Context()
	for range 2 * len(a.streams) {
		require.NoError(t, a.append(ctx))
	}
	fence := &a.fences[3]
	full := fence.Head
	for head := full - 600; head <= full; head += 100 {
		require.NoError(t, a.store.SetBack(3, head))
		require.NoError(t, a.store.SetBack(3, full), "a log does not grow by it")
		events, err := a.store.Tail(ctx, []persistence.Cursor{{Partition: 3, After: head - 1}}, 10)
		require.NoError(t, err)
		require.Len(t, events, 1)
		fence.Head = head
		a.versions = make([]persistence.Version, len(a.streams))
		for i, s := range a.streams {
			if persistence.PartitionOf(s, memory.DefaultPartitions) == 3 {
				events, err := a.store.Read(ctx, s, 0, 1000)
				require.NoError(t, err)
				a.versions[i] = persistence.Version(len(events))
			}
		}
		for a.next = 0; fence.Head < full; a.next++ {
			if i := a.next % len(a.streams); persistence.PartitionOf(a.streams[i], memory.DefaultPartitions) == 3 {
				require.NoError(t, a.append(ctx))
				a.next--
			}
		}
	}
	require.Error(t, a.store.SetBack(-1, 0))
	require.NoError(t, a.store.SetBack(3, 0))
	events, err := a.store.Tail(ctx, []persistence.Cursor{{Partition: 3}}, 10)
	require.NoError(t, err)
	require.Empty(t, events)
}

func TestPartitionCountIsChecked(t *testing.T) {
	s, err := memory.Open(memory.Config{})
	require.NoError(t, err)
	require.Equal(t, memory.DefaultPartitions, s.Meta().Partitions)
	require.True(t, s.Immediate())
	for _, n := range []int{-1, 65_537} {
		_, err := memory.Open(memory.Config{Partitions: n})
		require.ErrorAs(t, err, new(*persistence.SetupError))
	}
}

// appender sends one commit at a time to 10,000 streams in turn.
type appender struct {
	store    *memory.Store
	streams  []persistence.Stream
	versions []persistence.Version
	fences   []persistence.Fence
	batch    persistence.Batch
	next     int
}

func newAppender(tb testing.TB) *appender {
	s, err := memory.Open(memory.Config{})
	require.NoError(tb, err)
	require.NoError(tb, s.Join(tb.Context(), persistence.Node{ID: "n", State: persistence.Active}))
	a := &appender{store: s, versions: make([]persistence.Version, 10_000)}
	for i := range a.versions {
		a.streams = append(a.streams, persistence.Stream{Type: "account", ID: fmt.Sprintf("account-%08x-0000-4000", i)})
	}
	for p := range persistence.Partition(memory.DefaultPartitions) {
		tenure, err := s.Claim(tb.Context(), p, 0, "n")
		require.NoError(tb, err)
		a.fences = append(a.fences, persistence.Fence{Partition: p, Epoch: tenure.Epoch})
	}
	commit := &persistence.Commit{Events: []persistence.NewEvent{{Type: "deposited", Payload: make([]byte, 200)}}}
	a.batch = persistence.Batch{Owner: "n", Fences: make([]persistence.Fence, 1), Commits: []*persistence.Commit{commit}}
	return a
}

func (a *appender) append(ctx context.Context) error {
	c, i := a.batch.Commits[0], a.next%len(a.streams)
	c.Stream, c.Expected = a.streams[i], a.versions[i]
	c.Partition = persistence.PartitionOf(c.Stream, memory.DefaultPartitions)
	fence := &a.fences[c.Partition]
	c.Epoch, a.batch.Fences[0] = fence.Epoch, *fence
	a.store.Append(ctx, &a.batch)
	a.versions[i]++
	fence.Head++
	a.next++
	return c.Err
}

// TestAppendAllocatesLittle allows for the copy of the bytes, and for what
// growing the log and the stream's list costs on average.
func TestAppendAllocatesLittle(t *testing.T) {
	a, ctx := newAppender(t), t.Context()
	for range 2 * len(a.streams) { // every stream is known
		require.NoError(t, a.append(ctx))
	}
	var failed error
	allocations := testing.AllocsPerRun(5000, func() {
		if err := a.append(ctx); err != nil {
			failed = err
		}
	})
	require.NoError(t, failed)
	require.LessOrEqual(t, allocations, 2.0)
}

func BenchmarkAppendOne(b *testing.B) {
	a, ctx := newAppender(b), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := a.append(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

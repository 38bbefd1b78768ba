package persistencetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var tailCases = []testCase{
	{"TestTailPagesThroughPartitions", testTailPagesThroughPartitions},
	{"TestAcknowledgedEventsAreInTheNextTail", testAcknowledgedEventsAreInTheNextTail},
	{"TestReaderSeesNoGapWhileLanesAppend", testReaderSeesNoGapWhileLanesAppend},
	{"TestReaderSeesNoGapWhileLanesFightOverPartitions", testReaderSeesNoGapWhileLanesFight},
}

func testTailPagesThroughPartitions(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	var commits []*persistence.Commit
	for v := range persistence.Version(5) {
		for _, p := range []persistence.Partition{0, 2} {
			commits = append(commits, commit(streamIn(p, n, 0), 2*v, fmt.Sprintf("%d-%d", p, v), "second"))
		}
	}
	o.must(commits...)

	tail := func(limit int, cursors ...persistence.Cursor) (offsets map[persistence.Partition][]persistence.Offset) {
		events, err := s.Tail(t.Context(), cursors, limit)
		require.NoError(t, err)
		offsets = make(map[persistence.Partition][]persistence.Offset)
		for _, e := range events {
			offsets[e.Partition] = append(offsets[e.Partition], e.Offset)
		}
		return offsets
	}
	type places = map[persistence.Partition][]persistence.Offset
	require.Equal(t, places{0: {1, 2, 3}}, tail(3, persistence.Cursor{Partition: 0}))
	require.Equal(t, places{0: {4, 5, 6}}, tail(3, persistence.Cursor{Partition: 0, After: 3}))
	require.Equal(t, places{0: {10}}, tail(3, persistence.Cursor{Partition: 0, After: 9}))
	require.Empty(t, tail(3, persistence.Cursor{Partition: 0, After: 10}))
	require.Empty(t, tail(3, persistence.Cursor{Partition: 0, After: 1000}), "a cursor ahead of the log")
	require.Empty(t, tail(3, persistence.Cursor{Partition: 1}))
	require.Equal(t, places{0: {8, 9}, 2: {1, 2}}, tail(2,
		persistence.Cursor{Partition: 2}, persistence.Cursor{Partition: 3}, persistence.Cursor{Partition: 0, After: 7}),
		"the limit counts for each cursor")
	require.Equal(t, places{0: {9, 10}, 2: {10}}, tail(100,
		persistence.Cursor{Partition: 0, After: 8}, persistence.Cursor{Partition: 2, After: 9}))
	require.Empty(t, tail(100))
}

func testAcknowledgedEventsAreInTheNextTail(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	other := h.Again(t, s)
	x := streamIn(1, 2, 0)
	for v := range persistence.Version(30) {
		c := commit(x, v, fmt.Sprint(v))
		o.must(c)
		events, err := other.Tail(t.Context(), []persistence.Cursor{{Partition: 1, After: c.Offset - 1}}, 10)
		require.NoError(t, err)
		requireEvents(t, eventsOf(c), events)
	}
}

func testReaderSeesNoGapWhileLanesAppend(t *testing.T, h Harness) { tailDuringAppends(t, h, false) }

func testReaderSeesNoGapWhileLanesFight(t *testing.T, h Harness) { tailDuringAppends(t, h, true) }

// tailDuringAppends lets four lanes on two handles append while readers on a
// third follow every partition. Each lane has partitions of its own, as in a
// running node; or, to make it harder, all lanes write to all partitions under
// one epoch and learn from refusals where the head is. // I9
func tailDuringAppends(t *testing.T, h Harness, fight bool) {
	const n, lanes, batches, readers = 8, 4, 60, 2
	s, o := openOwned(t, h, n)
	second, third := h.Again(t, s), h.Again(t, s)

	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var writers, following sync.WaitGroup
	written := make([][]*persistence.Commit, lanes)
	errs := make([]error, lanes)
	refused := make([]int, lanes)
	for i := range lanes {
		l := lane{
			owner: o.on([]persistence.Store{s, second}[i%2]), random: rand.New(rand.NewPCG(uint64(i), 7)),
			versions: make(map[persistence.Stream]persistence.Version),
		}
		for p := range persistence.Partition(n) {
			if fight || int(p)%lanes == i {
				for j := range 3 {
					l.streams = append(l.streams, streamIn(p, n, 3*i+j))
				}
			}
		}
		writers.Go(func() { errs[i] = l.run(t.Context(), batches); written[i], refused[i] = l.written, l.refused })
	}
	results := make([]*reader, readers)
	readErrs := make([]error, readers)
	for i := range results {
		results[i] = newReader(third)
		following.Go(func() { readErrs[i] = follow(t.Context(), results[i], func() bool { return writing.Err() != nil }) })
	}
	writers.Wait()
	stop()
	following.Wait()
	for _, err := range readErrs {
		require.NoError(t, err)
	}

	var all []*persistence.Commit
	refusals := 0
	for i := range lanes {
		require.NoError(t, errs[i])
		all = append(all, written[i]...)
		refusals += refused[i]
	}
	want := make(map[persistence.Cursor]persistence.Event)
	for _, e := range eventsOf(all...) {
		want[persistence.Cursor{Partition: e.Partition, After: e.Offset}] = e
	}
	t.Logf("%d commits, %d events, %d commits refused for their head", len(all), len(want), refusals)
	for _, r := range results {
		require.Len(t, r.events, len(want), "the reader missed events, or saw some that nobody wrote")
		for _, e := range r.events {
			requireEvents(t, []persistence.Event{want[persistence.Cursor{Partition: e.Partition, After: e.Offset}]}, []persistence.Event{e})
		}
	}
	if !fight {
		require.Zero(t, refusals, "lanes with partitions of their own know their heads")
	}
}

// follow reads until writing has stopped and nothing is left.
func follow(ctx context.Context, r *reader, stop func() bool) error {
	for {
		stopped := stop() // asked before the poll: what that misses was never written
		n, err := r.poll(ctx)
		if err != nil || n == 0 && stopped {
			return err
		}
	}
}

// lane appends random batches to its streams.
type lane struct {
	owner    *owner
	random   *rand.Rand
	streams  []persistence.Stream
	versions map[persistence.Stream]persistence.Version
	written  []*persistence.Commit
	refused  int
}

// run sends so many batches and sends again what was refused for its head.
func (l *lane) run(ctx context.Context, batches int) error {
	for range batches {
		var batch []*persistence.Commit
		ahead := make(map[persistence.Stream]persistence.Version)
		for range 1 + l.random.IntN(12) {
			stream := l.streams[l.random.IntN(len(l.streams))]
			c := commit(stream, l.versions[stream]+ahead[stream])
			for e := range 1 + l.random.IntN(4) {
				c.Events = append(c.Events, persistence.NewEvent{Type: "deposited", Payload: fmt.Appendf(nil, "%s %d", stream.ID, e)})
			}
			ahead[stream] += persistence.Version(len(c.Events))
			batch = append(batch, c)
		}
		const patience = 10_000
		for try := 0; len(batch) > 0; try++ {
			if try == patience {
				return fmt.Errorf("append %s: refused %d times: %w", batch[0].Stream, try, batch[0].Err)
			}
			b := l.owner.batch(batch...)
			l.owner.store.Append(ctx, b)
			l.owner.learn(b)
			batch = batch[:0]
			for _, c := range b.Commits {
				var fenced *persistence.FencedError
				switch {
				case c.Err == nil:
					l.versions[c.Stream] += persistence.Version(len(c.Events))
					l.written = append(l.written, c)
				case errors.As(c.Err, &fenced) && fenced.Head != fenced.StoreHead:
					l.refused++
					batch = append(batch, c)
				default:
					return fmt.Errorf("append %s: %w", c.Stream, c.Err)
				}
			}
		}
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

func TestMovesAreChangesFromNodeToNode(t *testing.T) {
	before := []persistence.Ownership{{Partition: 0, Epoch: 3, Owner: "a"}, {Partition: 1, Epoch: 1, Owner: "b"}, {Partition: 2}}
	tenures := []check.Tenure{
		{Partition: 0, Epoch: 3, Owner: "a"},
		{Partition: 0, Epoch: 4, Owner: ""}, {Partition: 0, Epoch: 5, Owner: "a"}, // back at once
		{Partition: 0, Epoch: 6, Owner: "b"}, {Partition: 0, Epoch: 7, Owner: "b"}, // given, then claimed
		{Partition: 0, Epoch: 8, Owner: "a"},
		{Partition: 1, Epoch: 1, Owner: "b"},
		{Partition: 2, Epoch: 1, Owner: "b"},
	}
	require.Equal(t, 3, moves(before, tenures))
	require.Zero(t, moves(before, nil))
}

func TestTheWriteLockOfAFileIsFoundAmongTheMachines(t *testing.T) {
	locks := "1: FLOCK  ADVISORY  WRITE 11 08:01:77 0 EOF\n" +
		"2: POSIX  ADVISORY  READ 11 08:01:77 120 120\n" +
		"3: POSIX  ADVISORY  WRITE 11 08:01:77 124 124\n" +
		"4: POSIX  ADVISORY  WRITE 11 08:01:78 120 120\n" +
		"5: POSIX  ADVISORY  WRITE 12 08:01:77 120 121\n" +
		"6: -> POSIX  ADVISORY  WRITE 11 08:01:77 120 120\n" +
		"7: POSIX  ADVISORY  WRITE 13 08:01:77 0 EOF\n"
	require.False(t, holdsByte(locks, 11, "77", 120), "it reads it, holds another, waits for it")
	require.True(t, holdsByte(locks, 11, "78", 120))
	require.True(t, holdsByte(locks, 12, "77", 120))
	require.True(t, holdsByte(locks, 13, "77", 120))
	require.False(t, holdsByte(locks, 14, "77", 120))
}

func TestThroughputCountsPartsOfSlots(t *testing.T) {
	o := &outcome{begin: 1000}
	o.tally.Answered = []int32{10, 20, 30}
	at := func(ms int64) int64 { return 1000 + ms*int64(time.Millisecond) }
	require.InDelta(t, 200, o.throughput(at(0), at(300)), 1e-6)
	require.InDelta(t, 150, o.throughput(at(50), at(150)), 1e-6)
	require.InDelta(t, 300, o.throughput(at(250), at(9000)), 1e-6, "after the end nothing was counted")
	require.Zero(t, o.throughput(at(400), at(500)))
}

func TestTallyTellsWhatIsNewAndLatenciesOfEachSecond(t *testing.T) {
	var y tally
	y.begin()
	op := func(outcome check.Outcome, end, took time.Duration) {
		y.add(&result{outcome: outcome, call: int64(end - took), end: int64(end), attempts: 1})
	}
	op(check.OK, 100*time.Millisecond, 2*time.Millisecond)
	op(check.OK, 200*time.Millisecond, 4*time.Millisecond)
	op(check.Unknown, 300*time.Millisecond, time.Second)
	require.Equal(t, progress{OK: 2, Unknown: 1, InFlight: 7}, y.progress(7))
	op(check.Rejected, 2500*time.Millisecond, 8*time.Millisecond)
	require.Equal(t, progress{Rejected: 1}, withoutTimes(y.progress(0)))
	require.Equal(t, []int32{4000, 0}, y.Tail, "a second without answers has no latency")
	require.EqualValues(t, 1, y.Answered[1])
	require.EqualValues(t, 1, y.Answered[25])
}

func withoutTimes(p progress) progress {
	p.Median, p.Tail = 0, 0
	return p
}

func TestAKeyIsReplacedWhenItHasHadItsShareAndJudgedOnce(t *testing.T) {
	s := newShelf("k", 1, 3)
	first := s.at(0)
	begin := func(h *history) { h.callers++; h.issued++ }
	end := func(h *history) bool { h.callers--; return s.retire(h) }
	begin(first)
	require.False(t, end(first))
	begin(first)
	begin(first)
	require.NotSame(t, first, s.at(0), "its share is used up, though two calls are on their way")
	require.False(t, end(first))
	require.True(t, end(first), "the last one returns")

	second := s.at(0)
	require.Equal(t, "k-2", second.key)
	begin(second)
	second.open = historyOpen
	require.True(t, end(second), "too many unknown outcomes")
	require.NotSame(t, second, s.at(0))
}

func TestStepsAreWhatTheCheckerMayConclude(t *testing.T) {
	write := &operation{verb: verbWrite, value: 4}
	step, counts := stepOf(write, &result{outcome: check.OK, call: 1, end: 2})
	require.True(t, counts)
	require.Equal(t, check.Step{Verb: check.Write, Value: 4, Outcome: check.OK, Call: 1, Return: 2}, step)
	step, counts = stepOf(write, &result{outcome: check.Unknown, call: 1, end: 2})
	require.True(t, counts)
	require.EqualValues(t, check.Forever, step.Return)
	_, counts = stepOf(write, &result{outcome: check.Failed})
	require.False(t, counts)
	step, counts = stepOf(&operation{verb: verbTake}, &result{outcome: check.Rejected, uncertain: true, end: 2})
	require.True(t, counts)
	require.Equal(t, check.Unknown, step.Outcome, "an earlier attempt may still be on its way")
	_, counts = stepOf(&operation{verb: verbRead}, &result{outcome: check.Unknown})
	require.False(t, counts)
	step, counts = stepOf(&operation{verb: verbRead}, &result{outcome: check.OK, reply: reply{Seen: seen{Value: 9}}})
	require.True(t, counts)
	require.EqualValues(t, 9, step.Value)
}

func TestEveryPartitionHasProbes(t *testing.T) {
	for p, ids := range probesOf(64) {
		require.Len(t, ids, 2)
		for _, id := range ids {
			require.EqualValues(t, p, persistence.PartitionOf(persistence.Stream{Type: lists.Name(), ID: id}, 64))
		}
	}
}

// gateway answers as it is told.
type gateway func(*aggregate.Request) (aggregate.Response, error)

func (g gateway) Deliver(_ context.Context, r *aggregate.Request) (aggregate.Response, error) {
	return g(r)
}

func TestDeskCarriesRequestsAndErrors(t *testing.T) {
	d, err := openDesk("", gateway(func(r *aggregate.Request) (aggregate.Response, error) {
		switch r.ID {
		case "held":
			return aggregate.Response{}, errHeld.With(holderDetail, "17")
		case "moved":
			return aggregate.Response{}, aggregate.NotDone(aggregate.ReasonMoved, errors.New("away"))
		}
		return aggregate.Response{
			Receipt: aggregate.Receipt{Command: r.Command, Version: 3, Events: 1, Partition: 2, Offset: 9},
			Answer:  seen{Value: 5, Node: "n", Activation: 6},
		}, nil
	}))
	require.NoError(t, err)
	defer d.close()
	var b balancer
	defer b.close()
	b.point([]place{{"a", d.listener.Addr().String()}})
	ask := func(id string) *reply {
		r, err := b.pick(nil).ask(t.Context(), &request{Verb: verbClaim, ID: id, Command: aggregate.NewCommandID(), Micros: 1e6})
		require.NoError(t, err)
		return r
	}
	got := ask("free")
	require.Equal(t, reply{Number: 1, Version: 3, Events: 1, Partition: 2, Offset: 9, Seen: seen{5, "n", 6}}, *got)
	got = ask("held")
	require.Equal(t, aggregate.KindRejected, got.Kind)
	require.EqualValues(t, 17, got.Holder)
	got = ask("moved")
	require.Equal(t, aggregate.KindNotDone, got.Kind)
	require.Equal(t, aggregate.ReasonMoved, got.Reason)
}

func TestRequestsOfABrokenConnectionAreUnknown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	broken := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 10)) // the request has left
			err = errors.Join(err, conn.Close(), l.Close())
		}
		broken <- err
	}()
	var b balancer
	defer b.close()
	b.point([]place{{"a", l.Addr().String()}})
	e := b.pick(nil)
	_, err = e.ask(t.Context(), &request{Verb: verbAdd, ID: "x"})
	require.ErrorIs(t, err, errBroken)
	require.NoError(t, <-broken)
	_, err = e.ask(t.Context(), &request{Verb: verbAdd, ID: "x"})
	require.ErrorIs(t, err, errNotSent, "nobody listens any more")
}

func TestCountersAreFlat(t *testing.T) {
	raw, err := json.Marshal(nodeFigures{ID: "x", Store: storeFigures{Fenced: 4}})
	require.NoError(t, err)
	var tree any
	require.NoError(t, json.Unmarshal(raw, &tree))
	flat := map[string]float64{}
	flatten("", tree, flat)
	require.EqualValues(t, 4, flat["Store.Fenced"])
	for _, key := range []string{"Node.Host.Held", "Node.Host.Barriers", "Node.Host.Loads", "Node.Retries", "Node.Parked", "Node.Redirected", "Store.Leases"} {
		require.Contains(t, flat, key, "the table shows it")
	}
}

func TestTheIdleFleetIsThereAndNobodys(t *testing.T) {
	store, err := memory.Open(memory.Config{Partitions: 4})
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, populate(t.Context(), store, 1234, time.Second))
	n := 0
	for e, err := range check.Tail(func(c persistence.Cursor) ([]persistence.Event, error) {
		return store.Tail(t.Context(), []persistence.Cursor{c}, 100)
	}, 4) {
		require.NoError(t, err)
		n++
		_, ours := check.NewIds(5).Seq(e.Command)
		require.False(t, ours)
	}
	require.Equal(t, 1234, n)
	view, err := store.View(t.Context())
	require.NoError(t, err)
	require.Empty(t, view.Nodes)
	for _, row := range view.Partitions {
		require.Empty(t, row.Owner)
		require.True(t, row.Released)
	}
}

func TestUnfencedStoreWritesWhatTheStoreRefuses(t *testing.T) {
	inner, err := memory.Open(memory.Config{Partitions: 1})
	require.NoError(t, err)
	defer inner.Close()
	ctx := t.Context()
	for _, id := range []persistence.NodeID{"a", "b"} {
		require.NoError(t, inner.Join(ctx, persistence.Node{ID: id, Cluster: "c", Address: "x:1", Types: []string{"t"}, State: persistence.Active, Lease: time.Second}))
	}
	old, err := inner.Claim(ctx, 0, 0, "a")
	require.NoError(t, err)
	_, err = inner.Claim(ctx, 0, old.Epoch, "b")
	require.NoError(t, err)
	batch := func(n int) *persistence.Batch {
		b := &persistence.Batch{Owner: "a", Fences: []persistence.Fence{{Partition: 0, Epoch: old.Epoch}}}
		for i := range n {
			b.Commits = append(b.Commits, &persistence.Commit{
				Stream: persistence.Stream{Type: "t", ID: string(rune('a' + i))}, Epoch: old.Epoch, Command: persistence.CommandID(aggregate.NewCommandID()),
				At: time.Now(), Events: []persistence.NewEvent{{Type: "e", Payload: []byte("{}")}},
			})
		}
		return b
	}
	counting := &countingStore{Store: inner}
	refused := batch(3)
	counting.Append(ctx, refused)
	var fenced *persistence.FencedError
	require.ErrorAs(t, refused.Commits[0].Err, &fenced)
	require.EqualValues(t, 3, counting.figures().Fenced)

	forced := batch(3)
	(&unfencedStore{counting}).Append(ctx, forced)
	for i, c := range forced.Commits {
		require.NoError(t, c.Err)
		require.EqualValues(t, i+1, c.Offset)
		require.Equal(t, old.Epoch, c.Epoch, "the caller's commit is given back as it was")
	}
	require.EqualValues(t, 3, counting.figures().Forced)
}

func TestLocksExcludeEachOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	b, err := openFile(file, 1)
	require.NoError(t, err)
	l, err := openLocks(t.Context(), b.place(""))
	require.NoError(t, err)
	defer func() { require.NoError(t, l.close()) }()
	unlock, err := l.lock(t.Context(), "x")
	require.NoError(t, err)
	other, err := l.lock(t.Context(), "y")
	require.NoError(t, err)
	other()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = l.lock(short, "x")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = l.lock(t.Context(), "x")
	require.NoError(t, err)
	unlock()
}

func TestPageOfNothingIsAPage(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, (&outcome{}).page().Write(&b))
	require.NotContains(t, b.String(), "NaN")
	require.NotContains(t, b.String(), "Inf")
}

func TestSumsAddUpRunsAndKeepTheWorst(t *testing.T) {
	one := outcome{Command: "churn -seed 1", OK: 10, Seconds: 1800, Rows: []row{{Kind: kill, Times: 2, OK: 5, Lost: 1, Linearizable: true, Moves: 4, Minimum: 4, Gap: spread{3, 1, 2, 3}}}, Kinds: map[check.Kind]int{check.Lost: 1}}
	two := outcome{Command: "churn -seed 2", OK: 20, Seconds: 1800, Rows: []row{{Kind: kill, Times: 3, OK: 6, Linearizable: true, Moves: 5, Minimum: 4, Gap: spread{3, 1, 9, 12}}, {Kind: calm, Times: 1, Minimum: -1}}}
	write := func(name string, outcomes ...outcome) string {
		var b bytes.Buffer
		b.WriteString("   1.0s  >>> kill\n")
		for i := range outcomes {
			require.NoError(t, outcomes[i].writeJSON(&b))
		}
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
		return path
	}
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitFine, churn(t.Context(), []string{"-sum", write("a", one), write("b", two)}, &stdout, &stderr), stderr.String())
	text := strings.Join(strings.Fields(stdout.String()), " ")
	require.Contains(t, text, "2 runs, 1.0 h (0 ended early): 30 ok")
	require.Contains(t, text, "VIOLATIONS: 1 lost")
	require.Contains(t, text, "| kill | 5 | 11 | 0 | 1 | 0 | 0 | 0 | 0 | 0 | 9/8 | 12 |")
	require.Contains(t, text, "churn -seed 1 churn -seed 2")

	two.Baseline.NoFence = true
	require.Equal(t, exitBroken, churn(t.Context(), []string{"-sum", write("c", two)}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "says nothing about the framework")
	require.Equal(t, exitBroken, churn(t.Context(), []string{"-sum"}, &stdout, &stderr))
}

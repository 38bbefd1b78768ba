package persistencetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var appendCases = []testCase{
	{"TestCommitIsWrittenInFull", testCommitIsWrittenInFull},
	{"TestBatchSpansStreamsAndPartitions", testBatchSpansStreamsAndPartitions},
	{"TestConflictFailsOnlyTheLoser", testConflictFailsOnlyTheLoser},
	{"TestVersionGapIsAConflict", testVersionGapIsAConflict},
	{"TestLaterCommitsOfALosingStreamConflict", testLaterCommitsOfALosingStreamConflict},
	{"TestSeveralCommitsOfOneStreamInOneBatch", testSeveralCommitsOfOneStreamInOneBatch},
	{"TestFailedCommitLeavesNothing", testFailedCommitLeavesNothing},
	{"TestCommitWithoutEvents", testCommitWithoutEvents},
	{"TestResultsOfAnEarlierAppendAreOverwritten", testResultsAreOverwritten},
	{"TestMalformedCommitFailsAlone", testMalformedCommitFailsAlone},
	{"TestTwoFencesOfAPartitionFailTheBatch", testTwoFencesOfAPartition},
	{"TestBatchOfNothing", testBatchOfNothing},
	{"TestLargeBatch", testLargeBatch},
}

func testCommitIsWrittenInFull(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 4)
	stream := streamIn(2, 4, 0)
	c := commit(stream, 0, "one", "two", "three")
	c.Metadata = []byte(`{"trace":"abc"}`)
	c.Events[1].Type = "withdrawn.v2"
	o.must(c)
	require.Equal(t, persistence.Offset(1), c.Offset)
	require.Equal(t, persistence.Partition(2), c.Partition)

	want := eventsOf(c)
	requireEvents(t, want, readAll(t, s, stream))
	requireEvents(t, want, tailAll(t, s))

	more := commit(stream, 3, "four")
	o.must(more)
	require.Equal(t, persistence.Offset(4), more.Offset)
	requireEvents(t, eventsOf(c, more), readAll(t, h.Again(t, s), stream))
}

func testBatchSpansStreamsAndPartitions(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	var commits []*persistence.Commit
	for i := range 5 {
		for _, p := range []persistence.Partition{3, 0, 2, 1} {
			commits = append(commits, commit(streamIn(p, n, i), 0, "a", "b")) // interleaved on purpose
		}
	}
	o.must(commits...)
	next := make(map[persistence.Partition]persistence.Offset)
	for _, c := range commits {
		require.Equal(t, next[c.Partition]+1, c.Offset, "commits of a partition are not in batch order")
		next[c.Partition] += 2
		requireEvents(t, eventsOf(c), readAll(t, s, c.Stream))
	}
	require.Len(t, tailAll(t, s), 40)
}

func testConflictFailsOnlyTheLoser(t *testing.T, h Harness) {
	const n = 2
	s, o := openOwned(t, h, n)
	loser := streamIn(0, n, 0)
	first := commit(loser, 0, "x", "y")
	o.must(first)

	before := commit(streamIn(0, n, 1), 0, "before")
	lost := commit(loser, 0, "lost", "lost too")
	after := commit(streamIn(0, n, 2), 0, "after")
	elsewhere := commit(streamIn(1, n, 0), 0, "elsewhere")
	o.append(before, lost, after, elsewhere)

	requireConflict(t, lost, 2)
	require.Zero(t, lost.Offset)
	for _, c := range []*persistence.Commit{before, after, elsewhere} {
		require.NoError(t, c.Err)
	}
	require.Equal(t, persistence.Offset(3), before.Offset)
	require.Equal(t, persistence.Offset(4), after.Offset, "offsets must stay dense across the loser")
	requireEvents(t, eventsOf(first), readAll(t, s, loser))
	requireEvents(t, eventsOf(first, before, after, elsewhere), tailAll(t, s))

	next := commit(loser, 2, "next")
	o.must(next)
	require.Equal(t, persistence.Offset(5), next.Offset)
}

func requireConflict(t *testing.T, c *persistence.Commit, actual persistence.Version) {
	t.Helper()
	var conflict *persistence.ConflictError
	require.ErrorAs(t, c.Err, &conflict)
	require.Equal(t, persistence.ConflictError{Stream: c.Stream, Expected: c.Expected, Actual: actual}, *conflict)
}

func testVersionGapIsAConflict(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	known, unknown := streamIn(0, 1, 0), streamIn(0, 1, 1)
	o.must(commit(known, 0, "a", "b", "c"))

	tooHigh, tooLow, ofUnknown := commit(known, 5, "gap"), commit(known, 1, "b again", "c again", "d"), commit(unknown, 1, "gap")
	o.append(tooHigh, tooLow, ofUnknown)
	requireConflict(t, tooHigh, 3)
	requireConflict(t, tooLow, 3)
	requireConflict(t, ofUnknown, 0)
	require.Len(t, tailAll(t, s), 3)
}

func testLaterCommitsOfALosingStreamConflict(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y, z := streamIn(0, 1, 0), streamIn(0, 1, 1), streamIn(0, 1, 2)
	name := persistence.Claim{Namespace: "name", Key: "taken"}
	holder := commit(y, 0, "holder")
	holder.Claims = []persistence.Claim{name}
	o.must(commit(x, 0, "1"), holder)

	lost := commit(x, 0, "stale")
	then := commit(x, 1, "on the right version")
	dependent := commit(x, 3, "expects what was never written")
	refused := commit(z, 0, "wants a taken name")
	refused.Claims = []persistence.Claim{name}
	afterRefused := commit(z, 1, "expects what was never written")
	neighbour := commit(y, 1, "neighbour")
	o.append(lost, then, dependent, refused, afterRefused, neighbour)

	requireConflict(t, lost, 1)
	require.NoError(t, then.Err)
	requireConflict(t, dependent, 2)
	requireTaken(t, refused, name, y)
	requireConflict(t, afterRefused, 0)
	require.NoError(t, neighbour.Err)
	require.Equal(t, persistence.Offset(3), then.Offset)
	require.Equal(t, persistence.Offset(4), neighbour.Offset)
	require.Len(t, tailAll(t, s), 4)
}

func testSeveralCommitsOfOneStreamInOneBatch(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x, y := streamIn(1, 2, 0), streamIn(1, 2, 1)
	commits := []*persistence.Commit{
		commit(x, 0, "x1", "x2"), commit(y, 0, "y1"), commit(x, 2, "x3"), commit(y, 1, "y2", "y3"), commit(x, 3, "x4"),
	}
	o.must(commits...)
	requireEvents(t, eventsOf(commits[0], commits[2], commits[4]), readAll(t, s, x))
	requireEvents(t, eventsOf(commits...), tailAll(t, s))
}

func testFailedCommitLeavesNothing(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y := streamIn(0, 1, 0), streamIn(0, 1, 1)
	taken, held, free := claimOf("taken"), claimOf("held"), claimOf("free")
	old := timerOf(x, "old", noon)
	of := commit(y, 0, "y")
	of.Claims = []persistence.Claim{taken}
	setup := commit(x, 0, "x")
	setup.Claims, setup.Timers = []persistence.Claim{held}, []persistence.Timer{old}
	o.must(of, setup)

	everything := func(expected persistence.Version, claims ...persistence.Claim) *persistence.Commit {
		c := commit(x, expected, "a", "b", "c")
		c.Claims = claims
		c.Releases = []persistence.Claim{held}
		c.Timers = []persistence.Timer{timerOf(x, "new", noon)}
		c.Cancels = []persistence.TimerKey{old.TimerKey}
		return c
	}
	conflicting, claiming := everything(0, free), everything(1, free, taken)
	o.append(conflicting, claiming)
	requireConflict(t, conflicting, 1)
	requireTaken(t, claiming, taken, y)

	fenced := everything(1, free)
	b := o.batch(fenced)
	b.Fences[0].Epoch++
	fenced.Epoch++
	s.Append(t.Context(), b)
	require.ErrorAs(t, fenced.Err, new(*persistence.FencedError))

	for _, store := range []persistence.Store{s, h.Again(t, s)} {
		require.Len(t, readAll(t, store, x), 1)
		require.Len(t, tailAll(t, store), 2)
		requireHolder(t, store, free, nil)
		requireHolder(t, store, held, &x)
		requireHolder(t, store, taken, &y)
		requireTimers(t, store, []persistence.Timer{setup.Timers[0]}, noon)
		_, found, err := store.FindCommand(t.Context(), x, claiming.Command)
		require.NoError(t, err)
		require.False(t, found)
	}

	good := everything(1, free)
	o.must(good)
	requireHolder(t, s, free, &x)
	requireHolder(t, s, held, nil)
	requireTimers(t, s, good.Timers, noon)
	require.Len(t, readAll(t, s, x), 4)
}

func testCommitWithoutEvents(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x := streamIn(1, 2, 0)
	fresh := commit(x, 0)
	fresh.Claims = []persistence.Claim{claimOf("fresh")}
	fresh.Timers = []persistence.Timer{timerOf(x, "fresh", noon)}
	written := commit(x, 0, "event")
	again := commit(x, 1)
	again.Claims = []persistence.Claim{claimOf("again")}
	nothing := commit(x, 1)
	stale := commit(x, 0)
	stale.Claims = []persistence.Claim{claimOf("stale")}
	o.append(fresh, written, again, nothing, stale)

	for _, c := range []*persistence.Commit{fresh, written, again, nothing} {
		require.NoError(t, c.Err)
	}
	requireConflict(t, stale, 1)
	for _, c := range []*persistence.Commit{fresh, again, nothing, stale} {
		require.Zero(t, c.Offset)
	}
	require.Equal(t, persistence.Offset(1), written.Offset)
	requireHolder(t, s, claimOf("fresh"), &x)
	requireHolder(t, s, claimOf("again"), &x)
	requireHolder(t, s, claimOf("stale"), nil)
	requireTimers(t, s, fresh.Timers, noon)
	requireEvents(t, eventsOf(written), tailAll(t, s))
	_, found, err := s.FindCommand(t.Context(), x, fresh.Command)
	require.NoError(t, err)
	require.False(t, found, "a commit without events leaves no event to find")
}

func testResultsAreOverwritten(t *testing.T, h Harness) {
	_, o := openOwned(t, h, 1)
	good, bad := commit(streamIn(0, 1, 0), 0, "x"), commit(streamIn(0, 1, 1), 7, "y")
	good.Err, good.Offset = errors.New("of an earlier try"), 99
	bad.Offset = 99
	o.append(good, bad)
	require.NoError(t, good.Err)
	require.Equal(t, persistence.Offset(1), good.Offset)
	requireConflict(t, bad, 0)
	require.Zero(t, bad.Offset)
}

func testMalformedCommitFailsAlone(t *testing.T, h Harness) {
	const n = 2
	s, o := openOwned(t, h, n)
	long := func(n int) string { return strings.Repeat("x", n+1) }
	x := streamIn(0, n, 0)
	timer := func(spoil func(*persistence.Timer)) func(*persistence.Batch, *persistence.Commit) {
		return func(_ *persistence.Batch, c *persistence.Commit) {
			c.Timers = []persistence.Timer{timerOf(x, "timer", noon)}
			spoil(&c.Timers[0])
		}
	}
	cancel := func(key persistence.TimerKey) func(*persistence.Batch, *persistence.Commit) {
		return func(_ *persistence.Batch, c *persistence.Commit) { c.Cancels = []persistence.TimerKey{key} }
	}
	claim := func(claim persistence.Claim) func(*persistence.Batch, *persistence.Commit) {
		return func(_ *persistence.Batch, c *persistence.Commit) { c.Claims = []persistence.Claim{claim} }
	}
	statement := func(sql string) func(*persistence.Batch, *persistence.Commit) {
		return func(_ *persistence.Batch, c *persistence.Commit) { c.Statements = []persistence.Statement{{SQL: sql}} }
	}
	var written []*persistence.Commit
	for what, spoil := range map[string]func(b *persistence.Batch, c *persistence.Commit){
		"no fence for the partition":      func(b *persistence.Batch, _ *persistence.Commit) { b.Fences = b.Fences[1:] },
		"epoch differs from the fence":    func(_ *persistence.Batch, c *persistence.Commit) { c.Epoch++ },
		"partition of another stream":     func(_ *persistence.Batch, c *persistence.Commit) { c.Partition = 1 },
		"partition out of range":          func(b *persistence.Batch, c *persistence.Commit) { b.Fences[0].Partition, c.Partition = n, n },
		"partition below zero":            func(b *persistence.Batch, c *persistence.Commit) { b.Fences[0].Partition, c.Partition = -1, -1 },
		"timer in another partition":      timer(func(t *persistence.Timer) { t.Partition = 1 }),
		"timer for a stream without name": timer(func(t *persistence.Timer) { t.Stream = persistence.Stream{} }),
		"timer for another stream":        timer(func(t *persistence.Timer) { t.Stream = streamIn(0, n, 1) }),
		"timer without name":              timer(func(t *persistence.Timer) { t.Name = "" }),
		"timer with a long name":          timer(func(t *persistence.Timer) { t.Name = long(persistence.MaxTimerBytes) }),
		"timer with NUL":                  timer(func(t *persistence.Timer) { t.Name = "a\x00b" }),
		"timer in year 10000":             timer(func(t *persistence.Timer) { t.Due = noon.AddDate(8000, 0, 0) }),
		"cancels of another stream":       cancel(persistence.TimerKey{Stream: streamIn(0, n, 1), Name: "timer"}),
		"cancels nothing":                 cancel(persistence.TimerKey{Stream: x}),
		"claim without namespace":         claim(persistence.Claim{Key: "x"}),
		"claim that is too long":          claim(persistence.Claim{Namespace: "name", Key: long(persistence.MaxClaimBytes)}),
		"claim that is no text":           claim(persistence.Claim{Namespace: "name", Key: "a\xff"}),
		"statement that ends the others":  statement("commit"),
		"statement of nothing":            statement(""),
		"event type too long":             func(_ *persistence.Batch, c *persistence.Commit) { c.Events[0].Type = long(persistence.MaxTypeBytes) },
	} {
		c, neighbour := commit(x, 0, "x"), commit(streamIn(1, n, len(written)), 0, "neighbour")
		b := o.batch(c, neighbour)
		spoil(b, c)
		s.Append(t.Context(), b)
		requireMalformed(t, c, what)
		require.NoError(t, neighbour.Err, what)
		o.fences[1].Head++
		written = append(written, neighbour)
	}
	for _, stream := range []persistence.Stream{
		{}, {Type: "account"}, {ID: "a"}, {Type: "a/b", ID: "c"},
		{Type: "account", ID: long(persistence.MaxIDBytes)}, {Type: long(persistence.MaxTypeBytes), ID: "a"},
	} {
		c, neighbour := commit(stream, 0, "x"), commit(streamIn(1, n, len(written)), 0, "neighbour")
		o.append(c, neighbour)
		requireMalformed(t, c, stream.String())
		require.NoError(t, neighbour.Err, stream)
		written = append(written, neighbour)
	}
	requireEvents(t, eventsOf(written...), tailAll(t, s))
	requireTimers(t, s, nil, noon)
	o.must(commit(x, 0, "x"))
}

func requireMalformed(t *testing.T, c *persistence.Commit, what string) {
	t.Helper()
	require.Error(t, c.Err, what)
	require.NotErrorIs(t, c.Err, persistence.ErrUnknownOutcome, what)
	var fenced *persistence.FencedError
	require.False(t, errors.As(c.Err, &fenced), "%s: the owner is still the owner", what)
	require.Zero(t, c.Offset, what)
}

func testTwoFencesOfAPartition(t *testing.T, h Harness) {
	const n = 2
	s, o := openOwned(t, h, n)
	twice, other := commit(streamIn(0, n, 0), 0, "x"), commit(streamIn(1, n, 0), 0, "x")
	b := o.batch(twice, other)
	b.Fences = append(b.Fences, b.Fences[0])
	s.Append(t.Context(), b)
	requireMalformed(t, twice, "fenced twice")
	requireMalformed(t, other, "in a batch that makes no sense")
	require.Empty(t, tailAll(t, s))
	o.must(twice, other)
}

func testBatchOfNothing(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	s.Append(t.Context(), &persistence.Batch{Owner: o.node})
	require.Empty(t, tailAll(t, s))
}

func testLargeBatch(t *testing.T, h Harness) {
	const n, streams = 8, 300
	s, o := openOwned(t, h, n)
	commits := make([]*persistence.Commit, 0, 2*streams)
	for round := range 2 {
		for i := range streams {
			stream := persistence.Stream{Type: "account", ID: string(rune('α'+i%20)) + strings.Repeat("x", i/20)}
			commits = append(commits, commit(stream, persistence.Version(round), strings.Repeat("p", i)))
		}
	}
	o.must(commits...)
	events := tailAll(t, s)
	require.Len(t, events, 2*streams)
	byPlace := make(map[persistence.Cursor]persistence.Event)
	for _, e := range events {
		byPlace[persistence.Cursor{Partition: e.Partition, After: e.Offset}] = e
	}
	for _, c := range commits {
		got := byPlace[persistence.Cursor{Partition: c.Partition, After: c.Offset}]
		requireEvents(t, eventsOf(c), []persistence.Event{got})
	}
}

// appendTo is Append for callers that keep no batch.
func appendTo(ctx context.Context, s persistence.Store, b *persistence.Batch) error {
	s.Append(ctx, b)
	for _, c := range b.Commits {
		if c.Err != nil {
			return c.Err
		}
	}
	return nil
}

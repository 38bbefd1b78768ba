package persistencetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var fenceCases = []testCase{
	{"TestNobodysPartitionTakesNoAppend", testNobodysPartitionTakesNoAppend},
	{"TestStaleEpochIsFenced", testStaleEpochIsFenced},
	{"TestForeignOwnerIsFenced", testForeignOwnerIsFenced},
	{"TestFenceFailsOnlyItsPartition", testFenceFailsOnlyItsPartition},
	{"TestWrongHeadIsFenced", testWrongHeadIsFenced},
	{"TestOwnNextEpochFencesOwnAppends", testOwnNextEpochFencesOwnAppends},
	{"TestStaleEpochIsFencedUnderAConcurrentClaimer", testStaleEpochIsFencedUnderAConcurrentClaimer},
}

// requireFenced checks that a commit was refused for its epoch.
func requireFenced(t *testing.T, c *persistence.Commit, current persistence.Epoch, owner persistence.NodeID) {
	t.Helper()
	var fenced *persistence.FencedError
	require.ErrorAs(t, c.Err, &fenced)
	require.Equal(t, fenced.Head, fenced.StoreHead, "heads may only differ when the epoch was right")
	require.Equal(t, c.Partition, fenced.Partition)
	require.Equal(t, c.Epoch, fenced.Epoch)
	require.Equal(t, current, fenced.Current)
	require.Equal(t, owner, fenced.Owner)
	require.Zero(t, c.Offset)
}

func testNobodysPartitionTakesNoAppend(t *testing.T, h Harness) {
	s := h.Open(t, 2)
	x := streamIn(1, 2, 0)
	for _, node := range []persistence.NodeID{"", "nobody", "owner-1"} {
		if node == "owner-1" {
			join(t, s, node)
		}
		c := commit(x, 0, "x")
		c.Partition = 1
		s.Append(t.Context(), &persistence.Batch{
			Owner: node, Fences: []persistence.Fence{{Partition: 1}}, Commits: []*persistence.Commit{c},
		})
		requireFenced(t, c, 0, "")
	}

	o := join(t, s, "owner-2")
	o.claim(1)
	o.must(commit(x, 0, "x"))
	require.NoError(t, s.Release(t.Context(), 1, o.fences[1].Epoch, o.node, ""))
	late := commit(x, 1, "late")
	o.append(late)
	requireFenced(t, late, 2, "")
	o.fences[1].Epoch = 2
	guess := commit(x, 1, "guessed the epoch")
	o.append(guess)
	requireFenced(t, guess, 2, "")
	require.Len(t, tailAll(t, s), 1)
}

func testStaleEpochIsFenced(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x := streamIn(0, 2, 0)
	first := commit(x, 0, "x")
	o.must(first)
	successor := join(t, h.Again(t, s), "owner-2")
	tenure := successor.claim(0)
	require.Equal(t, persistence.Tenure{Partition: 0, Epoch: 2, Head: 1, Previous: "owner-1"}, tenure)

	stale := commit(x, 1, "stale")
	o.append(stale)
	requireFenced(t, stale, 2, "owner-2")
	o.fences[0].Epoch = 3
	early := commit(x, 1, "an epoch that is still to come")
	o.append(early)
	requireFenced(t, early, 2, "owner-2")

	next := commit(x, 1, "next")
	successor.must(next)
	requireEvents(t, eventsOf(first, next), tailAll(t, s))
}

func testForeignOwnerIsFenced(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	thief := join(t, s, "owner-2")
	thief.fences = o.fences // the right epoch and head, but another's
	c := commit(streamIn(0, 1, 0), 0, "x")
	thief.append(c)
	requireFenced(t, c, 1, "owner-1")
	require.Empty(t, tailAll(t, s))
}

func testFenceFailsOnlyItsPartition(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	successor := join(t, s, "owner-2")
	successor.claim(2)
	var commits []*persistence.Commit
	for i := range 3 {
		for p := range persistence.Partition(n) {
			commits = append(commits, commit(streamIn(p, n, i), 0, "x", "y"))
		}
	}
	b := o.batch(commits...)
	for i := range b.Fences {
		if b.Fences[i].Partition == 3 {
			b.Fences[i].Head = 17
		}
	}
	s.Append(t.Context(), b)
	for _, c := range commits {
		switch c.Partition {
		case 2:
			requireFenced(t, c, 2, "owner-2")
		case 3:
			requireWrongHead(t, c, 17, 0)
		default:
			require.NoError(t, c.Err)
		}
	}
	require.Len(t, tailAll(t, s), 12)
	successor.must(commit(streamIn(2, n, 0), 0, "x"))
}

func requireWrongHead(t *testing.T, c *persistence.Commit, head, storeHead persistence.Offset) {
	t.Helper()
	var fenced *persistence.FencedError
	require.ErrorAs(t, c.Err, &fenced)
	require.Equal(t, c.Partition, fenced.Partition)
	require.Equal(t, head, fenced.Head)
	require.Equal(t, storeHead, fenced.StoreHead)
	require.Equal(t, c.Epoch, fenced.Epoch)
	require.Equal(t, c.Epoch, fenced.Current, "the epoch was right")
	require.Zero(t, c.Offset)
}

func testWrongHeadIsFenced(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	first := commit(x, 0, "a", "b", "c")
	o.must(first)
	for _, head := range []persistence.Offset{0, 2, 4, 1000} {
		o.fences[0].Head = head
		c := commit(streamIn(0, 1, 1), 0, "x")
		c.Claims = []persistence.Claim{claimOf("x")}
		second := commit(x, 3, "y")
		empty := commit(x, 3)
		empty.Claims = []persistence.Claim{claimOf("y")}
		b := o.batch(c, second, empty)
		s.Append(t.Context(), b)
		for _, c := range b.Commits {
			requireWrongHead(t, c, head, 3)
		}
	}
	requireEvents(t, eventsOf(first), tailAll(t, s))
	requireHolder(t, s, claimOf("x"), nil)
	requireHolder(t, s, claimOf("y"), nil)
	o.fences[0].Head = 3
	o.must(commit(x, 3, "d"))
}

func testOwnNextEpochFencesOwnAppends(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	o.must(commit(x, 0, "a"))
	before := o.on(s)
	tenure := o.claim(0)
	require.Equal(t, persistence.Tenure{Partition: 0, Epoch: 2, Head: 1, Previous: o.node}, tenure)
	late := commit(x, 1, "of the first life")
	before.append(late)
	requireFenced(t, late, 2, o.node)
	o.must(commit(x, 1, "of the second"))
}

// testStaleEpochIsFencedUnderAConcurrentClaimer lets four appenders of a
// deposed owner write as fast as they can while a successor claims at a random
// moment, and counts what they added after the claim. // I1
func testStaleEpochIsFencedUnderAConcurrentClaimer(t *testing.T, h Harness) {
	const rounds, zombies = 120, 4
	s := h.Open(t, 1)
	other := h.Again(t, s)
	nodes := []*owner{join(t, s, "owner-a"), join(t, other, "owner-b")}
	random := rand.New(rand.NewPCG(1, 2))
	var appended, early, after int
	for round := range rounds {
		deposed, successor := nodes[round%2], nodes[1-round%2]
		deposed.store, successor.store = other, s
		tenure := deposed.claim(0)

		var acked atomic.Int64
		progress := make(chan struct{}, 64)
		claimed, failed := make(chan struct{}), make(chan struct{}, zombies)
		var group sync.WaitGroup
		errs := make([]error, zombies)
		for z := range zombies {
			zombie := deposed.on(other)
			stream := persistence.Stream{Type: "zombie", ID: fmt.Sprintf("%d-%d", round, z)}
			group.Go(func() {
				if errs[z] = appendUntilFenced(t, zombie, stream, &acked, progress, claimed); errs[z] != nil {
					failed <- struct{}{}
				}
			})
		}
		for range random.IntN(8) {
			select {
			case <-progress:
			case <-failed: // the claim goes ahead, so that the others end too
			}
		}
		for range random.IntN(200) {
			runtime.Gosched()
		}
		taken, err := s.Claim(t.Context(), 0, tenure.Epoch, successor.node)
		close(claimed)
		atOnce, tailErr := s.Tail(t.Context(), []persistence.Cursor{{Partition: 0, After: taken.Head}}, 100)
		group.Wait()
		require.NoError(t, err)
		require.NoError(t, tailErr)
		for _, err := range errs {
			require.NoError(t, err)
		}
		early += len(atOnce)
		later, err := s.Tail(t.Context(), []persistence.Cursor{{Partition: 0, After: taken.Head}}, 10_000)
		require.NoError(t, err)
		after += len(later)
		require.Equal(t, tenure.Head+persistence.Offset(acked.Load()), taken.Head+persistence.Offset(len(later)),
			"round %d: the log is not what was acknowledged", round)
		appended += int(acked.Load())
		if len(later) > 0 {
			continue // the successor's log is no longer the one it was told of
		}

		successor.fences[0] = &persistence.Fence{Partition: 0, Epoch: taken.Epoch, Head: taken.Head}
		successor.must(commit(persistence.Stream{Type: "successor", ID: fmt.Sprint(round)}, 0, "mine"))
	}
	t.Logf("%d rounds, %d appenders: %d events of deposed owners, %d of them after the claims (%d visible at once)",
		rounds, zombies, appended, after, early)
	require.Zero(t, early)
	require.Zero(t, after)
	require.Len(t, tailAll(t, s), appended+rounds)
}

// appendUntilFenced writes commits of one event until the epoch is refused,
// learning the head from refusals as it goes. When the claim has happened and
// nothing is refused for long, it gives up: the log shows what it did.
func appendUntilFenced(
	t *testing.T, o *owner, stream persistence.Stream, acked *atomic.Int64, progress chan<- struct{}, claimed <-chan struct{},
) error {
	const patience = 1000
	version := persistence.Version(0)
	for deposed := 0; deposed < patience; {
		select {
		case <-claimed:
			deposed++
		default:
		}
		b := o.batch(commit(stream, version, "zombie"))
		err := appendTo(t.Context(), o.store, b)
		var fenced *persistence.FencedError
		switch {
		case err == nil:
			version++
			acked.Add(1)
			select {
			case progress <- struct{}{}:
			case <-claimed: // the claimer has stopped counting
			}
		case !errors.As(err, &fenced):
			return fmt.Errorf("append as a deposed owner: %w", err)
		case fenced.Head == fenced.StoreHead:
			return nil
		}
		o.learn(b)
	}
	return nil
}

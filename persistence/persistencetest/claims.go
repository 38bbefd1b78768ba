package persistencetest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var claimCases = []testCase{
	{"TestTakenValueIsRefused", testTakenValueIsRefused},
	{"TestReleaseFreesAValue", testReleaseFreesAValue},
	{"TestOwnValueMayBeClaimedAgain", testOwnValueMayBeClaimedAgain},
	{"TestFirstClaimOfABatchWins", testFirstClaimOfABatchWins},
	{"TestReleaseAndClaimFollowTheOrderOfTheBatch", testReleaseAndClaimOrder},
	{"TestReleasesComeBeforeClaimsInACommit", testReleasesComeBeforeClaims},
	{"TestNamespacesAreApart", testNamespacesAreApart},
	{"TestConcurrentClaimsHaveOneWinner", testConcurrentClaimsHaveOneWinner},
	{"TestClaimsAreListedWithTheirHolders", testClaimsAreListed},
}

func claimOf(key string) persistence.Claim { return persistence.Claim{Namespace: "name", Key: key} }

// claiming is a commit of one event that claims keys.
func claiming(x persistence.Stream, expected persistence.Version, keys ...string) *persistence.Commit {
	c := commit(x, expected, "claimed")
	for _, k := range keys {
		c.Claims = append(c.Claims, claimOf(k))
	}
	return c
}

// releasing is a commit of one event that releases keys.
func releasing(x persistence.Stream, expected persistence.Version, keys ...string) *persistence.Commit {
	c := commit(x, expected, "released")
	for _, k := range keys {
		c.Releases = append(c.Releases, claimOf(k))
	}
	return c
}

func requireTaken(t *testing.T, c *persistence.Commit, claim persistence.Claim, holder persistence.Stream) {
	t.Helper()
	var taken *persistence.ClaimTakenError
	require.ErrorAs(t, c.Err, &taken)
	require.Equal(t, persistence.ClaimTakenError{Claim: claim, Holder: holder}, *taken)
	require.Zero(t, c.Offset)
}

// requireHolder checks who holds a value; nil is nobody.
func requireHolder(t *testing.T, s persistence.Store, claim persistence.Claim, holder *persistence.Stream) {
	t.Helper()
	got, found, err := s.FindClaim(t.Context(), claim)
	require.NoError(t, err)
	if holder == nil {
		require.False(t, found, "%v is held by %s", claim, got)
		return
	}
	require.True(t, found, "%v is held by nobody", claim)
	require.Equal(t, *holder, got)
}

func testTakenValueIsRefused(t *testing.T, h Harness) {
	const n = 4
	s, o := openOwned(t, h, n)
	holder, near, far := streamIn(0, n, 0), streamIn(0, n, 1), streamIn(3, n, 0)
	o.must(claiming(holder, 0, "ada"))
	a, b := claiming(near, 0, "free-1", "ada"), claiming(far, 0, "ada", "free-2")
	bystander := commit(streamIn(3, n, 1), 0, "x")
	o.append(a, b, bystander)
	requireTaken(t, a, claimOf("ada"), holder)
	requireTaken(t, b, claimOf("ada"), holder)
	require.NoError(t, bystander.Err)
	require.Equal(t, persistence.Offset(1), bystander.Offset)
	requireHolder(t, s, claimOf("ada"), &holder)
	requireHolder(t, s, claimOf("free-1"), nil)
	requireHolder(t, s, claimOf("free-2"), nil)
	require.Empty(t, readAll(t, s, near))
	require.Empty(t, readAll(t, s, far))
	o.must(claiming(near, 0, "free-1"), claiming(far, 0, "free-2"))
}

func testReleaseFreesAValue(t *testing.T, h Harness) {
	const n = 2
	s, o := openOwned(t, h, n)
	x, y := streamIn(0, n, 0), streamIn(1, n, 0)
	o.must(claiming(x, 0, "ada", "bob"))
	o.must(releasing(y, 0, "ada", "never claimed")) // not his to release, and no error
	requireHolder(t, s, claimOf("ada"), &x)
	o.must(releasing(x, 1, "ada"))
	requireHolder(t, s, claimOf("ada"), nil)
	requireHolder(t, s, claimOf("bob"), &x)
	o.must(claiming(y, 1, "ada"))
	requireHolder(t, s, claimOf("ada"), &y)
	late := claiming(x, 2, "ada")
	o.append(late)
	requireTaken(t, late, claimOf("ada"), y)
}

func testOwnValueMayBeClaimedAgain(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	o.must(claiming(x, 0, "ada"))
	o.must(claiming(x, 1, "ada", "ada"), claiming(x, 2, "ada", "new"), claiming(x, 3, "new"))
	requireHolder(t, s, claimOf("ada"), &x)
	requireHolder(t, s, claimOf("new"), &x)
	require.Len(t, readAll(t, s, x), 4)
}

func testFirstClaimOfABatchWins(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y, z := streamIn(0, 1, 0), streamIn(0, 1, 1), streamIn(0, 1, 2)
	first, second, third := claiming(x, 0, "ada"), claiming(y, 0, "ada"), claiming(z, 0, "bob")
	o.append(first, second, third)
	require.NoError(t, first.Err)
	requireTaken(t, second, claimOf("ada"), x)
	require.NoError(t, third.Err)
	require.Equal(t, persistence.Offset(2), third.Offset)
	requireHolder(t, s, claimOf("ada"), &x)

	// A commit that fails does not stand in the way of the next.
	stale, next := claiming(x, 7, "cleo"), claiming(y, 0, "cleo")
	o.append(stale, next)
	requireConflict(t, stale, 1)
	require.NoError(t, next.Err)
	requireHolder(t, s, claimOf("cleo"), &y)
}

func testReleaseAndClaimOrder(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y := streamIn(0, 1, 0), streamIn(0, 1, 1)
	o.must(claiming(x, 0, "handed", "kept"))

	release, take := releasing(x, 1, "handed"), claiming(y, 0, "handed")
	o.append(release, take)
	require.NoError(t, release.Err)
	require.NoError(t, take.Err, "released by an earlier commit of the batch")
	requireHolder(t, s, claimOf("handed"), &y)

	tooEarly, late := claiming(y, 1, "kept"), releasing(x, 2, "kept")
	o.append(tooEarly, late)
	requireTaken(t, tooEarly, claimOf("kept"), x)
	require.NoError(t, late.Err)
	requireHolder(t, s, claimOf("kept"), nil)
}

func testReleasesComeBeforeClaims(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	o.must(claiming(x, 0, "old"))
	rename := claiming(x, 1, "old", "new")
	rename.Releases = []persistence.Claim{claimOf("old"), claimOf("new")}
	o.must(rename)
	requireHolder(t, s, claimOf("old"), &x)
	requireHolder(t, s, claimOf("new"), &x)
}

func testNamespacesAreApart(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x, y := streamIn(0, 1, 0), streamIn(0, 1, 1)
	a, b := commit(x, 0, "x"), commit(y, 0, "y")
	a.Claims = []persistence.Claim{{Namespace: "name", Key: "ada"}, {Namespace: "a", Key: "b/c"}}
	b.Claims = []persistence.Claim{{Namespace: "mail", Key: "ada"}, {Namespace: "a/b", Key: "c"}, {Namespace: "name", Key: "Ada"}}
	o.must(a, b)
	for _, c := range []*persistence.Commit{a, b} {
		for _, claim := range c.Claims {
			requireHolder(t, s, claim, &c.Stream)
		}
	}
}

func testClaimsAreListed(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 2)
	x, y := streamIn(0, 2, 0), streamIn(1, 2, 0)
	a, b := commit(x, 0, "x"), commit(y, 0, "y")
	a.Claims = []persistence.Claim{{Namespace: "b", Key: "B"}, {Namespace: "a", Key: "z"}, {Namespace: "b", Key: "é"}, {Namespace: "gone", Key: "g"}}
	b.Claims = []persistence.Claim{{Namespace: "b", Key: "a"}, {Namespace: "a/b", Key: ""}, {Namespace: "B", Key: "b"}}
	o.must(a, b)
	gone := commit(x, 1)
	gone.Releases = a.Claims[3:]
	o.must(gone)
	want := []persistence.HeldClaim{
		{Claim: b.Claims[2], Holder: y}, {Claim: a.Claims[1], Holder: x}, {Claim: b.Claims[1], Holder: y},
		{Claim: a.Claims[0], Holder: x}, {Claim: b.Claims[0], Holder: y}, {Claim: a.Claims[2], Holder: x},
	}
	for _, store := range []persistence.Store{s, h.Again(t, s)} {
		for _, page := range []int{1, 2, 5, 100} {
			var got []persistence.HeldClaim
			var after persistence.Claim
			for {
				held, err := store.Claims(t.Context(), after, page)
				require.NoError(t, err)
				require.LessOrEqual(t, len(held), page)
				if len(held) == 0 {
					break
				}
				got = append(got, held...)
				after = held[len(held)-1].Claim
			}
			require.Equal(t, want, got)
		}
	}
	none, err := s.Claims(t.Context(), persistence.Claim{}, 0)
	require.NoError(t, err)
	require.Empty(t, none)
}

// testConcurrentClaimsHaveOneWinner races streams of different partitions, on
// different handles, for one value.
func testConcurrentClaimsHaveOneWinner(t *testing.T, h Harness) {
	const n, rounds = 4, 12
	s, o := openOwned(t, h, n)
	other := h.Again(t, s)
	racers := make([]*owner, n)
	for p := range racers {
		racers[p] = o.on([]persistence.Store{s, other}[p%2])
	}
	for round := range rounds {
		key := fmt.Sprintf("prize-%d", round)
		commits := make([]*persistence.Commit, n)
		start := make(chan struct{})
		var group sync.WaitGroup
		for p := range racers {
			commits[p] = claiming(streamIn(persistence.Partition(p), n, round), 0, fmt.Sprintf("own-%d-%d", round, p), key)
			b := racers[p].batch(commits[p])
			group.Go(func() {
				<-start
				racers[p].store.Append(t.Context(), b)
				racers[p].learn(b)
			})
		}
		close(start)
		group.Wait()
		var winner *persistence.Stream
		for _, c := range commits {
			if c.Err == nil {
				require.Nil(t, winner, "two winners")
				winner = &c.Stream
			}
		}
		require.NotNil(t, winner, "no winner; the first error: %v", commits[0].Err)
		requireHolder(t, s, claimOf(key), winner)
		for p, c := range commits {
			if c.Err != nil {
				requireTaken(t, c, claimOf(key), *winner)
				require.Empty(t, readAll(t, s, c.Stream))
				requireHolder(t, s, claimOf(fmt.Sprintf("own-%d-%d", round, p)), nil)
			}
		}
	}
}

package persistencetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var cancelCases = []testCase{
	{"TestCancelledCallDoesNothing", testCancelledCallDoesNothing},
	{"TestCancelledAppendLeavesNoPartOfACommit", testCancelledAppendLeavesNoPart},
}

// calls is every method that asks the store, by name.
func calls(o *owner, c *persistence.Commit) map[string]func(ctx context.Context, s persistence.Store) error {
	b := o.batch(c)
	node, stream := o.node, c.Stream
	return map[string]func(ctx context.Context, s persistence.Store) error{
		"Append": func(ctx context.Context, s persistence.Store) error { return appendTo(ctx, s, b) },
		"Read": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Read(ctx, stream, 0, 1)
			return err
		},
		"ReadMany": func(ctx context.Context, s persistence.Store) error {
			_, err := s.ReadMany(ctx, []persistence.Stream{stream}, 1)
			return err
		},
		"Tail": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Tail(ctx, []persistence.Cursor{{}}, 1)
			return err
		},
		"FindCommand": func(ctx context.Context, s persistence.Store) error {
			_, _, err := s.FindCommand(ctx, stream, c.Command)
			return err
		},
		"FindClaim": func(ctx context.Context, s persistence.Store) error {
			_, _, err := s.FindClaim(ctx, claimOf("x"))
			return err
		},
		"Claims": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Claims(ctx, persistence.Claim{}, 1)
			return err
		},
		"SaveSnapshots": func(ctx context.Context, s persistence.Store) error {
			return s.SaveSnapshots(ctx, []persistence.Snapshot{{Stream: stream, Version: 1, At: noon}})
		},
		"DeleteSnapshots": func(ctx context.Context, s persistence.Store) error {
			return s.DeleteSnapshots(ctx, []persistence.Stream{stream})
		},
		"DueTimers": func(ctx context.Context, s persistence.Store) error {
			_, err := s.DueTimers(ctx, []persistence.Partition{0}, noon, 1)
			return err
		},
		"LoadCheckpoints": func(ctx context.Context, s persistence.Store) error {
			_, err := s.LoadCheckpoints(ctx, "p")
			return err
		},
		"SaveCheckpoints": func(ctx context.Context, s persistence.Store) error {
			return s.SaveCheckpoints(ctx, "p", []persistence.Cursor{{After: 1}})
		},
		"Advance": func(ctx context.Context, s persistence.Store) error {
			return s.Advance(ctx, persistence.Step{Projection: "p"}, nil)
		},
		"DeadLetters": func(ctx context.Context, s persistence.Store) error {
			_, err := s.DeadLetters(ctx, "p", persistence.DeadLetterKey{}, 1)
			return err
		},
		"ProjectionNames": func(ctx context.Context, s persistence.Store) error {
			_, err := s.ProjectionNames(ctx)
			return err
		},
		"DeleteProjection": func(ctx context.Context, s persistence.Store) error { return s.DeleteProjection(ctx, "p") },
		"Heads": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Heads(ctx)
			return err
		},
		"Streams": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Streams(ctx, 0, 0, 1)
			return err
		},
		"Import": func(ctx context.Context, s persistence.Store) error { return s.Import(ctx, "source", nil) },
		"Erase": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Erase(ctx, o.node, *o.fences[c.Partition], c.Stream)
			return err
		},
		"FindKeys": func(ctx context.Context, s persistence.Store) error {
			_, err := s.FindKeys(ctx, []string{"s"})
			return err
		},
		"PutKey": func(ctx context.Context, s persistence.Store) error {
			_, err := s.PutKey(ctx, persistence.Key{Subject: "s", Secret: []byte("s"), At: noon}, false)
			return err
		},
		"DeleteKey": func(ctx context.Context, s persistence.Store) error { return s.DeleteKey(ctx, "s", noon) },
		"ListKeys": func(ctx context.Context, s persistence.Store) error {
			_, err := s.ListKeys(ctx, "", 1)
			return err
		},
		"DeleteCheckpoints": func(ctx context.Context, s persistence.Store) error { return s.DeleteCheckpoints(ctx, "p") },
		"Join": func(ctx context.Context, s persistence.Store) error {
			return s.Join(ctx, persistence.Node{ID: "late", Cluster: cluster, State: persistence.Active})
		},
		"Renew": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Renew(ctx, persistence.Renewal{Node: node, State: persistence.Draining})
			return err
		},
		"View": func(ctx context.Context, s persistence.Store) error {
			_, err := s.View(ctx)
			return err
		},
		"Leave": func(ctx context.Context, s persistence.Store) error { return s.Leave(ctx, node) },
		"Evict": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Evict(ctx, node, 0)
			return err
		},
		"Claim": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Claim(ctx, 0, b.Fences[0].Epoch, node)
			return err
		},
		"Release": func(ctx context.Context, s persistence.Store) error {
			return s.Release(ctx, 0, b.Fences[0].Epoch, node, "")
		},
		"Verify": func(ctx context.Context, s persistence.Store) error {
			_, err := s.Verify(ctx, node, b.Fences)
			return err
		},
	}
}

func testCancelledCallDoesNothing(t *testing.T, h Harness) {
	s, o := openOwned(t, h, 1)
	x := streamIn(0, 1, 0)
	c := commit(x, 0, "x")
	o.must(c)
	require.NoError(t, s.SaveSnapshots(t.Context(), []persistence.Snapshot{snapshotAt(c, 1, "s")}))
	require.NoError(t, s.SaveCheckpoints(t.Context(), "p", []persistence.Cursor{{After: 7}}))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(o, commit(x, 1, "cancelled")) {
		require.ErrorIs(t, call(cancelled, s), context.Canceled, name)
	}
	require.Len(t, readAll(t, s, x), 1)
	require.NotNil(t, snapshotOf(t, s, x))
	requireCheckpoints(t, s, "p", persistence.Cursor{After: 7})
	v, err := s.View(t.Context())
	require.NoError(t, err)
	require.Equal(t, []persistence.Node{{ID: o.node, Cluster: cluster, State: persistence.Active}}, withoutEmptyTypes(v.Nodes))
	require.Equal(t, []persistence.Ownership{{Epoch: 1, Owner: o.node}}, v.Partitions)
	o.must(commit(x, 1, "y"))
}

func withoutEmptyTypes(nodes []persistence.Node) []persistence.Node {
	for i := range nodes {
		if len(nodes[i].Types) == 0 {
			nodes[i].Types = nil
		}
	}
	return nodes
}

// testCancelledAppendLeavesNoPart cancels appends: half of them by the clock, at
// a random moment of the time that an append takes; half of them when the store
// looks at its context for the k-th time.
func testCancelledAppendLeavesNoPart(t *testing.T, h Harness) {
	const n, rounds = 2, 100
	s, o := openOwned(t, h, n)
	random := rand.New(rand.NewPCG(3, 4))
	start := time.Now()
	const warm = 5
	for i := range warm {
		o.must(wholeCommits(n, i)...)
	}
	usual := time.Since(start) / warm

	var there, absent, unknown, partial int
	for round := range rounds {
		commits := wholeCommits(n, warm+round)
		b := o.batch(commits...)
		var ctx context.Context
		var cancel context.CancelFunc
		if round%2 == 0 {
			// A store that was cut off may have to connect again, and takes longer.
			after := time.Duration(random.Int64N(int64(usual)*3/2+1)) << random.IntN(6)
			ctx, cancel = context.WithTimeout(t.Context(), after)
		} else {
			ctx, cancel = cancelAtLook(t.Context(), int64(round/2%24))
		}
		s.Append(ctx, b)
		cancel()

		// Claiming under the next epoch ends whatever is still on its way.
		for p := range persistence.Partition(n) {
			o.claim(p)
		}
		timers := dueTimers(t, s, noon, 10_000)
		for _, c := range commits {
			parts := partsOf(t, s, c, timers)
			switch {
			case errors.Is(c.Err, persistence.ErrUnknownOutcome):
				unknown++
			case c.Err == nil:
				require.Equal(t, wholeParts, parts, "round %d: acknowledged, but not there as a whole", round)
			default:
				require.Zero(t, parts, "round %d: parts of a commit that certainly left nothing: %v", round, c.Err)
			}
			switch parts {
			case 0:
				absent++
			case wholeParts:
				there++
			default:
				partial++
			}
		}
	}
	t.Logf("%d commits there, %d absent, %d in parts; %d of unknown outcome", there, absent, partial, unknown)
	require.Zero(t, partial)
	require.NotZero(t, there, "every append was cancelled in time")
	require.NotZero(t, absent, "no append was")
	tailAll(t, s) // checks that offsets and versions are dense
}

// wholeParts counts what a commit of wholeCommits leaves.
const wholeParts = 3 + 2 + 2 // events, claims, timers

// wholeCommits makes commits of all that a commit can leave behind, three in
// each of n partitions, each on a stream of its own.
func wholeCommits(n, round int) []*persistence.Commit {
	var commits []*persistence.Commit
	for i := range 3 * n {
		x := streamIn(persistence.Partition(i%n), n, 3*round+i/n)
		c := commit(x, 0, "1", "2", "3")
		c.Claims = []persistence.Claim{claimOf(x.ID + "-a"), claimOf(x.ID + "-b")}
		c.Timers = append(c.Timers, timerOf(x, "one", noon), timerOf(x, "other", noon))
		commits = append(commits, c)
	}
	return commits
}

// partsOf counts how much of a commit is in the store, whose timers are given.
func partsOf(t *testing.T, s persistence.Store, c *persistence.Commit, timers []persistence.Timer) int {
	t.Helper()
	parts := len(readAll(t, s, c.Stream))
	for _, claim := range c.Claims {
		_, found, err := s.FindClaim(t.Context(), claim)
		require.NoError(t, err)
		if found {
			parts++
		}
	}
	for _, timer := range timers {
		if timer.Stream == c.Stream {
			parts++
		}
	}
	_, found, err := s.FindCommand(t.Context(), c.Stream, c.Command)
	require.NoError(t, err)
	require.Equal(t, parts > 0, found, "FindCommand disagrees with what is there")
	return parts
}

// lookContext is cancelled when it is asked for the k-th time.
type lookContext struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

func cancelAtLook(parent context.Context, k int64) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	c := &lookContext{Context: ctx, cancel: cancel}
	c.left.Store(k)
	return c, cancel
}

func (c *lookContext) look() {
	if c.left.Add(-1) < 0 {
		c.cancel()
	}
}

// Done implements context.Context.
func (c *lookContext) Done() <-chan struct{} { c.look(); return c.Context.Done() }

// Err implements context.Context.
func (c *lookContext) Err() error { c.look(); return c.Context.Err() }

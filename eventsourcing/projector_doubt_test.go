package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

// doubtful is a store whose answers to steps are lost when a test says so.
type doubtful struct {
	persistence.Store
	// fate says what becomes of a step: whether it is taken, and what is said
	fate func(step *persistence.Step) (taken bool, said error)
}

func (d *doubtful) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	taken, said := d.fate(&step)
	if taken {
		if err := d.Store.Advance(ctx, step, work); err != nil {
			return err
		}
	}
	return said
}

// counting is a reaction, or a table, that counts how often it was told of an
// event of an account, and fails as it is told.
func counting(kind Kind, s Settings, seen func(e deposited, f Fact) error) Projection {
	if kind == KindTable {
		return NewTable(s, Schema{}, On(accounts, func(_ context.Context, _ *Tx, e deposited, f Fact) error { return seen(e, f) }))
	}
	return NewReaction(s, 0, On(accounts, func(_ context.Context, _ int, e deposited, f Fact) error { return seen(e, f) }))
}

func TestAStepOfUnknownOutcomeThatHeldAnEventTriedBefore(t *testing.T) {
	for _, kind := range []Kind{KindTable, KindReaction} {
		t.Run(string(kind), func(t *testing.T) {
			store := &doubtful{Store: memoryStore(t, 1)}
			var lost atomic.Bool
			store.fate = func(step *persistence.Step) (bool, error) {
				if len(step.Advances) > 0 && step.Advances[0].To == 2 && !lost.Swap(true) {
					return true, persistence.ErrUnknownOutcome
				}
				return true, nil
			}
			l := newLedger(t, store)
			var tries atomic.Int64
			p := l.project("a", nil, counting(kind, Settings{Name: "count", Backoff: time.Millisecond}, func(e deposited, _ Fact) error {
				if e.Cents == 2 && tries.Add(1) == 1 {
					return errors.New("not yet")
				}
				return nil
			}))
			for i := range 5 {
				l.deposit("x", int64(i+1))
				l.wait(p, "count")
			}
			require.True(t, lost.Load())
			require.Zero(t, p.Progress()[0].Parked)
		})
	}
}

func TestWhatWasDoneBehindALostFirstCheckpointIsNotRepeated(t *testing.T) {
	store := &doubtful{Store: memoryStore(t, 1)}
	var behind atomic.Int64
	store.fate = func(step *persistence.Step) (bool, error) {
		if len(step.Advances) == 0 || step.Advances[0].To == 2 {
			return false, errDown // where it begins cannot be stored
		}
		if behind.Add(1) == 1 {
			return false, persistence.ErrUnknownOutcome
		}
		return true, nil
	}
	l := newLedger(t, store)
	l.deposit("x", 1)
	l.deposit("x", 2)
	var told atomic.Int64
	p := l.project("a", nil, counting(KindReaction, Settings{Name: "count", FromNow: true}, func(deposited, Fact) error {
		told.Add(1)
		return nil
	}))
	l.deposit("x", 3)
	l.wait(p, "count")
	l.deposit("x", 4)
	l.wait(p, "count")
	require.EqualValues(t, 2, told.Load())
}

// TestDoubtNeitherRepeatsNorSkipsNorReorders loses answers of the store, and has
// handlers fail, some of them for good.
func TestDoubtNeitherRepeatsNorSkipsNorReorders(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			random := rand.New(rand.NewPCG(seed, 7))
			var calm bool
			chance := func(percent int) bool {
				mu.Lock()
				defer mu.Unlock()
				return !calm && random.IntN(100) < percent
			}
			store := &doubtful{Store: memoryStore(t, 3)}
			store.fate = func(*persistence.Step) (bool, error) {
				switch {
				case chance(15):
					return true, persistence.ErrUnknownOutcome
				case chance(15):
					return false, persistence.ErrUnknownOutcome
				case chance(10):
					return false, errDown
				}
				return true, nil
			}
			l := newLedger(t, store)
			handled := map[string][]int{}
			p := l.project("a", nil, counting(KindReaction, Settings{Name: "count", Batch: 7, Attempts: 2, Backoff: time.Millisecond},
				func(e deposited, f Fact) error {
					if e.Note == "poison" {
						return errors.New("poison")
					}
					mu.Lock()
					defer mu.Unlock()
					handled[f.ID] = append(handled[f.ID], int(f.Version))
					return nil
				}))
			const ids, rounds = 9, 40
			poisoned := map[string]int{}
			for i := range rounds {
				for k := range ids {
					id, e := fmt.Sprint("acc", k), deposited{Cents: 1}
					if k%3 == 0 && i == 10+k {
						e.Note, poisoned[id] = "poison", i+1
					}
					l.record(id, e)
				}
			}
			l.wait(p, "count")
			mu.Lock()
			calm = true
			mu.Unlock()
			letters, err := p.DeadLetters(t.Context(), "count", persistence.DeadLetterKey{}, 1000)
			require.NoError(t, err)
			parked := map[string]int{}
			for i := range letters {
				parked[letters[i].Sequence]++
			}
			mu.Lock()
			defer mu.Unlock()
			for k := range ids {
				id, last := fmt.Sprint("acc", k), rounds
				if at := poisoned[id]; at > 0 {
					last = at - 1
					require.Equal(t, rounds-last, parked[streamOf(id).String()], "all behind the poison are parked")
				}
				require.Len(t, handled[id], last, "%v", handled[id])
				for i, version := range handled[id] {
					require.Equal(t, i+1, version)
				}
			}
		})
	}
}

func TestProgressTellsWhyAPartitionStandsStill(t *testing.T) {
	l := newLedger(t, memoryStore(t, 1))
	for i := range 3 {
		l.deposit("x", int64(i+1))
	}
	p := l.project("a", nil, counting(KindReaction, Settings{Name: "count", Backoff: time.Hour}, func(e deposited, _ Fact) error {
		if e.Cents == 2 {
			return errors.New("no such thing")
		}
		return nil
	}))
	require.Eventually(t, func() bool {
		of := p.Progress()[0].Partitions
		return len(of) == 1 && of[0].Position == 1 && of[0].Standing == "event 2: no such thing"
	}, 5*time.Second, time.Millisecond)
}

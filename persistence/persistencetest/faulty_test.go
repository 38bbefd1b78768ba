package persistencetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// faultyMemory is memory behind a Faulty without rules.
var faultyMemory = Harness{
	Open: func(t *testing.T, partitions int) persistence.Store {
		s, err := memory.Open(memory.Config{Partitions: partitions})
		require.NoError(t, err)
		return closing(t, WithFaults(s))
	},
	Again: func(t *testing.T, s persistence.Store) persistence.Store {
		return closing(t, WithFaults(s.(*Faulty).Unwrap().(*memory.Store).Reopen()))
	},
	SetBack: func(t *testing.T, s persistence.Store, p persistence.Partition, head persistence.Offset) {
		require.NoError(t, s.(*Faulty).Unwrap().(*memory.Store).SetBack(p, head))
	},
}

func closing(t *testing.T, f *Faulty) *Faulty {
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func TestFaultyWithoutRulesKeepsTheContract(t *testing.T) { Run(t, faultyMemory) }

func openFaulty(t *testing.T) (*Faulty, *owner) {
	t.Helper()
	s, o := openOwned(t, faultyMemory, 1)
	return s.(*Faulty), o
}

func TestAppendFaults(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		fault            Fault
		unknown, written bool
		says             error
	}{
		"pass":            {Fault{}, false, true, nil},
		"refused":         {Fault{Outcome: Refused}, false, false, ErrInjected},
		"refused as":      {Fault{Outcome: Refused, Err: boom}, false, false, boom},
		"lost request":    {Fault{Outcome: LostRequest}, true, false, ErrInjected},
		"lost answer":     {Fault{Outcome: LostAnswer, Err: boom}, true, true, boom},
		"stopped by hook": {Fault{Before: func(context.Context) error { return boom }}, false, false, boom},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := openFaulty(t)
			var seen int
			f.OnAppend(func(b *persistence.Batch) Fault { seen += len(b.Commits); return c.fault })
			x := streamIn(0, 1, 0)
			a, b := commit(x, 0, "a"), commit(x, 1, "b")
			o.append(a, b)
			require.Equal(t, 2, seen)
			for _, commit := range []*persistence.Commit{a, b} {
				require.Equal(t, c.unknown, errors.Is(commit.Err, persistence.ErrUnknownOutcome))
				require.ErrorIs(t, commit.Err, c.says)
				if c.says != nil {
					require.Zero(t, commit.Offset)
				}
			}
			f.Heal()
			require.Equal(t, c.written, len(readAll(t, f, x)) == 2)
			o.claim(0)
			o.must(commit(streamIn(0, 1, 1), 0, "after the fault"))
		})
	}
}

func TestLateAppendArrives(t *testing.T) {
	for _, claimFirst := range []bool{false, true} {
		f, o := openFaulty(t)
		arrives := make(chan struct{})
		f.OnAppend(func(*persistence.Batch) Fault { return Fault{Outcome: Late, Arrives: arrives} })
		x := streamIn(0, 1, 0)
		c := commit(x, 0, "late")
		o.append(c)
		require.ErrorIs(t, c.Err, persistence.ErrUnknownOutcome)
		copy(c.Events[0].Payload, "####")
		f.Heal()
		require.Empty(t, readAll(t, f, x))
		if claimFirst {
			o.claim(0)
		}
		other := f.Unwrap().(*memory.Store).Reopen()
		close(arrives)
		f.late.Wait()
		events := readAll(t, other, x)
		if claimFirst {
			require.Empty(t, events, "fenced by its own owner's next epoch")
		} else {
			require.Len(t, events, 1)
			require.Equal(t, "late", string(events[0].Payload))
		}
	}
}

func TestLateAppendNeverArrivesAfterClose(t *testing.T) {
	f, o := openFaulty(t)
	f.OnAppend(func(*persistence.Batch) Fault { return Fault{Outcome: Late, Arrives: make(chan struct{})} })
	o.append(commit(streamIn(0, 1, 0), 0, "late"))
	require.NoError(t, f.Close())
	again := commit(streamIn(0, 1, 0), 0, "after close")
	f.Append(t.Context(), o.batch(again))
	require.ErrorIs(t, again.Err, persistence.ErrClosed)
	require.Empty(t, tailAll(t, f.Unwrap().(*memory.Store).Reopen()))
}

func TestStallHoldsUntilReleased(t *testing.T) {
	f, o := openFaulty(t)
	stall := NewStall()
	f.OnAppend(func(*persistence.Batch) Fault { return Fault{Before: stall.Hold} })
	c := commit(streamIn(0, 1, 0), 0, "x")
	b := o.batch(c)
	done := make(chan struct{})
	go func() { defer close(done); f.Append(t.Context(), b) }()
	<-stall.Reached()
	require.Empty(t, tailAll(t, f))
	stall.Release()
	<-done
	require.NoError(t, c.Err)

	held := NewStall()
	f.OnAppend(func(*persistence.Batch) Fault { return Fault{Before: held.Hold} })
	ctx, cancel := context.WithCancel(t.Context())
	late := commit(streamIn(0, 1, 1), 0, "x")
	lateBatch := o.batch(late)
	done = make(chan struct{})
	go func() { defer close(done); f.Append(ctx, lateBatch) }()
	<-held.Reached()
	cancel()
	<-done
	require.ErrorIs(t, late.Err, context.Canceled)
	require.Len(t, tailAll(t, f), 1)
}

func TestEveryCallCanFail(t *testing.T) {
	f, o := openFaulty(t)
	x := streamIn(0, 1, 0)
	o.must(commit(x, 0, "x"))
	every := calls(o, commit(x, 1, "y"))
	methods := []string{"Meta", "Close"} // which do not ask the store
	for name := range every {
		methods = append(methods, name)
	}
	var want []string
	for m := range reflect.TypeFor[persistence.Store]().Methods() {
		want = append(want, m.Name)
	}
	require.ElementsMatch(t, want, methods)
	for name, do := range every {
		var seen []Call
		f.OnCall(func(c Call) Fault { seen = append(seen, c); return Fault{Outcome: Refused} })
		f.OnAppend(func(*persistence.Batch) Fault { return Fault{Outcome: Refused} })
		require.ErrorIs(t, do(t.Context(), f), ErrInjected, name)
		if name != "Append" {
			require.Len(t, seen, 1)
			require.Equal(t, name, seen[0].Method)
		}
	}
	f.Heal()
	require.Equal(t, persistence.Ownership{Epoch: 1, Owner: o.node}, ownership(t, f, 0))
	require.Len(t, readAll(t, f, x), 1)

	f.OnCall(func(c Call) Fault {
		if c.Method == "Claim" && c.Node == o.node && c.Partition == 0 {
			return Fault{Outcome: LostAnswer}
		}
		return Fault{}
	})
	_, err := f.Claim(t.Context(), 0, 1, o.node)
	require.ErrorIs(t, err, ErrInjected)
	require.Equal(t, persistence.Epoch(2), ownership(t, f, 0).Epoch, "the claim happened, its answer was lost")
}

// TestUnknownOutcomesCanBeResolved runs an owner over a store that loses
// requests and answers, and resolves what it does not know as the contract
// says: claim under the next epoch, then look for the command.
func TestUnknownOutcomesCanBeResolved(t *testing.T) {
	f, o := openFaulty(t)
	f.OnAppend(NewDice(11, Odds{Refused: 0.1, LostRequest: 0.2, LostAnswer: 0.2}).Append)
	random := rand.New(rand.NewPCG(5, 6))
	versions := make(map[persistence.Stream]persistence.Version)
	outcomes := make(map[string]int)
	for range 500 {
		x := streamIn(0, 1, random.IntN(5))
		c := commit(x, versions[x], "1", "2")
		o.append(c)
		switch {
		case c.Err == nil:
			outcomes["written"]++
			versions[x] += 2
		case errors.Is(c.Err, persistence.ErrUnknownOutcome):
			o.claim(0)
			record, found, err := f.FindCommand(t.Context(), x, c.Command)
			require.NoError(t, err)
			if found {
				outcomes["resolved as written"]++
				require.Equal(t, versions[x]+1, record.First)
				versions[x] = record.Last
			} else {
				outcomes["resolved as not written"]++
			}
		default:
			require.ErrorIs(t, c.Err, ErrInjected)
			outcomes["refused"]++
		}
	}
	t.Log(outcomes)
	require.Len(t, outcomes, 4)
	total := 0
	for x, v := range versions {
		require.Len(t, readAll(t, f, x), int(v))
		total += int(v)
	}
	require.Len(t, tailAll(t, f), total)
}

func TestDiceFollowTheirSeed(t *testing.T) {
	odds := Odds{Refused: 0.2, LostRequest: 0.2, LostAnswer: 0.2}
	a, b, c := NewDice(1, odds), NewDice(1, odds), NewDice(2, odds)
	same := true
	counts := make(map[Outcome]int)
	for range 1000 {
		x := a.Append(nil)
		require.Equal(t, x, b.Call(Call{}))
		same = same && x.Outcome == c.Append(nil).Outcome
		counts[x.Outcome]++
	}
	require.False(t, same)
	require.Len(t, counts, 4)
}

package figures

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

func TestQuantilesAreWithinASixteenth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var a, b Histogram
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(rnd.ExpFloat64() * float64(5*time.Millisecond))
		all = append(all, d)
		if i%2 == 0 {
			a.Record(d)
		} else {
			b.Record(d)
		}
	}
	a.Add(&b)
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99} {
		exact := all[int(q*float64(len(all)))-1]
		require.InEpsilon(t, float64(exact), float64(a.Quantile(q)), 1.0/14, "%v", q)
	}
	require.Zero(t, (&Histogram{}).Quantile(0.5))
}

func TestClassesFollowEachOther(t *testing.T) {
	last := -1
	for us := range 100_000 {
		d := time.Duration(us) * time.Microsecond
		c := class(d)
		require.True(t, c == last || c == last+1, "%v", d)
		require.Less(t, d, end(c))
		last = c
	}
}

// full is a disk on which no receipt can be kept.
type full struct{}

func (full) Add(aggregate.Receipt) error { return errors.New("no space left") }

func TestACommandWhoseReceiptIsNotKeptIsUnknown(t *testing.T) {
	desk := Desk{Recorder: &Recorder{}, Acks: full{}}
	_, err := desk.Run(t.Context(), func(context.Context) (aggregate.Receipt, error) { return aggregate.Receipt{}, nil })
	require.ErrorContains(t, err, "no space left")
	require.Equal(t, aggregate.KindUnknown, aggregate.KindOf(err))
	f := desk.Recorder.Snapshot()
	require.Equal(t, []int64{1, 0, 1}, []int64{f.Commands, f.Acknowledged, f.Unknown})
}

func TestOutcomesAreSorted(t *testing.T) {
	var r Recorder
	for _, err := range []error{nil, aggregate.Reject("no", "no"), aggregate.NotDone(aggregate.ReasonStopping, nil), errors.New("?")} {
		r.Begin()
		r.End(err, time.Millisecond)
	}
	f := r.Snapshot()
	f.Add(&Figures{Commands: 1, Steps: 3})
	require.Equal(t, []int64{5, 1, 1, 1, 1, 3}, []int64{f.Commands, f.Acknowledged, f.Rejected, f.NotDone, f.Unknown, f.Steps})
}

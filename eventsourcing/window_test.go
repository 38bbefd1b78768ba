package eventsourcing

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// model is what a window with endless memory would be.
type model struct {
	order []aggregate.CommandID
	all   map[aggregate.CommandID]Handled
}

func (m *model) check(t *testing.T, w *Window, random *rand.Rand) {
	t.Helper()
	// I5: what was handled is never taken for new, and what is remembered is right
	for range 5 {
		if len(m.order) == 0 {
			break
		}
		id := m.order[random.IntN(len(m.order))]
		handled, verdict := w.Find(id)
		switch {
		case verdict == New:
			require.FailNow(t, "an id that was handled counts as new")
		case verdict == Seen && handled != m.all[id], verdict == Unsure && handled != Handled{}:
			require.FailNow(t, "a command is remembered wrongly", "%+v, not %+v", handled, m.all[id])
		}
	}
	for _, id := range m.order[max(0, len(m.order)-windowIdle):] {
		if handled, verdict := w.Find(id); verdict != Seen || handled != m.all[id] {
			require.FailNow(t, "one of the last ones is forgotten")
		}
	}
	require.LessOrEqual(t, w.Len(), windowMax)
}

func TestWindowNeverTakesAHandledCommandForNew(t *testing.T) {
	for range 10 {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		m, w := &model{all: map[aggregate.CommandID]Handled{}}, &Window{}
		now := time.Now()
		pace := time.Duration(1+random.IntN(2000)) * time.Millisecond // between commands
		if random.IntN(4) == 0 {
			pace = 0 // a burst
		}
		spread := time.Duration(random.IntN(30_000)) * time.Millisecond // how late or early an id may be
		version := persistence.Version(0)
		for range 1500 {
			now = now.Add(pace)
			switch random.IntN(100) {
			case 0:
				w.Trim()
			case 1:
				*w = *reloaded(t, w)
				for _, id := range m.order { // what is not in the snapshot is looked up in the log
					if _, verdict := w.Find(id); verdict == New {
						require.FailNow(t, "the snapshot makes a handled id new")
					}
				}
			default:
				id := aggregate.CommandIDAt(now.Add(spread - time.Duration(random.Int64N(int64(2*spread+1)))))
				if _, verdict := w.Find(id); verdict == Seen {
					require.FailNow(t, "an id that was never handled is known")
				}
				version++
				h := Handled{Command: id, Version: version, Events: 1}
				w.Add(h)
				if random.IntN(3) > 0 {
					h.Offset = persistence.Offset(version * 10)
					w.Settle(id, h.Offset)
				}
				m.all[id] = h
				m.order = append(m.order, id)
			}
			m.check(t, w, random)
		}
	}
}

// reloaded is the window after it was stored in a snapshot and loaded.
func reloaded(t *testing.T, w *Window) *Window {
	before := w.Handled()
	s, err := EncodeSnapshot(definition, streamOf("a"), 1, persistence.Cause{}, definition.NewInstance(), w, time.Now())
	require.NoError(t, err)
	require.Equal(t, before, w.Handled(), "the window itself has changed")
	_, loaded, err := decodeSnapshot(definition, &s)
	require.NoError(t, err)
	require.Equal(t, min(len(before), windowStored), loaded.Len())
	return &loaded
}

// fill adds n commands, one every pace.
func fill(w *Window, from time.Time, n int, pace time.Duration) (ids []aggregate.CommandID) {
	for i := range n {
		id := aggregate.CommandIDAt(from.Add(time.Duration(i) * pace))
		version := persistence.Version(1)
		if w.Len() > 0 {
			all := w.Handled()
			version = all[len(all)-1].Version + 1
		}
		w.Add(Handled{Command: id, Version: version, Offset: 1, Events: 1})
		ids = append(ids, id)
	}
	return ids
}

func TestWindowOfASlowAggregateStaysSmall(t *testing.T) {
	w := &Window{}
	ids := fill(w, time.Now(), 500, time.Second)
	require.Equal(t, windowMin, w.Len())
	_, verdict := w.Find(ids[0])
	require.Equal(t, Unsure, verdict)
	_, verdict = w.Find(ids[len(ids)-windowMin])
	require.Equal(t, Seen, verdict)
}

func TestWindowOfABusyAggregateKeepsItsLastSeconds(t *testing.T) {
	w := &Window{}
	ids := fill(w, time.Now(), 3000, 10*time.Millisecond)
	for _, id := range ids[len(ids)-windowSpan/10:] {
		_, verdict := w.Find(id)
		require.Equal(t, Seen, verdict)
	}
	require.Less(t, w.Len(), 1100)
}

func TestWindowIsBounded(t *testing.T) {
	w := &Window{}
	fill(w, time.Now(), windowMax+500, 0)
	require.Equal(t, windowMax, w.Len())
	w.Trim()
	require.Equal(t, windowIdle, w.Len())
	require.Nil(t, w.index)
	require.LessOrEqual(t, len(w.ring), windowIdle)
}

func TestNewerIDsAreNewAtOnceAfterATrim(t *testing.T) {
	w, now := &Window{}, time.Now()
	fill(w, now, 1000, time.Millisecond)
	w.Trim()
	_, verdict := w.Find(aggregate.CommandIDAt(now.Add(time.Second)))
	require.Equal(t, New, verdict, "the log would be asked about every new command")
}

func TestWindowKnowsHowFarItReaches(t *testing.T) {
	w := &Window{}
	require.True(t, w.Reaches(0))
	ids := fill(w, time.Now(), 20, time.Second)
	require.True(t, w.Reaches(0), "nothing is forgotten yet")
	fill(w, ids[19].Time(), 30, time.Second)
	oldest := w.Handled()[0].Version
	require.True(t, w.Reaches(oldest))
	require.False(t, w.Reaches(oldest-1))
}

package simulation

import (
	"cmp"
	"container/heap"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// world is a cluster and all that surrounds it. Everything in it but the intents
// belongs to the driver.
type world struct {
	rng     *rand.Rand
	start   time.Time
	plan    plan
	without Rules

	mu      sync.Mutex
	intents []*intent
	kick    chan struct{} // capacity 1: there are intents

	now      time.Duration
	events   events
	sequence int
	machines []*machine
	db       *database
	links    links
	active   *machine // whose event was carried out last
	healed   bool
	released sync.Map // paths of locks whose holders are dead

	operations []*operation
	doubled    map[aggregate.CommandID]bool // commands that the network delivered twice
	history    []string
	tally      map[string]int
	violations []Violation

	began     time.Duration // the turn at hand, by the real clock
	disturbed bool          // a turn was so long that the Go scheduler may have chosen
}

// intent is what a machine wants to happen. settle draws what becomes of it.
type intent struct {
	at      time.Duration
	machine *machine
	key     string // what it is, for the order among the intents of one moment
	settle  func()
}

// event is what happens at a time.
type event struct {
	at       time.Duration
	sequence int
	machine  *machine // that it happens to; nil for nobody
	do       func()
}

type events []*event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at != e[j].at {
		return e[i].at < e[j].at
	}
	return e[i].sequence < e[j].sequence
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(*event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// at lets something happen, to a machine or to nobody.
func (w *world) at(at time.Duration, m *machine, do func()) {
	w.sequence++
	heap.Push(&w.events, &event{max(at, w.now+1), w.sequence, m, do})
}

func (w *world) elapsed() time.Duration { return time.Since(w.start) }

// post hands an intent to the driver. It is called on any goroutine.
func (w *world) post(m *machine, key string, settle func()) {
	i := &intent{w.elapsed(), m, key, settle}
	w.mu.Lock()
	w.intents = append(w.intents, i)
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

func (w *world) note(format string, args ...any) {
	w.history = append(w.history, fmt.Sprintf("%.6f ", w.now.Seconds())+fmt.Sprintf(format, args...))
}

// collect settles the intents, in an order that does not depend on goroutines.
// What a paused machine wants has to wait.
func (w *world) collect() {
	w.mu.Lock()
	taken := w.intents
	w.intents = nil
	w.mu.Unlock()
	select {
	case <-w.kick:
	default:
	}
	slices.SortStableFunc(taken, func(a, b *intent) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.machine.index, b.machine.index), strings.Compare(a.key, b.key))
	})
	for _, i := range taken {
		if m := i.machine; m.paused && !m.crashed {
			m.backlog = append(m.backlog, i.settle)
			continue
		}
		i.settle()
	}
}

// run carries out events until the given time.
func (w *world) run(until time.Duration) {
	for {
		synctest.Wait()
		w.turn()
		w.now = w.elapsed()
		w.collect()
		next := until
		if len(w.events) > 0 {
			next = min(next, w.events[0].at)
		}
		if next > w.now {
			timer := time.NewTimer(next - w.now)
			select {
			case <-timer.C:
			case <-w.kick: // a deadline of a client has passed
				timer.Stop()
				continue
			}
			if next == until {
				w.now = until
				return
			}
			continue
		}
		if w.now >= until {
			return
		}
		e := heap.Pop(&w.events).(*event)
		if m := e.machine; m != nil && m.paused && !m.crashed {
			m.backlog = append(m.backlog, e.do)
			continue
		}
		w.active = e.machine
		e.do()
	}
}

// turn is called when all is quiet. It notes whether what happened since the last
// turn may have been interrupted, and begins a new time slice: who yields is given
// one, whereas those who are woken use up what their waker has left.
func (w *world) turn() {
	now := realTime()
	w.disturbed = w.disturbed || now-w.began >= slice
	w.began = now
	runtime.Gosched()
}

// slice is how long the Go scheduler lets a goroutine run, and those that it wakes,
// before it puts the one that runs behind all others. A turn takes some
// microseconds, unless the operating system takes the processor away.
const slice = 10 * time.Millisecond

// realTime is the time outside of the bubble.
func realTime() time.Duration {
	var t syscall.Timeval
	_ = syscall.Gettimeofday(&t) // cannot fail with a valid pointer
	return time.Duration(t.Nano())
}

func (w *world) digest() uint64 {
	h := fnv.New64a()
	for _, l := range w.history {
		_, _ = io.WriteString(h, l)
		_, _ = h.Write([]byte{'\n'})
	}
	return h.Sum64()
}

func (w *world) span(from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return from + time.Duration(w.rng.Int64N(int64(to-from)))
}

// odds is true once in n times; never for 0.
func (w *world) odds(n int) bool { return n > 0 && w.rng.IntN(n) == 0 }

// latency is short, and now and then long.
func (w *world) latency() time.Duration {
	if w.odds(w.plan.slow) && !w.healed {
		return w.span(5*time.Millisecond, w.plan.lease/2)
	}
	return w.span(50*time.Microsecond, 2*time.Millisecond)
}

func pick[T any](w *world, from []T) T { return from[w.rng.IntN(len(from))] }

// alive lists the machines that run a node.
func (w *world) alive() []*machine {
	return slices.DeleteFunc(slices.Clone(w.machines), func(m *machine) bool {
		return m.crashed || m.node == nil || m.leaving
	})
}

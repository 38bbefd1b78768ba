// Package simulation runs whole clusters by seed: the real code of ownership,
// routing, lanes and deduplication, on a clock, a network and a store that are
// made up. What goes wrong in it goes wrong again with the same seed.
//
// A run is one world: some machines, each with a node, in one bubble of
// testing/synctest, whose time stands still while anybody has something to do.
// A node never touches the world itself. It posts what it wants (a message sent,
// a call to the store, a timer set), and when all is quiet the driver takes what
// was posted, puts it into an order that does not depend on goroutines, and draws
// from the seed what becomes of it and when.
//
// The process must run one goroutine at a time (GOMAXPROCS 1) and one world at a
// time, without collecting garbage meanwhile. The goroutines of a node then run in
// the order in which they were woken, and nothing that a node does may hang on what
// the runtime draws: the case of a select of which several are ready, or the order
// of a map. One thing is left to chance. If the operating system takes the processor
// away in the middle of a turn, for as long as a time slice of the Go scheduler, that
// may put the goroutine that runs behind those that wait. The run is then as good a
// test as any other, but perhaps not the one that the seed had before; its result
// says that it was disturbed.
package simulation

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/internal/simulated"
)

// Rules are the seven safety rules, true for those that are switched off.
type Rules struct {
	// Fence: the store refuses the appends of whoever does not own the partition.
	Fence bool
	// HeadCheck: the store refuses owners whose log is not the one it holds.
	HeadCheck bool
	// InFlightWait: a claim waits for the append in flight.
	InFlightWait bool
	// Rules of the node.
	simulated.Rules
}

// Result is what a run has shown.
type Result struct {
	Seed       uint64
	Digest     uint64 // of the history
	History    []string
	Violations []Violation
	// Tally counts what happened: a set of runs in which nothing happened proves
	// nothing.
	Tally map[string]int
	// Took is the simulated time.
	Took time.Duration
	// Disturbed says that the operating system took the processor away for so long that
	// the Go scheduler may have interrupted a goroutine. The history may then not be the
	// one that the seed has otherwise; mostly it is.
	Disturbed bool
}

// Violation is a promise that was broken.
type Violation struct {
	Kind Kind
	Text string
}

// Kind sorts violations.
type Kind string

// The kinds.
const (
	NotLinearizable Kind = "not linearizable" // no order of the operations explains the replies
	Twice           Kind = "twice"            // one command, two effects
	Lost            Kind = "lost"             // acknowledged, and not in the log
	Undone          Kind = "not undone"       // said to have had no effect, and in the log
	Phantom         Kind = "phantom"          // a reply from a state that the log never had
	BrokenLog       Kind = "broken log"       // offsets, versions, epochs or owners are wrong
	NotLive         Kind = "not live"         // all is well again, and a command or partition is not
)

// Has reports whether a violation is of one of the kinds.
func (r *Result) Has(kinds ...Kind) bool {
	for _, v := range r.Violations {
		for _, k := range kinds {
			if v.Kind == k {
				return true
			}
		}
	}
	return false
}

// Run simulates one seed, with the rules given switched off. It fails t only for
// goroutines that do not end; what was violated is in the result.
func Run(t *testing.T, seed uint64, without Rules) *Result {
	var w *world
	watchdog := time.AfterFunc(patience, func() {
		panic(fmt.Sprintf("seed %d does not come to an end: goroutines go on and on, or wait for each other outside of what the simulation sees", seed))
	})
	defer watchdog.Stop()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, without)
		running = w
		defer func() { running = nil }()
		w.live()
		w.judge()
		w.end()
	})
	return &Result{Seed: seed, Digest: w.digest(), History: w.history, Violations: w.violations, Tally: w.tally, Took: w.now, Disturbed: w.disturbed}
}

// patience is how long, by the real clock, a run may take: a thousand times what
// it needs.
const patience = 2 * time.Minute

// running is the world that domain code is executed in. There is one at a time.
var running *world

// live is the story of a run: a cluster is founded, has clients and misfortunes
// for a while, and then only clients.
func (w *world) live() {
	p := &w.plan
	for range p.nodes {
		w.boot()
		w.run(w.now + w.span(time.Microsecond, 30*time.Millisecond))
	}
	w.run(w.now + w.span(0, 3*p.lease))
	w.schedule()
	w.run(w.now + p.length)
	w.heal()
	w.awaitLife()
	w.run(w.now + 2*p.lease) // whatever is still on its way arrives
}

// end crashes what is left and waits for its goroutines.
func (w *world) end() {
	for _, m := range w.machines {
		m.crash()
	}
	for range 10_000 {
		if w.allGone() {
			break
		}
		w.run(w.now + 100*time.Millisecond)
	}
	for _, m := range w.machines {
		<-m.gone
	}
	<-time.After(5 * time.Second) // protoactor's throttle of dead letters
}

func (w *world) allGone() bool {
	for _, m := range w.machines {
		select {
		case <-m.gone:
		default:
			return false
		}
	}
	return true
}

func newWorld(seed uint64, without Rules) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 0x1e55)), start: time.Now(), kick: make(chan struct{}, 1), began: realTime(),
		without: without, tally: map[string]int{}, doubled: map[aggregate.CommandID]bool{},
		links: links{cut: map[[2]int]bool{}, broke: map[[2]int]time.Duration{}},
	}
	w.plan = w.draw()
	w.db = newDatabase(w)
	return w
}

func (w *world) violated(kind Kind, format string, args ...any) {
	v := Violation{kind, fmt.Sprintf(format, args...)}
	w.violations = append(w.violations, v)
	w.note("VIOLATION %s: %s", v.Kind, v.Text)
}

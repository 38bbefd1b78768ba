package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/persistence"
)

// The workloads, by name, with what they do and their usual share of the
// operations.
//
//	register  write and read registers; every history is checked for linearizability
//	append    each command leaves its number in one of a few lists
//	claim     several callers ask for one name
//	hot       append, to lists chosen by Zipf's law: one of them takes most
//	idle      wake one of many lists that are not in memory
//	transfer  order payments between wallets, which a process manager carries out
//	account   read mostly, with withdrawals that are often rejected; checked like register
var defaultMix = map[string]int{"register": 25, "append": 15, "claim": 5, "hot": 25, "idle": 5, "account": 25, "transfer": 5}

const (
	// historySteps is how many calls a key gets before another takes its place:
	// the checker's work grows fast with the length of a history.
	historySteps = 48
	// historyCallers is how many may ask for one key at a time, and historyOpen
	// how many calls of unknown outcome it may have.
	historyCallers = 4
	historyOpen    = 5
	// judgePatience bounds the check of one history.
	judgePatience = 20 * time.Second
	// claimers is how many ask for one name.
	claimers = 3
	// hotKeys is how many lists share the load of the workload hot.
	hotKeys = 1000
)

// workloads make operations. They are safe for concurrent use.
type workloads struct {
	d    *driver
	deck []string // each workload as often as its share

	mu        sync.Mutex
	rand      *rand.Rand
	zipf      *rand.Zipf
	registers *shelf
	accounts  *shelf
	names     *shelf
	values    int64

	judging chan *history
	judge   sync.WaitGroup
	checked int
	steps   int
}

func newWorkloads(d *driver) *workloads {
	w := &workloads{d: d, rand: rand.New(rand.NewPCG(d.setup.Seed, 2)), judging: make(chan *history, 1024)}
	w.zipf = rand.NewZipf(w.rand, 1.3, 1, hotKeys-1)
	var kinds []string
	for kind := range d.setup.Mix {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		for range d.setup.Mix[kind] {
			w.deck = append(w.deck, kind)
		}
	}
	w.registers = newShelf("r", d.setup.Keys, historySteps)
	w.accounts = newShelf("c", d.setup.Keys, historySteps)
	w.names = newShelf("n", max(d.setup.Keys/8, 1), claimers)
	w.judge.Go(w.run)
	return w
}

// next makes an operation, and says what to do with its result. It returns nil
// when all keys that it looked at have callers enough.
func (w *workloads) next() (*operation, func(*result)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.deck[w.rand.IntN(len(w.deck))] {
	case "register":
		w.values++
		return w.step(w.registers, &operation{verb: w.choose(verbWrite, 40, verbRead), value: w.values})
	case "account":
		verb := w.choose(verbGive, 10, w.choose(verbTake, 25, verbBalance))
		return w.step(w.accounts, &operation{verb: verb, value: 1 + w.rand.Int64N(10)})
	case "claim":
		return w.step(w.names, &operation{verb: w.choose(verbClaim, 90, verbHolder)})
	case "transfer":
		return &operation{verb: w.choose(verbOrder, 80, verbContents), id: walletID(w.rand.Int64N(walletCount))}, nil
	case "hot":
		return &operation{verb: w.choose(verbAdd, 80, verbCount), id: fmt.Sprint("h-", w.zipf.Uint64())}, nil
	case "idle":
		return &operation{verb: w.choose(verbAdd, 80, verbCount), id: fleetID(w.rand.IntN(max(w.d.setup.Fleet, 1)))}, nil
	}
	return &operation{verb: w.choose(verbAdd, 80, verbCount), id: fmt.Sprint("a-", w.rand.IntN(w.d.setup.Keys))}, nil
}

// fleetID names an aggregate of the idle fleet.
func fleetID(i int) string { return fmt.Sprint("f-", i) }

// choose returns a with a likelihood in percent, or else b.
func (w *workloads) choose(a verb, percent int, b verb) verb {
	if w.rand.IntN(100) < percent {
		return a
	}
	return b
}

// step gives an operation a key that is not too busy.
func (w *workloads) step(s *shelf, o *operation) (*operation, func(*result)) {
	const looks = 8
	for range looks {
		h := s.at(w.rand.IntN(len(s.histories)))
		if h.callers >= historyCallers {
			continue
		}
		h.callers++
		h.issued++
		o.id = h.key
		return o, func(r *result) { w.record(s, h, o, r) }
	}
	return nil, nil
}

// record takes the result into the history of its key.
func (w *workloads) record(s *shelf, h *history, o *operation, r *result) {
	step, counts := stepOf(o, r)
	w.mu.Lock()
	h.callers--
	if counts {
		h.steps = append(h.steps, step)
		if step.Return == check.Forever {
			h.open++
		}
	}
	over := s.retire(h)
	w.mu.Unlock()
	if over {
		w.d.monitor.Forget(o.stream().String())
		if s != w.names {
			w.judging <- h
		}
	}
}

// stepOf is an operation as the checker sees it; false when there is nothing to
// see: a query without an answer, a command without effect.
func stepOf(o *operation, r *result) (check.Step, bool) {
	step := check.Step{Outcome: r.outcome, Value: o.value, Call: r.call, Return: r.end}
	switch o.verb {
	case verbWrite:
		step.Verb = check.Write
	case verbGive:
		step.Verb = check.Give
	case verbTake:
		step.Verb = check.Take
	default:
		step.Verb, step.Value = check.Read, r.reply.Seen.Value
		return step, r.outcome == check.OK
	}
	if r.outcome == check.Unknown || r.outcome == check.Rejected && r.uncertain {
		step.Outcome, step.Return = check.Unknown, check.Forever
	}
	return step, r.outcome != check.Failed
}

// run checks histories as they end.
func (w *workloads) run() {
	for h := range w.judging {
		v := check.Linear(h.key, h.steps, judgePatience)
		w.mu.Lock()
		w.checked++
		w.steps += len(h.steps)
		w.mu.Unlock()
		if v != nil {
			v.At = w.d.wall(v.At)
			w.d.violation(*v)
		}
	}
}

// finish checks what is left, when all operations have ended.
func (w *workloads) finish() {
	for _, s := range []*shelf{w.registers, w.accounts} {
		for _, h := range s.histories {
			w.judging <- h
		}
	}
	close(w.judging)
	w.judge.Wait()
}

// shelf is the keys of a workload that are in use.
type shelf struct {
	prefix    string
	limit     int // calls of one key
	made      int
	histories []*history
}

// history is one key, and what was done to it.
type history struct {
	key     string
	slot    int
	callers int
	issued  int
	open    int
	retired bool // another has its place
	steps   []check.Step
}

func newShelf(prefix string, keys, limit int) *shelf {
	s := &shelf{prefix: prefix, limit: limit, histories: make([]*history, keys)}
	for i := range s.histories {
		s.fresh(i)
	}
	return s
}

func (s *shelf) fresh(slot int) {
	s.made++
	s.histories[slot] = &history{key: fmt.Sprintf("%s-%d", s.prefix, s.made), slot: slot}
}

// at returns the history in a slot, a new one if that which is there has had its
// share.
func (s *shelf) at(slot int) *history {
	if h := s.histories[slot]; h.issued >= s.limit || h.open >= historyOpen {
		h.retired = true
		s.fresh(slot)
	}
	return s.histories[slot]
}

// retire reports whether a history is over: no call of it is on its way, and
// there will be none. Its place is then another's.
func (s *shelf) retire(h *history) bool {
	if !h.retired && (h.issued >= s.limit || h.open >= historyOpen) {
		h.retired = true
		s.fresh(h.slot)
	}
	return h.retired && h.callers == 0
}

// probesOf finds ids of lists in every partition.
func probesOf(partitions int) [][]string {
	const each = 2
	ids := make([][]string, partitions)
	for i, missing := 0, partitions*each; missing > 0; i++ {
		id := fmt.Sprint("p-", i)
		p := persistence.PartitionOf(persistence.Stream{Type: lists.Name(), ID: id}, partitions)
		if len(ids[p]) < each {
			ids[p] = append(ids[p], id)
			missing--
		}
	}
	return ids
}

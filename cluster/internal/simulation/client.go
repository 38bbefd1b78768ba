package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// operation is what a client wants, over all its attempts. They carry one command
// id, and may go through several nodes, also at the same time.
type operation struct {
	number   int
	verb     verb
	def      *aggregate.Type[ledger]
	id       string
	key      string // type and id
	home     persistence.Partition
	command  aggregate.CommandID
	attempts []*attempt
	tries    int // that are left
	probe    bool
}

type verb uint8

const (
	toLook verb = iota
	toNote
	toTake
	toGive
)

func (v verb) String() string { return [...]string{"look", "note", "take", "give"}[v] }

// attempt is one call through one node.
type attempt struct {
	op        *operation
	m         *machine
	call, ret time.Duration
	over      bool
	outcome   outcome
	state     ledger // that the reply reveals, of outcome done and seen
	receipt   aggregate.Receipt
	text      string
}

type outcome uint8

const (
	open    outcome = iota // no reply, or unknown
	done                   // it has had events; state is the one they left
	seen                   // it had none; state is the one it met
	nothing                // certainly not executed
)

// tag tells operations apart in a ledger's digest.
func (o *operation) tag() uint64 { return uint64(o.number) + 1 }

// begin plans an operation.
func (w *world) begin(v verb, key int, tries int) *operation {
	def, id := w.key(key)
	o := &operation{
		number: len(w.operations), verb: v, def: def, id: id, key: def.Definition().Name() + "/" + id, tries: tries,
		home: persistence.PartitionOf(persistence.Stream{Type: def.Definition().Name(), ID: id}, w.plan.partitions),
	}
	if v != toLook {
		o.command = w.newCommandID()
	}
	w.operations = append(w.operations, o)
	return o
}

// try makes an attempt through a node.
func (w *world) try(o *operation, m *machine, patience time.Duration) {
	o.tries--
	a := &attempt{op: o, m: m, call: w.now}
	o.attempts = append(o.attempts, a)
	m.attempts = append(m.attempts, a)
	w.note("client %d: %s %s through %s, %x, within %s", o.number, o.verb, o.key, m.name, o.command[8:12], patience)
	w.tally["attempts"]++
	w.at(w.now, m, func() {
		if m.crashed {
			return
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			err := a.ask(ctx)
			cancel()
			w.post(m, fmt.Sprintf("reply %d %d", o.number, len(o.attempts)), func() {
				if !a.over {
					a.finish(err)
				}
			})
		}()
	})
}

// ask makes the call. It runs on a goroutine of the machine.
func (a *attempt) ask(ctx context.Context) (err error) {
	o := a.op
	ref := o.def.Ref(a.m.node, o.id)
	id := aggregate.WithCommandID(o.command)
	switch tag := o.tag(); o.verb {
	case toLook:
		a.state, err = aggregate.Ask(ctx, ref, look{})
	case toNote:
		a.state, a.receipt, err = aggregate.Do(ctx, ref, note{tag}, id)
	case toTake:
		a.state, a.receipt, err = aggregate.Do(ctx, ref, take{tag}, id)
	case toGive:
		a.state, a.receipt, err = aggregate.Do(ctx, ref, give{tag}, id)
	}
	return err
}

// finish takes in the reply.
func (a *attempt) finish(err error) {
	w := a.m.w
	a.over, a.ret = true, w.now
	a.m.attempts = slices.DeleteFunc(a.m.attempts, func(other *attempt) bool { return other == a })
	var rejection *aggregate.Rejection
	switch kind := aggregate.KindOf(err); {
	case err == nil && (a.op.verb == toLook || a.receipt.Events == 0):
		a.outcome = seen
	case err == nil:
		a.outcome = done
	case errors.As(err, &rejection):
		a.outcome = seen
		if a.state, err = decodeLedger(rejection.Details["state"]); err != nil {
			panic(err) // domain code wrote it
		}
		a.text = "rejected"
	case kind == aggregate.KindNotDone, kind == aggregate.KindInvalid:
		a.outcome, a.text = nothing, err.Error()
	default:
		a.outcome, a.text = open, err.Error()
	}
	w.tally["replies "+[...]string{"unknown", "done", "seen", "not done"}[a.outcome]]++
	if a.text == "rejected" {
		w.tally["rejections"]++
	}
	w.note("client %d: reply through %s: %s %v %s", a.op.number, a.m.name, [...]string{"unknown", "done", "seen", "not done"}[a.outcome], a.state, a.text)
	w.onward(a)
}

// lost is the end of an attempt whose machine has crashed.
func (a *attempt) lost() {
	a.over, a.ret = true, a.m.w.now
	a.m.w.onward(a)
}

// onward asks again, through any node, while nothing is known.
func (w *world) onward(a *attempt) {
	o := a.op
	if a.outcome == done || a.outcome == seen || o.tries <= 0 {
		return
	}
	w.at(w.now+w.span(0, w.plan.lease/2), nil, func() {
		if alive := w.alive(); len(alive) > 0 && o.tries > 0 {
			w.try(o, pick(w, alive), w.patience())
		}
	})
}

// patience is short, so that a caller gives up in the middle of something, or
// long.
func (w *world) patience() time.Duration {
	if w.odds(w.plan.impatient) {
		return w.span(2*time.Millisecond, w.plan.lease/4)
	}
	return w.span(w.plan.lease/4, 4*w.plan.lease)
}

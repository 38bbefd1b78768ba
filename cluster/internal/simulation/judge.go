package simulation

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

func itoa(n int) string { return strconv.Itoa(n) }

// truth is what the log says in the end.
type truth struct {
	states map[string][]ledger                         // of each key, after 0, 1, 2… events
	placed map[aggregate.CommandID][]persistence.Event // of each command
}

// judge compares what the clients were told with each other and with the log.
func (w *world) judge() {
	for _, m := range w.machines {
		m.count()
	}
	t := w.readLog()
	if t == nil {
		return
	}
	w.judgeAppends()
	w.judgeGrants()
	for _, o := range w.operations {
		w.judgeOperation(o, t)
	}
	if w.db.lost != nil { // of a store that was put back, what came before counts
		t = w.db.lost
	}
	w.judgeOrder(t)
}

// readLog reads the log back and checks its own laws.
func (w *world) readLog() *truth {
	t := &truth{states: map[string][]ledger{}, placed: map[aggregate.CommandID][]persistence.Event{}}
	versions := map[persistence.Stream]persistence.Version{}
	for _, p := range w.db.all() {
		events, err := w.db.store.Tail(always, []persistence.Cursor{{Partition: p}}, 1<<30)
		if err != nil {
			w.violated(BrokenLog, "partition %d cannot be read: %v", p, err)
			return nil
		}
		epoch := persistence.Epoch(0)
		for i, e := range events {
			versions[e.Stream]++
			switch {
			case e.Offset != persistence.Offset(i+1):
				w.violated(BrokenLog, "partition %d has offset %d in place %d", p, e.Offset, i+1)
			case e.Version != versions[e.Stream]:
				w.violated(BrokenLog, "%s has version %d in place %d", e.Stream, e.Version, versions[e.Stream])
			case e.Epoch < epoch:
				w.violated(BrokenLog, "partition %d falls from epoch %d to %d at offset %d", p, epoch, e.Epoch, e.Offset)
			}
			epoch = max(epoch, e.Epoch)
			t.add(e)
		}
	}
	return t
}

func (t *truth) add(e persistence.Event) {
	key := e.Stream.String()
	states := t.states[key]
	if states == nil {
		states = []ledger{{}}
	}
	l := states[len(states)-1]
	var tag uint64
	if _, err := fmt.Sscanf(string(e.Payload), `{"Command":%d}`, &tag); err != nil {
		panic(err) // the simulation's own event
	}
	l.add(tag)
	switch e.Type {
	case "taken":
		l.Holder = tag
	case "given":
		l.Holder = 0
	}
	t.states[key] = append(states, l)
	id := aggregate.CommandID(e.Command)
	t.placed[id] = append(t.placed[id], e)
}

// judgeAppends checks who has written under which epoch: what the store let in,
// not what it then called it.
func (w *world) judgeAppends() {
	type tenure struct {
		partition persistence.Partition
		epoch     persistence.Epoch
	}
	owners := map[tenure]persistence.NodeID{}
	last := map[persistence.Partition]persistence.Epoch{}
	for _, c := range w.db.journal {
		if c.landed == nil {
			continue
		}
		for _, commit := range c.landed.commits {
			i := slices.IndexFunc(c.landed.fences, func(f persistence.Fence) bool { return f.Partition == commit.Partition })
			at := tenure{commit.Partition, c.landed.fences[i].Epoch}
			if at.epoch < last[at.partition] {
				w.violated(BrokenLog, "%s wrote to partition %d under epoch %d after somebody under %d",
					w.db.name(c.landed.owner), at.partition, at.epoch, last[at.partition])
				return
			}
			last[at.partition] = at.epoch
			if owner, ok := owners[at]; ok && owner != c.landed.owner {
				w.violated(BrokenLog, "partition %d was written under epoch %d by %s and by %s", at.partition, at.epoch,
					w.db.name(owner), w.db.name(c.landed.owner))
				return
			}
			owners[at] = c.landed.owner
		}
	}
}

// judgeGrants checks that no epoch was given out twice.
func (w *world) judgeGrants() {
	given := map[grant]persistence.NodeID{}
	for _, g := range w.db.grants {
		at := g
		at.owner = ""
		if other, ok := given[at]; ok && other != g.owner {
			w.violated(BrokenLog, "epoch %d of partition %d was given to %s and to %s", g.epoch, g.partition, w.db.name(other), w.db.name(g.owner))
		}
		given[at] = g.owner
	}
}

// trusted is the moment from which on what a client of a partition was told must
// be in the log: the beginning, or, after the store was put back, when every lease
// from before has run out.
func (w *world) trusted() time.Duration {
	if len(w.db.cuts) == 0 {
		return 0
	}
	last := w.db.cuts[len(w.db.cuts)-1].at
	return last + w.plan.lease + w.plan.lease/100
}

// judgeOperation holds the replies to one operation against the log.
func (w *world) judgeOperation(o *operation, t *truth) {
	placed := t.placed[o.command]
	if o.verb != toLook && len(placed) > 1 {
		w.violated(Twice, "client %d: %s %s has %d effects", o.number, o.verb, o.key, len(placed))
	}
	final := o.verb != toLook && len(o.attempts) > 0 && !w.doubled[o.command]
	for _, a := range o.attempts {
		before := len(w.db.cuts) > 0 && a.call < w.trusted()
		if before || a.outcome == open || a.outcome == done { // a store that is put back forgets who was deposed, too
			final = false
		}
		if before {
			continue
		}
		switch a.outcome {
		case done:
			w.judgeDone(a, placed, t)
		case seen:
			if states := t.states[o.key]; !knows(states, a.state) {
				w.violated(Phantom, "client %d: %s %s through %s showed %v, a state that the log never had", o.number, o.verb, o.key, a.m.name, a.state)
			}
		}
	}
	if final && len(placed) > 0 {
		w.violated(Undone, "client %d: %s %s was refused for good and has an effect at offset %d of partition %d", o.number, o.verb, o.key,
			placed[0].Offset, placed[0].Partition)
	}
}

func knows(states []ledger, l ledger) bool {
	if l.N == 0 && len(states) == 0 {
		return l == ledger{}
	}
	return l.N < len(states) && states[l.N] == l
}

func (w *world) judgeDone(a *attempt, placed []persistence.Event, t *truth) {
	o := a.op
	if len(placed) == 0 {
		w.violated(Lost, "client %d: %s %s was acknowledged by %s and is not in the log", o.number, o.verb, o.key, a.m.name)
		return
	}
	first := placed[0]
	r := a.receipt
	switch {
	case persistence.Offset(r.Offset) != first.Offset, persistence.Version(r.Version) != first.Version, persistence.Partition(r.Partition) != first.Partition:
		w.violated(Lost, "client %d: the receipt of %s %s says version %d, offset %d; the log has it as version %d, offset %d", o.number, o.verb,
			o.key, r.Version, r.Offset, first.Version, first.Offset)
	case !knows(t.states[o.key], a.state) || a.state.N != int(first.Version):
		w.violated(Phantom, "client %d: %s %s answered %v, a state that the log never had", o.number, o.verb, o.key, a.state)
	}
}

// input and output of the model.
type input struct {
	verb verb
	tag  uint64
	seen bool // the operation is known to have had no event
}

type output struct {
	known bool
	state ledger
}

// step is a ledger as the clients see it.
func step(state, in, out any) (bool, any) {
	l, i, o := state.(ledger), in.(input), out.(output)
	if !i.seen {
		switch {
		case i.verb == toNote:
			l.add(i.tag)
		case i.verb == toTake && l.Holder == 0:
			l.add(i.tag)
			l.Holder = i.tag
		case i.verb == toGive && l.Holder != 0:
			l.add(i.tag)
			l.Holder = 0
		case o.known: // it says that it had an event
			return false, l
		}
	} else if i.verb == toTake && l.Holder == 0 || i.verb == toGive && l.Holder != 0 {
		return false, l
	}
	return !o.known || o.state == l, l
}

var model = porcupine.Model{
	Init: func() any { return ledger{} },
	Step: step,
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		return fmt.Sprintf("%s %d, seen %t -> %v, known %t", i.verb, i.tag, i.seen, o.state, o.known)
	},
}

// contradiction finds two operations of which the second began after the first was
// over and yet reflects a state from before it.
func contradiction(list []porcupine.Operation) (a, b *porcupine.Operation) {
	for i := range list {
		for j := range list {
			a, b := &list[i], &list[j]
			before, after := a.Output.(output), b.Output.(output)
			if a.Return >= b.Call || !before.known || !after.known {
				continue
			}
			if least := before.state.N; after.state.N < least || after.state.N == least && hasEvent(b) {
				return a, b
			}
		}
	}
	return nil, nil
}

// narrow bounds the time at which each operation can have happened by those that
// certainly came before and after it, as their states tell. That changes nothing
// about which orders there are, and spares porcupine from trying the others.
func narrow(list []porcupine.Operation) []porcupine.Operation {
	place := func(o *porcupine.Operation) int {
		if hasEvent(o) {
			return 2 * o.Output.(output).state.N
		}
		return 2*o.Output.(output).state.N + 1
	}
	narrowed := slices.DeleteFunc(slices.Clone(list), func(o porcupine.Operation) bool { return !o.Output.(output).known })
	slices.SortStableFunc(narrowed, func(a, b porcupine.Operation) int {
		return cmp.Or(cmp.Compare(place(&a), place(&b)), cmp.Compare(a.Call, b.Call))
	})
	for i := 1; i < len(narrowed); i++ {
		narrowed[i].Call = max(narrowed[i].Call, narrowed[i-1].Call)
	}
	for i := len(narrowed) - 2; i >= 0; i-- {
		narrowed[i].Return = min(narrowed[i].Return, narrowed[i+1].Return)
	}
	spread := int64(2 * len(narrowed)) // so that no two moments are the same, and their order is this one
	for i := range narrowed {
		o := &narrowed[i]
		o.Call = o.Call*spread + int64(i)
		o.Return = min(o.Return, int64(time.Hour))*spread + spread/2 + int64(i)
	}
	return narrowed
}

func hasEvent(o *porcupine.Operation) bool { i := o.Input.(input); return i.verb != toLook && !i.seen }

const never = time.Duration(1) << 60

// judgeOrder looks for an order of the operations of each key that explains what
// the clients were told. The log says which of those without a reply have had
// their effect; when they had it remains open.
func (w *world) judgeOrder(t *truth) {
	until := never
	if len(w.db.cuts) > 0 {
		until = w.db.cuts[0].at
	}
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	for _, o := range w.operations {
		if _, ok := byKey[o.key]; !ok {
			keys = append(keys, o.key)
		}
		byKey[o.key] = append(byKey[o.key], o.history(until, t)...)
	}
	for _, key := range keys {
		if a, b := contradiction(byKey[key]); a != nil {
			w.violated(NotLinearizable, "%s: %s was over at %.6f, %s began at %.6f", key, model.DescribeOperation(a.Input, a.Output),
				time.Duration(a.Return).Seconds(), model.DescribeOperation(b.Input, b.Output), time.Duration(b.Call).Seconds())
			continue // to look for an order that is not there would take for ever
		}
		if !porcupine.CheckOperations(model, narrow(byKey[key])) {
			w.violated(NotLinearizable, "no order of the %d operations on %s explains the replies", len(byKey[key]), key)
		}
	}
}

// history is what the model has to explain of an operation: what each reply
// showed, and its effect.
func (o *operation) history(until time.Duration, t *truth) []porcupine.Operation {
	var list []porcupine.Operation
	effect := porcupine.Operation{
		ClientId: o.number, Input: input{verb: o.verb, tag: o.tag()}, Output: output{}, Call: int64(never), Return: int64(never),
	}
	possible := false
	if placed := t.placed[o.command]; o.verb != toLook && len(placed) > 0 {
		possible = true
		effect.Output = output{true, t.states[o.key][placed[0].Version]}
	}
	for _, a := range o.attempts {
		if a.call >= until {
			continue
		}
		effect.Call = min(effect.Call, int64(a.call))
		ret := a.ret
		if !a.over || ret >= until {
			continue
		}
		switch a.outcome {
		case done:
			possible = true
			effect.Output = output{true, a.state}
			effect.Return = min(effect.Return, int64(ret))
		case seen:
			list = append(list, porcupine.Operation{
				ClientId: o.number, Input: input{verb: o.verb, tag: o.tag(), seen: true}, Output: output{true, a.state},
				Call: int64(a.call), Return: int64(ret),
			})
		}
	}
	if possible && effect.Call != int64(never) {
		list = append(list, effect)
	}
	return list
}

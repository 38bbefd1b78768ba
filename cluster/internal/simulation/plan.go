package simulation

import (
	"slices"
	"time"
)

// plan is what a seed has in store for a run. Each has some kinds of misfortune
// and not others, more or fewer of them, so that among many seeds there are some
// for every combination.
type plan struct {
	nodes, most int
	partitions  int
	keys        int
	strict      int // of the keys
	lease       time.Duration
	length      time.Duration
	skew        time.Duration // of wall clocks
	sticky      bool
	oneSite     bool
	idleAfter   time.Duration
	maxResident int

	operations int
	writes     int // of ten operations
	hot        bool
	doubles    int // one in so many operations is sent through two nodes at once
	impatient  int // one in so many attempts is given up soon

	// one in so many; 0 for none
	slow, drop, double                                             int
	refused, lostRequest, lostAnswer, late, lateAppend, slowCommit int

	faults   []fault
	rollback bool
}

// fault is a kind of misfortune that happens now and then.
type fault struct {
	name  string
	times int
	do    func(w *world)
}

// draw makes the plan of a run.
func (w *world) draw() plan {
	r := w.rng
	p := plan{
		nodes: 2 + r.IntN(2), partitions: 2 + r.IntN(7), keys: 2 + r.IntN(6),
		lease:   pick(w, []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, time.Second}),
		sticky:  w.odds(4),
		oneSite: w.odds(3),
		skew:    pick(w, []time.Duration{0, time.Millisecond, 50 * time.Millisecond}),
		writes:  pick(w, []int{1, 3, 5, 9}), hot: w.odds(3), doubles: pick(w, []int{0, 4, 20}),
		idleAfter:   pick(w, []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 10 * time.Second}),
		maxResident: pick(w, []int{2, 1000, 1000}),
	}
	p.most = p.nodes + r.IntN(6-p.nodes)
	if w.odds(3) {
		p.strict = 1
	}
	p.length = p.lease * time.Duration(12+r.IntN(12))
	p.operations = 60 + r.IntN(160)
	often := func(odds ...int) int { return pick(w, odds) }
	p.slow = often(0, 200, 50, 10)
	p.drop, p.double = often(0, 0, 200, 40), often(0, 0, 100, 20)
	p.refused, p.lostRequest, p.lostAnswer = often(0, 0, 200, 50), often(0, 200, 40), often(0, 200, 40)
	p.lateAppend, p.impatient = often(0, 0, 40, 5), often(1, 3, 3)
	p.late, p.slowCommit = often(0, 0, 100, 15), often(0, 50, 10)
	for _, f := range faults {
		if w.odds(2) {
			f.times = 1 + r.IntN(f.times)
			p.faults = append(p.faults, f)
		}
	}
	p.rollback = w.odds(6)
	return p
}

// faults are all the kinds there are, with how often each happens at most.
var faults = []fault{
	{"pause", 6, func(w *world) { w.onSomebody(func(m *machine) { m.pause(w.spell(), w.odds(3)) }) }},
	{"freeze", 10, func(w *world) {
		w.onSomebody(func(m *machine) { m.freeze.Store(1 + int32(w.rng.IntN(int(freezes)-1))) })
	}},
	{"evict", 6, func(w *world) { w.onSomebody(w.db.evict) }},
	// Whoever is frozen in the middle of something does not know that it is out.
	{"evict frozen", 8, func(w *world) {
		w.onSomebody(func(m *machine) {
			m.freeze.Store(1 + int32(w.rng.IntN(int(freezes)-1)))
			w.at(w.now+w.span(0, w.plan.lease/2), nil, func() {
				if !m.crashed {
					w.db.evict(m)
				}
			})
		})
	}},
	{"evict paused", 4, func(w *world) {
		w.onSomebody(func(m *machine) {
			w.db.evict(m)
			m.pause(w.span(w.plan.lease/8, 2*w.plan.lease), false)
		})
	}},
	{"depose", 6, func(w *world) { w.onSomebody(w.depose) }},
	{"crash", 3, func(w *world) {
		w.onSomebody(func(m *machine) {
			m.crash()
			w.at(w.now+w.span(time.Millisecond, 3*w.plan.lease), nil, w.reboot)
		})
	}},
	{"leave", 3, func(w *world) {
		w.onSomebody(func(m *machine) {
			m.leave(w.span(time.Millisecond, 4*w.plan.lease))
			w.at(w.now+w.span(time.Millisecond, 3*w.plan.lease), nil, w.reboot)
		})
	}},
	{"join", 2, func(w *world) { w.reboot() }},
	{"cut", 6, func(w *world) {
		w.onSomebody(func(a *machine) {
			w.onSomebody(func(b *machine) { w.cut(a, b, w.odds(2)) })
		})
	}},
	{"isolate", 3, func(w *world) {
		w.onSomebody(func(a *machine) {
			oneWay, from := w.odds(3), w.now
			w.tally["isolations"]++
			for _, b := range w.machines {
				if b != a && w.now == from {
					w.cut(a, b, oneWay)
				}
			}
		})
	}},
	{"break", 6, func(w *world) {
		w.onSomebody(func(a *machine) {
			w.onSomebody(func(b *machine) {
				if a != b {
					w.breakLink(a, b)
				}
			})
		})
	}},
	{"cut from the store", 4, func(w *world) {
		w.onSomebody(func(m *machine) {
			m.cutOff = w.now + w.spell()
			w.tally["cuts from the store"]++
			w.note("cut %s from the store until %.3f", m.name, m.cutOff.Seconds())
		})
	}},
	{"stall", 3, func(w *world) {
		w.db.stalled = w.now + w.spell()/2
		w.tally["stalls"]++
		w.note("the store stalls until %.3f", w.db.stalled.Seconds())
	}},
	{"store down", 2, func(w *world) {
		w.db.down = w.now + w.spell()/2
		w.tally["stores down"]++
		w.note("the store is down until %.3f", w.db.down.Seconds())
	}},
}

// depose has a living owner evicted, perhaps without a chance to notice, while
// clients go on asking it and its successor for the same aggregates.
func (w *world) depose(m *machine) {
	l := w.plan.lease
	if w.odds(2) {
		m.cutOff = w.now + w.span(l/4, 3*l)
		w.note("cut %s from the store until %.3f", m.name, m.cutOff.Seconds())
	}
	key, owned := 0, false
	for range 10 {
		key = w.rng.IntN(w.plan.keys)
		def, id := w.key(key)
		if owner := m.node.Owner(def.Definition().Name(), id).Owner; owner != "" && owner == m.node.ID() {
			owned = true
			break
		}
	}
	w.db.evict(m)
	if !owned {
		return
	}
	others := slices.DeleteFunc(w.alive(), func(other *machine) bool { return other == m })
	for range 8 {
		w.at(w.now+w.span(0, 2*l), nil, func() {
			if !m.crashed && !m.leaving {
				w.try(w.begin(pick(w, []verb{toLook, toLook, toTake, toGive}), key, 1), m, w.patience())
			}
		})
		w.at(w.now+w.span(0, 2*l), nil, func() {
			if len(others) == 0 {
				return
			}
			if other := pick(w, others); !other.crashed && !other.leaving {
				w.try(w.begin(pick(w, []verb{toNote, toNote, toTake, toLook}), key, 2), other, w.span(l/4, 4*l))
			}
		})
	}
}

// spell is how long a misfortune lasts.
func (w *world) spell() time.Duration { return w.span(w.plan.lease/8, 5*w.plan.lease) }

func (w *world) onSomebody(do func(*machine)) {
	if alive := w.alive(); len(alive) > 0 {
		do(pick(w, alive))
	}
}

// cut lets nothing through from a to b, and back unless it is one way, for a
// while.
func (w *world) cut(a, b *machine, oneWay bool) {
	if a == b {
		return
	}
	there, back := [2]int{a.index, b.index}, [2]int{b.index, a.index}
	w.links.cut[there] = true
	if !oneWay {
		w.links.cut[back] = true
	}
	w.note("cut %s - %s, one way %t", a.name, b.name, oneWay)
	w.tally["cuts"]++
	w.at(w.now+w.spell(), nil, func() {
		delete(w.links.cut, there)
		delete(w.links.cut, back)
	})
}

// schedule lets clients and misfortunes come at their times.
func (w *world) schedule() {
	p := &w.plan
	for range p.operations {
		w.at(w.now+w.span(0, p.length), nil, w.client)
	}
	for _, f := range p.faults {
		for range f.times {
			w.at(w.now+w.span(0, p.length*9/10), nil, func() { f.do(w) })
		}
	}
	if p.rollback {
		by := w.span(10*time.Millisecond, 2*p.lease)
		w.at(w.now+w.span(p.length/3, p.length*3/4), nil, func() { w.db.rollBack(by) })
	}
}

// client begins an operation.
func (w *world) client() {
	alive := w.alive()
	if len(alive) == 0 {
		return
	}
	key := w.rng.IntN(w.plan.keys)
	if w.plan.hot && w.odds(2) {
		key = w.plan.keys - 1
	}
	v := toLook
	if w.rng.IntN(10) < w.plan.writes {
		v = pick(w, []verb{toNote, toTake, toGive})
	} else if w.odds(3) {
		v = toTake // mostly rejected
	}
	tries := 1 + w.rng.IntN(4)
	o := w.begin(v, key, tries)
	w.try(o, pick(w, alive), w.patience())
	if v != toLook && w.odds(w.plan.doubles) {
		w.tally["sent twice"]++
		o.tries++
		w.try(o, pick(w, alive), w.patience())
	}
}

// heal ends all misfortunes.
func (w *world) heal() {
	w.note("heal")
	w.healed = true
	clear(w.links.cut)
	w.db.stalled, w.db.down = 0, 0
	for _, m := range w.machines {
		m.freeze.Store(freezeNever)
		m.cutOff = 0
		m.resume()
	}
	for len(w.alive()) < 2 {
		w.boot()
		w.run(w.now + 50*time.Millisecond)
	}
}

// awaitLife waits until every partition has an owner that is alive, and a command
// to every key succeeds through every node.
func (w *world) awaitLife() {
	limit := w.now + 20*w.plan.lease + 10*time.Second
	var probes []*operation
	began := w.now
	for w.now < limit && !w.settled() {
		w.run(w.now + 50*time.Millisecond)
	}
	if !w.settled() {
		w.violated(NotLive, "%.1f s after the last fault: %s", (w.now - began).Seconds(), w.unsettled())
		return
	}
	w.tally["ms to settle"] += int((w.now - began).Milliseconds())
	for key := range w.plan.keys {
		for _, m := range w.alive() {
			o := w.begin(toNote, key, 1)
			o.probe = true
			probes = append(probes, o)
			w.try(o, m, 10*w.plan.lease+5*time.Second)
		}
	}
	w.run(w.now + 10*w.plan.lease + 6*time.Second)
	for _, o := range probes {
		if a := o.attempts[0]; a.outcome != done {
			w.violated(NotLive, "a command to %s through %s, sent after the last fault: %v %s", o.key, a.m.name, a.over, a.text)
		}
	}
}

func (w *world) settled() bool { return w.unsettled() == "" }

// unsettled says what keeps the cluster from being whole.
func (w *world) unsettled() string {
	view, err := w.db.store.View(always)
	if err != nil {
		return err.Error()
	}
	for _, m := range w.machines {
		if m.node == nil && !m.crashed {
			return m.name + " is still starting"
		}
		if m.leaving && !m.crashed {
			return m.name + " is still leaving"
		}
	}
	for _, m := range w.alive() {
		if m.node.ID() == "" {
			return m.name + " has not joined again"
		}
	}
	for _, row := range view.Partitions {
		m := w.db.home[row.Owner]
		if m == nil || m.crashed || m.node.ID() != row.Owner {
			return "partition " + itoa(int(row.Partition)) + " is in the hands of " + w.db.name(row.Owner)
		}
	}
	return ""
}

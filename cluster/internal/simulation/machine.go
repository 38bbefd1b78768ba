package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
)

// machine is one process, from its boot to its end. Another boot is another
// machine at another address.
type machine struct {
	w       *world
	index   int
	name    string
	address string
	site    string // machines of one site can prove each other's death
	port    *port
	node    *cluster.Node // nil while it starts, and when it could not

	rate   float64
	offset time.Duration
	skew   time.Duration // of the wall clock
	slept  atomic.Int64  // time in suspends

	paused  bool
	leaving bool
	cutOff  time.Duration // from the store, until then
	crashed bool
	dead    chan struct{} // closed by a crash
	gone    chan struct{} // closed when all its goroutines have ended
	backlog []func()      // what happened to it in a pause

	freeze atomic.Int32  // where it is to be stopped in the middle of a turn
	thaw   chan struct{} // closed at the end of a pause

	ids      []persistence.NodeID // of its incarnations
	attempts []*attempt           // of clients, not answered yet
	counted  bool                 // its statistics are in the tally
	locks    []string             // that it holds
	families families
}

// Where a machine can be stopped in the middle of a turn.
const (
	freezeNever int32 = iota
	freezeInDecide
	freezeInAnswer
	freezeBeforeClock
	freezeAfterClock
	freezes
)

// reboot starts another machine for one that has ended, while faults are about.
func (w *world) reboot() {
	if len(w.alive()) < w.plan.most && !w.healed {
		w.boot()
	}
}

func (w *world) boot() *machine {
	p := &w.plan
	m := &machine{
		w: w, index: len(w.machines), dead: make(chan struct{}), gone: make(chan struct{}), thaw: make(chan struct{}),
		offset: w.span(time.Hour, 2*time.Hour), skew: w.span(-p.skew, p.skew+1),
	}
	m.name, m.address = fmt.Sprintf("m%d", m.index), fmt.Sprintf("sim:%d", m.index+1)
	m.site = m.name
	if p.oneSite {
		m.site = "site"
	}
	// The bound is on the ratio of two clocks: half of it each way.
	m.rate = 1 + pick(w, []float64{-0.5, 0, 0.5, w.rng.Float64() - 0.5})*0.99e-3
	m.port = &port{m: m}
	w.machines = append(w.machines, m)
	c := clock{m}
	config := &cluster.Config{
		Store: &storeEnd{m: m}, Aggregates: aggregates, Network: m.port, Clock: c,
		Rand: rand.New(rand.NewPCG(w.rng.Uint64(), 1)), Logger: slog.New(slog.DiscardHandler),
		Lease: p.lease, Sticky: p.sticky, IdleAfter: p.idleAfter, MaxResident: p.maxResident,
		Simulated: &simulated.Seams{
			Without: w.without.Rules, Yield: func() {}, Timeout: c.timeout, Locks: locks{m},
		},
	}
	w.note("boot %s", m.name)
	w.tally["boots"]++
	go func() {
		n, err := cluster.Start(context.Background(), config)
		w.post(m, "started", func() {
			w.note("started %s: %v", m.name, err)
			m.node = n
			switch {
			case n == nil:
				if !m.crashed {
					m.crashed = true
					close(m.dead)
					w.at(w.now+w.span(0, 2*p.lease), nil, w.reboot)
				}
				close(m.gone)
			case m.crashed:
				m.collect()
			}
		})
	}()
	return m
}

// pause stops a machine like SIGSTOP: nothing from outside reaches it, and
// nothing it does gets out. A suspend also stops its timers.
func (m *machine) pause(d time.Duration, suspend bool) {
	w := m.w
	if m.paused || m.crashed {
		return
	}
	m.paused = true
	w.tally["pauses"]++
	w.note("pause %s for %s, suspend %t", m.name, d, suspend)
	began := w.now
	w.at(w.now+d, nil, func() {
		if suspend {
			m.slept.Add(int64(w.now - began))
		}
		m.resume()
	})
}

func (m *machine) resume() {
	w := m.w
	if m.crashed || !m.paused {
		return
	}
	m.paused = false
	w.note("resume %s, %d waiting", m.name, len(m.backlog))
	close(m.thaw)
	m.thaw = make(chan struct{})
	w.rng.Shuffle(len(m.backlog), func(i, j int) { m.backlog[i], m.backlog[j] = m.backlog[j], m.backlog[i] })
	for i, do := range m.backlog {
		w.at(w.now+time.Duration(1+i)*time.Microsecond, m, do)
	}
	m.backlog = nil
}

// crash cuts a machine off for ever: what its goroutines do from now on reaches
// nobody.
func (m *machine) crash() {
	if m.crashed {
		return
	}
	w := m.w
	w.note("crash %s", m.name)
	w.tally["crashes"]++
	m.count()
	m.crashed = true
	close(m.dead)
	close(m.thaw)
	for _, do := range m.backlog { // so that nobody in it waits for ever
		w.at(w.now+1, m, do)
	}
	m.backlog = nil
	for _, a := range m.attempts {
		a.lost()
	}
	m.attempts = nil
	locks := m.locks // what its goroutines give up from now on proves nothing
	w.at(w.now+w.span(0, 20*time.Millisecond), nil, func() {
		for _, path := range locks {
			w.released.Store(path, true)
		}
	})
	m.collect()
}

// collect ends the goroutines of a crashed machine.
func (m *machine) collect() {
	if m.node == nil || m.leaving {
		return // whoever starts or stops it sees to that
	}
	go func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = m.node.Stop(ended) // it says what was cut short
		close(m.gone)
	}()
}

// leave stops a node as SIGTERM does.
func (m *machine) leave(patience time.Duration) {
	if m.leaving || m.crashed || m.node == nil {
		return
	}
	w := m.w
	m.leaving = true
	w.tally["leaves"]++
	w.note("leave %s within %s", m.name, patience)
	go func() {
		ctx, cancel := clock{m}.timeout(context.Background(), patience)
		err := m.node.Stop(ctx)
		cancel()
		w.post(m, "stopped", func() {
			w.note("stopped %s: %v", m.name, err != nil)
			if !m.crashed {
				m.count()
				m.crashed = true
				close(m.dead)
			}
			close(m.gone)
		})
	}()
}

// count adds what the node has counted to the tally.
func (m *machine) count() {
	if m.counted || m.node == nil {
		return
	}
	m.counted = true
	s, t := m.node.Stats(), m.w.tally
	for name, n := range map[string]uint64{
		"takeovers": s.Takeovers, "claims": s.Claims, "handovers": s.Handovers, "rejoins": s.Rejoins, "evictions": s.Evictions,
		"relayed": s.Relayed, "passed on": s.Passed, "parked": s.Parked, "redirected": s.Redirected, "remote calls": s.Remote, "local calls": s.Local,
		"held": s.Host.Held, "barriers": s.Host.Barriers, "fenced": s.Host.Fenced, "unknown appends": s.Host.Unknown,
		"duplicates": s.Host.Duplicates, "lookups": s.Host.Lookups, "passivations": s.Host.Passivations,
		"snapshots": s.Host.Snapshots, "warmed": s.Host.Warmed, "commits": s.Host.Commits,
	} {
		t[name] += int(n)
	}
}

// point is a place on the goroutines of a machine where it can be stopped.
func (m *machine) point(place int32) {
	if !m.freeze.CompareAndSwap(place, freezeNever) {
		return
	}
	w, thaw, dead := m.w, m.thaw, make(chan struct{})
	w.post(m, fmt.Sprintf("freeze %d", place), func() {
		if m.crashed { // what is left of it goes on to its end
			close(dead)
			return
		}
		w.tally["freezes"]++
		w.note("freeze %s at %d", m.name, place)
		m.pause(w.span(w.plan.lease/4, 5*w.plan.lease), false)
	})
	select {
	case <-thaw:
	case <-dead:
	}
}

// locks prove deaths among the machines of a site. The kernel takes a moment to
// notice.
type locks struct{ m *machine }

// Host implements simulated.Locks.
func (l locks) Host() string { return l.m.site }

// Lock implements simulated.Locks.
func (l locks) Lock(id string) (string, func() error, error) {
	path := l.m.name + "/" + id
	l.m.locks = append(l.m.locks, path)
	return path, func() error {
		l.m.locks = slices.DeleteFunc(l.m.locks, func(other string) bool { return other == path })
		return nil
	}, nil
}

// Released implements simulated.Locks.
func (l locks) Released(path string) bool {
	_, released := l.m.w.released.Load(path)
	return released
}

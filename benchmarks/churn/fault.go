package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is something that happens to a cluster.
type kind string

// The kinds of faults.
const (
	kill      kind = "kill"       // SIGKILL
	pause     kind = "pause"      // SIGSTOP for a while
	leave     kind = "leave"      // SIGTERM
	join      kind = "join"       // one node more
	cutPeers  kind = "cut-peers"  // the links between a node and the others
	cutStore  kind = "cut-store"  // the link between a node and the store
	cutBoth   kind = "cut-both"   // all links of a node
	flap      kind = "flap"       // all links of a node, off and on
	slow      kind = "slow"       // all links of a node
	storeKill kind = "store-kill" // SIGKILL to the server and all its sessions
	storeHang kind = "store-pause"
	storeCut  kind = "store-cut-after-commit" // the server's answer is lost
	roll      kind = "roll"                   // restart every node, one after the other
	scale     kind = "scale"                  // 1, then 5, then 2 nodes
)

// need is what a kind of fault cannot do without.
type need struct {
	server bool // a store that is a server of its own
	links  bool // proxies between the processes
	others bool // more than one node
}

var kinds = map[kind]need{
	kill: {others: true}, pause: {others: true}, leave: {others: true}, join: {}, roll: {}, scale: {},
	cutPeers: {links: true, others: true}, cutStore: {server: true, links: true}, cutBoth: {server: true, links: true, others: true},
	flap: {links: true, others: true}, slow: {links: true},
	storeKill: {server: true}, storeHang: {server: true}, storeCut: {server: true, links: true},
}

// direction is which half of a link is concerned, as seen from the victim.
type direction string

// The directions.
const (
	both direction = "both"
	in   direction = "in"
	out  direction = "out"
)

// fault is one of them, with all that is to be decided about it. Its text says
// it all: "pause:1.5s:#2", "cut-peers:in:3s:reset:#1".
type fault struct {
	Kind   kind
	For    time.Duration // how long it lasts; of kill, leave and store-kill: until the replacement starts
	Target int           // which of the nodes there are, from 1
	Hot    bool          // instead: the owner of the hottest partition
	Way    direction
	Reset  bool // connections break, instead of going silent
}

func (f fault) String() string {
	parts := []string{string(f.Kind)}
	if f.For > 0 {
		parts = append(parts, f.For.String())
	}
	if f.Way != "" {
		parts = append(parts, string(f.Way))
	}
	if f.Reset {
		parts = append(parts, "reset")
	}
	if f.Hot {
		parts = append(parts, "hot")
	} else if f.Target > 0 {
		parts = append(parts, "#"+strconv.Itoa(f.Target))
	}
	return strings.Join(parts, ":")
}

// parseFaults reads a list of faults, separated by commas. What a fault does not
// say is drawn.
func parseFaults(text string) ([]fault, error) {
	var faults []fault
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		f, err := parseFault(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		faults = append(faults, f)
	}
	return faults, nil
}

func parseFault(text string) (fault, error) {
	name, rest, _ := strings.Cut(text, ":")
	f := fault{Kind: kind(name)}
	if _, ok := kinds[f.Kind]; !ok {
		return f, fmt.Errorf("fault %q: want one of %s", name, kindList())
	}
	if rest == "" {
		return f, nil
	}
	for part := range strings.SplitSeq(rest, ":") {
		d, err := time.ParseDuration(part)
		switch {
		case err == nil && d > 0:
			f.For = d
		case part == "hot":
			f.Hot = true
		case part == "reset":
			f.Reset = true
		case part == string(both), part == string(in), part == string(out):
			f.Way = direction(part)
		case strings.HasPrefix(part, "#"):
			if f.Target, err = strconv.Atoi(part[1:]); err != nil || f.Target < 1 {
				return f, fmt.Errorf("fault %q: %q is no number of a node: they count from #1", text, part)
			}
		default:
			return f, fmt.Errorf("fault %q: %q is neither a duration nor hot, reset, in, out, both or #1", text, part)
		}
	}
	return f, nil
}

func kindList() string {
	var list []string
	for k := range kinds {
		list = append(list, string(k))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// allowed says why a fault cannot happen in a set-up; nil when it can.
func (f fault) allowed(o *options) error {
	n := kinds[f.Kind]
	switch {
	case n.server && o.store != "postgres":
		return fmt.Errorf("fault %s needs -store postgres: a SQLite store has no server and no link that could be lost", f.Kind)
	case n.others && o.nodes < 2:
		return fmt.Errorf("fault %s needs at least 2 nodes", f.Kind)
	case n.links && !linksSupported:
		return errors.New("fault " + string(f.Kind) + " needs Linux: elsewhere a proxy cannot tell who connects to it")
	}
	return nil
}

// schedule is what happens, one thing after the other.
type schedule struct {
	rand   *rand.Rand
	kinds  []fault // as asked for, with gaps
	deck   []fault // what is left of this round
	fixed  []fault // in place of all that
	lease  time.Duration
	length time.Duration
}

// newSchedule draws from kinds by seed: every kind once in each round, in an
// order of its own. The same seed gives the same faults.
func newSchedule(seed uint64, kinds []fault, lease, length time.Duration) *schedule {
	return &schedule{rand: rand.New(rand.NewPCG(seed, 3)), kinds: kinds, lease: lease, length: length}
}

// exactly is a schedule of just these faults.
func exactly(faults []fault, lease, length time.Duration) *schedule {
	s := newSchedule(0, nil, lease, length)
	s.fixed = faults
	return s
}

// next is the next fault; false when there is none any more.
func (s *schedule) next() (fault, bool) {
	if s.fixed != nil {
		if len(s.fixed) == 0 {
			return fault{}, false
		}
		f := s.fixed[0]
		s.fixed = s.fixed[1:]
		return s.fill(f), true
	}
	if len(s.kinds) == 0 {
		return fault{}, false
	}
	if len(s.deck) == 0 {
		s.deck = slices.Clone(s.kinds)
		s.rand.Shuffle(len(s.deck), func(i, j int) { s.deck[i], s.deck[j] = s.deck[j], s.deck[i] })
	}
	f := s.deck[0]
	s.deck = s.deck[1:]
	return s.fill(f), true
}

// fill draws what a fault does not say. It draws the same number of times for
// every fault, so that what is fixed by hand does not change the rest.
func (s *schedule) fill(f fault) fault {
	target, coin, way, length := 1+s.rand.IntN(60), s.rand.IntN(2) == 0, s.rand.IntN(3), s.rand.Float64()
	between := func(low, high time.Duration) time.Duration {
		return (low + time.Duration(length*float64(high-low))).Round(10 * time.Millisecond)
	}
	hasTarget, hasWay := true, false
	d := f.For
	switch f.Kind {
	case kill:
		d = between(500*time.Millisecond, 2*time.Second)
		f.Hot = f.Hot || f.Target == 0 && coin
	case leave:
		d = between(200*time.Millisecond, time.Second)
	case pause, storeHang:
		d = s.pauseLength(length, f.Kind)
		hasTarget = f.Kind == pause
	case cutPeers, cutStore, cutBoth:
		d = between(2*s.lease, 4*s.lease)
		hasWay = true
		f.Reset = f.Reset || coin && f.For == 0
	case flap, slow:
		d = between(2*s.lease, 4*s.lease)
	case storeKill:
		d = between(100*time.Millisecond, 1500*time.Millisecond)
		hasTarget = false
	case join, roll, scale:
		d, hasTarget = 0, false
	}
	if f.For == 0 {
		f.For = d
	}
	if hasTarget && f.Target == 0 && !f.Hot {
		f.Target = target
	}
	if hasWay && f.Way == "" {
		f.Way = []direction{both, in, out}[way]
	}
	return f
}

// pauseLength is one of 0.5 L, 1.5 L, 5 s and 30 s; the long ones only in runs
// that have time for them.
func (s *schedule) pauseLength(draw float64, k kind) time.Duration {
	lengths := []time.Duration{s.lease / 2, s.lease * 3 / 2}
	if s.length >= 30*time.Second {
		lengths = append(lengths, 5*time.Second)
	}
	if s.length >= 5*time.Minute && k == pause {
		lengths = append(lengths, 30*time.Second)
	}
	return lengths[min(int(draw*float64(len(lengths))), len(lengths)-1)]
}

package postgres

import (
	"strings"

	"github.com/ingrain-go/ingrain/persistence"
)

// attempt is what an append knows and plans, kept by the lane so that its
// memory is used again. Every attempt at a transaction is planned from the
// start: commits are taken in order against what is known of streams and
// claims, the accepted ones are sent, and the transaction either proves all
// that was assumed or says what was wrong, for the next attempt.
type attempt struct {
	owner  persistence.NodeID
	broken error // why the batch makes no sense

	parts map[persistence.Partition]int // index in list
	list  []part
	chunk []*persistence.Commit

	// Of the chunk at hand.
	slots  []slot // one for each commit
	chains map[persistence.Stream]int
	links  []chain
	guards []int // the chains compared by es_expect, in its order
	strict bool  // compare all versions

	holders map[persistence.Claim]string // what is known of claims, "" is free
	keys    map[persistence.Claim]*holding
	gone    []claimRow                                  // releases by streams that may hold the value
	claimed []persistence.Claim                         // the values claimed by es_exchange, in its order
	timers  map[persistence.TimerKey]*persistence.Timer // nil cancels

	run    []running // the statements of the commits accepted so far, in their order
	failed map[*persistence.Commit]error
}

// running is a statement of a commit.
type running struct {
	commit *persistence.Commit
	index  int
}

// slot is a commit's place in the attempt.
type slot struct {
	part    *part
	chain   int
	verdict verdict
}

type verdict uint8

const (
	accepted verdict = iota
	rejected         // by what is known and assumed of streams, claims and statements
	refused          // by the store, with the whole partition
)

// chain is a stream and its commits in the chunk, each on top of the last.
type chain struct {
	stream  persistence.Stream
	base    persistence.Version // before the chunk
	current persistence.Version // after the commits accepted so far
	epoch   persistence.Epoch
	cached  bool // known of the stream, whatever version
	reached bool // base was written under this epoch, so it is there
	proven  bool // base is what the store said
	guarded bool // es_expect compares base
}

// holding is who holds a claim, before the chunk and after the commits accepted
// so far.
type holding struct {
	known   bool
	base    string
	now     string
	claimed bool
}

type claimRow struct {
	claim  persistence.Claim
	stream string
}

// open lays out the chunk's streams.
func (l *lane) open(chunk []*persistence.Commit) {
	a := &l.attempt
	a.slots, a.links = a.slots[:0], a.links[:0]
	clear(a.chains)
	a.holders, a.failed = nil, nil
	a.strict = l.checked > 0
	for _, c := range chunk {
		p := a.partOf(c)
		i, ok := a.chains[c.Stream]
		if !ok {
			i = len(a.links)
			a.chains[c.Stream] = i
			known, cached := l.store.known.Get(c.Stream)
			a.links = append(a.links, chain{
				stream: c.Stream, base: c.Expected, epoch: c.Epoch, cached: cached,
				reached: cached && known.epoch == c.Epoch && known.version == c.Expected,
			})
		}
		a.slots = append(a.slots, slot{part: p, chain: i})
	}
}

// end lets go of the caller's memory.
func (a *attempt) end() {
	clear(a.chunk[:cap(a.chunk)])
	clear(a.links[:cap(a.links)])
	clear(a.chains)
	clear(a.run[:cap(a.run)])
	a.keys, a.timers, a.holders, a.gone, a.failed = nil, nil, nil, nil, nil
}

// plan decides which commits of the chunk are sent and fills the statements. It
// reports whether there is anything to send.
func (l *lane) plan(chunk []*persistence.Commit) bool {
	a := &l.attempt
	for _, st := range l.statements() {
		st.reset()
	}
	for i := range a.list {
		a.list[i].next, a.list[i].present = a.list[i].head, false
	}
	for i := range a.links {
		a.links[i].current, a.links[i].guarded = a.links[i].base, false
	}
	a.guards, a.gone, a.run = a.guards[:0], a.gone[:0], a.run[:0]
	clear(a.keys)
	clear(a.timers)
	for i, c := range chunk {
		a.slots[i].verdict = l.judge(c, &a.slots[i])
	}
	any := false
	for i := range a.list {
		if p := &a.list[i]; p.present {
			any = true
			l.fence.params[0].int4(int32(p.fence.Partition))
			l.fence.params[1].int8(int64(p.fence.Epoch))
			l.fence.params[2].int8(int64(p.head))
			// Without an event to insert, nothing else would notice that the
			// head has moved on.
			if p.next == p.head || l.heads[p.fence.Partition] != (sighting{p.fence.Epoch, p.head}) {
				l.fence.params[3].int4(int32(p.fence.Partition))
				l.fence.params[4].int8(int64(p.head))
			}
		}
	}
	l.addClaims()
	l.addTimers()
	return any
}

// judge takes the next commit of the chunk.
func (l *lane) judge(c *persistence.Commit, s *slot) verdict {
	a := &l.attempt
	c.Offset, c.Err = 0, nil
	if s.part.fenced != nil {
		c.Err = s.part.fenced
		return refused
	}
	ch := &a.links[s.chain]
	conflict := c.Expected != ch.current
	// The unique index proves that nothing stands above the expected version,
	// but not that the expected version is there (a gap), nor anything when
	// nothing is inserted or the commit is rejected.
	if !ch.proven && !ch.guarded &&
		(conflict || a.strict || s.part.claims || len(c.Events) == 0 || ch.base < 0 || ch.base > 0 && !ch.reached) {
		ch.guarded = true
		s.part.present = true
		a.guards = append(a.guards, s.chain)
		l.expect.params[0].stream(ch.stream)
		l.expect.params[1].int8(int64(ch.base))
	}
	if conflict {
		c.Err = &persistence.ConflictError{Stream: c.Stream, Expected: c.Expected, Actual: ch.current}
		return rejected
	}
	if err := a.failed[c]; err != nil {
		c.Err = err
		return rejected
	}
	if s.part.claims && len(c.Claims)+len(c.Releases) > 0 {
		if taken := a.exchange(c); taken != nil {
			c.Err = taken
			return rejected
		}
	}
	if len(c.Timers)+len(c.Cancels) > 0 {
		a.schedule(c)
	}
	for i := range c.Statements {
		a.run = append(a.run, running{c, i})
	}
	s.part.present = true
	if n := len(c.Events); n > 0 {
		c.Offset = s.part.next + 1
		l.addEvents(c)
		s.part.next += persistence.Offset(n)
		ch.current += persistence.Version(n)
	}
	return accepted
}

func (l *lane) addEvents(c *persistence.Commit) {
	p := l.event.params
	for i := range c.Events {
		e, n := &c.Events[i], int64(i)
		p[0].int4(int32(c.Partition))
		p[1].int8(int64(c.Offset) + n)
		p[2].int8(int64(c.Epoch))
		p[3].stream(c.Stream)
		p[4].int8(int64(c.Expected) + 1 + n)
		p[5].text(e.Type)
		p[6].timestamp(c.At)
		p[7].uuid(c.Command)
		if len(c.Metadata) == 0 {
			p[8].null()
		} else {
			p[8].bytes(c.Metadata)
		}
		p[9].bytes(e.Payload)
	}
}

// exchange applies a commit's releases, then its claims, or none of them when
// one is taken.
func (a *attempt) exchange(c *persistence.Commit) *persistence.ClaimTakenError {
	type change struct {
		of     *holding
		before holding
	}
	var undo []change
	gone, self := len(a.gone), c.Stream.String()
	for _, k := range c.Releases {
		h := a.holding(k)
		if !h.known {
			// The only one in the chunk to touch it; see contested.
			a.gone = append(a.gone, claimRow{k, self})
		} else if h.now == self {
			undo = append(undo, change{h, *h})
			h.now, h.claimed = "", false
		}
	}
	for _, k := range c.Claims {
		h := a.holding(k)
		if h.now != "" && h.now != self {
			for i := len(undo) - 1; i >= 0; i-- {
				*undo[i].of = undo[i].before
			}
			a.gone = a.gone[:gone]
			typ, id, _ := strings.Cut(h.now, "/")
			return &persistence.ClaimTakenError{Claim: k, Holder: persistence.Stream{Type: typ, ID: id}}
		}
		undo = append(undo, change{h, *h})
		h.now, h.claimed = self, true
	}
	return nil
}

func (a *attempt) holding(k persistence.Claim) *holding {
	h := a.keys[k]
	if h == nil {
		base, known := a.holders[k]
		h = &holding{known: known, base: base, now: base}
		if a.keys == nil {
			a.keys = make(map[persistence.Claim]*holding)
		}
		a.keys[k] = h
	}
	return h
}

// contested returns the values that the chunk touches more than once. What it
// does to them depends on who holds them before.
func contested(chunk []*persistence.Commit) []persistence.Claim {
	var several []persistence.Claim
	times := make(map[persistence.Claim]int)
	for _, c := range chunk {
		for _, claims := range [...][]persistence.Claim{c.Releases, c.Claims} {
			for _, k := range claims {
				if times[k]++; times[k] == 2 {
					several = append(several, k)
				}
			}
		}
	}
	return several
}

func (l *lane) addClaims() {
	a, p := &l.attempt, l.claim.params
	row := func(to []array, k persistence.Claim, stream string) {
		to[0].text(k.Namespace)
		to[1].text(k.Key)
		to[2].text(stream)
	}
	for _, g := range a.gone {
		row(p[:3], g.claim, g.stream)
	}
	a.claimed = a.claimed[:0]
	for k, h := range a.keys {
		if h.known && h.base != "" && h.base != h.now {
			row(p[:3], k, h.base)
		}
		if h.claimed {
			row(p[3:], k, h.now)
			a.claimed = append(a.claimed, k)
		}
	}
}

// schedule applies a commit's timers.
func (a *attempt) schedule(c *persistence.Commit) {
	if a.timers == nil {
		a.timers = make(map[persistence.TimerKey]*persistence.Timer)
	}
	for _, k := range c.Cancels {
		a.timers[k] = nil
	}
	for i := range c.Timers {
		a.timers[c.Timers[i].TimerKey] = &c.Timers[i]
	}
}

func (l *lane) addTimers() {
	for k, t := range l.attempt.timers {
		to := l.timer.params
		if t == nil {
			to = l.cancel.params
		}
		to[0].stream(k.Stream)
		to[1].text(k.Name)
		if t != nil {
			to[2].int4(int32(t.Partition))
			to[3].timestamp(t.Due)
			to[4].uuid(t.ID)
			to[5].bytes(t.Payload)
		}
	}
}

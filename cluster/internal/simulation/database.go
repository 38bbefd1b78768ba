package simulation

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// database is the store, as it is on its own machine: a store in memory, behind
// requests that are lost, late, or answered to nobody.
//
// An append is two moments, as in a database: its fence is looked at and its
// partitions are locked; later it commits. Whoever needs the lock waits.
type database struct {
	w       *world
	store   *memory.Store
	line    int      // how often it was put back to an earlier state
	journal []change // that made the store what it is
	heads   []persistence.Offset

	locked  map[persistence.Partition]*call
	queue   []func() bool // what waits for locks, the oldest first; true when it went on
	stalled time.Duration // until when nothing happens
	down    time.Duration // until when connections are refused

	grants []grant // of all lines
	cuts   []cut
	lost   *truth // the log before it was put back

	mu    sync.Mutex
	names map[persistence.NodeID]string // for people
	home  map[persistence.NodeID]*machine
}

// change is what was done to the store, so that it can be done again.
type change struct {
	at     time.Duration
	do     func(persistence.Store) error
	landed *landed // of an append
}

// landed is an append that had an effect.
type landed struct {
	owner   persistence.NodeID
	fences  []persistence.Fence // as they were sent
	commits []*persistence.Commit
}

// grant is an epoch that somebody was given.
type grant struct {
	line      int
	partition persistence.Partition
	epoch     persistence.Epoch
	owner     persistence.NodeID
}

// cut is a moment at which the store was put back.
type cut struct{ at, to time.Duration }

func newDatabase(w *world) *database {
	db := &database{
		w: w, locked: map[persistence.Partition]*call{}, names: map[persistence.NodeID]string{},
		home: map[persistence.NodeID]*machine{},
	}
	db.open()
	return db
}

func (db *database) open() {
	store, err := memory.Open(memory.Config{Partitions: db.w.plan.partitions})
	if err != nil {
		panic(err)
	}
	db.store, db.heads = store, make([]persistence.Offset, db.w.plan.partitions)
}

// change does something to the store and remembers it.
func (db *database) change(do func(persistence.Store) error) error {
	err := do(db.store)
	if err == nil {
		db.journal = append(db.journal, change{at: db.w.now, do: do})
	}
	return err
}

func (db *database) granted(p persistence.Partition, e persistence.Epoch, owner persistence.NodeID) {
	db.grants = append(db.grants, grant{db.line, p, e, owner})
}

// receive draws what becomes of a request.
func (db *database) receive(c *call) {
	db.admit(c, func() {
		err := c.run()
		db.w.note("store %s: %s%s", c.m.name, c.key, failure(err))
		db.answer(c, err)
	})
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	return ": " + strings.SplitN(err.Error(), "\n", 2)[0]
}

// admit lets a request through to the store, or not, and has effect happen when
// it is there and the locks it needs are free.
func (db *database) admit(c *call, effect func()) {
	w, p := db.w, &db.w.plan
	w.tally["store calls"]++
	c.line = db.line
	if c.m.crashed {
		return
	}
	arrive := func(at time.Duration) {
		w.at(max(at, db.stalled), nil, func() { db.arrive(c, effect) })
	}
	if w.healed {
		arrive(w.now + w.latency())
		return
	}
	switch {
	case db.down > w.now, c.m.cutOff > w.now && w.odds(3):
		db.tell(c, errRefused)
	case c.m.cutOff > w.now: // nothing comes back until the connection is found to be dead
		w.at(w.now+w.span(0, w.plan.lease), nil, func() { db.tell(c, errLost) })
	case w.odds(p.refused):
		db.tell(c, errFull)
	case w.odds(p.lostRequest):
		w.tally["requests lost"]++
		db.tell(c, errLost)
	case w.odds(p.lostAnswer):
		w.tally["answers lost"]++
		c.replied = true
		w.at(w.now+w.latency(), c.m, func() { c.send(errLost) })
		arrive(w.now + w.latency())
	case c.mutates && w.odds(p.late), c.appends && w.odds(p.lateAppend):
		w.tally["requests late"]++
		c.replied = true
		w.at(w.now+w.latency(), c.m, func() { c.send(errLost) })
		arrive(w.now + w.span(time.Millisecond, 2*p.lease))
	default:
		arrive(w.now + w.latency())
	}
}

// arrive is the moment at which a request is at the store.
func (db *database) arrive(c *call, effect func()) {
	w := db.w
	if db.stalled > w.now && !w.healed {
		w.at(db.stalled+w.span(0, time.Millisecond), nil, func() { db.arrive(c, effect) })
		return
	}
	if c.line != db.line { // its connection was to the store that is no more
		db.tell(c, errLost)
		return
	}
	again := func() bool {
		if c.line != db.line {
			db.tell(c, errLost)
			return true
		}
		for _, p := range c.needs {
			if db.locked[p] != nil {
				return false
			}
		}
		effect()
		return true
	}
	if slices.ContainsFunc(c.needs, func(p persistence.Partition) bool { return db.locked[p] != nil }) {
		w.tally["lock waits"]++
		db.queue = append(db.queue, again)
		return
	}
	again()
}

// tell answers a request that the store does not.
func (db *database) tell(c *call, err error) {
	if c.replied {
		return
	}
	c.replied = true
	db.w.note("store %s: %s: %v", c.m.name, c.key, err)
	db.w.at(db.w.now+db.w.latency(), c.m, func() { c.send(err) })
}

// answer sends the store's answer.
func (db *database) answer(c *call, err error) {
	if c.replied {
		return
	}
	c.replied = true
	if c.m.cutOff > db.w.now && !db.w.healed {
		db.w.at(c.m.cutOff, c.m, func() { c.send(errLost) })
		return
	}
	db.w.at(db.w.now+db.w.latency(), c.m, func() { c.send(err) })
}

func (c *call) send(err error) {
	select {
	case c.answered <- err:
	default:
	}
}

// appending is an append between its two moments.
type appending struct {
	batch    *persistence.Batch
	admitted map[persistence.Partition]bool // the fence held when it was looked at
}

// receiveAppend draws what becomes of an append.
func (db *database) receiveAppend(c *call, a *appending) {
	db.admit(c, func() {
		db.lock(c, a)
		took := db.w.span(20*time.Microsecond, time.Millisecond)
		if db.w.odds(db.w.plan.slowCommit) && !db.w.healed {
			took = db.w.span(time.Millisecond, db.w.plan.lease)
		}
		db.w.at(db.w.now+took, nil, func() { db.land(c, a) })
	})
}

// lock looks at the fences and locks the partitions of those that hold.
func (db *database) lock(c *call, a *appending) {
	a.admitted = map[persistence.Partition]bool{}
	fences := slices.Clone(a.batch.Fences)
	for i := range fences {
		fences[i].Head = 0 // is looked at with the commit, which nothing can come before
	}
	owned, err := db.store.Verify(always, a.batch.Owner, fences)
	for i, f := range a.batch.Fences {
		if err == nil && owned[i] {
			a.admitted[f.Partition] = true
			db.locked[f.Partition] = c
		}
	}
}

// land commits an append.
func (db *database) land(c *call, a *appending) {
	w := db.w
	if c.line != db.line {
		db.tell(c, errLost)
		return
	}
	sent := slices.Clone(a.batch.Fences)
	db.relax(a)
	db.store.Append(always, a.batch)
	l := &landed{owner: a.batch.Owner, fences: sent}
	var outcome strings.Builder
	for _, commit := range a.batch.Commits {
		if commit.Err != nil {
			fmt.Fprintf(&outcome, ", %s%s", commit.Stream.ID, failure(commit.Err))
			continue
		}
		fmt.Fprintf(&outcome, ", %s at %d", commit.Stream.ID, commit.Offset)
		copied := *commit
		l.commits = append(l.commits, &copied)
		db.heads[commit.Partition] = commit.Offset + persistence.Offset(len(commit.Events)) - 1
	}
	if len(l.commits) > 0 {
		again := &persistence.Batch{Owner: a.batch.Owner, Fences: slices.Clone(a.batch.Fences), Commits: l.commits}
		db.journal = append(db.journal, change{w.now, func(s persistence.Store) error {
			s.Append(always, again)
			return nil
		}, l})
	}
	w.note("store %s: landed %s%s", c.m.name, c.key, outcome.String())
	for p, holder := range db.locked {
		if holder == c {
			delete(db.locked, p)
		}
	}
	db.answer(c, nil)
	db.wake()
}

// relax changes an append so that the store takes it although a rule that is
// switched off would have it refused.
func (db *database) relax(a *appending) {
	without := &db.w.without
	if !without.Fence && !without.HeadCheck && !without.InFlightWait {
		return
	}
	view, err := db.store.View(always)
	if err != nil {
		return
	}
	for i := range a.batch.Fences {
		f := &a.batch.Fences[i]
		row := view.Partitions[f.Partition]
		stale := row.Epoch != f.Epoch || row.Owner != a.batch.Owner
		if without.HeadCheck {
			f.Head = db.heads[f.Partition]
		}
		if stale && row.Owner != "" && len(a.batch.Fences) == 1 && (without.Fence || without.InFlightWait && a.admitted[f.Partition]) {
			f.Epoch, a.batch.Owner = row.Epoch, row.Owner
			for _, c := range a.batch.Commits {
				c.Epoch = row.Epoch
			}
		}
	}
}

// wake lets go on what waited for locks.
func (db *database) wake() {
	waiting := db.queue
	db.queue = nil
	for _, again := range waiting {
		if !again() {
			db.queue = append(db.queue, again)
		}
	}
}

// rollBack puts the store back to what it was a while ago, as whoever restores a
// backup does, or a standby that takes over without having all of it.
func (db *database) rollBack(by time.Duration) {
	w := db.w
	keep := slices.IndexFunc(db.journal, func(c change) bool { return c.at > w.now-by })
	if keep < 0 {
		return
	}
	lost := 0
	for _, c := range db.journal[keep:] {
		if c.landed != nil {
			lost += len(c.landed.commits)
		}
	}
	w.note("roll back by %s: %d changes, %d commits", by, len(db.journal)-keep, lost)
	w.tally["rollbacks"]++
	w.tally["commits rolled back"] += lost
	db.line++
	db.cuts = append(db.cuts, cut{w.now, w.now - by})
	db.journal = db.journal[:keep:keep]
	clear(db.locked)
	db.lost = w.readLog()
	db.open()
	for _, c := range db.journal {
		if err := c.do(db.store); err != nil {
			panic(fmt.Sprintf("the journal does not make the store that it was: %v", err))
		}
		if c.landed != nil {
			for _, commit := range c.landed.commits {
				db.heads[commit.Partition] = commit.Offset + persistence.Offset(len(commit.Events)) - 1
			}
		}
	}
	db.wake()
}

// evict marks a living node dead, as a mistaken peer does, and gives the others
// the hint to look.
func (db *database) evict(m *machine) {
	w := db.w
	view, err := db.store.View(always)
	if err != nil {
		return
	}
	for _, n := range view.Nodes {
		if n.Address != m.address {
			continue
		}
		id, renewals := n.ID, n.Renewals
		_ = db.change(func(st persistence.Store) error {
			_, err := st.Evict(always, id, renewals)
			return err
		})
		w.note("evict %s, which lives", m.name)
		w.tally["mistaken evictions"]++
		for _, other := range w.alive() {
			if other != m && w.odds(2) {
				w.at(w.now+w.latency(), other, func() { w.lostTo(other, m) })
			}
		}
	}
}

// signed names the line of history that a view belongs to.
func (db *database) signed(v persistence.View) persistence.View {
	v.Lineage = fmt.Sprintf("line %d", db.line)
	return v
}

func (db *database) all() []persistence.Partition {
	list := make([]persistence.Partition, db.w.plan.partitions)
	for i := range list {
		list[i] = persistence.Partition(i)
	}
	return list
}

// christen gives an incarnation a name for people.
func (db *database) christen(m *machine, id persistence.NodeID) {
	db.mu.Lock()
	defer db.mu.Unlock()
	m.ids = append(m.ids, id)
	db.names[id], db.home[id] = fmt.Sprintf("%s.%d", m.name, len(m.ids)), m
}

func (db *database) name(id persistence.NodeID) string {
	db.mu.Lock()
	defer db.mu.Unlock()
	if n, ok := db.names[id]; ok {
		return n
	}
	return "nobody"
}

func (db *database) namesOf(ids []persistence.NodeID) string {
	var list []string
	for _, id := range ids {
		list = append(list, db.name(id))
	}
	return strings.Join(list, "+")
}

// Package check proves a market right or wrong from its event log alone.
//
// A [Checker] is given every event of the store, in the order of each
// partition, and the commands that clients saw acknowledged. It follows books
// and portfolios with models of its own, which share no code with the
// aggregates, and reports what does not hold:
//
//	I1  money: deposits - withdrawals = all portfolios + settlements in flight;
//	    a portfolio is opened once, for a user
//	I2  shares: allotted = all portfolios + settlements in flight, and within
//	    what the company has, which is said once
//	I3  nothing is negative; reserved is the sum of the reservations by order
//	I4  a trade settles once on each side, and nothing else settles
//	I5  an order is filled by its trades, up to its quantity, while it is open,
//	    and is its portfolio's throughout
//	I6  no book is crossed after a command
//	I7  no trade passes over a resting order with priority
//	I8  a trade is at the resting order's price, and within both limits
//	I9  reservations are those of the open orders, and of these alone
//	I11 everything that was begun is finished, once the market is quiet
//	I12 an acknowledged command is in the log; a command has one effect, a
//	    client's request one order, and an order comes to its book once
//	I14 nobody trades with himself
//	I15 epochs never decrease in a partition; offsets and versions are dense;
//	    every event has a command and can be read
//	I16 the aggregates' own state is what the models say
//
// I10 and I13 concern uniqueness by claim and read models, which this market
// does not have: a user's name is the id of the user.
package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/users"
	"github.com/ingrain-go/ingrain/persistence"
)

// Checker follows a log. [New] makes one. It is not safe for concurrent use.
type Checker struct {
	partitions []trail
	streams    map[persistence.Stream]persistence.Version
	commands   map[persistence.CommandID]effect
	requests   map[request]portfolio.OrderID

	books      map[string]*bookModel
	portfolios map[string]*ledger
	dues       map[due]claim
	folds      map[persistence.Stream]aggregate.Instance

	events, trades  int
	lost            int
	duplicates      map[string]bool
	deposits, taken int64
	found           findings
}

// trail is the end of a partition's log.
type trail struct {
	offset persistence.Offset
	epoch  persistence.Epoch
}

// effect is where a command's events are.
type effect struct {
	stream    persistence.Stream
	partition persistence.Partition
	last      persistence.Offset
	version   persistence.Version
}

type request struct{ owner, id string }

var definitions = map[string]*aggregate.Definition{
	users.Users.Name():          users.Users.Definition(),
	portfolio.Portfolios.Name(): portfolio.Portfolios.Definition(),
	book.Books.Name():           book.Books.Definition(),
}

// New makes a checker for a store with that many partitions.
func New(partitions int) *Checker {
	return &Checker{
		partitions: make([]trail, partitions),
		streams:    map[persistence.Stream]persistence.Version{},
		commands:   map[persistence.CommandID]effect{},
		requests:   map[request]portfolio.OrderID{},
		books:      map[string]*bookModel{},
		portfolios: map[string]*ledger{},
		dues:       map[due]claim{},
		folds:      map[persistence.Stream]aggregate.Instance{},
		duplicates: map[string]bool{},
		found:      findings{},
	}
}

// Cursors say where the checker wants the log to go on.
func (c *Checker) Cursors() []persistence.Cursor {
	cursors := make([]persistence.Cursor, len(c.partitions))
	for p := range c.partitions {
		cursors[p] = persistence.Cursor{Partition: persistence.Partition(p), After: c.partitions[p].offset}
	}
	return cursors
}

// Add takes the next event of its partition.
func (c *Checker) Add(e *persistence.Event) {
	c.events++
	c.order(e)
	c.command(e)
	definition := definitions[e.Stream.Type]
	if definition == nil {
		c.found.add("I15", "%s: no such aggregate type in this market", e.Stream)
		return
	}
	decoded, err := eventsourcing.DecodeEvent(definition, e.Type, e.Payload)
	if err != nil {
		c.found.add("I15", "event %d of %s cannot be read: %v", e.Version, e.Stream, err)
		return
	}
	c.fold(definition, e.Stream, decoded)
	switch e.Stream.Type {
	case book.Books.Name():
		c.book(e, decoded)
	case portfolio.Portfolios.Name():
		c.portfolio(e, decoded)
	case users.Users.Name():
		if _, ok := decoded.(users.SignedUp); ok {
			c.owe(due{kind: opening, portfolio: e.Stream.ID}, terms{})
		}
	}
}

// order checks the places of an event.
func (c *Checker) order(e *persistence.Event) {
	if e.Partition < 0 || int(e.Partition) >= len(c.partitions) {
		c.found.add("I15", "event %d of %s is in partition %d of %d", e.Version, e.Stream, e.Partition, len(c.partitions))
		return
	}
	t := &c.partitions[e.Partition]
	if e.Offset != t.offset+1 {
		c.found.add("I15", "partition %d: offset %d follows %d", e.Partition, e.Offset, t.offset)
	}
	if e.Epoch < t.epoch || e.Epoch <= 0 {
		c.found.add("I15", "partition %d, offset %d: epoch %d follows epoch %d", e.Partition, e.Offset, e.Epoch, t.epoch)
	}
	t.offset, t.epoch = e.Offset, max(e.Epoch, t.epoch)
	if home := persistence.PartitionOf(e.Stream, len(c.partitions)); home != e.Partition {
		c.found.add("I15", "%s is in partition %d, its home is %d", e.Stream, e.Partition, home)
	}
	if last := c.streams[e.Stream]; e.Version != last+1 {
		c.found.add("I15", "%s: version %d follows %d", e.Stream, e.Version, last)
	}
	c.streams[e.Stream] = e.Version
}

// command checks that a command's events stand together (I12).
func (c *Checker) command(e *persistence.Event) {
	if e.Command.IsZero() {
		c.found.add("I15", "event %d of %s has no command", e.Version, e.Stream)
		return
	}
	had, again := c.commands[e.Command]
	if again && (had.stream != e.Stream || had.partition != e.Partition || had.last != e.Offset-1 || had.version != e.Version-1) {
		c.duplicate("command "+aggregate.CommandID(e.Command).String(),
			"command %s has events at partition %d, offset %d, and again at partition %d, offset %d",
			aggregate.CommandID(e.Command), had.partition, had.last, e.Partition, e.Offset)
	}
	c.commands[e.Command] = effect{stream: e.Stream, partition: e.Partition, last: e.Offset, version: e.Version}
}

// duplicate counts a command or a request that had an effect more than once.
func (c *Checker) duplicate(what, format string, args ...any) {
	c.duplicates[what] = true
	c.found.add("I12", format, args...)
}

// Ack is an acknowledgement that a client received.
type Ack struct {
	Command aggregate.CommandID
	// Partition and Offset are those of the receipt.
	Partition aggregate.Partition
	Offset    aggregate.Offset
}

// Acknowledged checks that the log keeps what a client was promised. Call it
// when all events were added. An acknowledgement without events, Offset 0,
// promised nothing.
func (c *Checker) Acknowledged(a Ack) {
	if a.Offset == 0 {
		return
	}
	had, ok := c.commands[persistence.CommandID(a.Command)]
	switch {
	case !ok:
		c.lost++
		c.found.add("I12", "command %s was acknowledged at partition %d, offset %d, and is not in the log", a.Command, a.Partition, a.Offset)
	case had.partition != persistence.Partition(a.Partition) || had.last != persistence.Offset(a.Offset):
		c.found.add("I12", "command %s was acknowledged at partition %d, offset %d, but is at partition %d, offset %d",
			a.Command, a.Partition, a.Offset, had.partition, had.last)
	}
}

// Pending is how many steps between aggregates were begun and are not
// finished. A quiet market has none.
func (c *Checker) Pending() int { return len(c.dues) }

// Events is how many were added.
func (c *Checker) Events() int { return c.events }

// Trades is how many trades were added.
func (c *Checker) Trades() int { return c.trades }

// Report says what was found.
type Report struct {
	Events int `json:"events"`
	Trades int `json:"trades"`
	// Lost commands were acknowledged and are not in the log.
	Lost int `json:"lost"`
	// Duplicated commands or requests had more than one effect.
	Duplicated int         `json:"duplicated"`
	Violations []Violation `json:"violations"`
}

// Violation is an invariant that does not hold.
type Violation struct {
	Invariant string `json:"invariant"`
	// Count is how often, Examples are the first few.
	Count    int      `json:"count"`
	Examples []string `json:"examples"`
}

func (v Violation) String() string {
	return fmt.Sprintf("%s violated %d times, first: %s", v.Invariant, v.Count, v.Examples[0])
}

// Report checks what can only be told of the whole log, and returns all
// findings. It is called once, at the end, when the market is quiet.
func (c *Checker) Report() Report {
	for _, id := range sortedKeys(c.books) {
		c.books[id].uncrossed(c, id) // the last command's
	}
	c.outstanding()
	c.conservation()
	c.reservations()
	c.folded()
	return Report{
		Events: c.events, Trades: c.trades, Lost: c.lost, Duplicated: len(c.duplicates),
		Violations: c.found.sorted(),
	}
}

// findings by invariant.
type findings map[string]*Violation

// examples is how many are kept of each invariant.
const examples = 5

func (f findings) add(invariant, format string, args ...any) {
	v := f[invariant]
	if v == nil {
		v = &Violation{Invariant: invariant}
		f[invariant] = v
	}
	if v.Count++; len(v.Examples) < examples {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

func (f findings) sorted() []Violation {
	out := make([]Violation, 0, len(f))
	for _, v := range f {
		slices.Sort(v.Examples)
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b Violation) int { // I2 before I10
		return cmp.Or(cmp.Compare(len(a.Invariant), len(b.Invariant)), cmp.Compare(a.Invariant, b.Invariant))
	})
	return out
}

// sortedKeys makes reports the same each time.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

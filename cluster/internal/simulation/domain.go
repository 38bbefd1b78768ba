package simulation

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// ledger is the aggregate of the simulation. Its digest tells every history of
// commands from every other, so that each reply says exactly which commands it
// reflects.
type ledger struct {
	N      int    // events
	Digest uint64 // of the commands that caused them, in order
	Holder uint64 // command that took it; 0 when it is free
}

type fact = aggregate.Event[ledger]

func (l *ledger) add(command uint64) {
	l.N++
	l.Digest = (l.Digest ^ command) * 0x9e3779b97f4a7c15
	l.Digest ^= l.Digest >> 29
}

// note always has an event.
type note struct{ Command uint64 }

// Decide implements aggregate.Command.
func (c note) Decide(ledger) ([]fact, error) {
	here(freezeInDecide)
	return []fact{noted(c)}, nil
}

// Answer implements aggregate.Query.
func (note) Answer(l ledger) (ledger, error) { return l, nil }

type noted struct{ Command uint64 }

// Evolve implements aggregate.Event.
func (e noted) Evolve(l *ledger) { l.add(e.Command) }

// take is rejected while somebody else has it: a reply that no event proves.
type take struct{ Command uint64 }

var errTaken = aggregate.Reject("taken", "somebody has it")

// Decide implements aggregate.Command.
func (c take) Decide(l ledger) ([]fact, error) {
	here(freezeInDecide)
	if l.Holder != 0 {
		here(freezeInAnswer)
		return nil, errTaken.With("state", encodeLedger(l))
	}
	return []fact{taken(c)}, nil
}

// Answer implements aggregate.Query.
func (take) Answer(l ledger) (ledger, error) { return l, nil }

type taken struct{ Command uint64 }

// Evolve implements aggregate.Event.
func (e taken) Evolve(l *ledger) {
	l.add(e.Command)
	l.Holder = e.Command
}

// give has nothing to do when nobody has it: a receipt that no event proves.
type give struct{ Command uint64 }

// Decide implements aggregate.Command.
func (c give) Decide(l ledger) ([]fact, error) {
	here(freezeInDecide)
	if l.Holder == 0 {
		return nil, nil
	}
	return []fact{given(c)}, nil
}

// Answer implements aggregate.Query.
func (give) Answer(l ledger) (ledger, error) { return l, nil }

type given struct{ Command uint64 }

// Evolve implements aggregate.Event.
func (e given) Evolve(l *ledger) {
	l.add(e.Command)
	l.Holder = 0
}

// look only reads.
type look struct{}

// Answer implements aggregate.Query.
func (look) Answer(l ledger) (ledger, error) {
	here(freezeInAnswer)
	return l, nil
}

// ledgers are read under the lease, vaults through the store. Windows and
// snapshots are small, so that the log has to be asked.
var (
	ledgers    = define("ledger", aggregate.Lease)
	vaults     = define("vault", aggregate.Strict)
	aggregates = []aggregate.Any{ledgers, vaults}
)

func define(name string, mode aggregate.ReadMode) *aggregate.Type[ledger] {
	return aggregate.Define(name,
		aggregate.Accepts[note]("note"), aggregate.Accepts[take]("take"), aggregate.Accepts[give]("give"),
		aggregate.Records[noted]("noted"), aggregate.Records[taken]("taken"), aggregate.Records[given]("given"),
		aggregate.Answers[look]("look"), aggregate.Reads[ledger](mode),
		aggregate.Snapshots[ledger](aggregate.SnapshotPolicy{Every: 12, OnPassivation: 3}))
}

// here is a place in domain code, in which the machine that runs it can stop.
func here(place int32) {
	if w := running; w != nil && w.active != nil {
		w.active.point(place)
	}
}

func encodeLedger(l ledger) string { return fmt.Sprintf("%d %x %x", l.N, l.Digest, l.Holder) }

func decodeLedger(s string) (l ledger, err error) {
	_, err = fmt.Sscanf(s, "%d %x %x", &l.N, &l.Digest, &l.Holder)
	return l, err
}

// key names an aggregate.
func (w *world) key(i int) (def *aggregate.Type[ledger], id string) {
	if i < w.plan.strict {
		return vaults, "k" + strconv.Itoa(i)
	}
	return ledgers, "k" + strconv.Itoa(i)
}

func commandID(high, low uint64) aggregate.CommandID {
	var id aggregate.CommandID
	binary.BigEndian.PutUint64(id[:8], high)
	binary.BigEndian.PutUint64(id[8:], low)
	return id
}

// newCommandID makes an id from the world's randomness.
func (w *world) newCommandID() aggregate.CommandID {
	at := uint64(time.Now().UnixMilli())
	return commandID(at<<16|0x7000|w.rng.Uint64()&0x0fff, w.rng.Uint64()&^(3<<62)|2<<62)
}

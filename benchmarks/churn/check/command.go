// Package check judges what a cluster did by what its clients saw and what the
// store holds. It is told facts and starts nothing, so that every checker can be
// shown a history with a planted violation.
package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Outcome is how a command ended for its caller.
type Outcome uint8

// The outcomes. Pending is a command that has no outcome yet.
const (
	Pending Outcome = iota
	OK
	Rejected
	Unknown // it may have taken effect, or may yet
	Failed  // it certainly had no effect
)

func (o Outcome) String() string {
	return [...]string{"pending", "ok", "rejected", "unknown", "failed"}[o]
}

// Command is what became of a command, as its client knows it. It has a fixed
// size, so that millions of them fit into memory and into a file.
type Command struct {
	Seq     uint64 // from 1, one for each command that was asked for
	Call    int64  // unix nanoseconds
	Return  int64
	Version int64
	Offset  int64
	Stream  uint64 // Hash of "type/id"
	Node    uint64 // Hash of the incarnation that answered; 0 if it did not say
	Value   uint64 // what it wrote, or whom it named as holder of what it claimed

	Partition int32
	Events    uint16
	Outcome   Outcome
	// Uncertain: an earlier attempt ended unknown, so that a rejection proves
	// nothing about effects.
	Uncertain bool
	// Duplicate: an earlier attempt had taken effect, and this is its receipt.
	Duplicate bool
	// Claim: it asked for a unique name.
	Claim bool
	_     [6]byte
}

// Hash names a stream or an incarnation in a Command.
func Hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum64()
}

// Ids makes command ids from which the command's number can be read back,
// whichever attempt of it took effect.
type Ids struct{ run uint32 }

const (
	seqBits    = 40
	runBits    = 22
	attemptMax = 1<<12 - 1
)

// NewIds is for one run. Ids of other runs are foreign to it.
func NewIds(seed uint64) Ids {
	return Ids{uint32(rand.New(rand.NewPCG(seed, 1)).Uint64())%(1<<runBits-1) + 1}
}

// ID is the id of an attempt. Attempts that are to have one effect together
// carry the same number.
func (i Ids) ID(seq uint64, attempt int, at time.Time) aggregate.CommandID {
	id := aggregate.CommandIDAt(at)
	binary.BigEndian.PutUint16(id[6:], 0x7000|uint16(min(attempt, attemptMax)))
	binary.BigEndian.PutUint64(id[8:], 2<<62|uint64(i.run)<<seqBits|seq&(1<<seqBits-1))
	return id
}

// Seq is the number of the command that an id belongs to; false if it is none of
// this run.
func (i Ids) Seq(id [16]byte) (uint64, bool) {
	low := binary.BigEndian.Uint64(id[8:])
	return low & (1<<seqBits - 1), uint32(low>>seqBits)&(1<<runBits-1) == i.run
}

// Ledger writes commands to a file as they end. It is not safe for concurrent
// use.
type Ledger struct{ w io.Writer }

// NewLedger writes to w, which should be buffered.
func NewLedger(w io.Writer) *Ledger { return &Ledger{w: w} }

// Add writes one command.
func (l *Ledger) Add(c *Command) error {
	return binary.Write(l.w, binary.LittleEndian, c)
}

// ReadLedger reads what a Ledger wrote into a table where command n stands at
// n-1. last is the highest number there can be. Commands that are not in the
// file are Pending.
func ReadLedger(r io.Reader, last uint64) ([]Command, error) {
	table := make([]Command, last)
	for {
		var c Command
		switch err := binary.Read(r, binary.LittleEndian, &c); {
		case errors.Is(err, io.EOF):
			return table, nil
		case err != nil:
			return nil, fmt.Errorf("read the ledger: %w", err)
		case c.Seq == 0 || c.Seq > last:
			return nil, fmt.Errorf("read the ledger: command %d of %d", c.Seq, last)
		case table[c.Seq-1].Outcome != Pending:
			return nil, fmt.Errorf("read the ledger: command %d ended twice", c.Seq)
		}
		table[c.Seq-1] = c
	}
}

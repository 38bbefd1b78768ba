// Package memory is a [persistence.Store] that lives in the process: for
// tests, for trying things out, and as the baseline of what the runtime itself
// costs. Nothing survives the process.
package memory

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// DefaultPartitions is the number of partitions unless Config says another.
	DefaultPartitions = 16
	maxPartitions     = 65_536
	schema            = 1
)

// Config says how to create the data.
type Config struct {
	// Partitions is the number of partitions, 1 to 65,536; 0 means
	// [DefaultPartitions]. More of them spread contention between writers.
	Partitions int
}

// Store is one handle on data in memory. It is safe for concurrent use.
//
// Each partition has its own lock, which an append holds together with the
// locks of the batch's other partitions, taken in ascending order. Below a
// partition's lock come only the locks of claims; above it only the lock of
// the membership tables.
type Store struct {
	data *data

	life   sync.RWMutex // read-held by every call, so that Close can wait
	closed bool
}

var _ persistence.Store = (*Store)(nil)

// data is what several handles share.
type data struct {
	meta       persistence.Meta
	partitions []partition

	membership membership
	claims     claims
	keys       keys
	source     string // of an import; guarded by the membership's lock

	// checkpoints' lock guards the projections too. It is taken below those of
	// partitions.
	projections projections
	checkpoints struct {
		sync.Mutex
		cursors map[string]map[persistence.Partition]persistence.Offset
	}
}

// Open creates empty data and returns the first handle on it. A partition
// count out of range is a *[persistence.SetupError].
func Open(config Config) (*Store, error) {
	n := config.Partitions
	if n == 0 {
		n = DefaultPartitions
	}
	if n < 1 || n > maxPartitions {
		return nil, &persistence.SetupError{Store: "memory", Reason: fmt.Sprintf("%d partitions, want 1 to %d", n, maxPartitions)}
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, &persistence.SetupError{Store: "memory", Reason: "make a store id", Err: err}
	}
	d := &data{
		meta:       persistence.Meta{StoreID: hex.EncodeToString(id[:]), Partitions: n, Schema: schema},
		partitions: make([]partition, n),
	}
	for i := range d.partitions {
		d.partitions[i].streams = make(map[persistence.Stream]*stream)
	}
	d.membership.nodes = make(map[persistence.NodeID]*persistence.Node)
	d.claims.holders = make(map[persistence.Claim]persistence.Stream)
	d.checkpoints.cursors = make(map[string]map[persistence.Partition]persistence.Offset)
	return &Store{data: d}, nil
}

// Reopen returns a further handle on the same data, as a second process or a
// restarted one would open it. It works on a closed handle too: the data lives
// as long as any handle is reachable.
func (s *Store) Reopen() *Store { return &Store{data: s.data} }

// Immediate reports that Append never blocks on I/O, so that a lane may call
// it on the spot instead of from a goroutine of its own. It is always true.
func (s *Store) Immediate() bool { return true }

// Meta tells what the data was created with.
func (s *Store) Meta() persistence.Meta { return s.data.meta }

// Close makes every later call fail with [persistence.ErrClosed], once the
// calls in flight are through. Other handles on the data stay open.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	s.closed = true
	return nil
}

// enter admits a call; an admitted call must end with s.life.RUnlock.
func (s *Store) enter(ctx context.Context) error {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return persistence.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		s.life.RUnlock()
		return err
	}
	return nil
}

// partition returns the partition's place, or an error when there is none.
func (d *data) partition(p persistence.Partition) (*partition, error) {
	if !d.has(p) {
		return nil, fmt.Errorf("partition %d: the store has %d", p, len(d.partitions))
	}
	return &d.partitions[p], nil
}

func (d *data) has(p persistence.Partition) bool { return p >= 0 && int(p) < len(d.partitions) }

// home returns the partition that keeps a stream.
func (d *data) home(s persistence.Stream) *partition {
	return &d.partitions[persistence.PartitionOf(s, len(d.partitions))]
}

func microseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

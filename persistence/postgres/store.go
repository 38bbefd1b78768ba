// Package postgres is a [persistence.Store] on PostgreSQL 13 or newer.
//
// An append of many commits is one round trip and one transaction. In the
// steady state, when the connection knows the partitions, it is one INSERT on
// the condition that their rows, locked, have the epoch and the owner (I1).
// Otherwise a function locks the rows, compares owner, epoch and head and says
// what is wrong, and the INSERT follows in the same pipeline. Offsets are
// assigned in memory, and the row locks, held until the transaction ends, make
// their order the order of commit (I9). DESIGN.md of package persistence has the
// reasons.
//
// Only primaries are used, for reads too. Sessions carry settings and a name by
// which a claimer finds a frozen writer, so a connection pooler between store
// and server must work in session mode.
package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ingrain-go/ingrain/persistence"
)

const storeName = "postgres"

// Store is a handle on a store in one PostgreSQL database. It is safe for
// concurrent use. Appends, reads and snapshots, membership, and claims each
// have connections of their own, so that none waits behind another kind.
type Store struct {
	meta  persistence.Meta
	place string // how errors name the store
	log   *slog.Logger
	gate  gate

	lanes   lanes
	roused  sync.Once
	reads   *pgxpool.Pool // reads, snapshots, checkpoints
	members *pgxpool.Pool // statements on the membership tables that never wait for a lock
	claims  *pgxpool.Pool // statements that may wait for an append in flight
	steps   *pgxpool.Pool // transactions that run what is not ours, or take long
	known   *lru.Cache[persistence.Stream, knownVersion]
}

var _ persistence.Store = (*Store)(nil)

// knownVersion is a version that this handle wrote under an epoch. While the
// epoch lasts, the stream is at this version or a later one.
type knownVersion struct {
	version persistence.Version
	epoch   persistence.Epoch
}

// Open connects to the store that config names, creating its tables or bringing
// them up to date when needed, under a lock. Whatever makes the database unfit
// is a *[persistence.SetupError]: a wrong address or password, a server that is
// not a primary, a schema newer than this build, another partition count, a user
// who may not do all that a node does.
func Open(ctx context.Context, config Config) (*Store, error) {
	config = config.withDefaults()
	base, err := config.validate()
	if err != nil {
		return nil, err
	}
	meta, err := setUp(ctx, base, &config)
	if err != nil {
		return nil, err
	}
	known, err := lru.New[persistence.Stream, knownVersion](config.KnownStreams)
	if err != nil {
		return nil, &persistence.SetupError{Store: storeName, Reason: "make the cache of stream versions", Err: err}
	}
	s := &Store{meta: meta, place: config.place(base), log: config.Logger, known: known}
	if err := s.connect(ctx, base, &config); err != nil {
		s.disconnect()
		return nil, err
	}
	return s, nil
}

// Meta tells what the store was created with.
func (s *Store) Meta() persistence.Meta { return s.meta }

// within reports an error for a partition that the store does not have.
func (s *Store) within(p persistence.Partition) error {
	if p < 0 || int(p) >= s.meta.Partitions {
		return fmt.Errorf("partition %d: the store has %d", p, s.meta.Partitions)
	}
	return nil
}

// Close waits for the calls in flight and closes all connections.
func (s *Store) Close() error {
	if s.gate.shut() {
		s.disconnect()
	}
	return nil
}

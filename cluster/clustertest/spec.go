package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// Store says where the nodes' common store is. Exactly one of Dir and DSN is
// set.
type Store struct {
	// Dir is the directory of a SQLite store.
	Dir string
	// DSN is the address of a PostgreSQL store.
	DSN string
	// Partitions of a new store; 0 means the store's default.
	Partitions int
}

// SQLite is a new store in a directory of the test.
func SQLite(t testing.TB, partitions int) Store {
	return Store{Dir: t.TempDir(), Partitions: partitions}
}

// PostgreSQL is a new store in a database of the test.
func PostgreSQL(t testing.TB, partitions int) Store {
	return Store{DSN: postgrestest.DSN(t), Partitions: partitions}
}

// Open opens the store. The caller closes it.
func (s Store) Open(ctx context.Context) (persistence.Store, error) {
	switch {
	case s.Dir != "" && s.DSN != "":
		return nil, fmt.Errorf("clustertest: a store has a Dir or a DSN, not both")
	case s.Dir != "":
		return sqlite.Open(ctx, sqlite.Config{Dir: s.Dir, Partitions: s.Partitions})
	case s.DSN != "":
		return postgres.Open(ctx, postgres.Config{DSN: s.DSN, Partitions: s.Partitions})
	}
	return nil, fmt.Errorf("clustertest: a store needs a Dir or a DSN")
}

// Spec is one child process: what it runs, on which store, and what of
// cluster.Config differs from the default.
type Spec struct {
	Program string
	// Binary is the file to run, one that calls [Serve]. Default the test's own.
	Binary  string
	Store   Store
	Cluster Settings
}

// Settings are the fields of cluster.Config that a child can be given.
type Settings struct {
	Name       string
	Listen     string
	Advertise  string
	LockDir    string
	Lease      time.Duration
	Sticky     bool
	MaxPerPeer int
}

func (s *Settings) config() cluster.Config {
	return cluster.Config{
		Name: s.Name, Listen: s.Listen, Advertise: s.Advertise, LockDir: s.LockDir, Lease: s.Lease, Sticky: s.Sticky, MaxPerPeer: s.MaxPerPeer,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
}

package postgres

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// DefaultPartitions is how many partitions a new store gets.
	DefaultPartitions = 256
	// DefaultSchema is where the tables are.
	DefaultSchema = "ingrain"

	defaultLanes        = 2
	defaultReadConns    = 4
	defaultKnownStreams = 1 << 17
	memberConns         = 2
	claimConns          = 4
	stepConns           = 4

	maxPartitions = 65_536
	maxConns      = 1000
	maxIdentifier = 63 // bytes, PostgreSQL's NAMEDATALEN-1
)

// Config says which store to open. Only DSN is required.
type Config struct {
	// DSN is the server's address, as a URL or as key=value pairs; what it
	// leaves out comes from the PG* environment variables. Several hosts may be
	// named: the primary among them is used.
	DSN string

	// Partitions is how many partitions a new store gets, 1 to 65,536, fixed
	// for ever; 0 means [DefaultPartitions]. On an existing store it must be 0
	// or the store's own number.
	Partitions int

	// Lanes is the number of connections that append, and so the number of
	// Append calls that run at once; more calls wait. The default 2 keeps one
	// executing while the other commits or is being encoded; 4 pay off with a
	// remote or slow-disk server, more never do.
	Lanes int

	// ReadConns bounds the connections for reads, snapshots and checkpoints.
	// Default 4. Membership uses up to 6 more, the steps of projections up to 4,
	// each only for as long as the step lasts. They are made when needed, and all
	// of them when a node joins.
	ReadConns int

	// Schema is the PostgreSQL schema of the tables, created when absent, so
	// that a database can hold other things, or several stores. Default
	// [DefaultSchema].
	Schema string

	// KnownStreams bounds how many streams' versions are remembered, at about
	// 150 bytes each. An append to a stream that is not among them costs the
	// server one look at an index more. Default 131,072.
	KnownStreams int

	// Logger gets the rare things an operator should know, such as a session
	// that was terminated. Default [slog.Default].
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Lanes == 0 {
		c.Lanes = defaultLanes
	}
	if c.ReadConns == 0 {
		c.ReadConns = defaultReadConns
	}
	if c.Schema == "" {
		c.Schema = DefaultSchema
	}
	if c.KnownStreams == 0 {
		c.KnownStreams = defaultKnownStreams
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() (*pgx.ConnConfig, error) {
	if c.DSN == "" {
		return nil, opening("", refuse("no DSN given"))
	}
	base, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		// The error has the address in it, but pgx takes the password out.
		return nil, opening("", &persistence.SetupError{Store: storeName, Reason: "the DSN cannot be parsed", Err: err})
	}
	invalid := func(format string, args ...any) error {
		return opening(c.place(base), refuse(format, args...))
	}
	switch {
	case c.Partitions < 0 || c.Partitions > maxPartitions:
		return nil, invalid("%d partitions, want 1 to %d", c.Partitions, maxPartitions)
	case c.Lanes < 0 || c.Lanes > maxConns:
		return nil, invalid("%d lanes, want 1 to %d", c.Lanes, maxConns)
	case c.ReadConns < 0 || c.ReadConns > maxConns:
		return nil, invalid("%d read connections, want 1 to %d", c.ReadConns, maxConns)
	case c.KnownStreams < 0:
		return nil, invalid("%d known streams", c.KnownStreams)
	case len(c.Schema) > maxIdentifier || strings.ContainsRune(c.Schema, 0) || !utf8.ValidString(c.Schema):
		return nil, invalid("schema name %q is not one", c.Schema)
	}
	return base, nil
}

// place is how errors name the store.
func (c Config) place(base *pgx.ConnConfig) string {
	return fmt.Sprintf("database %q, schema %q", databaseOf(base), c.Schema)
}

// databaseOf is the database that a DSN leads to: the server takes the one named
// like the user when there is none in it.
func databaseOf(base *pgx.ConnConfig) string { return cmp.Or(base.Database, base.User) }

// sessionName tells operators, and claimers, what a session is for and whose it
// is.
func sessionName(role string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := fmt.Sprintf("%s %d@%s", role, os.Getpid(), host)
	return name[:min(len(name), maxIdentifier)]
}

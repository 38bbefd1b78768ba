package cluster

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Config of a node. Store and Aggregates are required; the zero value of every
// other field is a good choice. Nodes find each other through the store: there
// is no list of peers.
type Config struct {
	// Store is shared by all nodes of the cluster. The node does not close it.
	Store persistence.Store
	// Aggregates are the types this node serves and can address.
	Aggregates []aggregate.Any

	// Name tells clusters apart that were pointed at one store by mistake: the
	// first node writes it into the store, others must have the same. Default
	// "ingrain".
	Name string
	// Listen is where the node listens for its peers, host:port. Default
	// "127.0.0.1:0": this machine only, any free port. There is no
	// authentication; do not listen where strangers can connect.
	Listen string
	// Advertise is the address that peers connect to, if it is not the one
	// listened on: behind a port mapping, or when listening on all interfaces.
	Advertise string

	// Lease is how long a node may answer reads without asking the store, and
	// thus how long a take-over by force holds its first new replies back.
	// Default 1 second. 500 ms suits a local network and a store with fast
	// disks; 3 s a store that stalls.
	Lease time.Duration
	// Sticky keeps partitions where they are when a node joins: it takes only
	// what is nobody's. By default a join moves its share to it.
	Sticky bool
	// CallTimeout is the deadline of calls whose context has none. Default 10
	// seconds.
	CallTimeout time.Duration
	// MaxPerPeer bounds the calls to one other node that are not yet answered.
	// Beyond, a call is refused as overloaded. Default 8,192.
	MaxPerPeer int
	// MaxPayload bounds the bytes of one command, event or answer. Default 1 MiB.
	MaxPayload int
	// MaxInFlight bounds the calls this node has admitted and not answered, and
	// MaxPerAggregate those of one aggregate. Defaults 65,536 and 1,024.
	MaxInFlight, MaxPerAggregate int
	// MaxResident bounds the aggregates in memory. Default 100,000.
	MaxResident int
	// IdleAfter is how long an unused aggregate stays in memory. Default 2
	// minutes.
	IdleAfter time.Duration
	// CommandRetention is how old a command id may be. Default 24 hours.
	CommandRetention time.Duration
	// Lanes is the number of concurrent appends to the store. Default 2.
	Lanes int
	// LockDir is where the node keeps a file locked for as long as it lives, by
	// which nodes on the same machine can tell at once that it is dead. Default
	// a folder in the system's temporary directory.
	LockDir string
	// Logger defaults to slog.Default. Nothing is logged per command.
	Logger *slog.Logger

	// Meter, when set, publishes the node's Stats as OpenTelemetry metrics.
	Meter metric.Meter
	// Tracer, when set, puts every call into a span, and its trace context into
	// the metadata of the events.
	Tracer trace.Tracer

	// Clock, Network and Rand are what the node has of the world besides the
	// store. They default to the real ones and are replaced in simulations.
	Clock   actor.Clock
	Network Network
	Rand    *rand.Rand
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "ingrain"
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Clock == nil {
		c.Clock = actor.SystemClock{}
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Lease <= 0 {
		c.Lease = time.Second
	}
	if c.CallTimeout <= 0 {
		c.CallTimeout = 10 * time.Second
	}
	if c.MaxPerPeer <= 0 {
		c.MaxPerPeer = 8192
	}
	if c.MaxPayload <= 0 {
		c.MaxPayload = 1 << 20
	}
	return c
}

func (c *Config) validate() error {
	if c.Store == nil {
		return errors.New("cluster: Config.Store is required")
	}
	if len(c.Aggregates) == 0 {
		return errors.New("cluster: Config.Aggregates is empty")
	}
	return aggregate.Validate(c.Aggregates...)
}

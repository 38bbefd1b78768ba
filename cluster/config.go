package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/internal/simulated"
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

	// Projections are what this node does with events after they have happened:
	// views, tables, reactions. Nodes of one cluster have the same. The values are
	// this node's own.
	Projections []eventsourcing.Projection

	// Keys is where the keys of sealed aggregates are kept. Default the Store.
	// Another one keeps them out of the store's backups. Every node has the same.
	Keys persistence.Keys
	// KeyFresh is for how long a key may be used after the key store last had it,
	// and so how long Forget takes. Default 6 seconds. Every node has the same.
	KeyFresh time.Duration

	// Name tells clusters apart that were pointed at one store by mistake: the
	// first node writes it into the store, others must have the same. Default
	// "ingrain".
	Name string
	// Listen is where the node listens for its peers, host:port. Default
	// "127.0.0.1:0": this machine only, any free port. There is no
	// authentication; do not listen where strangers can connect.
	Listen string
	// Advertise is the address that peers connect to, if it is not the one
	// listened on: behind a port mapping. Required when Listen is on all
	// interfaces.
	Advertise string

	// Lease is how long a node may answer reads without asking the store, and
	// thus how long a take-over by force holds its first new replies back.
	// Default 1 second, at least 100 ms. 500 ms suits a local network and a store
	// with fast disks; 3 s a store that stalls.
	//
	// All nodes must have the same: Start refuses one that differs from the
	// members there are. To change it, stop all nodes, and wait as long as the
	// old lease before the first one starts with the new.
	Lease time.Duration
	// Weight is the node's share of the partitions, relative to the weights of the
	// others. 0 means 1. A node of negative weight takes none: it only sends.
	Weight int
	// Sticky keeps partitions where they are when a node joins: it takes only
	// what is nobody's. By default a join moves its share to it.
	Sticky bool
	// CallTimeout is the deadline of calls whose context has none. Default 10
	// seconds.
	CallTimeout time.Duration
	// MaxPerPeer bounds the calls to one other node that are not yet answered.
	// Beyond, a call is refused as overloaded. Default 8,192.
	MaxPerPeer int
	// MaxPayload bounds the bytes of one event, and of one command, query or
	// answer that crosses the wire: between a caller and an aggregate in the same
	// process these have no bytes, and no limit. Default 1 MiB.
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
	// CommandSkew is how far in the future a command id may be, by the clock of
	// the aggregate's owner. Default 1 minute. Until such an id's time has come,
	// its aggregate asks the log about others.
	CommandSkew time.Duration
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
	// Simulated is for the simulation of this repository: leave it nil.
	Simulated *simulated.Seams
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
	if c.Lease == 0 {
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
	if c.Lease != 0 && c.Lease < minLease {
		return fmt.Errorf("cluster: Config.Lease is %s: want at least %s, or 0 for the default", c.Lease, minLease)
	}
	if c.Network == nil {
		if err := c.validateAddresses(); err != nil {
			return err
		}
	}
	return errors.Join(aggregate.Validate(c.Aggregates...), eventsourcing.Validate(c.Projections...))
}

// minLease leaves a renewal 25 ms to come back before the next is due.
const minLease = 100 * time.Millisecond

// validateAddresses sees to it that peers are told an address they can reach.
func (c *Config) validateAddresses() error {
	if c.Advertise != "" {
		host, port, err := splitAddress(c.Advertise)
		switch {
		case err != nil:
			return fmt.Errorf("cluster: Config.Advertise %q: %w", c.Advertise, err)
		case unspecified(host) || port == 0:
			return fmt.Errorf("cluster: Config.Advertise %q is no address that peers can connect to", c.Advertise)
		}
		return nil
	}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && unspecified(host) {
		return fmt.Errorf("cluster: Config.Listen %q is every interface of the machine, which is no address that peers can connect to: set Config.Advertise", c.Listen)
	}
	return nil
}

// unspecified reports whether a host stands for all interfaces.
func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

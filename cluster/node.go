// Package cluster puts every aggregate on exactly one of the nodes that share a
// store. Start makes a node; Ref, Send, Ask and Do of package aggregate use it.
//
// Membership, leases and the partition table are rows in the store, so that
// nodes find each other without a list of peers, and ownership is decided where
// the writes are: the store refuses every append of a node that no longer owns
// the partition (I1). Commands travel over protoactor's remote. See DESIGN.md.
package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	protocluster "github.com/asynkron/protoactor-go/cluster"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/internal/partition"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/internal/bulletin"
	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
)

// Node is a member of a cluster, and the gateway to all its aggregates. All
// methods are safe for concurrent use.
type Node struct {
	config     Config
	store      persistence.Store
	types      map[string]*aggregate.Definition
	kinds      map[*aggregate.Message]*wire.Kind
	partitions int
	clock      actor.Clock
	seams      simulated.Seams
	log        *slog.Logger
	randMu     sync.Mutex
	rand       *rand.Rand

	system   *proto.ActorSystem
	network  Network
	cluster  *protocluster.Cluster // nil with a network of another kind
	provider *provider             // likewise
	address  string
	process  uint64 // tells this process from others; the same over its incarnations

	table    *partition.Table
	view     atomic.Pointer[membershipView]
	news     *bulletin.Board      // about the partition table: whoever retries looks again
	partings *bulletin.Board      // about who waits for whom, while this node leaves
	life     atomic.Pointer[life] // nil between two incarnations
	name     atomic.Value         // persistence.NodeID of the last incarnation, over or not
	deaths   *deaths
	peers    peers
	calls    remoteCalls
	waiters  sync.Pool // of *waiter
	patience patience
	stats    counters
	hosts    hosts

	recoveries atomic.Uint64 // how often the store was lost and is back

	vault     *eventsourcing.Vault     // nil when nothing is sealed
	projector *eventsourcing.Projector // nil when there is nothing to project
	hasViews  bool
	couriers  []*eventsourcing.Courier // one for each process manager
	giving    sync.Map                 // partition → its epoch, from the end of its service to that of its projections

	renewal  *renewal
	contacts *contacts
	claims   *claims
	parking  *parking

	longestLease atomic.Int64 // of all nodes ever seen, a time.Duration

	draining   atomic.Bool     // Stop has begun: it takes no partition any more
	closing    atomic.Bool     // it has none any more, and takes no call
	ctx        context.Context // ends with done
	cancel     context.CancelFunc
	done       chan struct{}
	background sync.WaitGroup
	unpublish  func() error
	stopOnce   sync.Once
	stopErr    error
}

var (
	_ aggregate.Gateway = (*Node)(nil)
	_ Receiver          = (*Node)(nil)
)

// life is one incarnation of the node.
type life struct {
	id      persistence.NodeID
	host    *actor.Host
	unlocks func() error // gives up the lock that proves its death; nil when there is none

	leased atomic.Int64 // until when by the node's clock, a time.Duration; 0 before the first renewal

	unlockOnce sync.Once
	unlockErr  error
}

// Start joins the cluster of the store, or founds it. ctx bounds the joining, not
// the node's life; end that with Stop. The errors of Start are all wrong
// configurations and unreachable stores; definition mistakes come in one error
// that lists them all.
//
// When Start returns, the node accepts calls. They wait, within their deadline,
// for partitions that no node owns yet; see Ready.
func Start(ctx context.Context, config *Config) (*Node, error) {
	if config == nil {
		return nil, errors.New("cluster: no Config")
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		config: config.withDefaults(), store: config.Store, types: map[string]*aggregate.Definition{},
		partitions: config.Store.Meta().Partitions, done: make(chan struct{}), news: bulletin.New(), partings: bulletin.New(),
	}
	n.clock, n.log, n.rand, n.seams = n.config.Clock, n.config.Logger, n.config.Rand, n.config.Simulated.OrReal()
	for _, t := range n.config.Aggregates {
		n.types[t.Definition().Name()] = t.Definition()
	}
	n.kinds = kindsOf(n.types)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.table = partition.NewTable(n.partitions)
	if n.seams.Locks == nil {
		n.seams.Locks = newLockFiles(n.config.LockDir)
	}
	n.deaths = newDeaths(n.seams.Locks)
	n.peers.byID, n.peers.callers, n.process = map[persistence.NodeID]*peer{}, map[callerKey]*caller{}, n.random()
	n.calls.calls, n.calls.next = map[uint64]*remoteCall{}, n.random()
	n.calls.pool.New, n.waiters.New = newRemoteCall, newWaiter
	n.patience.clock, n.patience.limit = n.clock, n.config.CallTimeout
	n.renewal, n.contacts, n.claims, n.parking = newRenewal(n), newContacts(n), newClaims(n), newParking(n)
	unpublish, err := n.publish()
	if err != nil {
		return nil, err
	}
	n.unpublish = unpublish
	n.system = newSystem()
	if n.network = n.config.Network; n.network == nil {
		n.provider = newProvider()
		network, err := newProtoNetwork(n.system, &n.config, n.provider, identityLookup{n},
			func(*protocluster.Cluster) protocluster.Context { return requests{n} })
		if err != nil {
			return nil, errors.Join(err, unpublish())
		}
		n.network, n.cluster = network, network.cluster
	}
	if n.address, err = n.network.Start(n); err != nil {
		return nil, errors.Join(err, n.end())
	}
	// whoever was evicted before we came may answer until its lease is over
	n.deaths.latest = n.clock.Now() + n.leaseElsewhere()
	n.startVault()
	if err := n.startProjections(); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: %w", err), n.end())
	}
	if err := n.startProcesses(); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: %w", err), n.end())
	}
	if err := n.join(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: join: %w", err), n.end())
	}
	n.renewal.renew(ctx)
	n.background.Go(n.renewal.run)
	n.background.Go(n.claims.run)
	n.background.Go(func() { n.patience.run(n.done) })
	n.log.Info("node started", "node", n.ID(), "address", n.address, "cluster", n.config.Name)
	return n, nil
}

// join begins a new incarnation.
func (n *Node) join(ctx context.Context) error {
	id := n.newID()
	types := slices.Sorted(maps.Keys(n.types))
	member := persistence.Node{
		ID: id, Cluster: n.config.Name, Address: n.address, Types: types, State: persistence.Joining,
		Lease: n.config.Lease, Weight: n.config.Weight,
	}
	path, unlock, err := n.deaths.locks.Lock(string(id))
	if err == nil {
		member.Host, member.Lock = n.deaths.locks.Host(), path
	} else {
		n.log.Info("no lock file: a death of this node cannot be proven", "error", err)
	}
	var committed func(persistence.Partition, []persistence.Event)
	if n.projector != nil || len(n.couriers) > 0 {
		committed = n.committed
	}
	life := &life{id: id, unlocks: unlock}
	life.host, err = actor.Start(actor.Config{
		Vault:  n.vault,
		System: n.system, Store: n.store, Node: id, Types: n.config.Aggregates, Clock: n.clock, Logger: n.log,
		Lanes: n.config.Lanes, IdleAfter: n.config.IdleAfter, MaxResident: n.config.MaxResident,
		MaxInFlight: n.config.MaxInFlight, MaxPerGrain: n.config.MaxPerAggregate, MaxPayload: n.config.MaxPayload,
		CommandRetention: n.config.CommandRetention, CommandSkew: n.config.CommandSkew, Simulated: n.config.Simulated,
		OnDeposed: func(p persistence.Partition, epoch persistence.Epoch, err error) {
			n.log.Warn("partition lost", "partition", p, "epoch", epoch, "error", err)
			n.renewal.poke()
		},
		OnCommitted: committed, Inline: eventsourcing.InlineStatements(n.config.Projections...),
		OnStoreBack: func() {
			n.recoveries.Add(1)
			n.news.Announce()
		},
	})
	if err != nil {
		return errors.Join(err, life.unlock())
	}
	if err := n.store.Join(ctx, member); err != nil {
		return errors.Join(err, life.host.Stop(ctx), life.unlock())
	}
	n.name.Store(id)
	n.hosts.begin(life.host)
	n.life.Store(life)
	return nil
}

// newID names an incarnation. It is a UUID of version 7, like a command id.
func (n *Node) newID() persistence.NodeID {
	var id aggregate.CommandID
	binary.BigEndian.PutUint64(id[:8], uint64(n.clock.Wall().UnixMilli())<<16|0x7000|n.random()&0x0fff)
	binary.BigEndian.PutUint64(id[8:], n.random()&^(3<<62)|2<<62)
	return persistence.NodeID(id.String())
}

// abandonLife ends an incarnation that was evicted: nothing of it answers any
// more, and what it had in flight is fenced off by whoever owns it now.
func (n *Node) abandonLife(l *life) {
	n.life.CompareAndSwap(l, nil)
	l.host.DropLease()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, f := range l.host.Owned() {
		l.host.Lose(f.Partition)
		n.endProjecting(ended, f.Partition)
	}
	if err := l.host.Stop(ended); err != nil {
		n.log.Warn("evicted incarnation ended with calls in flight", "error", err)
	}
	n.hosts.end(l.host)
	n.deaths.note(l.id)
	n.contacts.forget()
	n.endSessions() // the others do not know us any more and drop their replies
	if err := l.unlock(); err != nil {
		n.log.Warn("lock file not removed", "error", err)
	}
}

// unlock gives up the lock file of an incarnation that is over.
func (l *life) unlock() error {
	l.unlockOnce.Do(func() {
		if l.unlocks != nil {
			l.unlockErr = l.unlocks()
		}
	})
	return l.unlockErr
}

func (n *Node) state() persistence.NodeState {
	switch {
	case n.draining.Load():
		return persistence.Draining
	case !n.projecting():
		return persistence.Joining
	}
	return persistence.Active
}

// Lost implements Receiver: a broken connection is a hint to look who is alive.
func (n *Node) Lost(address string) {
	for _, p := range n.peersAt(address) {
		n.contacts.dropped(p.id, true)
		if n.contacts.avoided(p.id) {
			continue // nothing that is awaited went over it
		}
		p.endSession()
		if n.closing.Load() {
			p.partWith() // whatever it waited for was lost with the connection
		}
	}
	n.contacts.broke(address)
	n.renewal.poke()
}

// Stop leaves the cluster: it hands its partitions over, answers what it has
// admitted, and ends all its goroutines. When ctx ends first it leaves all the
// same, and the error says what was cut short. Stopping twice is harmless. The
// store stays open.
func (n *Node) Stop(ctx context.Context) error {
	n.stopOnce.Do(func() { n.stopErr = n.stop(ctx) })
	return n.stopErr
}

func (n *Node) stop(ctx context.Context) error {
	n.draining.Store(true)
	var errs []error
	if n.life.Load() != nil {
		n.renewal.renew(ctx) // the others know, and we know who they are
	}
	n.parking.reviewAll() // nothing is on its way here any more
	life := n.life.Load() // there is no other to come
	if life != nil {
		errs = append(errs, n.evacuate(ctx, life))
		left := life.host.Owned() // nobody has taken them
		for _, f := range left {
			n.giving.Store(f.Partition, f.Epoch)
		}
		errs = append(errs, life.host.Stop(ctx))
		projecting, cancel := n.seams.Timeout(context.WithoutCancel(ctx), drainTimeout)
		for _, f := range left {
			n.endProjecting(projecting, f.Partition)
		}
		cancel()
		n.giving.Clear()
		n.goodbye(ctx)
		leave, cancelLeave := n.seams.Timeout(context.WithoutCancel(ctx), storeTimeout)
		errs = append(errs, n.store.Leave(leave, life.id))
		cancelLeave()
		n.hangUp()
	}
	errs = append(errs, n.end())
	if life != nil {
		errs = append(errs, life.unlock())
	}
	n.log.Info("node stopped", "node", n.ID())
	return errors.Join(errs...)
}

// end stops what Start has started, but for the incarnation.
func (n *Node) end() error {
	n.closing.Store(true)
	close(n.done)
	n.cancel()
	n.peers.mu.Lock()
	n.peers.closed = true
	for _, p := range n.peers.sorted() {
		p.shut()
	}
	n.peers.mu.Unlock()
	for _, c := range n.couriers {
		c.Stop()
	}
	if n.projector != nil {
		ctx, cancel := n.seams.Timeout(context.Background(), drainTimeout)
		n.projector.Stop(ctx)
		cancel()
	}
	n.background.Wait()
	n.network.Stop()
	return n.unpublish()
}

// evacuate hands every partition to the nodes that stay.
func (n *Node) evacuate(ctx context.Context, life *life) error {
	n.claims.turn.Lock()
	defer n.claims.turn.Unlock()
	n.claims.outlast(life) // what is released needs no hold
	for range evacuations {
		moves := n.farewellMoves(life)
		n.claims.prepare(ctx, life, moves)
		var kept atomic.Int64
		n.claims.each(moves, func() bool { return ctx.Err() != nil }, func(m partition.Move) {
			if !n.claims.handOver(ctx, life, m) {
				kept.Add(1)
			}
		})
		if kept.Load() == 0 || ctx.Err() != nil {
			break
		}
		n.renewal.renew(ctx) // a node that was to have some is leaving too: to whom else?
	}
	return ctx.Err()
}

// evacuations is how often a leaving node tries to find a next owner for what it
// has. What nobody takes is released with its leave.
const evacuations = 3

// farewellMoves is who takes what from a node that leaves.
func (n *Node) farewellMoves(life *life) (moves []partition.Move) {
	view := n.view.Load()
	if view == nil {
		return nil
	}
	members := partition.Members(view.list)
	for i := range members {
		if members[i].ID == life.id {
			members[i].Weight = partition.NoShare
		}
	}
	for _, m := range partition.Moves(n.table.Rows(), members, partition.Balanced, life.id) {
		if m.From == life.id {
			moves = append(moves, m)
		}
	}
	return moves
}

func (n *Node) stopped() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// ID is the node's present incarnation; empty between two of them. Stop leaves
// it as it is: afterwards it tells the last one.
func (n *Node) ID() persistence.NodeID {
	if life := n.life.Load(); life != nil {
		return life.id
	}
	return ""
}

// Address is where peers reach the node.
func (n *Node) Address() string { return n.address }

// Cluster is protoactor's cluster, for programs that use it directly: its
// Request reaches the same aggregates. Nil when Config.Network is set.
func (n *Node) Cluster() *protocluster.Cluster { return n.cluster }

// Members lists the nodes of the last view, this one included.
func (n *Node) Members() []persistence.Node {
	if view := n.view.Load(); view != nil {
		return append([]persistence.Node(nil), view.list...)
	}
	return nil
}

// Partitions lists who owns what, as far as this node knows.
func (n *Node) Partitions() []persistence.Ownership { return n.table.Rows() }

// Owner tells who owns the partition of an aggregate, as far as this node knows.
// Neither the aggregate nor its type need exist: every name has a partition. The
// Owner in it is empty when nobody has the partition.
func (n *Node) Owner(aggregateType, id string) persistence.Ownership {
	return n.table.Owner(persistence.PartitionOf(persistence.Stream{Type: aggregateType, ID: id}, n.partitions))
}

func (n *Node) random() uint64 {
	n.randMu.Lock()
	defer n.randMu.Unlock()
	return n.rand.Uint64()
}

func (n *Node) jitter(most time.Duration) time.Duration {
	n.randMu.Lock()
	defer n.randMu.Unlock()
	return time.Duration(n.rand.Int64N(int64(most)))
}

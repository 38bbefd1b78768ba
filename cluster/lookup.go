package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	protocluster "github.com/asynkron/protoactor-go/cluster"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// provider is protoactor's ClusterProvider over the store's node table: the
// membership loop feeds it, and it feeds protoactor's member list.
type provider struct {
	up   chan struct{} // closed when protoactor is ready for members
	once sync.Once

	mu      sync.Mutex
	cluster *protocluster.Cluster
}

var _ protocluster.ClusterProvider = (*provider)(nil)

func newProvider() *provider { return &provider{up: make(chan struct{})} }

// StartMember implements protocluster.ClusterProvider.
func (p *provider) StartMember(c *protocluster.Cluster) error {
	p.mu.Lock()
	p.cluster = c
	p.mu.Unlock()
	p.once.Do(func() { close(p.up) })
	return nil
}

// StartClient implements protocluster.ClusterProvider: a client is a node with
// no share of the partitions, so there is no such thing.
func (p *provider) StartClient(*protocluster.Cluster) error {
	return fmt.Errorf("cluster: use cluster.Start")
}

// Shutdown implements protocluster.ClusterProvider. Leaving is the node's
// business, and done before.
func (p *provider) Shutdown(bool) error { return nil }

// feed gives protoactor the members of a view.
func (p *provider) feed(nodes []persistence.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cluster == nil {
		return
	}
	members := make(protocluster.Members, 0, len(nodes))
	for _, n := range nodes {
		host, port, err := splitAddress(n.Address)
		if err != nil {
			continue
		}
		members = append(members, &protocluster.Member{Host: host, Port: int32(port), Id: string(n.ID), Kinds: n.Types})
	}
	p.cluster.MemberList.UpdateClusterTopology(members)
}

// identityLookup is protoactor's IdentityLookup over the partition table: the
// kind is the aggregate type, the identity its id, and the PID the one
// activation, brought to life if need be.
type identityLookup struct{ node *Node }

var _ protocluster.IdentityLookup = identityLookup{}

// lookupTimeout bounds how long a caller of Get is kept.
const lookupTimeout = 2 * time.Second

// Get implements protocluster.IdentityLookup. It returns nil when the type is
// unknown or no owner is found in time; protoactor asks again.
func (l identityLookup) Get(ci *protocluster.ClusterIdentity) *proto.PID {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	pid, err := l.node.PID(ctx, ci.Kind, ci.Identity)
	if err != nil {
		return nil
	}
	return pid
}

// RemovePid implements protocluster.IdentityLookup.
func (identityLookup) RemovePid(*protocluster.ClusterIdentity, *proto.PID) {}

// Setup implements protocluster.IdentityLookup.
func (identityLookup) Setup(*protocluster.Cluster, []string, bool) {}

// Shutdown implements protocluster.IdentityLookup.
func (identityLookup) Shutdown() {}

// requests is protoactor's cluster.Context over the node's own delivery, so that
// cluster.Request reaches the same grains with the same guarantees: routing by
// the partition table, one command id for all attempts, no lost calls.
//
// The message is a registered command or query of the kind, by value. A command
// yields an aggregate.Receipt, a query its answer.
type requests struct{ node *Node }

var _ protocluster.Context = requests{}

// Request implements protocluster.Context. Of the options only the timeout
// counts.
func (r requests) Request(identity, kind string, message any, options ...protocluster.GrainCallOption) (any, error) {
	config := protocluster.GrainCallConfig{Timeout: r.node.config.CallTimeout}
	for _, o := range options {
		o(&config)
	}
	d := r.node.types[kind]
	if d == nil {
		return nil, aggregate.Invalid(aggregate.ReasonUnknownType, fmt.Errorf("no aggregate type %q", kind))
	}
	m := d.MessageOf(message)
	if m == nil || m.Kind() == aggregate.KindEvent {
		return nil, aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("%T is no command or query of aggregate %q", message, kind))
	}
	request := &aggregate.Request{
		Definition: d, ID: identity, Message: m, Value: message, Answer: m.Kind() == aggregate.KindQuery, Expect: -1,
	}
	if !request.Answer {
		request.Command = aggregate.NewCommandID()
	}
	ctx, cancel := context.WithTimeout(context.Background(), config.Timeout)
	defer cancel()
	response, err := r.node.Deliver(ctx, request)
	switch {
	case err != nil:
		return nil, err
	case request.Answer:
		return response.Answer, nil
	}
	return response.Receipt, nil
}

// RequestFuture implements protocluster.Context: the future is completed with
// the response of Request, or with its error as a message.
func (r requests) RequestFuture(identity, kind string, message any, options ...protocluster.GrainCallOption) (proto.Future, error) {
	config := protocluster.GrainCallConfig{Timeout: r.node.config.CallTimeout}
	for _, o := range options {
		o(&config)
	}
	n := r.node
	n.peers.mu.RLock() // Stop waits for no goroutine that is started later
	defer n.peers.mu.RUnlock()
	if n.peers.closed {
		return nil, aggregate.NotDone(aggregate.ReasonStopping, nil)
	}
	future := proto.NewFuture(n.system, config.Timeout)
	n.background.Go(func() {
		result, err := r.Request(identity, kind, message, options...)
		if err != nil {
			result = err
		}
		n.system.Root.Send(future.PID(), result)
	})
	return future, nil
}

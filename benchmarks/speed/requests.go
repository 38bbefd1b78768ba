package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	protocluster "github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/cluster/identitylookup/disthash"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// requests is protoactor's own cluster of two processes: this one asks, the
// actors live in the other, which alone has their kind.
type requests struct {
	child    *child
	cluster  *protocluster.Cluster
	provider *fixedMembers
	answered atomic.Int64
}

// echoKind is the kind of the actors.
const echoKind = "echo"

func (b *bench) startRequests(ctx context.Context) (_ *requests, err error) {
	r := &requests{}
	if r.child, err = b.startChild(ctx, "member", 0); err != nil {
		return nil, err
	}
	r.cluster, r.provider = newProtoCluster()
	r.cluster.StartMember()
	var there Peer
	if err := r.child.call(ctx, "Meet", r.provider.self(), &there); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	r.provider.meet(there)
	// The first request to each actor brings it to life. Views take a moment.
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for i := range remoteCallers {
		for r.request(i) != nil {
			if ready.Err() != nil {
				return nil, errors.Join(fmt.Errorf("actor %d does not answer: %w", i, ready.Err()), r.stop())
			}
		}
	}
	return r, nil
}

func (r *requests) request(i int) error {
	message := &wrapperspb.BytesValue{Value: make([]byte, remoteBytes)}
	reply, err := r.cluster.Request(accountID(i), echoKind, message)
	if err != nil {
		return err
	}
	if echo, ok := reply.(*wrapperspb.BytesValue); !ok || len(echo.Value) != remoteBytes {
		return fmt.Errorf("the reply is a %T", reply)
	}
	r.answered.Add(1)
	return nil
}

func (r *requests) run(ctx context.Context, d time.Duration) (s sample, err error) {
	s.n, s.elapsed, err = closedLoop(ctx, d, remoteCallers, r.request)
	return s, err
}

// check compares what the actors have handled with what was answered. A request
// that protoactor gave up and sent again may have been handled twice.
func (r *requests) check(ctx context.Context) error {
	var handled int64
	if err := r.child.call(ctx, "Handled", struct{}{}, &handled); err != nil {
		return err
	}
	if answered := r.answered.Load(); handled < answered {
		return fmt.Errorf("%d requests answered, but only %d handled", answered, handled)
	}
	return nil
}

func (r *requests) stop() error {
	if r.cluster != nil {
		r.cluster.Shutdown(false)
	}
	return r.child.stop()
}

// Member is the child: the process in which the actors live.
type Member struct {
	cluster  *protocluster.Cluster
	provider *fixedMembers
	handled  *atomic.Int64
}

func newMember(context.Context) (service, error) {
	m := &Member{handled: new(atomic.Int64)}
	m.cluster, m.provider = newProtoCluster(protocluster.NewKind(echoKind, proto.PropsFromFunc(func(c proto.Context) {
		if message, ok := c.Message().(*wrapperspb.BytesValue); ok {
			m.handled.Add(1)
			c.Respond(message)
		}
	})))
	m.cluster.StartMember()
	return m, nil
}

// Meet makes the two processes a cluster.
func (m *Member) Meet(other Peer, self *Peer) error {
	*self = m.provider.self()
	m.provider.meet(other)
	return nil
}

// Handled counts the requests that actors have handled.
func (m *Member) Handled(_ struct{}, n *int64) error {
	*n = m.handled.Load()
	return nil
}

func (m *Member) close() error {
	m.cluster.Shutdown(false)
	return nil
}

// newProtoCluster is protoactor's cluster as shipped, with its own lookup.
func newProtoCluster(kinds ...*protocluster.Kind) (*protocluster.Cluster, *fixedMembers) {
	provider := &fixedMembers{}
	config := protocluster.Configure("speed", provider, disthash.New(), remote.Configure("127.0.0.1", 0), protocluster.WithKinds(kinds...))
	return protocluster.New(proto.NewActorSystem(proto.WithLoggerFactory(quiet)), config), provider
}

// Peer is a member, as the processes tell each other.
type Peer struct {
	ID    string
	Host  string
	Port  int
	Kinds []string
}

// fixedMembers is the simplest of protoactor's cluster providers: the two
// members are told to each other and stay.
type fixedMembers struct{ cluster *protocluster.Cluster }

func (p *fixedMembers) StartMember(c *protocluster.Cluster) error {
	p.cluster = c
	p.meet()
	return nil
}

func (p *fixedMembers) StartClient(*protocluster.Cluster) error {
	return errors.New("there are only members")
}

func (p *fixedMembers) Shutdown(bool) error { return nil }

func (p *fixedMembers) self() Peer {
	host, port, err := p.cluster.ActorSystem.GetHostPort()
	if err != nil {
		panic(err) // protoactor made the address itself
	}
	return Peer{p.cluster.ActorSystem.ID, host, port, p.cluster.GetClusterKinds()}
}

// meet tells protoactor who is there: this process and the others.
func (p *fixedMembers) meet(others ...Peer) {
	var members protocluster.Members
	for _, m := range append(others, p.self()) {
		members = append(members, &protocluster.Member{Id: m.ID, Host: m.Host, Port: int32(m.Port), Kinds: m.Kinds})
	}
	p.cluster.MemberList.UpdateClusterTopology(members)
}

package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"
	protocluster "github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// Network carries envelopes between nodes: each at most once, in any order, or
// never. Implementations are safe for concurrent use.
type Network interface {
	// Start begins to hand arriving envelopes to the receiver and returns the
	// address under which peers reach it.
	Start(r Receiver) (address string, err error)
	// Send tries to deliver an envelope, without blocking and without keeping
	// the caller informed. It owns the envelope.
	Send(address string, envelope *wire.Envelope)
	// Stop ends sending and receiving.
	Stop()
}

// Receiver is the node, as its network sees it.
type Receiver interface {
	// Receive handles an envelope. It does not block.
	Receive(envelope *wire.Envelope)
	// Lost tells that the connection to an address broke, and with it perhaps
	// some envelopes in either direction.
	Lost(address string)
}

// Prober is implemented by a [Network] that can tell whether anybody listens at
// an address. Without it a peer that is gone is noticed by its silence only.
type Prober interface {
	// Probe connects to the address and hangs up. An error that wraps
	// syscall.ECONNREFUSED is the word of that machine that nobody listens there;
	// any other says nothing about the peer.
	Probe(ctx context.Context, address string) error
}

// endpoint is the name of a node's process in protoactor's registry.
const endpoint = "ingrain"

// protoNetwork is protoactor's remote: one stream in each direction between any
// two nodes.
type protoNetwork struct {
	system   *proto.ActorSystem
	cluster  *protocluster.Cluster
	provider *provider
	receiver Receiver
	started  chan struct{} // closed when StartMember has returned
}

// packing of protoactor's endpoint writer, which by default is far too generous
// with memory for each peer
const (
	writerBatch = 256
	writerQueue = 1024
)

func newProtoNetwork(system *proto.ActorSystem, config *Config, p *provider, lookup protocluster.IdentityLookup,
	producer protocluster.ContextProducer,
) (*protoNetwork, error) {
	host, port, err := splitAddress(config.Listen)
	if err != nil {
		return nil, fmt.Errorf("cluster: Config.Listen %q: %w", config.Listen, err)
	}
	// envelopes are packed up to packBytes, or one call, and batched by protoactor
	limit := (config.MaxPayload + packBytes) * writerBatch
	options := []remote.ConfigOption{
		remote.WithEndpointWriterBatchSize(writerBatch), remote.WithEndpointWriterQueueSize(writerQueue),
		remote.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(limit)),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second, PermitWithoutStream: true})),
		remote.WithServerOptions(grpc.MaxRecvMsgSize(limit), grpc.MaxSendMsgSize(limit),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 2 * time.Second})),
	}
	if config.Advertise != "" {
		options = append(options, remote.WithAdvertisedHost(config.Advertise))
	}
	remoteConfig := remote.Configure(host, port, options...)
	remoteConfig.MaxRetryCount = 1
	n := &protoNetwork{system: system, provider: p, started: make(chan struct{})}
	n.cluster = protocluster.New(system, protocluster.Configure(config.Name, p, lookup, remoteConfig,
		protocluster.WithClusterContextProducer(producer)))
	return n, nil
}

// Start implements Network.
func (n *protoNetwork) Start(r Receiver) (string, error) {
	// protoactor panics on a taken port; find out first
	config := n.cluster.Config.RemoteConfig
	probe, err := net.Listen("tcp", net.JoinHostPort(config.Host, strconv.Itoa(config.Port)))
	if err == nil {
		err = probe.Close()
	}
	if err != nil {
		close(n.started) // Stop waits for nothing
		return "", fmt.Errorf("cluster: cannot listen for peers: %w", err)
	}
	n.receiver = r
	n.system.ProcessRegistry.Add(ingress{r}, endpoint)
	n.system.EventStream.Subscribe(func(event any) {
		if lost, ok := event.(*remote.EndpointTerminatedEvent); ok {
			r.Lost(lost.Address)
		}
	})
	failed := make(chan error, 1)
	go func() {
		defer close(n.started)
		defer func() {
			if p := recover(); p != nil {
				failed <- fmt.Errorf("cluster: cannot listen for peers: %v", p)
			}
		}()
		n.cluster.StartMember() // sleeps for a second when all is done
	}()
	select {
	case <-n.provider.up:
		return n.system.Address(), nil
	case err := <-failed:
		return "", err
	}
}

// Send implements Network.
func (n *protoNetwork) Send(address string, envelope *wire.Envelope) {
	n.system.Root.Send(&proto.PID{Address: address, Id: endpoint}, envelope)
}

// Probe implements Prober.
func (n *protoNetwork) Probe(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Stop implements Network.
func (n *protoNetwork) Stop() {
	<-n.started
	if n.cluster.Remote != nil {
		n.cluster.Shutdown(false)
	}
}

// ingress is the process that protoactor's remote delivers envelopes to. It has
// no mailbox: calls have queues of their own, and replies need none.
type ingress struct{ receiver Receiver }

func (i ingress) SendUserMessage(_ *proto.PID, message any) {
	if e, ok := proto.UnwrapEnvelopeMessage(message).(*wire.Envelope); ok {
		i.receiver.Receive(e)
	}
}
func (ingress) SendSystemMessage(*proto.PID, any) {}
func (ingress) Stop(*proto.PID)                   {}

func splitAddress(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is not a number from 0 to 65535", p)
	}
	return host, int(n), nil
}

// newSystem is an actor system whose own chatter is dropped: it logs every
// retry as an error. What matters is logged by the node.
func newSystem() *proto.ActorSystem {
	return proto.NewActorSystem(proto.WithLoggerFactory(func(*proto.ActorSystem) *slog.Logger {
		return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 4}))
	}))
}

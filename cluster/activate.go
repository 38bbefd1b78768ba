package cluster

import (
	"context"
	"fmt"

	proto "github.com/asynkron/protoactor-go/actor"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/persistence"
)

// PID finds the activation of an aggregate, here or on another node, and brings
// it to life if need be. A PID is good for as long as the aggregate neither moves
// nor passivates; what is sent to it later becomes a dead letter. Prefer Ref.
func (n *Node) PID(ctx context.Context, aggregateType, id string) (*proto.PID, error) {
	d := n.types[aggregateType]
	if d == nil {
		return nil, aggregate.Invalid(aggregate.ReasonUnknownType, fmt.Errorf("no aggregate type %q", aggregateType))
	}
	if err := aggregate.CheckID(id); err != nil {
		return nil, err
	}
	stream := persistence.Stream{Type: aggregateType, ID: id}
	p := persistence.PartitionOf(stream, n.partitions)
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		if life := n.life.Load(); life != nil {
			if pid := life.host.PID(d, stream, p); pid != nil {
				return pid, nil
			}
		}
		owner := n.table.Owner(p)
		if peer := n.peerOf(owner.Owner); peer != nil {
			reply, err := n.ask(ctx, peer, &wire.Kind{Type: aggregateType}, &wire.Call{Id: id, Activate: true, Epoch: int64(owner.Epoch)})
			switch {
			case err == nil && reply.Pid != "":
				return proto.NewPID(peer.address, reply.Pid), nil
			case err == nil && reply.NotOwner != nil:
				n.learn(persistence.Ownership{
					Partition: p, Epoch: persistence.Epoch(reply.NotOwner.Epoch), Owner: persistence.NodeID(reply.NotOwner.Owner),
				})
			case err == nil && reply.Error != nil:
				return nil, decodeError(reply.Error)
			}
		}
		if !n.wait(ctx, n.news.Listen(), pause) {
			return nil, aggregate.NotDone(aggregate.ReasonNoOwner, fmt.Errorf("no owner of %s was found in time", stream))
		}
	}
}

// activate answers a peer that asked for an activation.
func (n *Node) activate(life *life, from *peer, c *wire.Call, d *aggregate.Definition, stream persistence.Stream) {
	reply := &wire.Reply{Number: c.Number}
	p := persistence.PartitionOf(stream, n.partitions)
	if err := aggregate.CheckID(c.Id); err != nil {
		reply.Error = encodeError(err)
	} else if pid := life.host.PID(d, stream, p); pid != nil {
		reply.Pid = pid.Id
	} else {
		known := n.table.Owner(p)
		reply.NotOwner = &wire.NotOwner{Partition: int32(p), Epoch: int64(known.Epoch), Owner: string(known.Owner)}
	}
	from.reply(reply)
}

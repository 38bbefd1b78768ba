package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// Erase takes what an aggregate's events say out of the log, on whichever node it
// lives, with its snapshot, timers, claims and dead letters, and returns the
// version that it had. The events keep their places, so that the log stays whole;
// the aggregate begins anew at version 0. A command on its way lands before, and is
// erased too, or after, as the new aggregate's first. What projections made of the
// events stays until they are rebuilt; archives and backups stay as they are.
//
// Erasing again is harmless. An error of kind unknown says that it may have
// happened.
func (n *Node) Erase(ctx context.Context, aggregateType, id string) (aggregate.Version, error) {
	d := n.types[aggregateType]
	if d == nil {
		return 0, aggregate.Invalid(aggregate.ReasonUnknownType, fmt.Errorf("no aggregate type %q", aggregateType))
	}
	if err := aggregate.CheckID(id); err != nil {
		return 0, err
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.config.CallTimeout)
		defer cancel()
	}
	stream := persistence.Stream{Type: aggregateType, ID: id}
	p := persistence.PartitionOf(stream, n.partitions)
	var doubt error // an attempt may yet have its effect
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		if life := n.life.Load(); life != nil {
			version, err := life.host.Erase(ctx, d, stream, p)
			if !errors.Is(err, actor.ErrNotServed) {
				return aggregate.Version(version), doubted(doubt, err)
			}
		}
		owner := n.table.Owner(p)
		if peer := n.peerOf(owner.Owner); peer != nil {
			reply, err := n.ask(ctx, peer, &wire.Kind{Type: aggregateType}, &wire.Call{Id: id, Erase: true, Epoch: int64(owner.Epoch)})
			switch {
			case err != nil:
				if aggregate.KindOf(err) == aggregate.KindUnknown {
					doubt = err
				}
			case reply.NotOwner != nil:
				n.learn(persistence.Ownership{
					Partition: p, Epoch: persistence.Epoch(reply.NotOwner.Epoch), Owner: persistence.NodeID(reply.NotOwner.Owner),
				})
			case reply.Error != nil:
				return 0, doubted(doubt, decodeError(reply.Error))
			default:
				return aggregate.Version(reply.Version), nil
			}
		}
		if !n.wait(ctx, n.news.Listen(), pause) {
			if doubt != nil {
				return 0, doubt
			}
			return 0, aggregate.NotDone(aggregate.ReasonNoOwner, fmt.Errorf("no owner of %s was found in time", stream))
		}
	}
}

// doubted is the error of an attempt after another whose outcome is not known.
func doubted(doubt, err error) error {
	if doubt != nil && aggregate.KindOf(err) == aggregate.KindNotDone {
		return doubt
	}
	return err
}

// eraseFor answers a peer that asked for an erasure.
func (n *Node) eraseFor(life *life, from *peer, c *wire.Call, d *aggregate.Definition, stream persistence.Stream) {
	patience := n.config.CallTimeout
	if c.Patience > 0 {
		patience = min(patience, time.Duration(c.Patience)*time.Microsecond)
	}
	ctx, cancel := n.seams.Timeout(context.Background(), patience)
	defer cancel()
	reply := &wire.Reply{Number: c.Number}
	p := persistence.PartitionOf(stream, n.partitions)
	err := aggregate.CheckID(c.Id)
	if err == nil {
		var version persistence.Version
		version, err = life.host.Erase(ctx, d, stream, p)
		reply.Version = int64(version)
	}
	switch {
	case errors.Is(err, actor.ErrNotServed):
		known := n.table.Owner(p)
		reply.NotOwner = &wire.NotOwner{Partition: int32(p), Epoch: int64(known.Epoch), Owner: string(known.Owner)}
	case err != nil:
		reply.Error = encodeError(err)
	}
	from.reply(reply)
}

// errNothingSealed says that no aggregate type of this node has a Sealed part.
var errNothingSealed = errors.New("no aggregate type of this node is sealed")

// Forget destroys a subject's key. When it returns, no node can read what was
// sealed for the subject: events, snapshots, and the state of aggregates that were
// in memory, which leave it. It takes Config.KeyFresh, for the sake of nodes that
// cannot be told. Causes in dead letters of the subject's events are taken out.
//
// The subject's aggregates are refused from then on as not done, with the reason
// "forgotten"; projections and readers pass their events over. What tables and
// views made of the events before is theirs: rebuild them. Forgetting again is
// harmless. [eventsourcing.VerifyForgotten] shows that it was done.
func (n *Node) Forget(ctx context.Context, subject string) error {
	if n.vault == nil {
		return aggregate.Invalid(aggregate.ReasonUnknownType, errNothingSealed)
	}
	if err := n.vault.Forget(ctx, subject); err != nil {
		return err
	}
	return eventsourcing.PurgeDeadLetters(ctx, n.store, n.definition, subject)
}

// Vault opens what the node's aggregates seal, for an [eventsourcing.Reader]. It is
// nil when nothing is sealed.
func (n *Node) Vault() *eventsourcing.Vault { return n.vault }

func (n *Node) definition(name string) *aggregate.Definition { return n.types[name] }

// startVault makes the vault if some type needs it, and keeps its keys fresh.
func (n *Node) startVault() {
	for _, d := range n.types {
		if !d.Seals() {
			continue
		}
		keys := n.config.Keys
		if keys == nil {
			keys = n.store
		}
		n.vault = eventsourcing.NewVault(keys, eventsourcing.VaultConfig{Fresh: n.config.KeyFresh})
		ctx, cancel := context.WithCancel(context.Background())
		n.background.Go(func() { n.vault.Run(ctx) })
		n.background.Go(func() {
			<-n.done
			cancel()
		})
		return
	}
}

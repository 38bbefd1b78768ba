package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// delivery is one request on its way to its aggregate, over as many attempts as
// the caller's patience allows. All attempts carry the same command id.
type delivery struct {
	node      *Node
	ctx       context.Context
	request   *aggregate.Request
	stream    persistence.Stream
	partition persistence.Partition
	payload   []byte // encoded once, at the first remote attempt
	metadata  []byte
	encoded   bool
	// at the last attempt
	seen       persistence.Epoch // of the partition
	recoveries uint64            // of the store, as this node has noticed them
}

// Deliver implements aggregate.Gateway.
func (n *Node) Deliver(ctx context.Context, request *aggregate.Request) (aggregate.Response, error) {
	if n.config.Tracer != nil {
		return n.traced(ctx, request)
	}
	return n.deliver(ctx, request)
}

func (n *Node) deliver(ctx context.Context, request *aggregate.Request) (aggregate.Response, error) {
	if known := n.types[request.Definition.Name()]; known != request.Definition {
		err := fmt.Errorf("aggregate type %q is not among this node's Config.Aggregates", request.Definition.Name())
		if known != nil {
			err = fmt.Errorf("%w: another definition of %q is; use the one the node was started with", err, known.Name())
		}
		return aggregate.Response{}, aggregate.Invalid(aggregate.ReasonUnknownType, err)
	}
	stream := persistence.Stream{Type: request.Definition.Name(), ID: request.ID}
	d := delivery{
		node: n, ctx: ctx, request: request, stream: stream, partition: persistence.PartitionOf(stream, n.partitions),
	}
	if err := ctx.Err(); err != nil {
		return aggregate.Response{}, aggregate.NotDone(aggregate.ReasonDeadline, err)
	}
	if n.closing.Load() {
		return aggregate.Response{}, aggregate.NotDone(aggregate.ReasonStopping, nil)
	}
	result := d.attempt()
	if result.Err != nil && d.again(&result) {
		result = d.persist(result)
	}
	return result.Response, result.Err
}

// attempt asks whoever is believed to own the partition, once.
func (d *delivery) attempt() actor.Result {
	n := d.node
	d.recoveries = n.recoveries.Load()
	if life := n.life.Load(); life != nil {
		if epoch := life.host.Epoch(d.partition); epoch != 0 {
			d.seen = epoch
			return d.local(life.host, epoch)
		}
	}
	owner := n.table.Owner(d.partition)
	d.seen = owner.Epoch
	peer := n.peerOf(owner.Owner)
	if peer == nil {
		return actor.Result{Err: errNoOwner}
	}
	return d.remote(peer, owner.Epoch)
}

var errNoOwner = aggregate.NotDone(aggregate.ReasonNoOwner, nil)

// again reports whether a result is worth another attempt.
func (d *delivery) again(r *actor.Result) bool {
	if r.NotOwner {
		return true
	}
	var f *aggregate.Failure
	if !errors.As(r.Err, &f) {
		return false
	}
	switch f.Reason {
	case aggregate.ReasonNoOwner, aggregate.ReasonMoved, aggregate.ReasonConflict, aggregate.ReasonStoreDown,
		aggregate.ReasonStopping, aggregate.ReasonConnection, aggregate.ReasonOutcome:
		return true
	}
	return false
}

// The pause between attempts begins at retryFirst, doubles up to retryMost, and
// is cut short by news: about the partition table, or that the store is back. It
// is at least retryDown when the owner cannot reach the store, and retryLost when
// this node cannot either: then it will have the news.
const (
	retryFirst = time.Millisecond
	retryMost  = 100 * time.Millisecond
	retryDown  = 20 * time.Millisecond
	retryLost  = 500 * time.Millisecond
)

// persist asks again until the result is final or the caller's time is up. An
// attempt of unknown outcome casts a doubt that later refusals cannot lift: the
// first may yet take effect.
func (d *delivery) persist(result actor.Result) actor.Result {
	ctx, n := d.ctx, d.node
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = n.seams.Timeout(ctx, n.config.CallTimeout)
		defer cancel()
		d.ctx = ctx
	}
	doubt := aggregate.KindOf(result.Err) == aggregate.KindUnknown
	for pause, asked := retryFirst, persistence.Epoch(0); d.again(&result); pause = min(2*pause, retryMost) {
		news := n.news.Listen()
		if known := n.table.Owner(d.partition).Epoch; known > max(d.seen, asked) && ctx.Err() == nil && !n.stopped() {
			asked = known // at once, but once for each owner: the attempt may not have seen it
		} else if !n.wait(ctx, news, d.pause(&result, pause)) {
			return d.expired(result.Err, doubt)
		}
		n.stats.retries.Add(1)
		result = d.attempt()
		doubt = doubt || aggregate.KindOf(result.Err) == aggregate.KindUnknown
	}
	if doubt && aggregate.KindOf(result.Err) == aggregate.KindNotDone {
		return d.expired(result.Err, doubt)
	}
	if doubt && unversed(result.Err) {
		return actor.Result{Err: aggregate.UnknownOutcome(aggregate.ReasonOutcome, fmt.Errorf("asked again: %w", result.Err))}
	}
	return result
}

// unversed reports whether an owner does not know what it is asked for: it runs
// another version of the program, and can not tell what an owner before it has done.
func unversed(err error) bool {
	var f *aggregate.Failure
	return errors.As(err, &f) && f.Kind == aggregate.KindInvalid &&
		(f.Reason == aggregate.ReasonUnknownName || f.Reason == aggregate.ReasonUnknownType)
}

// pause is how long to wait after a result, unless there is news before.
func (d *delivery) pause(r *actor.Result, usual time.Duration) time.Duration {
	var f *aggregate.Failure
	if !errors.As(r.Err, &f) || f.Reason != aggregate.ReasonStoreDown {
		return usual
	}
	n := d.node
	if n.recoveries.Load() != d.recoveries {
		return retryFirst // the news came before anybody waited for it
	}
	if life := n.life.Load(); life != nil && life.host.StoreLost() {
		return retryLost
	}
	return max(usual, retryDown)
}

// expired is the error of a caller whose time is up.
func (d *delivery) expired(last error, doubt bool) actor.Result {
	last = fmt.Errorf("gave up after: %w", last)
	switch {
	case d.node.stopped():
		if !doubt {
			return actor.Result{Err: aggregate.NotDone(aggregate.ReasonStopping, last)}
		}
	case !doubt:
		return actor.Result{Err: aggregate.NotDone(aggregate.ReasonDeadline, last)}
	}
	return actor.Result{Err: aggregate.UnknownOutcome(aggregate.ReasonDeadline, last)}
}

// wait pauses between attempts, with jitter, or until there is news about the
// partition table. It reports whether there is any point in going on.
func (n *Node) wait(ctx context.Context, news <-chan struct{}, pause time.Duration) bool {
	over := make(chan struct{})
	stop := n.clock.AfterFunc(pause/2+n.jitter(pause), func() { close(over) })
	defer stop()
	select {
	case <-over:
	case <-news:
	case <-ctx.Done():
	case <-n.done:
	}
	return ctx.Err() == nil && !n.stopped()
}

// waiter is a caller in this process.
type waiter struct {
	call actor.Call
	done chan actor.Result // of one place: the first result counts

	// while in the queue of patience
	until          time.Duration
	before, behind *waiter
}

func newWaiter() any { return &waiter{done: make(chan actor.Result, 1)} }

// Reply implements actor.Replier.
func (w *waiter) Reply(_ *actor.Call, r actor.Result) {
	select {
	case w.done <- r:
	default: // the caller's patience is at its end
	}
}

// local asks the aggregate in this process: the value itself, unencoded, on the
// caller's own goroutine if the aggregate is idle.
func (d *delivery) local(host *actor.Host, epoch persistence.Epoch) actor.Result {
	n := d.node
	w := n.waiters.Get().(*waiter)
	w.call = actor.Call{Request: d.request, Stream: d.stream, Partition: d.partition, Epoch: epoch, Reply: w}
	deadline, limited := d.ctx.Deadline()
	if limited {
		left := time.Until(deadline)
		if left <= 0 {
			n.waiters.Put(w)
			return actor.Result{Err: aggregate.NotDone(aggregate.ReasonDeadline, context.DeadlineExceeded)}
		}
		w.call.Deadline = n.clock.Coarse() + left
	}
	n.stats.local.Add(1)
	host.DeliverInline(&w.call)
	var r actor.Result
	select {
	case r = <-w.done:
	default:
		if !limited {
			n.patience.begin(w)
		}
		select {
		case r = <-w.done:
		case <-d.ctx.Done():
			r.Err = aggregate.UnknownOutcome(aggregate.ReasonDeadline, d.ctx.Err())
		}
		if !limited {
			n.patience.end(w)
		}
		if d.ctx.Err() != nil || r.Err != nil && errors.Is(r.Err, errPatience) {
			return r // the waiter is not used again: a reply is still to come, or may be
		}
	}
	w.call = actor.Call{}
	n.waiters.Put(w)
	return r
}

// encode gives the request its wire form, once.
func (d *delivery) encode() error {
	if d.encoded {
		return nil
	}
	m := d.request.Message
	payload, err := eventsourcing.CodecFor(m).Marshal(d.request.Value)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, fmt.Errorf("encode %s %q: %w", m.Kind(), m.Name(), err))
	}
	if len(payload) > d.node.config.MaxPayload {
		return aggregate.Invalid(aggregate.ReasonTooLarge,
			fmt.Errorf("%s %q has %d bytes, the limit is %d", m.Kind(), m.Name(), len(payload), d.node.config.MaxPayload))
	}
	d.metadata, err = eventsourcing.EncodeMetadata(&d.request.Metadata)
	if err != nil {
		return aggregate.Invalid(aggregate.ReasonBadPayload, err)
	}
	d.payload, d.encoded = payload, true
	return nil
}

package main

import (
	"context"
	"errors"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
	"github.com/ingrain-go/ingrain/persistence"
)

const (
	// attemptPatience is how long one node may take before another is asked.
	attemptPatience = 2 * time.Second
	backoffLeast    = 2 * time.Millisecond
	backoffMost     = 100 * time.Millisecond
)

// operation is one command or query of a workload.
type operation struct {
	verb  verb
	id    string
	value int64
}

func (o *operation) stream() persistence.Stream {
	return persistence.Stream{Type: o.verb.typeOf(), ID: o.id}
}

func (o *operation) isCommand() bool { return o.verb < firstQuery }

// result is what became of an operation.
type result struct {
	outcome   check.Outcome
	uncertain bool // an attempt before the last ended unknown
	seq       uint64
	reply     reply // of the last attempt
	reason    string
	attempts  int
	call      int64 // nanoseconds since the client began; of a query the last attempt's
	end       int64
}

// do carries out an operation, through as many nodes as it takes, with one
// command id, until its outcome is known or its time is up.
func (d *driver) do(o *operation) result {
	ctx, cancel := context.WithTimeout(d.ctx, d.setup.Patience)
	defer cancel()
	r := result{call: d.now()}
	if o.isCommand() {
		r.seq = d.nextSeq.Add(1)
	}
	if o.verb == verbAdd || o.verb == verbClaim || o.verb == verbOrder {
		o.value = int64(r.seq)
	}
	stream := o.stream()
	key := stream.String()
	partition := int(persistence.PartitionOf(stream, d.setup.Partitions))
	d.began(partition, r.call)
	id := d.ids.ID(r.seq, 0, time.Now())
	backoff := backoffLeast
	var last *endpoint
	for {
		r.attempts++
		if !o.isCommand() {
			r.call = d.now()
		}
		if d.setup.Baseline.NoDedup && r.attempts > 1 {
			id = d.ids.ID(r.seq, r.attempts-1, time.Now())
		}
		floor := d.monitor.Ask(key)
		last = d.balancer.pick(last)
		kind, done := d.attempt(ctx, last, o, id, &r)
		r.end = d.now()
		if done {
			d.judge(key, o, floor, &r)
			break
		}
		r.uncertain = r.uncertain || kind == aggregate.KindUnknown
		if ctx.Err() != nil {
			r.outcome = check.Failed
			if r.uncertain && o.isCommand() {
				r.outcome = check.Unknown
			}
			break
		}
		wait := time.NewTimer(backoff)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
		backoff = min(backoff*2, backoffMost)
	}
	d.ended(partition, o, &r)
	return r
}

// attempt asks one node. It is done when the outcome is known for good.
func (d *driver) attempt(ctx context.Context, e *endpoint, o *operation, id aggregate.CommandID, r *result) (aggregate.Kind, bool) {
	if e == nil {
		r.reason = "no node"
		return aggregate.KindNotDone, false
	}
	ctx, cancel := context.WithTimeout(ctx, attemptPatience)
	defer cancel()
	deadline, _ := ctx.Deadline()
	answer, err := e.ask(ctx, &request{
		Verb: o.verb, ID: o.id, Value: o.value, Command: id, Micros: max(time.Until(deadline).Microseconds(), 1),
	})
	switch {
	case errors.Is(err, errNotSent):
		r.reason = "not sent"
		return aggregate.KindNotDone, false
	case err != nil:
		r.reason = err.Error()
		return aggregate.KindUnknown, false
	}
	r.reply, r.reason = *answer, answer.Reason
	switch answer.Kind {
	case aggregate.KindNone:
		r.outcome = check.OK
		return answer.Kind, true
	case aggregate.KindRejected:
		r.outcome = check.Rejected
		return answer.Kind, true
	case aggregate.KindInvalid:
		r.outcome = check.Failed
		if r.uncertain {
			r.outcome = check.Unknown
		}
		return answer.Kind, true
	}
	return answer.Kind, false
}

// judge gives an answer to the monitor.
func (d *driver) judge(key string, o *operation, floor check.Floor, r *result) {
	if r.outcome != check.OK || r.reply.Duplicate {
		return
	}
	answer := check.Answer{
		Version: r.reply.Version, Wrote: r.reply.Events > 0, Activation: r.reply.Seen.Activation,
	}
	if r.reply.Seen.Node != "" {
		answer.Process = check.Hash(r.reply.Seen.Node)
	}
	if v := d.monitor.Answer(key, floor, answer, d.wall(r.end)); v != nil {
		d.violation(*v)
	}
}

// command is what the ledger keeps of it.
func (d *driver) command(o *operation, r *result) check.Command {
	c := check.Command{
		Seq: r.seq, Call: d.wall(r.call), Return: d.wall(r.end), Stream: check.Hash(o.stream().String()),
		Outcome: r.outcome, Uncertain: r.uncertain, Claim: o.verb == verbClaim, Value: uint64(o.value),
	}
	switch r.outcome {
	case check.OK:
		c.Version, c.Offset, c.Partition = r.reply.Version, r.reply.Offset, r.reply.Partition
		c.Events, c.Duplicate = uint16(r.reply.Events), r.reply.Duplicate
		if r.reply.Seen.Node != "" {
			c.Node = check.Hash(r.reply.Seen.Node)
		}
	case check.Rejected:
		if c.Claim {
			c.Value = uint64(r.reply.Holder)
		}
	}
	return c
}

package actor

import (
	"fmt"

	proto "github.com/asynkron/protoactor-go/actor"

	"github.com/ingrain-go/ingrain/aggregate"
)

// foreign handles a message that some protoactor code sent to the grain's PID
// without going through a host: a registered command or query by value. The
// sender gets the answer of a query, the receipt of a command, or the error.
func (g *grain) foreign(ctx proto.Context, message any) {
	sender := ctx.Sender()
	m := g.def.MessageOf(message)
	reply := responder(func(r any) {
		if sender != nil {
			g.host.system.Root.Send(sender, r)
		}
	})
	if m == nil || m.Kind() == aggregate.KindEvent {
		reply(aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("%T is no command or query of aggregate %q", message, g.def.Name())))
		return
	}
	request := &aggregate.Request{
		Definition: g.def, ID: g.stream.ID, Message: m, Value: message, Expect: -1, Answer: m.Kind() == aggregate.KindQuery,
	}
	if m.Kind() == aggregate.KindCommand {
		request.Command = aggregate.NewCommandID()
	}
	g.host.Deliver(&Call{Request: request, Stream: g.stream, Partition: g.tenure.partition, Reply: reply})
}

type responder func(any)

// Reply implements Replier.
func (f responder) Reply(c *Call, r Result) {
	switch {
	case r.Err != nil:
		f(r.Err)
	case c.Request.Answer:
		f(r.Response.Answer)
	default:
		f(r.Response.Receipt)
	}
}

package simulation

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// links are the connections between machines, by direction.
type links struct {
	cut   map[[2]int]bool          // nothing gets through
	broke map[[2]int]time.Duration // when the connection broke last: what was sent before is gone
}

// port is a machine's end of the network.
type port struct {
	m        *machine
	receiver cluster.Receiver
}

// Start implements cluster.Network.
func (p *port) Start(r cluster.Receiver) (string, error) {
	p.receiver = r
	return p.m.address, nil
}

// Stop implements cluster.Network.
func (p *port) Stop() {}

// Send implements cluster.Network.
func (p *port) Send(address string, e *wire.Envelope) {
	m := p.m
	if m.crashed {
		return
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		panic(err) // what the node sends is its own
	}
	h := fnv.New64a()
	_, _ = h.Write(encoded)
	text := describe(e)
	m.w.post(m, fmt.Sprintf("send %s %x", address, h.Sum64()), func() { m.w.carry(m, address, e, encoded, text) })
}

// carry draws what becomes of an envelope.
func (w *world) carry(from *machine, address string, e *wire.Envelope, encoded []byte, text string) {
	to := w.machineAt(address)
	if from.crashed || to == nil {
		return
	}
	w.tally["envelopes"]++
	link := [2]int{from.index, to.index}
	copies := 1
	switch {
	case w.healed:
	case w.links.cut[link]:
		copies = 0
		if w.odds(20) { // the sender finds out
			w.at(w.now+w.latency(), from, func() { w.lostTo(from, to) })
		}
	case w.odds(w.plan.drop):
		copies = 0
	case w.odds(w.plan.double):
		copies = 2
		for _, c := range callsOf(e) { // a network keeps this from happening: no refusal is final then
			w.doubled[commandOf(c)] = true
		}
	}
	if copies != 1 {
		w.tally[fmt.Sprintf("envelopes x%d", copies)]++
	}
	w.note("send %s > %s %sx%d", from.name, to.name, text, copies)
	sent := w.now
	for range copies {
		w.at(w.now+w.latency(), to, func() {
			if to.crashed || to.port.receiver == nil || w.links.broke[link] > sent {
				return
			}
			decoded := &wire.Envelope{}
			if err := proto.Unmarshal(encoded, decoded); err != nil {
				panic(err)
			}
			go to.port.receiver.Receive(decoded)
		})
	}
}

// breakLink breaks the connection between two machines: what is on its way is
// lost, and both are told.
func (w *world) breakLink(a, b *machine) {
	w.note("break %s - %s", a.name, b.name)
	w.tally["breaks"]++
	w.links.broke[[2]int{a.index, b.index}], w.links.broke[[2]int{b.index, a.index}] = w.now, w.now
	w.at(w.now+w.latency(), a, func() { w.lostTo(a, b) })
	w.at(w.now+w.latency(), b, func() { w.lostTo(b, a) })
}

// lostTo gives a machine the hint that its connection to another broke.
func (w *world) lostTo(m, to *machine) {
	if m.crashed || m.port.receiver == nil {
		return
	}
	w.note("hint %s: lost %s", m.name, to.name)
	w.tally["hints"]++
	go m.port.receiver.Lost(to.address)
}

func (w *world) machineAt(address string) *machine {
	i := slices.IndexFunc(w.machines, func(m *machine) bool { return m.address == address })
	if i < 0 {
		return nil
	}
	return w.machines[i]
}

// callsOf are the calls of an envelope, and of those that it passes on.
func callsOf(e *wire.Envelope) []*wire.Call {
	calls, inner := e.Calls, e.Passed
	if e.Pass != nil {
		inner = append(inner, e.Pass.Envelope)
	}
	for _, encoded := range inner {
		passed := &wire.Envelope{}
		if err := proto.Unmarshal(encoded, passed); err != nil {
			panic(err)
		}
		calls = append(calls, callsOf(passed)...)
	}
	return calls
}

func commandOf(c *wire.Call) aggregate.CommandID { return commandID(c.CommandHigh, c.CommandLow) }

// describe puts an envelope into words.
func describe(e *wire.Envelope) string {
	var b strings.Builder
	for _, c := range e.Calls {
		fmt.Fprintf(&b, "call %s %x epoch %d, ", c.Id, c.CommandLow>>32, c.Epoch)
	}
	for _, r := range e.Replies {
		switch {
		case r.Error != nil:
			fmt.Fprintf(&b, "reply %s%s, ", "error ", r.Error.Code)
		case r.NotOwner != nil:
			fmt.Fprintf(&b, "not owner of %d epoch %d, ", r.NotOwner.Partition, r.NotOwner.Epoch)
		default:
			fmt.Fprintf(&b, "reply v%d o%d %s, ", r.Version, r.Offset, r.Result)
		}
	}
	for _, m := range e.Moved {
		fmt.Fprintf(&b, "moved %d epoch %d, ", m.Partition, m.Epoch)
	}
	for _, r := range e.Rows {
		fmt.Fprintf(&b, "row %d epoch %d, ", r.Partition, r.Epoch)
	}
	if e.Pass != nil {
		fmt.Fprintf(&b, "%d bytes to pass to %s, ", len(e.Pass.Envelope), e.Pass.To)
	}
	if len(e.Passed) > 0 {
		fmt.Fprintf(&b, "%d passed on, ", len(e.Passed))
	}
	if e.Unpassed != nil {
		fmt.Fprintf(&b, "unpassed to %s, ", e.Unpassed.To)
	}
	if e.Detoured {
		b.WriteString("detoured, ")
	}
	if e.Leaving {
		b.WriteString("leaving, ")
	}
	if e.Farewell {
		b.WriteString("farewell, ")
	}
	return b.String()
}

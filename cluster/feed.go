package cluster

import (
	"encoding/binary"
	"time"

	"github.com/ingrain-go/ingrain/cluster/internal/wire"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// The events that wait for a peer, at most. What comes beyond is dropped: the
// peer's views find it in the log.
const (
	eventsMost      = 8192
	eventBytesMost  = 4 << 20
	eventEnvelope   = 96 // bytes of an event besides what varies
	eventsPerPacket = 4096
)

// committed hands on events that have just become durable: to this node's
// projections, and to the views of the others. It is called by the lanes, before
// replies leave.
func (n *Node) committed(_ persistence.Partition, events []persistence.Event) {
	if n.hasViews {
		n.pushEvents(events)
	}
	for _, c := range n.couriers {
		c.Publish(events)
	}
	if n.projector != nil {
		n.projector.Publish(events)
	}
}

// views reports whether one of the projections is a view. Nodes of one cluster
// run the same program: who has views pushes to all.
func views(projections []eventsourcing.Projection) bool {
	for _, p := range projections {
		if eventsourcing.KindOf(p) == eventsourcing.KindView {
			return true
		}
	}
	return false
}

// pushEvents queues events for every other member.
func (n *Node) pushEvents(events []persistence.Event) {
	view := n.view.Load()
	if view == nil || len(view.list) < 2 {
		return
	}
	encoded, bytes := make([]*wire.Event, len(events)), 0
	for i := range events {
		encoded[i] = encodeEvent(&events[i])
		bytes += weightOf(encoded[i])
	}
	for i := range view.list {
		if p := n.peerOf(view.list[i].ID); p != nil {
			p.tellEvents(encoded, bytes)
		}
	}
}

func weightOf(e *wire.Event) int {
	return eventEnvelope + len(e.Id) + len(e.Metadata) + len(e.Payload)
}

// tellEvents queues events, if there is room for all of them.
func (p *peer) tellEvents(events []*wire.Event, bytes int) {
	p.mu.Lock()
	room := !p.left && len(p.events)+len(events) <= eventsMost && p.eventBytes+bytes <= eventBytesMost
	if room {
		p.events = append(p.events, events...)
		p.eventBytes += bytes
	}
	p.mu.Unlock()
	if !room {
		p.node.stats.eventsDropped.Add(uint64(len(events)))
		return
	}
	p.node.stats.eventsPushed.Add(uint64(len(events)))
	p.signal()
}

// takeEvents moves what fits into an envelope. The peer is locked.
func (p *peer) takeEvents(fits func(int) bool) []*wire.Event {
	n := 0
	for n < len(p.events) && n < eventsPerPacket && fits(weightOf(p.events[n])) {
		p.eventBytes -= weightOf(p.events[n])
		n++
	}
	taken := p.events[:n:n]
	if p.events = p.events[n:]; len(p.events) == 0 {
		p.events, p.eventBytes = nil, 0
	}
	return taken
}

// receiveEvents publishes what another node has pushed, in runs of one partition
// without a gap.
func (n *Node) receiveEvents(list []*wire.Event) {
	if n.life.Load() == nil || n.projector == nil { // in this order: the node may be starting
		return
	}
	for len(list) > 0 {
		end := 1
		for end < len(list) && list[end].Partition == list[0].Partition && list[end].Offset == list[end-1].Offset+1 {
			end++
		}
		run := make([]persistence.Event, end)
		for i := range run {
			run[i] = decodeEvent(list[i])
		}
		list = list[end:]
		if run[0].Offset > 0 {
			n.projector.Publish(run)
		}
	}
}

func encodeEvent(e *persistence.Event) *wire.Event {
	return &wire.Event{
		Partition: int32(e.Partition), Offset: int64(e.Offset), Epoch: int64(e.Epoch), Type: e.Stream.Type, Id: e.Stream.ID,
		Version: int64(e.Version), Event: e.Type, At: e.At.UnixMicro(),
		CommandHigh: binary.BigEndian.Uint64(e.Command[:8]), CommandLow: binary.BigEndian.Uint64(e.Command[8:]),
		Metadata: e.Metadata, Payload: e.Payload,
	}
}

func decodeEvent(e *wire.Event) persistence.Event {
	out := persistence.Event{
		Partition: persistence.Partition(e.Partition), Offset: persistence.Offset(e.Offset), Epoch: persistence.Epoch(e.Epoch),
		Stream: persistence.Stream{Type: e.Type, ID: e.Id}, Version: persistence.Version(e.Version), Type: e.Event,
		At: time.UnixMicro(e.At), Metadata: e.Metadata, Payload: e.Payload,
	}
	binary.BigEndian.PutUint64(out.Command[:8], e.CommandHigh)
	binary.BigEndian.PutUint64(out.Command[8:], e.CommandLow)
	return out
}

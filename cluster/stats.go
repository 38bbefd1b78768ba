package cluster

import (
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/ingrain-go/ingrain/actor"
)

type counters struct {
	local, remote, retries, envelopes, overloaded atomic.Uint64
	renewals, renewalsFailed, evictions, rejoins  atomic.Uint64
	unreached, relayed, passed                    atomic.Uint64
	claims, takeovers, handovers                  atomic.Uint64
	parked, redirected                            atomic.Uint64
	eventsPushed, eventsDropped                   atomic.Uint64
}

// Stats are counts since Start: none ever falls, not even when the node comes
// back as another incarnation. Resident and InFlight of Host are of the moment.
type Stats struct {
	// Host is what the node's aggregates did, in all its incarnations.
	Host actor.Stats
	// Local and Remote are attempts to deliver a call, in this process and to
	// another; Retries is how many of them were not the first.
	Local, Remote, Retries uint64
	// Envelopes sent to other nodes, each with many calls and replies.
	Envelopes uint64
	// Overloaded calls were refused because too many to one peer were in flight.
	Overloaded uint64
	// Renewals of the lease, and how many failed.
	Renewals, RenewalsFailed uint64
	// Evictions of other nodes by this one; Rejoins of this node after its own.
	Evictions, Rejoins uint64
	// Unreached is how often another node could not be reached any more: it was
	// silent for a lease, or nobody listened at its address.
	Unreached uint64
	// Relayed envelopes to other nodes went through a third, because this one had
	// lost contact with their receiver. Passed are those of others that this one
	// passed on.
	Relayed, Passed uint64
	// Claims of partitions; Takeovers are those by force, with a hold.
	// Handovers are partitions given to others.
	Claims, Takeovers, Handovers uint64
	// Parked calls of other nodes waited here for a partition on its way to or from
	// this one. Redirected ones among them were told to ask its next owner.
	Parked, Redirected uint64
	// EventsPushed to the views of other nodes; EventsDropped were not, because too
	// many waited: the others read them from the store.
	EventsPushed, EventsDropped uint64
}

// Stats reads the counters.
func (n *Node) Stats() Stats {
	c := &n.stats
	return Stats{
		Host: n.hosts.stats(), Local: c.local.Load(), Remote: c.remote.Load(), Retries: c.retries.Load(), Envelopes: c.envelopes.Load(),
		Overloaded: c.overloaded.Load(), Renewals: c.renewals.Load(), RenewalsFailed: c.renewalsFailed.Load(),
		Evictions: c.evictions.Load(), Rejoins: c.rejoins.Load(), Unreached: c.unreached.Load(),
		Relayed: c.relayed.Load(), Passed: c.passed.Load(), Claims: c.claims.Load(), Takeovers: c.takeovers.Load(),
		Handovers: c.handovers.Load(), Parked: c.parked.Load(), Redirected: c.redirected.Load(),
		EventsPushed: c.eventsPushed.Load(), EventsDropped: c.eventsDropped.Load(),
	}
}

// hosts adds up what the hosts of all incarnations of a node have counted.
type hosts struct {
	mu      sync.Mutex
	ended   actor.Stats // of those that have stopped
	present *actor.Host // nil between two incarnations
}

func (h *hosts) begin(host *actor.Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.present = host
}

// end takes down what a host has counted that has stopped.
func (h *hosts) end(host *actor.Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.present == host {
		h.ended, h.present = total(h.ended, host.Stats()), nil
	}
}

func (h *hosts) stats() actor.Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.present == nil {
		return total(h.ended, actor.Stats{})
	}
	return total(h.ended, h.present.Stats())
}

// total adds the counters of an incarnation that is over to the present ones.
// Counters are unsigned; what is signed is a gauge, and its present value counts.
func total(ended, present actor.Stats) actor.Stats {
	before, sum := reflect.ValueOf(&ended).Elem(), reflect.ValueOf(&present).Elem()
	for i := range sum.NumField() {
		if counter := sum.Field(i); counter.CanUint() {
			counter.SetUint(counter.Uint() + before.Field(i).Uint())
		}
	}
	return present
}

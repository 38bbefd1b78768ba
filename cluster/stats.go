package cluster

import (
	"sync/atomic"

	"github.com/ingrain-go/ingrain/actor"
)

type counters struct {
	local, remote, retries, envelopes, overloaded atomic.Uint64
	renewals, renewalsFailed, evictions, rejoins  atomic.Uint64
	claims, takeovers, handovers                  atomic.Uint64
}

// Stats are counts since the node started.
type Stats struct {
	// Host is what the node's aggregates did, in its present incarnation.
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
	// Claims of partitions; Takeovers are those by force, with a hold.
	// Handovers are partitions given to others.
	Claims, Takeovers, Handovers uint64
}

// Stats reads the counters.
func (n *Node) Stats() Stats {
	c := &n.stats
	s := Stats{
		Local: c.local.Load(), Remote: c.remote.Load(), Retries: c.retries.Load(), Envelopes: c.envelopes.Load(),
		Overloaded: c.overloaded.Load(), Renewals: c.renewals.Load(), RenewalsFailed: c.renewalsFailed.Load(),
		Evictions: c.evictions.Load(), Rejoins: c.rejoins.Load(), Claims: c.claims.Load(), Takeovers: c.takeovers.Load(),
		Handovers: c.handovers.Load(),
	}
	if life := n.life.Load(); life != nil {
		s.Host = life.host.Stats()
	}
	return s
}

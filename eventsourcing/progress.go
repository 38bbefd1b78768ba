package eventsourcing

import (
	"cmp"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// Progress is how a projection fares on one node.
type Progress struct {
	Name       string
	Kind       Kind
	Generation int64
	// Building says that the generation is being filled beside the one that is
	// read.
	Building bool
	// Partitions are those this node handles, ascending.
	Partitions []PartitionProgress
	// Handled counts the events since the node's start, also those that no handler
	// wants; Fetched how many of them were read from the store, because no push
	// brought them in time. Rate is how many were handled per second of late.
	Handled, Fetched uint64
	Rate             float64
	// Failures counts calls of handlers that came to nothing.
	Failures uint64
	// Parked is how many dead letters there are.
	Parked int
	// Lag is how many events are known to be in the log and not handled. Behind is
	// how old the last one that was handled is, as long as there is a lag.
	Lag    int64
	Behind time.Duration
	// CaughtUp says that each partition was handled to the end of its log at least
	// once.
	CaughtUp bool
}

// PartitionProgress is how a projection fares in one partition.
type PartitionProgress struct {
	Partition persistence.Partition
	// Position is the last offset handled, Head the last known to be in the log.
	Position, Head persistence.Offset
	// Parked is how many dead letters there are.
	Parked int
	// Standing says why the partition stands still; empty when it does not.
	Standing string
}

// Progress lists how the projections fare on this node, in the order in which
// they were configured; those that are being rebuilt are there twice.
func (p *Projector) Progress() []Progress {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var list []Progress
	for _, g := range p.groups {
		for i, runners := range [][]*runner{g.runners, g.building} {
			if len(runners) > 0 {
				list = append(list, p.progress(g, runners, i == 1))
			}
		}
	}
	return list
}

func (p *Projector) progress(g *group, runners []*runner, building bool) Progress {
	out := Progress{Name: g.settings.Name, Kind: g.kind, Generation: runners[0].generation, Building: building, CaughtUp: true}
	now := p.clock.Wall()
	for _, r := range runners {
		out.Handled += r.handled.Load()
		out.Fetched += r.fetched.Load()
		out.Failures += r.failures.Load()
		out.Rate += r.rate.get()
		r.mu.Lock()
		out.CaughtUp = out.CaughtUp && int(r.reached.Load()) >= len(r.tracks)
		for _, t := range r.tracks {
			head := max(persistence.Offset(p.heads[t.partition].Load()), t.position)
			out.Partitions = append(out.Partitions, PartitionProgress{t.partition, t.position, head, t.letters, t.why})
			out.Parked += t.letters
			if lag := int64(head - t.position); lag > 0 {
				out.Lag += lag
				if !t.lastAt.IsZero() {
					out.Behind = max(out.Behind, now.Sub(t.lastAt))
				}
			}
		}
		r.mu.Unlock()
	}
	slices.SortFunc(out.Partitions, func(a, b PartitionProgress) int { return cmp.Compare(a.Partition, b.Partition) })
	return out
}

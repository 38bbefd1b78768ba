package actor

import (
	"cmp"
	"context"
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Target is an aggregate to be brought into memory before anybody calls it.
type Target struct {
	Definition *aggregate.Definition
	Stream     persistence.Stream
}

// Hot lists the aggregates of a partition that are in memory, the last used
// first, up to so many and so many bytes of names.
func (h *Host) Hot(p persistence.Partition, most, bytes int) []persistence.Stream {
	var hot []persistence.Stream
	for _, g := range h.hottest(p) {
		if bytes -= len(g.stream.Type) + len(g.stream.ID); bytes < 0 || len(hot) == most {
			break
		}
		hot = append(hot, g.stream)
	}
	return hot
}

// hottest lists the activations of a partition, the last used first.
func (h *Host) hottest(p persistence.Partition) []*grain {
	t := h.tenures[p].Load()
	if t == nil {
		return nil
	}
	grains := t.all()
	type used struct {
		grain *grain
		at    int64 // it may change while we sort
	}
	order := make([]used, len(grains))
	for i, g := range grains {
		order[i] = used{g, g.lastUsed.Load()}
	}
	slices.SortStableFunc(order, func(a, b used) int { return cmp.Compare(b.at, a.at) })
	for i := range order {
		grains[i] = order[i].grain
	}
	return grains
}

// Warm brings aggregates of a partition that is served here into memory, the
// first ones first, in small batches and only while nobody waits for a load. It
// does not wait for it. There is room for MaxResident of them, in memory and in
// the queue; the others are left to their first command.
func (h *Host) Warm(p persistence.Partition, targets []Target) {
	t := h.tenures[p].Load()
	if t == nil {
		return
	}
	list := make([]cold, 0, len(targets))
	for _, target := range targets {
		if h.types[target.Definition.Name()] == target.Definition {
			list = append(list, cold{t, target})
		}
	}
	h.loader.warm(list)
}

// warmBatch is how many aggregates that nobody waits for are loaded at once.
// There is one such batch at a time, so that a command that waits for a load
// seldom waits for these too.
const warmBatch = 128

// cold is an aggregate that waits to be warmed.
type cold struct {
	tenure *tenure
	Target
}

// warm queues aggregates for when nobody waits.
func (l *loader) warm(list []cold) {
	l.mu.Lock()
	if room := l.host.config.MaxResident - len(l.cold); !l.closed && room > 0 {
		l.cold = append(l.cold, list[:min(len(list), room)]...)
	}
	l.mu.Unlock()
	l.signal()
}

// takeCold takes the next aggregates to warm, unless somebody waits for a load or
// the store cannot be reached.
func (l *loader) takeCold() []cold {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.grains) > 0 || l.warming || len(l.cold) == 0 || l.host.reads.refusal.Load() != nil {
		return nil
	}
	n := min(len(l.cold), warmBatch)
	batch := l.cold[:n:n]
	if l.cold = l.cold[n:]; len(l.cold) == 0 {
		l.cold = nil
	}
	l.warming = true
	return batch
}

// heat loads a batch. The first of it count as used last.
func (l *loader) heat(ctx context.Context, batch []cold) {
	var grains []*grain
	for _, c := range batch {
		if l.host.resident.len() >= l.host.config.MaxResident {
			break // what is in memory because of a call is not sent away for a guess
		}
		if g := c.tenure.warm(c.Definition, c.Stream); g != nil {
			g.lastUsed.Add(-int64(len(grains)))
			grains = append(grains, g)
		}
	}
	if len(grains) > 0 {
		l.host.stats.warmed.Add(uint64(len(grains)))
		l.fill(ctx, grains)
	}
	l.mu.Lock()
	l.warming = false
	l.mu.Unlock()
	l.signal() // for those that the other loader has left alone
}

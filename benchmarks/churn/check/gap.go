package check

import "time"

// Gaps measures how long each partition gave no answer to anybody, though
// somebody waited. It is not safe for concurrent use. Times are nanoseconds of
// any clock that does not jump.
//
//	call ▼          ▼       nobody waits: no gap
//	──────█████──────██──▶  the black is a gap; the longest of a window counts
//	answer     ▲       ▲
type Gaps struct{ partitions []gap }

type gap struct {
	waiting int
	since   int64
	worst   int64
	asked   bool
}

// NewGaps watches so many partitions.
func NewGaps(partitions int) *Gaps { return &Gaps{make([]gap, partitions)} }

// Call says that somebody waits for a partition.
func (g *Gaps) Call(p int, now int64) {
	part := &g.partitions[p]
	if part.waiting == 0 {
		part.since = now
	}
	part.waiting++
	part.asked = true
}

// Answer says that somebody got what he waited for.
func (g *Gaps) Answer(p int, now int64) {
	part := &g.partitions[p]
	part.worst = max(part.worst, now-part.since)
	part.waiting--
	part.since = now
}

// GiveUp says that somebody waits no longer, in vain.
func (g *Gaps) GiveUp(p int, now int64) {
	part := &g.partitions[p]
	part.worst = max(part.worst, now-part.since)
	part.waiting--
}

// Begin begins a window: what ended before it is forgotten.
func (g *Gaps) Begin() {
	for i := range g.partitions {
		g.partitions[i].worst = 0
		g.partitions[i].asked = g.partitions[i].waiting > 0
	}
}

// End returns the longest gap of each partition that anybody asked since Begin,
// those that last included.
func (g *Gaps) End(now int64) map[int]time.Duration {
	worst := map[int]time.Duration{}
	for i := range g.partitions {
		part := &g.partitions[i]
		if !part.asked {
			continue
		}
		longest := part.worst
		if part.waiting > 0 {
			longest = max(longest, now-part.since)
		}
		worst[i] = time.Duration(longest)
	}
	return worst
}

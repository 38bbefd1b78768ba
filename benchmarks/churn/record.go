package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// calm is a record of no fault.
const calm kind = "calm"

// record is one fault, from before it struck until all was well again.
type record struct {
	Fault  fault
	Undoes bool   // it follows from the one before
	Target string // the node
	Begin  int64  // unix nanoseconds
	Struck int64
	Healed int64 // what was broken is whole again
	End    int64 // every partition took a command
	Window windowResult
	// Recovery is how long after Healed the last partition took a command;
	// Settled how long until the shares were equal.
	Recovery, Settled time.Duration
	Dead              []int
	Moves             int
	Minimum           int // of moves; -1 when there is no telling
	Counters          map[string]float64
	Note              string
}

func (r *record) kind() kind { return r.Fault.Kind }

// record runs a fault within a window of the clients.
func (h *harness) record(ctx context.Context, f fault, do func(*record) error) error {
	r := &record{Fault: f, Minimum: -1, Begin: time.Now().UnixNano()}
	before := h.fleet.counters(ctx)
	view, err := h.view(ctx)
	if err != nil {
		return err
	}
	if err := h.clients.Call(ctx, "begin", nil, nil); err != nil {
		return err
	}
	if f.Kind != calm {
		h.say(">>> %s", f)
	}
	err = do(r)
	r.Healed = time.Now().UnixNano()
	if r.Struck == 0 {
		r.Struck = r.Begin
	}
	if err != nil {
		return err
	}
	if err := h.buryCrashed(ctx); err != nil {
		return err
	}
	if f.Kind != calm {
		var l liveness
		if err := h.clients.Call(ctx, "alive", h.o.recovery, &l); err != nil {
			return err
		}
		r.Recovery, r.Dead = l.Took, l.Dead
		if r.Settled, err = h.settle(ctx); err != nil {
			return err
		}
	}
	r.End = time.Now().UnixNano()
	if err := h.clients.Call(ctx, "end", nil, &r.Window); err != nil {
		return err
	}
	r.Counters = h.fleet.counters(ctx)
	for key := range r.Counters {
		r.Counters[key] -= before[key]
	}
	tenures, err := h.backend.tenures(ctx)
	if err != nil {
		return err
	}
	r.Moves = moves(view.Partitions, tenures)
	h.records = append(h.records, r)
	if f.Kind != calm {
		h.say("<<< %s", r.summary())
	}
	return nil
}

// summary is the line at the end of a fault.
func (r *record) summary() string {
	text := fmt.Sprintf("%s %s: worst gap %s, service back after %s, shares equal after %s, %d moves",
		r.kind(), r.Target, brief(worstOf(r.Window.Gaps)), brief(r.Recovery), brief(r.Settled), r.Moves)
	if r.Minimum >= 0 {
		text += fmt.Sprintf(" (minimum %d)", r.Minimum)
	}
	if n := len(r.Window.FirstWrite); n > 0 {
		text += fmt.Sprintf(", first write after %s, first read after %s",
			brief(percentile(sortedDurations(r.Window.FirstWrite), 1)), brief(percentile(sortedDurations(r.Window.FirstRead), 1)))
	}
	if len(r.Dead) > 0 {
		text += fmt.Sprintf(", PARTITIONS WITHOUT SERVICE: %v", r.Dead)
	}
	if r.Note != "" {
		text += ", " + r.Note
	}
	return text
}

func worstOf(gaps map[int]time.Duration) time.Duration {
	var worst time.Duration
	for _, g := range gaps {
		worst = max(worst, g)
	}
	return worst
}

// struck tells the clients that a node's partitions have lost their owner at a
// moment.
func (h *harness) struck(ctx context.Context, r *record, at time.Time, n *node, victims []int) error {
	r.Struck = at.UnixNano()
	b := blow{At: r.Struck, Victims: victims}
	if n != nil {
		b.Node = string(n.hello.ID)
	}
	return h.clients.Call(ctx, "struck", b, nil)
}

// victim is the node that a fault is about, and what it owns.
func (h *harness) victim(ctx context.Context, f fault, r *record) (*node, []int, error) {
	nodes := h.fleet.nodes
	if len(nodes) == 0 {
		return nil, nil, errors.New("there are no nodes")
	}
	n := nodes[max(f.Target-1, 0)%len(nodes)]
	view, err := h.view(ctx)
	if err != nil {
		return nil, nil, err
	}
	if f.Hot {
		hottest := persistence.PartitionOf(persistence.Stream{Type: lists.Name(), ID: "h-0"}, h.o.partitions)
		for _, other := range nodes {
			if h.fleet.incarnation(ctx, other) == view.Partitions[hottest].Owner {
				n = other
			}
		}
	}
	id := h.fleet.incarnation(ctx, n)
	var owned []int
	for _, row := range view.Partitions {
		if row.Owner == id {
			owned = append(owned, int(row.Partition))
		}
	}
	slices.Sort(owned)
	r.Target = n.name
	return n, owned, nil
}

// brief prints a duration with as many digits as count.
func brief(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

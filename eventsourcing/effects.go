package eventsourcing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Held is what a stream's events say that it holds: the values it has claimed and
// not released, and the timers that were set and neither cancelled, replaced, nor
// seen to fire. Both can be made again from the log, since effects are pure.
type Held struct {
	Claims []persistence.Claim
	Timers []persistence.Timer
}

// Effects folds a stream's events, from its first, to what it should hold. A timer
// has fired when the log has an event of its command; one whose command was
// rejected, or had nothing to do, leaves no trace there: see [CheckEffects].
func Effects(d *aggregate.Definition, partition persistence.Partition, events []persistence.Event) (Held, error) {
	f := effectFold{definition: d, partition: partition}
	for i := range events {
		if err := f.add(&events[i]); err != nil {
			return Held{}, err
		}
	}
	return f.held(), nil
}

// effectFold is what a stream holds after some of its events.
type effectFold struct {
	definition *aggregate.Definition
	partition  persistence.Partition
	claims     []persistence.Claim
	timers     []persistence.Timer
	instance   aggregate.Instance // of a process that may end; nil before its first event
}

// follow lets a process that may end claim its place among the open ones.
func (f *effectFold) follow(stream persistence.Stream, event any) {
	if !f.definition.Ends() {
		return
	}
	open := OpenClaim(stream)
	if f.instance == nil {
		f.instance = f.definition.NewInstance()
		f.claims = append(f.claims, open)
	}
	f.instance.Evolve(event)
	if f.definition.Ended(f.instance.State()) {
		f.claims = slices.DeleteFunc(f.claims, func(have persistence.Claim) bool { return have == open })
	}
}

func (f *effectFold) add(e *persistence.Event) (err error) {
	fail := func(err error) error { return &UnreadableError{e.Stream, e.Version, e.Type, err} }
	defer func() {
		if p := recover(); p != nil {
			err = fail(fmt.Errorf("panic: %v", p))
		}
	}()
	if IsOutcome(e.Type) {
		return nil
	}
	events, err := DecodeEvents(nil, f.definition, e.Type, e.Payload)
	if err != nil {
		return fail(err)
	}
	for _, event := range events {
		f.follow(e.Stream, event)
	}
	f.timers = slices.DeleteFunc(f.timers, func(t persistence.Timer) bool {
		return TimerCommand(&t) == aggregate.CommandID(e.Command)
	})
	var effects aggregate.Effects
	for _, event := range events {
		if err := f.definition.AddEffects(&effects, f.definition.MessageOf(event), event); err != nil {
			return fail(err)
		}
	}
	if effects.Empty() {
		return nil
	}
	metadata, err := DecodeMetadata(e.Metadata)
	if err != nil {
		return fail(err)
	}
	c := persistence.Commit{Stream: e.Stream, Partition: f.partition, Command: e.Command}
	if err := encodeEffects(&effects, &c, &metadata); err != nil {
		return fail(err)
	}
	f.apply(&c)
	return nil
}

func (f *effectFold) apply(c *persistence.Commit) {
	drop := func(key persistence.TimerKey) {
		f.timers = slices.DeleteFunc(f.timers, func(t persistence.Timer) bool { return t.TimerKey == key })
	}
	for _, claim := range c.Releases {
		f.claims = slices.DeleteFunc(f.claims, func(have persistence.Claim) bool { return have == claim })
	}
	for _, claim := range c.Claims {
		if !slices.Contains(f.claims, claim) {
			f.claims = append(f.claims, claim)
		}
	}
	for _, key := range c.Cancels {
		drop(key)
	}
	for _, t := range c.Timers {
		drop(t.TimerKey)
		f.timers = append(f.timers, t)
	}
}

func (f *effectFold) held() Held { return Held{Claims: f.claims, Timers: f.timers} }

// Difference is one claim or timer of which log and store disagree. Exactly one of
// Claim and Timer is set.
type Difference struct {
	Stream persistence.Stream
	Claim  *persistence.Claim
	Timer  *persistence.Timer
	// Missing says that the log has it and the store does not; otherwise it is the
	// other way round.
	Missing bool
	// Holder is who has a missing claim instead; zero for nobody.
	Holder persistence.Stream
}

func (d Difference) String() string {
	what := ""
	switch {
	case d.Claim != nil:
		what = fmt.Sprintf("%s %q", d.Claim.Namespace, d.Claim.Key)
	default:
		what = fmt.Sprintf("timer %q, due %s", d.Timer.Name, d.Timer.Due.Format(time.RFC3339Nano))
	}
	switch {
	case !d.Missing:
		return fmt.Sprintf("%s: %s is stored, and not in the log", d.Stream, what)
	case d.Holder != (persistence.Stream{}):
		return fmt.Sprintf("%s: %s is in the log, and held by %s", d.Stream, what, d.Holder)
	}
	return fmt.Sprintf("%s: %s is in the log, and not stored", d.Stream, what)
}

const (
	// effectPage is how many rows are read at once, effectTimers how many timers.
	effectPage   = 1000
	effectTimers = 1 << 20
)

// CheckEffects compares the claims and timers in a store with what its log says,
// partition by partition, and lists where they differ: ordered by stream. Streams
// of types that are not given are passed over, with what they hold, and so are
// those of sealed types, whose events only a vault can open.
//
// A timer that was due at or before the given moment, and is not stored, counts as
// fired: a command that was rejected leaves no event. Give the moment until which
// the timers are known to have fired; for a running system that is now, a little
// less than which it may be late.
//
// It reads the whole log, and keeps in memory what it says is held. While commands
// are executed it may see a difference that is none: check again what it lists.
func CheckEffects(ctx context.Context, store persistence.Store, fired time.Time, types ...aggregate.Any) ([]Difference, error) {
	if err := aggregate.Validate(types...); err != nil {
		return nil, err
	}
	definitions := map[string]*aggregate.Definition{}
	for _, t := range types {
		if d := t.Definition(); !d.Seals() {
			definitions[d.Name()] = d
		}
	}
	folds := map[persistence.Stream]*effectFold{}
	var all []Difference
	for p := range store.Meta().Partitions {
		differences, err := checkTimers(ctx, store, persistence.Partition(p), fired, definitions, folds)
		if err != nil {
			return nil, fmt.Errorf("check effects of partition %d: %w", p, err)
		}
		all = append(all, differences...)
	}
	differences, err := checkClaims(ctx, store, definitions, folds)
	if err != nil {
		return nil, fmt.Errorf("check claims: %w", err)
	}
	all = append(all, differences...)
	slices.SortStableFunc(all, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Stream.Type, b.Stream.Type), cmp.Compare(a.Stream.ID, b.Stream.ID))
	})
	return all, nil
}

// checkTimers folds a partition's log and compares its timers.
func checkTimers(ctx context.Context, store persistence.Store, p persistence.Partition, fired time.Time,
	definitions map[string]*aggregate.Definition, folds map[persistence.Stream]*effectFold,
) ([]Difference, error) {
	var mine []*effectFold
	var names []persistence.Stream
	for cursor := (persistence.Cursor{Partition: p}); ; {
		events, err := store.Tail(ctx, []persistence.Cursor{cursor}, effectPage)
		if err != nil {
			return nil, err
		}
		if len(events) == 0 {
			break
		}
		for i := range events {
			e := &events[i]
			cursor.After = e.Offset
			d := definitions[e.Stream.Type]
			if d == nil {
				continue
			}
			f := folds[e.Stream]
			if f == nil {
				f = &effectFold{definition: d, partition: p}
				folds[e.Stream] = f
				mine, names = append(mine, f), append(names, e.Stream)
			}
			if err := f.add(e); err != nil {
				return nil, err
			}
		}
	}
	timers, err := store.DueTimers(ctx, []persistence.Partition{p}, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), effectTimers)
	if err != nil {
		return nil, err
	}
	if len(timers) == effectTimers {
		return nil, fmt.Errorf("more than %d timers", effectTimers)
	}
	stored := make(map[persistence.TimerKey]*persistence.Timer, len(timers))
	for i := range timers {
		if definitions[timers[i].Stream.Type] != nil {
			stored[timers[i].TimerKey] = &timers[i]
		}
	}
	var list []Difference
	for i, f := range mine {
		for n := range f.timers {
			t := &f.timers[n]
			have := stored[t.TimerKey]
			if have != nil && have.ID == t.ID && have.Due.Equal(t.Due) {
				delete(stored, t.TimerKey)
			} else if t.Due.After(fired) {
				list = append(list, Difference{Stream: names[i], Timer: t, Missing: true})
			}
		}
	}
	left := make([]Difference, 0, len(stored))
	for _, t := range timers { // in their order
		if stored[t.TimerKey] != nil {
			left = append(left, Difference{Stream: t.Stream, Timer: stored[t.TimerKey]})
		}
	}
	return append(list, left...), nil
}

func checkClaims(ctx context.Context, store persistence.Store, definitions map[string]*aggregate.Definition,
	folds map[persistence.Stream]*effectFold,
) (list []Difference, err error) {
	holders := map[persistence.Claim]persistence.Stream{}
	for after := (persistence.Claim{}); ; {
		held, err := store.Claims(ctx, after, effectPage)
		if err != nil {
			return nil, err
		}
		if len(held) == 0 {
			break
		}
		for _, h := range held {
			after = h.Claim
			holders[h.Claim] = h.Holder
			f := folds[h.Holder]
			if definitions[h.Holder.Type] != nil && (f == nil || !slices.Contains(f.claims, h.Claim)) {
				list = append(list, Difference{Stream: h.Holder, Claim: &h.Claim})
			}
		}
	}
	for stream, f := range folds {
		for _, claim := range f.claims {
			if holder := holders[claim]; holder != stream {
				list = append(list, Difference{Stream: stream, Claim: &claim, Missing: true, Holder: holder})
			}
		}
	}
	slices.SortFunc(list, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Claim.Namespace, b.Claim.Namespace), cmp.Compare(a.Claim.Key, b.Claim.Key),
			cmp.Compare(a.Stream.Type, b.Stream.Type), cmp.Compare(a.Stream.ID, b.Stream.ID))
	})
	return list, nil
}

// Maintenance is how RepairEffects becomes a member of the cluster.
type Maintenance struct {
	// Cluster is the name the store was joined under, Node the id of this run, which
	// was never used before.
	Cluster string
	Node    persistence.NodeID
	// Patience is for how long members are watched before they count as dead. It is
	// longer than the time between two renewals. Default 5 seconds.
	Patience time.Duration
}

// RepairEffects makes the store hold what differences say, by commits without
// events: what is missing is claimed or set, what is stored and not in the log is
// released or cancelled. A value that two streams claim stays with its holder, and
// is among what is returned: the differences that are left.
//
// Run it while no node runs: it claims the partitions as a maintenance node of its
// own. It refuses to when a member renews, and evicts those that do not. Differences
// must be of the log as it is: check again first if anything ran since.
func RepairEffects(ctx context.Context, store persistence.Store, m Maintenance, differences []Difference) (left []Difference, err error) {
	if m.Patience <= 0 {
		m.Patience = 5 * time.Second
	}
	if err := evictSilent(ctx, store, m.Patience); err != nil {
		return differences, fmt.Errorf("repair effects: %w", err)
	}
	node := persistence.Node{ID: m.Node, Cluster: m.Cluster, Weight: -1, State: persistence.Draining}
	if err := store.Join(ctx, node); err != nil {
		return differences, fmt.Errorf("repair effects: %w", err)
	}
	defer func() {
		if leaving := store.Leave(context.WithoutCancel(ctx), m.Node); leaving != nil {
			err = errors.Join(err, fmt.Errorf("repair effects: %w", leaving))
		}
	}()
	byStream := map[persistence.Stream][]Difference{}
	var order []persistence.Stream
	// releases come first, so that what they free can be claimed
	for _, missing := range []bool{false, true} {
		clear(byStream)
		order = order[:0]
		for _, d := range differences {
			if d.Missing != missing {
				continue
			}
			if byStream[d.Stream] == nil {
				order = append(order, d.Stream)
			}
			byStream[d.Stream] = append(byStream[d.Stream], d)
		}
		for i, stream := range order {
			remaining, err := repairStream(ctx, store, m.Node, stream, byStream[stream])
			left = append(left, remaining...)
			if err != nil {
				for _, rest := range order[i+1:] {
					left = append(left, byStream[rest]...)
				}
				return left, fmt.Errorf("repair effects of %s: %w", stream, err)
			}
		}
	}
	return left, nil
}

// evictSilent makes sure that no node runs.
func evictSilent(ctx context.Context, store persistence.Store, patience time.Duration) error {
	before, err := store.View(ctx)
	if err != nil || len(before.Nodes) == 0 {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, n := range before.Nodes {
		gone, err := store.Evict(ctx, n.ID, n.Renewals)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		now, err := store.View(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(now.Nodes, func(o persistence.Node) bool { return o.ID == n.ID }) {
			return fmt.Errorf("node %s at %s is running: stop all nodes first", n.ID, n.Address)
		}
	}
	return nil
}

// repairStream makes one commit of all the differences of a stream; when a value
// is taken, one of each.
func repairStream(ctx context.Context, store persistence.Store, node persistence.NodeID, stream persistence.Stream, list []Difference) ([]Difference, error) {
	var taken *persistence.ClaimTakenError
	err := repairCommit(ctx, store, node, stream, list)
	switch {
	case err == nil:
		return nil, nil
	case !errors.As(err, &taken):
		return list, err
	case len(list) == 1:
		list[0].Holder = taken.Holder
		return list, nil
	}
	var left []Difference
	for i := range list {
		remaining, err := repairStream(ctx, store, node, stream, list[i:i+1:i+1])
		left = append(left, remaining...)
		if err != nil {
			return append(left, list[i+1:]...), err
		}
	}
	return left, nil
}

func repairCommit(ctx context.Context, store persistence.Store, node persistence.NodeID, stream persistence.Stream, list []Difference) error {
	p := persistence.PartitionOf(stream, store.Meta().Partitions)
	view, err := store.View(ctx)
	if err != nil {
		return err
	}
	tenure, err := store.Claim(ctx, p, view.Partitions[p].Epoch, node)
	if err != nil {
		return err
	}
	c := &persistence.Commit{Stream: stream, Partition: p, Epoch: tenure.Epoch, Command: persistence.CommandID(aggregate.NewCommandID()), At: time.Now()}
	for after := persistence.Version(0); ; {
		events, err := store.Read(ctx, stream, after, effectPage)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			c.Expected = after
			break
		}
		after = events[len(events)-1].Version
	}
	for _, d := range list {
		switch {
		case d.Claim != nil && d.Missing:
			c.Claims = append(c.Claims, *d.Claim)
		case d.Claim != nil:
			c.Releases = append(c.Releases, *d.Claim)
		case d.Missing:
			c.Timers = append(c.Timers, *d.Timer)
		default:
			c.Cancels = append(c.Cancels, d.Timer.TimerKey)
		}
	}
	store.Append(ctx, &persistence.Batch{
		Owner: node, Fences: []persistence.Fence{{Partition: p, Epoch: tenure.Epoch, Head: tenure.Head}}, Commits: []*persistence.Commit{c},
	})
	return c.Err
}

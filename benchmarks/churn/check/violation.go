package check

import (
	"cmp"
	"fmt"
	"slices"
)

// Kind is a promise that was broken.
type Kind string

// The kinds of violations.
const (
	Lost       Kind = "lost"       // acknowledged, and not in the log
	Duplicated Kind = "duplicated" // took effect twice
	Phantom    Kind = "phantom"    // took effect, though its caller was told that it did not
	Misplaced  Kind = "misplaced"  // the log has it elsewhere than its receipt says
	Stale      Kind = "stale"      // an answer from before something that was acknowledged
	Dual       Kind = "dual"       // answered by who did not own it, or by two at once
	Nonlinear  Kind = "nonlinear"  // no order of the calls explains the answers
	Unchecked  Kind = "unchecked"  // the checker gave up; never a success
	Claimed    Kind = "claimed"    // a unique name with two holders, or the wrong one
	Gap        Kind = "gap"        // offsets, versions or epochs with a hole
	Epoch      Kind = "epoch"      // the epoch of a partition fell
	Owner      Kind = "owner"      // an epoch without exactly one owner
	Foreign    Kind = "foreign"    // in the log, and nobody asked for it
	Dead       Kind = "dead"       // no service after everything was healed
	Crashed    Kind = "crashed"    // a node ended by itself
	Open       Kind = "open"       // a payment did not end, or more than once
	Effect     Kind = "effect"     // a payment without one of its effects, or with one twice
	Overdrawn  Kind = "overdrawn"  // a wallet below its credit
	Unbalanced Kind = "unbalanced" // money has come or gone
)

// Violation is one breach.
type Violation struct {
	Kind   Kind
	At     int64 // unix nanoseconds; 0 when that cannot be told
	Detail string
}

// keep is how many violations of a kind are kept in words. All are counted.
const keep = 10

// Report collects violations: all are counted, the first few of each kind are
// kept. The zero value is ready. It is not safe for concurrent use.
type Report struct {
	Counts map[Kind]int
	Kept   []Violation
	// Times of all of them, so that they can be laid beside the faults.
	Times map[Kind][]int64
}

// timesLimit bounds how many times are kept of a kind.
const timesLimit = 100_000

// Add takes one violation in.
func (r *Report) Add(v Violation) {
	if r.Counts == nil {
		r.Counts, r.Times = map[Kind]int{}, map[Kind][]int64{}
	}
	r.Counts[v.Kind]++
	if r.Counts[v.Kind] <= keep {
		r.Kept = append(r.Kept, v)
	}
	if len(r.Times[v.Kind]) < timesLimit {
		r.Times[v.Kind] = append(r.Times[v.Kind], v.At)
	}
}

// addf is Add in words.
func (r *Report) addf(kind Kind, at int64, format string, args ...any) {
	if r.Counts[kind] >= keep { // the words would be dropped
		format, args = "", nil
	}
	r.Add(Violation{Kind: kind, At: at, Detail: fmt.Sprintf(format, args...)})
}

// Merge takes in what another report collected.
func (r *Report) Merge(other *Report) {
	if r.Counts == nil {
		r.Counts, r.Times = map[Kind]int{}, map[Kind][]int64{}
	}
	for kind, n := range other.Counts {
		r.Counts[kind] += n
	}
	for kind, times := range other.Times {
		r.Times[kind] = append(r.Times[kind], times[:min(len(times), timesLimit-len(r.Times[kind]))]...)
	}
	r.Kept = append(r.Kept, other.Kept...)
}

// Total is the number of all violations.
func (r *Report) Total() int {
	n := 0
	for _, c := range r.Counts {
		n += c
	}
	return n
}

// Kinds lists what was violated, in alphabetical order.
func (r *Report) Kinds() []Kind {
	var kinds []Kind
	for k := range r.Counts {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, cmp.Compare)
	return kinds
}

// Between counts the violations of some kinds at a time, ends included.
func (r *Report) Between(from, to int64, kinds ...Kind) int {
	n := 0
	for _, k := range kinds {
		for _, at := range r.Times[k] {
			if from <= at && at <= to {
				n++
			}
		}
	}
	return n
}

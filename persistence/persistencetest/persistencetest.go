// Package persistencetest is the executable form of the contract in package
// persistence: [Run] holds a store to it. [WithFaults] wraps a store so that
// the tests of its users meet the failures that real stores have.
package persistencetest

import (
	"testing"

	"github.com/ingrain-go/ingrain/persistence"
)

// Harness tells the suite how to get at a store.
type Harness struct {
	// Open opens a store over fresh, empty data of its own with the given
	// number of partitions, and has it closed by t.Cleanup.
	Open func(t *testing.T, partitions int) persistence.Store

	// Again opens a further handle on the data of s, which Open or Again
	// returned, as another process would open it: sharing nothing with s but
	// the data. It is called while s is open (a second process) and after s was
	// closed (a restart), from the test's own goroutine, and has the handle
	// closed by t.Cleanup.
	Again func(t *testing.T, s persistence.Store) persistence.Store

	// SetBack takes the events behind head from the log of one partition, past the
	// contract, and leaves all else as it is, snapshots included. It stands for a
	// database that is restored to an earlier moment under running nodes, which
	// go on to write what they remember. It is called from the test's own
	// goroutine, while nothing else is done to the data.
	SetBack func(t *testing.T, s persistence.Store, p persistence.Partition, head persistence.Offset)

	// Copy copies the data of s, which is open, to another place as an operator
	// would, opens the copy, and has it closed by t.Cleanup. It is nil for a store
	// whose data cannot be copied; then nothing is asked of copies.
	Copy func(t *testing.T, s persistence.Store) persistence.Store
}

// Run holds the store of h to the whole contract.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, group := range groups {
		if group.copies && h.Copy == nil {
			continue
		}
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) { c.run(t, h) })
			}
		})
	}
}

// testCase is one promise of the contract, under the name that states it.
type testCase struct {
	name string
	run  func(t *testing.T, h Harness)
}

// groups is the suite, a file each.
var groups = []struct {
	name   string
	cases  []testCase
	copies bool // whether they need Harness.Copy
}{
	{name: "Append", cases: appendCases},
	{name: "Values", cases: valueCases},
	{name: "Fence", cases: fenceCases},
	{name: "Read", cases: readCases},
	{name: "Tail", cases: tailCases},
	{name: "Claims", cases: claimCases},
	{name: "Timers", cases: timerCases},
	{name: "Statements", cases: statementCases},
	{name: "Snapshots", cases: snapshotCases},
	{name: "SetBack", cases: setBackCases},
	{name: "Steps", cases: stepCases},
	{name: "Property", cases: propertyCases},
	{name: "Nodes", cases: nodeCases},
	{name: "View", cases: viewCases},
	{name: "Leases", cases: leaseCases},
	{name: "Cancel", cases: cancelCases},
	{name: "Reopen", cases: reopenCases},
	{name: "Copy", cases: copyCases, copies: true},
}

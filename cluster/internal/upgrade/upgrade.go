// Package upgrade is what the two versions of the program in the drill of a rolling
// upgrade, v1 and v2, have in common with the test that runs them.
package upgrade

import "github.com/ingrain-go/ingrain/aggregate"

// Program is the name of the program, in both versions.
const Program = "upgrade"

// Addition is what the op "add" is asked to do.
type Addition struct {
	ID      string
	N       int
	Command aggregate.CommandID
}

// Receipt is what the op "add" returns.
type Receipt struct {
	aggregate.Receipt
	// Next says that a command was used that only the next version knows.
	Next bool
}

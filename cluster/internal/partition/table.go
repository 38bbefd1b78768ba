package partition

import (
	"sync/atomic"

	"github.com/ingrain-go/ingrain/persistence"
)

// Table is what a node believes about who owns what: a cache of the store's
// partition table, fed from views and from the answers of nodes that were asked
// in vain. An entry only ever moves to a higher epoch, so news may arrive late,
// twice or out of order; [Table.SetBack] is the exception. Being behind costs a
// detour, never correctness (I1).
//
// It is safe for concurrent use; reading takes no lock and allocates nothing.
// Every row is replaced as a whole, but different rows may be of different age.
type Table struct {
	rows []atomic.Pointer[persistence.Ownership]
}

// NewTable is a table in which nobody owns anything.
func NewTable(partitions int) *Table {
	t := &Table{rows: make([]atomic.Pointer[persistence.Ownership], partitions)}
	for p := range t.rows {
		t.rows[p].Store(&persistence.Ownership{Partition: persistence.Partition(p)})
	}
	return t
}

// Owner returns what is known about a partition, without an owner when it is
// nobody's. Of a partition that does not exist, nothing is known.
func (t *Table) Owner(p persistence.Partition) persistence.Ownership {
	if p < 0 || int(p) >= len(t.rows) {
		return persistence.Ownership{Partition: p}
	}
	return *t.rows[p].Load()
}

// Update takes in a view and returns the rows that it changed.
func (t *Table) Update(view persistence.View) []persistence.Ownership {
	var changed []persistence.Ownership
	for _, row := range view.Partitions {
		if t.Learn(row) {
			changed = append(changed, row)
		}
	}
	return changed
}

// Learn takes in one row and reports whether it was news. A partition that does
// not exist is not: the row may come from a peer.
func (t *Table) Learn(row persistence.Ownership) bool {
	if row.Partition < 0 || int(row.Partition) >= len(t.rows) {
		return false
	}
	slot := &t.rows[row.Partition]
	for {
		known := slot.Load()
		if row.Epoch <= known.Epoch {
			return false
		}
		if slot.CompareAndSwap(known, &row) {
			return true
		}
	}
}

// SetBack replaces a row by one whose epoch is not higher, because the store
// itself has gone back, and may have gone another way since. It does nothing when the row is not known as it was: what came
// meanwhile is newer. It reports whether it did.
func (t *Table) SetBack(was, now persistence.Ownership) bool {
	slot := &t.rows[was.Partition]
	known := slot.Load()
	return *known == was && slot.CompareAndSwap(known, &now)
}

// Rows copies the table, ascending by partition.
func (t *Table) Rows() []persistence.Ownership {
	rows := make([]persistence.Ownership, len(t.rows))
	for p := range t.rows {
		rows[p] = *t.rows[p].Load()
	}
	return rows
}

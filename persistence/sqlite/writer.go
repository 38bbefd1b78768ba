package sqlite

import (
	"errors"

	"github.com/ingrain-go/ingrain/persistence"
)

// writer is the one connection that writes, and what it remembers of what it
// wrote.
type writer struct {
	conn    *conn // nil while there is none
	connect func() (*conn, error)
	commit  func() error

	batch    uint64
	tenures  []tenure // by partition
	touched  []*tenure
	versions versions
}

// tenure is what the writer knows of a partition.
type tenure struct {
	epoch persistence.Epoch
	head  persistence.Offset
	// reign changes whenever somebody else may have written to the partition.
	// What [versions] knows under an older reign is worth nothing.
	reign uint64

	// The rest belongs to the batch being written.
	batch   uint64
	fence   persistence.Fence
	refusal error
}

func newWriter(c *conn, partitions int, connect func() (*conn, error)) *writer {
	w := &writer{
		conn:     c,
		connect:  connect,
		tenures:  make([]tenure, partitions),
		versions: newVersions(rememberedStreams),
	}
	w.commit = func() error {
		_, err := w.conn.exec("commit")
		return err
	}
	return w
}

// ready opens the connection anew if the last call broke it.
func (w *writer) ready() error {
	if w.conn != nil {
		return nil
	}
	c, err := w.connect()
	if err != nil {
		return err
	}
	w.conn = c
	return nil
}

// rollback undoes the transaction. If SQLite cannot, or has done so by itself
// after an error of the disk, the connection is not used again: closing it
// leaves nothing of the transaction behind.
func (w *writer) rollback() {
	for _, t := range w.touched {
		t.doubt()
	}
	if _, err := w.conn.exec("rollback"); err != nil {
		_ = w.conn.close() // its error is that of the rollback once more
		w.conn = nil
	}
}

func (w *writer) close() error {
	if w.conn == nil {
		return nil
	}
	if err := w.conn.close(); err != nil {
		return errors.Join(errors.New("writing connection"), err)
	}
	return nil
}

// trust takes the head that a fence proved. If it is where this writer left
// it, under the same epoch, nobody has written since.
func (t *tenure) trust(epoch persistence.Epoch, head persistence.Offset) {
	if t.epoch != epoch || t.head != head {
		t.epoch, t.head = epoch, head
		t.reign++
	}
}

// doubt forgets what is known.
func (t *tenure) doubt() {
	t.head = -1 // no store has it
	t.reign++
}

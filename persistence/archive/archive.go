// Package archive takes a store's log out into a file of JSON lines, and brings
// such a file into a store of any kind.
//
// The first line is the [Header]. Each further line is one event, or says that
// the archive is whole so far:
//
//	{"archive":"ingrain","format":1,"store":"5f0c…","partitions":16}
//	{"partition":0,"offset":1,"epoch":3,"stream":"account/alice","version":1,"type":"deposited","at":"2026-…","command":"0199…","metadata":"e30=","json":{"Cents":500},"sum":"9f2c…"}
//	{"whole":true,"events":1,"hash":"sha256:77ab…"}
//
// Events are in the order of their partitions, and within them of their offsets.
// A payload that is JSON stands there as it is, byte for byte, under "json", any
// other in base64 under "payload"; stream and type names that are not UTF-8 are in
// base64 under "stream64" and "type64". Every line's sum is of all lines of its
// partition so far: a damaged, lost or exchanged line is noticed where it is.
//
// An archive that was cut short is a good one up to its last whole line. [Scan]
// finds that place, [Export] goes on from there, and [Import] goes on from where
// the target is. Both keep one batch in memory, whatever the size of the log.
//
// Not in an archive are snapshots, which are a cache, and claims, timers and
// projections, which the log says: see docs/log.md for how they are had back. Nor
// are the keys of sealed events: [CopyKeys] brings them over without writing them
// down.
package archive

import (
	"fmt"

	"github.com/ingrain-go/ingrain/persistence"
)

// Format is the version of the format that Export writes, and the highest that
// Import and Scan read.
const Format = 1

const (
	mark = "ingrain"
	// batchEvents and batchBytes bound what is in memory at a time, but for one
	// event, which may be as large as the store lets it be.
	batchEvents = 1000
	batchBytes  = 4 << 20
	// maxLine bounds a line: an event of 256 MiB in base64, and the rest.
	maxLine = 512 << 20
)

// Header says what an archive is of.
type Header struct {
	// Archive is "ingrain".
	Archive string `json:"archive"`
	Format  int    `json:"format"`
	// Store is the [persistence.Meta].StoreID that the events are from.
	Store string `json:"store"`
	// Partitions is how many the store has; a target must have as many.
	Partitions int `json:"partitions"`
}

func (h *Header) validate() error {
	switch {
	case h.Archive != mark:
		return fmt.Errorf("it is no archive of %s", mark)
	case h.Format < 1 || h.Format > Format:
		return fmt.Errorf("it has format %d, this build reads up to %d", h.Format, Format)
	case h.Store == "" || h.Partitions < 1 || h.Partitions > 65_536:
		return fmt.Errorf("it is of store %q with %d partitions", h.Store, h.Partitions)
	}
	return nil
}

// Summary is what was written, read or brought in.
type Summary struct {
	Header Header
	// Events counts those of the archive.
	Events int64
	// Imported counts those of them that this call brought in; the others were
	// there.
	Imported int64
	// Hash is of all events of the archive; see [Hash].
	Hash string
}

// Progress is told now and then how many events of about how many are done.
type Progress func(done, total int64)

// LineError says which line of an archive cannot be what Export wrote.
type LineError struct {
	Line int64 // from 1
	// Event is the place that the line says it is of; zero when it says none.
	Event persistence.Cursor
	Err   error
}

func (e *LineError) Error() string {
	if e.Event.After == 0 {
		return fmt.Sprintf("archive, line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("archive, line %d (partition %d, offset %d): %v", e.Line, e.Event.Partition, e.Event.After, e.Err)
}

func (e *LineError) Unwrap() error { return e.Err }

// IncompleteError says that an archive ends without saying that it is whole: its
// export was interrupted, or its end is lost. All that it has was brought in, and
// the same archive, completed, can be imported on top.
type IncompleteError struct {
	Events int64
	// Torn says that the last line is not a whole one.
	Torn bool
}

func (e *IncompleteError) Error() string {
	if e.Torn {
		return fmt.Sprintf("the archive breaks off in a line, after %d events: it is not whole", e.Events)
	}
	return fmt.Sprintf("the archive ends after %d events without its last line: it is not whole", e.Events)
}

// HashError says that the store does not hold what the archive does.
type HashError struct{ Archive, Store string }

func (e *HashError) Error() string {
	return fmt.Sprintf("the store's events have the hash %s, the archive's %s", e.Store, e.Archive)
}

package persistence

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// The integers and strings below are easily swapped, so each has its type.
type (
	// Partition numbers one of the store's logs, from 0.
	Partition int32
	// Offset is an event's dense place in its partition, from 1.
	Offset int64
	// Version is an event's dense place in its stream, from 1; 0 is a stream
	// without events.
	Version int64
	// Epoch counts how often a partition was claimed; 0 means never.
	Epoch int64
	// NodeID names one incarnation of a node and is never reused.
	NodeID string
	// CommandID is a command's identity, a UUID of version 7 (RFC 9562): its
	// first 48 bits are the milliseconds since 1970 when it was made.
	CommandID [16]byte
)

// String is the hexadecimal form without dashes.
func (c CommandID) String() string { return hex.EncodeToString(c[:]) }

// IsZero reports whether the id was never set.
func (c CommandID) IsZero() bool { return c == CommandID{} }

// MaxIDBytes bounds an aggregate id; MaxTypeBytes bounds a stored type name, of
// an aggregate or of an event. Stores refuse what is longer; see [Commit.Validate].
const (
	MaxIDBytes   = 512
	MaxTypeBytes = 128
	// MaxTimerBytes bounds a timer's name, MaxClaimBytes a claim's namespace and
	// key together.
	MaxTimerBytes = 256
	MaxClaimBytes = 2048
)

// Stream names one aggregate: its stored type name and its id.
type Stream struct {
	Type string
	ID   string
}

// String is the stored form, "type/id". Type names contain no slash, so the
// first slash ends the type.
func (s Stream) String() string { return s.Type + "/" + s.ID }

// ParseStream undoes String.
func ParseStream(s string) (Stream, error) {
	typ, id, ok := strings.Cut(s, "/")
	if !ok || typ == "" || id == "" {
		return Stream{}, fmt.Errorf("parse stream %q: want type/id", s)
	}
	return Stream{Type: typ, ID: id}, nil
}

// PartitionOf places a stream among n partitions. It is part of the stored
// format: its value for a stream never changes (testdata/partition.golden).
// The hash is FNV-1a over "type/id" with the 64-bit finaliser of SplitMix64
// (Steele, Lea, Flood 2014), because FNV's high bits alone spread short
// similar ids badly.
func PartitionOf(s Stream, n int) Partition {
	const offset64, prime64 = 14695981039346656037, 1099511628211
	h := uint64(offset64)
	for i := 0; i < len(s.Type); i++ {
		h = (h ^ uint64(s.Type[i])) * prime64
	}
	h = (h ^ '/') * prime64
	for i := 0; i < len(s.ID); i++ {
		h = (h ^ uint64(s.ID[i])) * prime64
	}
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb
	h ^= h >> 31
	return Partition(h % uint64(n))
}

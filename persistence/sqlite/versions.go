package sqlite

import "github.com/ingrain-go/ingrain/persistence"

// versions remembers the version of streams that this store lately wrote, so
// that the next append need not look. It is bounded: it holds two generations,
// and when the young one is full the old one is forgotten.
type versions struct {
	young, old map[persistence.Stream]known
	limit      int // of one generation
}

// known is what was true of a stream under its partition's reign.
type known struct {
	version persistence.Version
	reign   uint64
	name    string // the stream's stored form
}

const rememberedStreams = 1 << 16

func newVersions(limit int) versions {
	return versions{young: make(map[persistence.Stream]known), limit: max(limit/2, 1)}
}

func (v *versions) get(stream persistence.Stream) (known, bool) {
	if k, ok := v.young[stream]; ok {
		return k, true
	}
	k, ok := v.old[stream]
	return k, ok
}

func (v *versions) put(stream persistence.Stream, k known) {
	if len(v.young) >= v.limit {
		v.young, v.old = make(map[persistence.Stream]known, v.limit), v.young
	}
	v.young[stream] = k
}

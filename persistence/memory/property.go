package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// keys is the table of subjects' secrets.
type keys struct {
	sync.Mutex
	of map[string]persistence.Key
}

// Heads returns where the partitions' logs end.
func (s *Store) Heads(ctx context.Context) ([]persistence.Cursor, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	heads := make([]persistence.Cursor, len(s.data.partitions))
	for i := range s.data.partitions {
		p := &s.data.partitions[i]
		p.mu.Lock()
		heads[i] = persistence.Cursor{Partition: persistence.Partition(i), After: p.log.head()}
		p.mu.Unlock()
	}
	return heads, nil
}

// Streams lists a partition's streams by their first events.
func (s *Store) Streams(ctx context.Context, partition persistence.Partition, after persistence.Offset, limit int) ([]persistence.StreamInfo, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	p, err := s.data.partition(partition)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []persistence.StreamInfo
	for offset := max(after, 0) + 1; offset <= p.log.head() && len(found) < limit; offset++ {
		r := p.log.at(offset)
		if r.version != 1 || r.typ == persistence.ErasedType {
			continue
		}
		found = append(found, persistence.StreamInfo{
			Stream: r.stream.name, First: offset,
			Version: r.stream.version(), Last: r.stream.offsets[len(r.stream.offsets)-1],
		})
	}
	return found, nil
}

// Import continues the logs with events of another store, whole or not at all.
func (s *Store) Import(ctx context.Context, source string, events []persistence.Event) error {
	if err := persistence.ValidateImport(events, len(s.data.partitions)); err != nil {
		return err
	}
	if source == "" {
		return &persistence.ImportError{Reason: "the source has no name"}
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	d := s.data
	d.membership.mu.Lock() // keeps nodes from joining and claiming
	defer d.membership.mu.Unlock()
	for i := range d.partitions {
		d.partitions[i].mu.Lock()
		defer d.partitions[i].mu.Unlock()
	}
	if err := d.admitImport(source); err != nil {
		return err
	}
	if err := d.followImport(events); err != nil {
		return err
	}
	d.source = source
	for i := range events {
		d.partitions[events[i].Partition].bring(&events[i])
	}
	return nil
}

// admitImport asks whether the store may take events of the source. All locks
// are held.
func (d *data) admitImport(source string) error {
	switch {
	case len(d.membership.nodes) > 0:
		return &persistence.ImportError{Reason: "nodes have joined the store: only a fresh one takes an import"}
	case d.source != "" && d.source != source:
		return &persistence.ImportError{Reason: fmt.Sprintf("it has events of store %s, and these are of %s", d.source, source)}
	}
	for i := range d.partitions {
		if d.source == "" && d.partitions[i].log.head() > 0 {
			return &persistence.ImportError{Reason: "the store is not empty"}
		}
	}
	return nil
}

// followImport asks whether every event continues its partition and stream.
func (d *data) followImport(events []persistence.Event) error {
	heads := make(map[persistence.Partition]persistence.Offset)
	versions := make(map[persistence.Stream]persistence.Version)
	for i := range events {
		e := &events[i]
		p := &d.partitions[e.Partition]
		if _, seen := heads[e.Partition]; !seen {
			heads[e.Partition] = p.log.head()
		}
		if _, seen := versions[e.Stream]; !seen {
			versions[e.Stream] = p.streams[e.Stream].version()
		}
		place := persistence.Cursor{Partition: e.Partition, After: e.Offset}
		if head := heads[e.Partition]; e.Offset != head+1 {
			return &persistence.ImportError{Event: place, Reason: fmt.Sprintf("the partition ends at %d", head)}
		}
		if v := versions[e.Stream]; e.Version != v+1 {
			return &persistence.ImportError{Event: place, Reason: fmt.Sprintf("it is version %d of %s, which is at %d", e.Version, e.Stream, v)}
		}
		heads[e.Partition]++
		versions[e.Stream]++
	}
	return nil
}

func (p *partition) bring(e *persistence.Event) {
	st := p.streams[e.Stream]
	if st == nil {
		st = p.addStream(e.Stream)
	}
	offset := p.log.add(record{
		stream: st, version: e.Version, epoch: e.Epoch, typ: strings.Clone(e.Type), at: microseconds(e.At),
		command: e.Command, metadata: orNil(e.Metadata), payload: orNil(e.Payload),
	})
	st.offsets = append(st.offsets, offset)
	p.epoch = max(p.epoch, e.Epoch)
	p.owner, p.released = "", true
}

func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// Erase takes out of the log what a stream says.
func (s *Store) Erase(ctx context.Context, owner persistence.NodeID, fence persistence.Fence, name persistence.Stream) (persistence.Version, error) {
	if err := name.Validate(); err != nil {
		return 0, fmt.Errorf("erase: %w", err)
	}
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.life.RUnlock()
	d := s.data
	if home := persistence.PartitionOf(name, len(d.partitions)); home != fence.Partition {
		return 0, fmt.Errorf("erase %s: it lives in partition %d, not %d", name, home, fence.Partition)
	}
	p := &d.partitions[fence.Partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admit(owner, &fence)
	if refusal := p.refusal; refusal != nil {
		p.refusal = nil
		return 0, refusal
	}
	d.forgetAround(p, name)
	st := p.streams[name]
	if st == nil || name.Type == persistence.ErasedType {
		return 0, nil
	}
	delete(p.streams, name)
	st.name = persistence.ErasedStream(fence.Partition, st.offsets[0])
	st.snapshot = nil
	p.streams[st.name] = st
	for _, offset := range st.offsets {
		r := p.log.at(offset)
		r.typ, r.command, r.metadata, r.payload = persistence.ErasedType, persistence.CommandID{}, nil, nil
	}
	return st.version(), nil
}

// forgetAround removes what belongs to a stream besides its events. The
// partition is locked.
func (d *data) forgetAround(p *partition, name persistence.Stream) {
	for key := range p.timers.byKey {
		if key.Stream == name {
			p.timers.remove(key)
		}
	}
	d.claims.mu.Lock()
	maps.DeleteFunc(d.claims.holders, func(_ persistence.Claim, holder persistence.Stream) bool { return holder == name })
	d.claims.mu.Unlock()
	d.checkpoints.Lock()
	defer d.checkpoints.Unlock()
	for _, letters := range d.projections.letters {
		maps.DeleteFunc(letters, func(_ persistence.DeadLetterKey, l persistence.DeadLetter) bool { return l.Stream == name })
	}
}

// FindKeys returns the subjects' keys and markers.
func (s *Store) FindKeys(ctx context.Context, subjects []string) ([]persistence.Key, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	s.data.keys.Lock()
	defer s.data.keys.Unlock()
	var found []persistence.Key
	for _, subject := range slices.Compact(slices.Sorted(slices.Values(subjects))) {
		if key, there := s.data.keys.of[subject]; there {
			found = append(found, cloneKey(key))
		}
	}
	return found, nil
}

// PutKey keeps the key if the subject has none.
func (s *Store) PutKey(ctx context.Context, key persistence.Key, renew bool) (persistence.Key, error) {
	if err := key.Validate(); err != nil {
		return persistence.Key{}, err
	}
	if err := s.enter(ctx); err != nil {
		return persistence.Key{}, err
	}
	defer s.life.RUnlock()
	s.data.keys.Lock()
	defer s.data.keys.Unlock()
	if there, found := s.data.keys.of[key.Subject]; found && (!there.Forgotten || !renew) {
		return cloneKey(there), nil
	}
	key.At = microseconds(key.At)
	s.data.keys.put(cloneKey(key))
	return key, nil
}

// DeleteKey leaves a marker where a key was, and overwrites the secret.
func (s *Store) DeleteKey(ctx context.Context, subject string, at time.Time) error {
	marker := persistence.Key{Subject: subject, Forgotten: true, At: microseconds(at)}
	if err := marker.Validate(); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	s.data.keys.Lock()
	defer s.data.keys.Unlock()
	there := s.data.keys.of[subject]
	if there.Forgotten {
		return nil
	}
	clear(there.Secret)
	s.data.keys.put(marker)
	return nil
}

// ListKeys returns keys and markers by subject.
func (s *Store) ListKeys(ctx context.Context, after string, limit int) ([]persistence.Key, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	s.data.keys.Lock()
	defer s.data.keys.Unlock()
	var found []persistence.Key
	for _, subject := range slices.Sorted(maps.Keys(s.data.keys.of)) {
		if subject > after && len(found) < limit {
			found = append(found, cloneKey(s.data.keys.of[subject]))
		}
	}
	return found, nil
}

func (k *keys) put(key persistence.Key) {
	if k.of == nil {
		k.of = make(map[string]persistence.Key)
	}
	key.Subject = strings.Clone(key.Subject)
	k.of[key.Subject] = key
}

func cloneKey(k persistence.Key) persistence.Key {
	k.Secret = bytes.Clone(k.Secret)
	return k
}

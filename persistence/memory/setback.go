package memory

import "github.com/ingrain-go/ingrain/persistence"

// SetBack makes a partition's log lose the events behind head, as a database
// does that is restored to an earlier moment: for tests of what comes of it.
// All else stays: claims, timers, snapshots, checkpoints, and who owns what. A
// log that is no longer than head stays too.
func (s *Store) SetBack(id persistence.Partition, head persistence.Offset) error {
	p, err := s.data.partition(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	head = max(head, 0)
	for ; p.log.length > head; p.log.length-- {
		last := &p.log.chunks[len(p.log.chunks)-1]
		st := p.log.at(p.log.length).stream
		st.offsets = st.offsets[:len(st.offsets)-1]
		if *last = (*last)[:len(*last)-1]; len(*last) == 0 {
			p.log.chunks = p.log.chunks[:len(p.log.chunks)-1]
		}
	}
	return nil
}

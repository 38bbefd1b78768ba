package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// membership is the table of nodes. Its lock also guards every change of a
// partition's row, so that a view shows both at one moment; it is taken above
// the locks of partitions.
type membership struct {
	mu      sync.Mutex
	joined  bool
	cluster string
	nodes   map[persistence.NodeID]*persistence.Node // dead ones stay: ids are never reused
}

// membership admits a call and locks the tables for it; the call must end with
// leave.
func (s *Store) membership(ctx context.Context) (m *membership, leave func(), err error) {
	if err := s.enter(ctx); err != nil {
		return nil, nil, err
	}
	m = &s.data.membership
	m.mu.Lock()
	return m, func() {
		m.mu.Unlock()
		s.life.RUnlock()
	}, nil
}

func (m *membership) live(id persistence.NodeID) bool {
	n := m.nodes[id]
	return n != nil && n.State.Alive()
}

// Join adds a node incarnation, alive and with no renewals.
func (s *Store) Join(ctx context.Context, node persistence.Node) error {
	if err := node.Validate(); err != nil {
		return err
	}
	m, leave, err := s.membership(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if m.joined && m.cluster != node.Cluster {
		return &persistence.SetupError{
			Store:  "memory",
			Reason: fmt.Sprintf("it belongs to cluster %q, and Config.Name is %q", m.cluster, node.Cluster),
		}
	}
	node.Lease = node.Lease.Truncate(time.Microsecond)
	for _, other := range m.nodes {
		if other.State.Alive() && other.Lease != node.Lease {
			return &persistence.SetupError{
				Store:  "memory",
				Reason: fmt.Sprintf("its node %s has a lease of %s, this one %s: all must have the same", other.ID, other.Lease, node.Lease),
			}
		}
	}
	if _, used := m.nodes[node.ID]; used {
		return fmt.Errorf("join %s: the id was used before: %w", node.ID, persistence.ErrNotMember)
	}
	node.Types = slices.Clone(node.Types)
	node.Renewals, node.Suspects = 0, nil
	m.joined, m.cluster = true, node.Cluster
	m.nodes[node.ID] = &node
	return nil
}

// Renew counts the node's renewal and returns the view.
func (s *Store) Renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	if err := renewal.Validate(); err != nil {
		return persistence.View{}, err
	}
	m, leave, err := s.membership(ctx)
	if err != nil {
		return persistence.View{}, err
	}
	defer leave()
	if !m.live(renewal.Node) {
		return persistence.View{}, fmt.Errorf("renew %s: %w", renewal.Node, persistence.ErrNotMember)
	}
	node := m.nodes[renewal.Node]
	node.Renewals++
	node.State, node.Suspects = renewal.State, slices.Clone(renewal.Suspects)
	return s.data.view(), nil
}

// View returns the tables, nodes ascending by id.
func (s *Store) View(ctx context.Context) (persistence.View, error) {
	_, leave, err := s.membership(ctx)
	if err != nil {
		return persistence.View{}, err
	}
	defer leave()
	return s.data.view(), nil
}

// view is called with the membership lock held, without which no partition's
// row changes.
func (d *data) view() persistence.View {
	v := persistence.View{Partitions: make([]persistence.Ownership, len(d.partitions)), Lineage: d.meta.StoreID}
	owns := make(map[persistence.NodeID]bool)
	for i := range d.partitions {
		p := &d.partitions[i]
		v.Partitions[i] = persistence.Ownership{
			Partition: persistence.Partition(i), Epoch: p.epoch, Owner: p.owner, Released: p.released,
		}
		owns[p.owner] = true
	}
	for id, n := range d.membership.nodes {
		node := *n
		node.Types, node.Suspects = slices.Clone(n.Types), slices.Clone(n.Suspects)
		switch {
		case n.State.Alive():
			v.Nodes = append(v.Nodes, node)
		case owns[id]:
			v.Dead = append(v.Dead, node)
		}
	}
	byID := func(a, b persistence.Node) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(v.Nodes, byID)
	slices.SortFunc(v.Dead, byID)
	return v
}

// Leave marks the node dead and releases what it owns, even if it was evicted
// before.
func (s *Store) Leave(ctx context.Context, id persistence.NodeID) error {
	m, leave, err := s.membership(ctx)
	if err != nil {
		return err
	}
	defer leave()
	node := m.nodes[id]
	if node == nil {
		return fmt.Errorf("leave %s: %w", id, persistence.ErrNotMember)
	}
	node.State = persistence.Dead
	for i := range s.data.partitions {
		p := &s.data.partitions[i]
		if p.owner != id {
			continue
		}
		p.mu.Lock()
		p.epoch, p.owner, p.released = p.epoch+1, "", true
		p.mu.Unlock()
	}
	return nil
}

// Evict marks a node dead if it has not renewed since the caller looked.
func (s *Store) Evict(ctx context.Context, victim persistence.NodeID, renewals int64) (bool, error) {
	m, leave, err := s.membership(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	if !m.live(victim) || m.nodes[victim].Renewals != renewals {
		return false, nil
	}
	m.nodes[victim].State = persistence.Dead
	return true, nil
}

// Claim takes a partition over. Waiting for the partition's lock is waiting
// for the append in flight. // I1
func (s *Store) Claim(ctx context.Context, id persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	m, leave, err := s.membership(ctx)
	if err != nil {
		return persistence.Tenure{}, err
	}
	defer leave()
	if !m.live(node) {
		return persistence.Tenure{}, fmt.Errorf("claim partition %d for %s: %w", id, node, persistence.ErrNotMember)
	}
	p, err := s.data.partition(id)
	if err != nil {
		return persistence.Tenure{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != seen {
		return persistence.Tenure{}, &persistence.ClaimLostError{Partition: id, Seen: seen, Current: p.epoch, Owner: p.owner}
	}
	tenure := persistence.Tenure{
		Partition: id, Epoch: seen + 1, Head: p.log.head(), Previous: p.owner, Released: p.released,
	}
	p.epoch, p.owner, p.released = seen+1, node, false
	return tenure, nil
}

// Release gives a partition up, or over to a live member.
func (s *Store) Release(ctx context.Context, id persistence.Partition, epoch persistence.Epoch, node, to persistence.NodeID) error {
	m, leave, err := s.membership(ctx)
	if err != nil {
		return err
	}
	defer leave()
	p, err := s.data.partition(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch || p.owner != node || node == "" {
		return &persistence.ClaimLostError{Partition: id, Seen: epoch, Current: p.epoch, Owner: p.owner}
	}
	if to != "" && !m.live(to) {
		return fmt.Errorf("release partition %d to %s: %w", id, to, persistence.ErrNotMember)
	}
	p.epoch, p.owner, p.released = epoch+1, to, true
	return nil
}

// Verify tells which partitions the node owns under the epochs of the fences,
// with logs that reach their heads.
func (s *Store) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	owned := make([]bool, len(fences))
	for i, fence := range fences {
		p, err := s.data.partition(fence.Partition)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		owned[i] = node != "" && p.owner == node && p.epoch == fence.Epoch && p.log.head() >= fence.Head
		p.mu.Unlock()
	}
	return owned, nil
}

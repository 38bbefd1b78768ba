package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

const insertTenure = "insert into es_tenure (part, epoch, owner, at) values (?, ?, ?, ?)"

// Join adds a node incarnation, alive and with no renewals.
func (s *Store) Join(ctx context.Context, node persistence.Node) error {
	if err := node.Validate(); err != nil {
		return err
	}
	types, err := json.Marshal(node.Types)
	if err != nil {
		return fmt.Errorf("join %s: %w", node.ID, err)
	}
	err = s.write(ctx, func(c *conn) error {
		if _, err := c.exec("update es_meta set cluster = ? where cluster is null", node.Cluster); err != nil {
			return err
		}
		var cluster string
		if _, err := c.queryRow("select cluster from es_meta", func(r row) { cluster = r.text(0) }); err != nil {
			return err
		}
		if cluster != node.Cluster {
			return setupError(fmt.Sprintf("it belongs to cluster %q, and Config.Name is %q", cluster, node.Cluster), nil)
		}
		if err := requireSameLease(c, node.Lease); err != nil {
			return err
		}
		added, err := c.exec(`insert into es_node (node, address, types, state, host, lock, joined_at, lease, weight)
			values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing`,
			node.ID, node.Address, string(types), node.State, node.Host, node.Lock, time.Now(), node.Lease.Microseconds(), node.Weight)
		if err == nil && added == 0 {
			err = fmt.Errorf("the id was used before: %w", persistence.ErrNotMember)
		}
		return err
	})
	if setup := (*persistence.SetupError)(nil); errors.As(err, &setup) {
		setup.Place = filepath.Dir(s.path)
		return setup // it is about the store, not about the node
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", node.ID, err)
	}
	return nil
}

// requireSameLease refuses a node whose lease is not that of the living.
func requireSameLease(c *conn, lease time.Duration) error {
	var other persistence.NodeID
	var theirs time.Duration
	differs, err := c.queryRow("select node, lease from es_node where state <> ? and lease <> ? order by node limit 1", func(r row) {
		other, theirs = persistence.NodeID(r.text(0)), micros(r.int(1))
	}, persistence.Dead, lease.Microseconds())
	if err == nil && differs {
		err = setupError(fmt.Sprintf("its node %s has a lease of %s, this one %s: all must have the same",
			other, theirs, lease.Truncate(time.Microsecond)), nil)
	}
	return err
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// Renew counts the node's renewal and returns the view.
func (s *Store) Renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	if err := renewal.Validate(); err != nil {
		return persistence.View{}, err
	}
	suspects, err := json.Marshal(renewal.Suspects)
	if err != nil {
		return persistence.View{}, fmt.Errorf("renew %s: %w", renewal.Node, err)
	}
	var view persistence.View
	err = s.write(ctx, func(c *conn) error {
		renewed, err := c.exec("update es_node set renewals = renewals + 1, state = ?, suspects = ? where node = ? and state <> ?",
			renewal.State, string(suspects), renewal.Node, persistence.Dead)
		if err == nil && renewed == 0 {
			err = persistence.ErrNotMember
		}
		if err != nil {
			return err
		}
		view, err = s.readView(c)
		return err
	})
	if err != nil {
		return persistence.View{}, fmt.Errorf("renew %s: %w", renewal.Node, err)
	}
	return view, nil
}

// View returns the tables, nodes ascending by id.
func (s *Store) View(ctx context.Context) (persistence.View, error) {
	var view persistence.View
	err := s.view(ctx, func(c *conn) (err error) {
		view, err = s.readView(c)
		return err
	})
	if err != nil {
		return persistence.View{}, fmt.Errorf("view: %w", err)
	}
	return view, nil
}

func (s *Store) readView(c *conn) (persistence.View, error) {
	var view persistence.View
	err := c.query(`select node, cluster, address, types, state, renewals, host, lock, lease, weight, coalesce(suspects, 'null')
		from es_node, es_meta where state <> ? or node in (select owner from es_partition) order by node`, func(r row) error {
		node := persistence.Node{
			ID: persistence.NodeID(r.text(0)), Cluster: r.text(1), Address: r.text(2),
			State: persistence.NodeState(r.text(4)), Renewals: r.int(5), Host: r.text(6), Lock: r.text(7),
			Lease: micros(r.int(8)), Weight: int(r.int(9)),
		}
		if err := errors.Join(json.Unmarshal([]byte(r.text(3)), &node.Types), json.Unmarshal([]byte(r.text(10)), &node.Suspects)); err != nil {
			return fmt.Errorf("node %s: %w", node.ID, err)
		}
		if node.State.Alive() {
			view.Nodes = append(view.Nodes, node)
		} else {
			view.Dead = append(view.Dead, node)
		}
		return nil
	}, persistence.Dead)
	if err != nil {
		return view, err
	}
	if view.Lineage, err = placeOf(s.path); err != nil {
		return view, err
	}
	err = c.query("select part, epoch, owner, released from es_partition order by part", func(r row) error {
		view.Partitions = append(view.Partitions, persistence.Ownership{
			Partition: persistence.Partition(r.int(0)), Epoch: persistence.Epoch(r.int(1)),
			Owner: persistence.NodeID(r.text(2)), Released: r.int(3) != 0,
		})
		return nil
	})
	return view, err
}

// Leave marks the node dead and releases what it owns, even if it was evicted
// before.
func (s *Store) Leave(ctx context.Context, node persistence.NodeID) error {
	err := s.write(ctx, func(c *conn) error {
		marked, err := c.exec("update es_node set state = ? where node = ?", persistence.Dead, node)
		if err == nil && marked == 0 {
			err = persistence.ErrNotMember
		}
		if err != nil {
			return err
		}
		_, err = c.exec(`insert into es_tenure (part, epoch, owner, at)
			select part, epoch + 1, '', ? from es_partition where owner = ?`, time.Now(), node)
		if err != nil {
			return err
		}
		_, err = c.exec("update es_partition set epoch = epoch + 1, owner = '', released = 1 where owner = ?", node)
		return err
	})
	if err != nil {
		return fmt.Errorf("leave %s: %w", node, err)
	}
	return nil
}

// Evict marks a node dead if it has not renewed since the caller looked.
func (s *Store) Evict(ctx context.Context, victim persistence.NodeID, renewals int64) (bool, error) {
	var evicted int64
	err := s.write(ctx, func(c *conn) (err error) {
		evicted, err = c.exec("update es_node set state = ? where node = ? and renewals = ? and state <> ?",
			persistence.Dead, victim, renewals, persistence.Dead)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("evict %s: %w", victim, err)
	}
	return evicted == 1, nil
}

// Claim takes a partition over. Waiting for the write lock is waiting for the
// append in flight. // I1
func (s *Store) Claim(ctx context.Context, partition persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	tenure := persistence.Tenure{Partition: partition, Epoch: seen + 1}
	err := s.write(ctx, func(c *conn) error {
		if err := requireLive(c, node); err != nil {
			return err
		}
		held, head, err := s.hold(c, partition)
		if err != nil {
			return err
		}
		if held.Epoch != seen {
			return lost(held, seen)
		}
		tenure.Head, tenure.Previous, tenure.Released = head, held.Owner, held.Released
		return reign(c, partition, seen+1, node, false)
	})
	if err != nil {
		return persistence.Tenure{}, fmt.Errorf("claim partition %d for %s: %w", partition, node, err)
	}
	return tenure, nil
}

// Release gives a partition up, or over to a live member.
func (s *Store) Release(ctx context.Context, partition persistence.Partition, epoch persistence.Epoch, node, to persistence.NodeID) error {
	err := s.write(ctx, func(c *conn) error {
		held, _, err := s.hold(c, partition)
		if err != nil {
			return err
		}
		if held.Epoch != epoch || held.Owner != node || node == "" {
			return lost(held, epoch)
		}
		if to != "" {
			if err := requireLive(c, to); err != nil {
				return fmt.Errorf("to %s: %w", to, err)
			}
		}
		return reign(c, partition, epoch+1, to, true)
	})
	if err != nil {
		return fmt.Errorf("release partition %d of %s: %w", partition, node, err)
	}
	return nil
}

// Verify tells which partitions the node owns under the epochs of the fences,
// with logs that reach their heads.
func (s *Store) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	owned := make([]bool, len(fences))
	err := s.view(ctx, func(c *conn) error {
		for i := range fences {
			fence := &fences[i]
			if err := s.within(fence.Partition); err != nil {
				return err
			}
			var err error
			owned[i], err = c.queryRow(`select 1 from es_partition p where part = ? and epoch = ? and owner = ? and owner <> ''
				and (? <= 0 or exists (select 1 from es_event e where e.part = p.part and e.pos = ?))`,
				func(row) {}, fence.Partition, fence.Epoch, node, fence.Head, fence.Head)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", node, err)
	}
	return owned, nil
}

func requireLive(c *conn, node persistence.NodeID) error {
	live, err := c.queryRow("select 1 from es_node where node = ? and state <> ?", func(row) {}, node, persistence.Dead)
	if err == nil && !live {
		err = persistence.ErrNotMember
	}
	return err
}

// hold returns a partition's row and head.
func (s *Store) hold(c *conn, p persistence.Partition) (held persistence.Ownership, head persistence.Offset, err error) {
	if err := s.within(p); err != nil {
		return held, 0, err
	}
	held.Partition = p
	_, err = c.queryRow(`select p.epoch, p.owner, p.released, (select coalesce(max(e.pos), 0) from es_event e where e.part = p.part)
		from es_partition p where p.part = ?`, func(r row) {
		held.Epoch, held.Owner, held.Released = persistence.Epoch(r.int(0)), persistence.NodeID(r.text(1)), r.int(2) != 0
		head = persistence.Offset(r.int(3))
	}, p)
	return held, head, err
}

func lost(held persistence.Ownership, seen persistence.Epoch) error {
	return &persistence.ClaimLostError{Partition: held.Partition, Seen: seen, Current: held.Epoch, Owner: held.Owner}
}

// reign writes a partition's next epoch and remembers it for ever.
func reign(c *conn, p persistence.Partition, epoch persistence.Epoch, owner persistence.NodeID, released bool) error {
	_, err := c.exec("update es_partition set epoch = ?, owner = ?, released = ? where part = ?", epoch, owner, released, p)
	if err == nil {
		_, err = c.exec(insertTenure, p, epoch, owner, time.Now())
	}
	return err
}

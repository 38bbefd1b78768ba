package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	clusterSQL = `update es_meta set cluster = $1 where cluster is null`
	// The lock lets one node join at a time, so that each sees the lease of the
	// one before.
	sameSQL    = `select cluster from es_meta for no key update`
	anotherSQL = `select node, lease from es_node where state <> 'dead' and lease <> $1 order by node limit 1`
	joinSQL    = `insert into es_node (node, address, types, state, renewals, host, lock, lease)
		values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing`
	renewSQL = `update es_node set renewals = renewals + 1, state = $2 where node = $1 and state <> 'dead'`
	// One statement, so that both tables are seen at one moment.
	viewSQL = `select n.node, n.address, n.types, n.state, n.renewals, n.host, n.lock, m.cluster,
			null::int, null::bigint, null::boolean, coalesce(n.lease, 0)
		  from es_node n, es_meta m where n.state <> 'dead'
		union all
		select p.owner, null, null, null, null, null, null, null, p.part, p.epoch, p.released, null from es_partition p`
	evictSQL  = `update es_node set state = 'dead' where node = $1 and renewals = $2 and state <> 'dead'`
	verifySQL = `select i.n from unnest($1::int[], $2::bigint[]) with ordinality i(part, epoch, n)
		join es_partition p on p.part = i.part and p.epoch = i.epoch where p.owner = $3 and $3 <> ''`
)

// Join adds a node incarnation.
func (s *Store) Join(ctx context.Context, node persistence.Node) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	err := try(ctx, s.members, once, func() error { return s.join(ctx, node) })
	if setup := (*persistence.SetupError)(nil); errors.As(err, &setup) {
		setup.Place = s.place
		return setup // it is about the store, not about the node
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", node.ID, err)
	}
	return nil
}

func (s *Store) join(ctx context.Context, node persistence.Node) error {
	return pgx.BeginFunc(ctx, s.members, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, clusterSQL, node.Cluster); err != nil {
			return err
		}
		var cluster string
		if err := tx.QueryRow(ctx, sameSQL).Scan(&cluster); err != nil {
			return err
		}
		if cluster != node.Cluster {
			return &persistence.SetupError{Store: storeName, Reason: fmt.Sprintf("it belongs to cluster %q, and Config.Name is %q", cluster, node.Cluster)}
		}
		if err := requireSameLease(ctx, tx, node.Lease); err != nil {
			return err
		}
		types := node.Types
		if types == nil {
			types = []string{}
		}
		tag, err := tx.Exec(ctx, joinSQL, string(node.ID), node.Address, types, string(node.State), node.Renewals,
			node.Host, node.Lock, node.Lease.Microseconds())
		if err == nil && tag.RowsAffected() == 0 {
			err = persistence.ErrNotMember
		}
		return err
	})
}

// requireSameLease refuses a node whose lease is not that of the living.
func requireSameLease(ctx context.Context, tx pgx.Tx, lease time.Duration) error {
	var other string
	var theirs int64
	err := tx.QueryRow(ctx, anotherSQL, lease.Microseconds()).Scan(&other, &theirs)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = refuse("its node %s has a lease of %s, this one %s: all must have the same",
			other, micros(theirs), lease.Truncate(time.Microsecond))
	}
	return err
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// Renew counts a renewal and returns the view.
func (s *Store) Renew(ctx context.Context, node persistence.NodeID, state persistence.NodeState) (persistence.View, error) {
	if err := s.gate.enter(ctx); err != nil {
		return persistence.View{}, err
	}
	defer s.gate.leave()
	var view persistence.View
	// Counting twice does no harm: others ask whether the count has changed.
	err := try(ctx, s.members, repeatable, func() (err error) {
		view, err = s.renew(ctx, node, state)
		return err
	})
	if err != nil {
		return persistence.View{}, fmt.Errorf("renew %s: %w", node, err)
	}
	return view, nil
}

func (s *Store) renew(ctx context.Context, node persistence.NodeID, state persistence.NodeState) (persistence.View, error) {
	// Not begun explicitly, hence one transaction in one round trip. The second
	// statement sees what the first did.
	var batch pgx.Batch
	batch.Queue(renewSQL, string(node), string(state))
	batch.Queue(viewSQL)
	results := s.members.SendBatch(ctx, &batch)
	view, renewed, err := func() (persistence.View, bool, error) {
		tag, err := results.Exec()
		if err != nil {
			return persistence.View{}, false, err
		}
		rows, err := results.Query()
		if err != nil {
			return persistence.View{}, false, err
		}
		view, err := s.scanView(rows)
		return view, tag.RowsAffected() == 1, err
	}()
	// The renewal holds when the batch, and so the transaction, has ended well.
	if e := results.Close(); err == nil {
		err = e
	}
	if err == nil && !renewed {
		err = persistence.ErrNotMember
	}
	return view, err
}

// View returns the tables of nodes and partitions.
func (s *Store) View(ctx context.Context) (persistence.View, error) {
	if err := s.gate.enter(ctx); err != nil {
		return persistence.View{}, err
	}
	defer s.gate.leave()
	var view persistence.View
	err := try(ctx, s.members, repeatable, func() error {
		rows, err := s.members.Query(ctx, viewSQL)
		if err == nil {
			view, err = s.scanView(rows)
		}
		return err
	})
	if err != nil {
		return persistence.View{}, fmt.Errorf("view: %w", err)
	}
	return view, nil
}

func (s *Store) scanView(rows pgx.Rows) (persistence.View, error) {
	defer rows.Close()
	view := persistence.View{Partitions: make([]persistence.Ownership, s.meta.Partitions)}
	var d decoder
	seen := 0
	for rows.Next() {
		row := rows.RawValues()
		if row[8] != nil {
			p := int(d.int4(row[8]))
			if p < 0 || p >= len(view.Partitions) {
				return view, fmt.Errorf("the table has a partition %d", p)
			}
			seen++
			view.Partitions[p] = persistence.Ownership{
				Partition: persistence.Partition(p),
				Owner:     persistence.NodeID(row[0]),
				Epoch:     persistence.Epoch(d.int8(row[9])),
				Released:  row[10][0] != 0,
			}
			continue
		}
		var n persistence.Node
		var lease int64
		if err := rows.Scan(&n.ID, &n.Address, &n.Types, &n.State, &n.Renewals, &n.Host, &n.Lock, &n.Cluster, nil, nil, nil, &lease); err != nil {
			return view, err
		}
		n.Lease = micros(lease)
		if len(n.Types) == 0 {
			n.Types = nil
		}
		view.Nodes = append(view.Nodes, n)
	}
	if err := rows.Err(); err != nil {
		return view, err
	}
	if seen != len(view.Partitions) {
		return view, fmt.Errorf("the table has %d partitions, want %d", seen, len(view.Partitions))
	}
	return view, nil
}

// Evict marks a node dead if its renewals still are what the caller saw.
func (s *Store) Evict(ctx context.Context, victim persistence.NodeID, renewals int64) (bool, error) {
	if err := s.gate.enter(ctx); err != nil {
		return false, err
	}
	defer s.gate.leave()
	var evicted bool
	err := try(ctx, s.members, once, func() error {
		tag, err := s.members.Exec(ctx, evictSQL, string(victim), renewals)
		evicted = tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("evict %s: %w", victim, err)
	}
	return evicted, nil
}

// Verify reports which of the partitions node owns.
func (s *Store) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	owned := make([]bool, len(fences))
	parts, epochs := make([]int32, len(fences)), make([]int64, len(fences))
	for i, f := range fences {
		parts[i], epochs[i] = int32(f.Partition), int64(f.Epoch)
	}
	err := try(ctx, s.members, repeatable, func() error {
		clear(owned)
		rows, err := s.members.Query(ctx, verifySQL, parts, epochs, string(node))
		if err != nil {
			return err
		}
		defer rows.Close()
		var d decoder
		for rows.Next() {
			owned[d.int8(rows.RawValues()[0])-1] = true
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return owned, nil
}

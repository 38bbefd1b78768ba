package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	nameClusterSQL = `update es_meta set cluster = $1 where cluster is null`
	// The lock lets one node join at a time, so that each sees the lease of the
	// one before.
	lockClusterSQL = `select cluster from es_meta for no key update`
	otherLeaseSQL  = `select node, lease from es_node where state <> 'dead' and lease <> $1 order by node limit 1`
	joinSQL        = `insert into es_node (node, address, types, state, host, lock, lease, weight)
		values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing`
	renewSQL = `update es_node set renewals = renewals + 1, state = $2, suspects = $3 where node = $1 and state <> 'dead'`
	// placeSQL tells this store from copies of it: the server, the database and
	// the tables. lineageSQL adds the timeline, which changes when a standby is
	// promoted and when a server is recovered to a point in time. m is es_meta.
	// Any role may ask. The timeline of pg_control_checkpoint would be that of
	// the last checkpoint.
	placeSQL = `(select system_identifier from pg_control_system()) || '/' ||
		(select oid from pg_database where datname = current_database()) || '/' || m.tableoid`
	lineageSQL = placeSQL + ` || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)`

	// One statement, so that both tables are seen at one moment. Of the dead,
	// who grow ever more, only those that own something are looked at: the limit
	// keeps the planner from reading all of them.
	viewSQL = `with p as materialized (select part, epoch, owner, released from es_partition),
		n as (select * from es_node where state <> 'dead' union all
		      select d.* from (select distinct owner from p where owner <> '') o
		        cross join lateral (select * from es_node where node = o.owner and state = 'dead' limit 1) d)
		select owner, part, epoch, released, null::text, null::text, null::text[], null::bigint, null::text, null::text,
			null::text, null::bigint, null::bigint, null::text[] from p
		union all
		select n.node, null, null, null, n.state, n.address, n.types, n.renewals, n.host, n.lock,
			m.cluster, coalesce(n.lease, 0), n.weight, n.suspects from n, es_meta m
		union all
		select ` + lineageSQL + `, null, null, null, null, null, null, null, null, null, null, null, null, null from es_meta m`
	evictSQL = `update es_node set state = 'dead' where node = $1 and renewals = $2 and state <> 'dead'`
	// Offsets are dense: a log reaches the head that it has an event at. An
	// "exists" here might be hashed, for which all of the log would be read.
	verifySQL = `select i.n from unnest($1::int[], $2::bigint[], $3::bigint[]) with ordinality i(part, epoch, head, n)
		join es_partition p on p.part = i.part and p.epoch = i.epoch where p.owner = $4 and $4 <> ''
		and (i.head <= 0 or i.head = (select e.pos from es_event e where e.part = i.part and e.pos = i.head))`
)

// Join adds a node incarnation, alive and with no renewals.
func (s *Store) Join(ctx context.Context, node persistence.Node) error {
	if err := node.Validate(); err != nil {
		return err
	}
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
	s.roused.Do(func() { s.rouse(ctx) })
	return nil
}

func (s *Store) join(ctx context.Context, node persistence.Node) error {
	return pgx.BeginFunc(ctx, s.members, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, nameClusterSQL, node.Cluster); err != nil {
			return err
		}
		var cluster string
		if err := tx.QueryRow(ctx, lockClusterSQL).Scan(&cluster); err != nil {
			return err
		}
		if cluster != node.Cluster {
			return refuse("it belongs to cluster %q, and Config.Name is %q", cluster, node.Cluster)
		}
		if err := requireSameLease(ctx, tx, node.Lease); err != nil {
			return err
		}
		types := node.Types
		if types == nil {
			types = []string{}
		}
		tag, err := tx.Exec(ctx, joinSQL, string(node.ID), node.Address, types, string(node.State),
			node.Host, node.Lock, node.Lease.Microseconds(), int64(node.Weight))
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("the id was used before: %w", persistence.ErrNotMember)
		}
		return err
	})
}

// requireSameLease refuses a node whose lease is not that of the living.
func requireSameLease(ctx context.Context, tx pgx.Tx, lease time.Duration) error {
	var other string
	var theirs int64
	err := tx.QueryRow(ctx, otherLeaseSQL, lease.Microseconds()).Scan(&other, &theirs)
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
func (s *Store) Renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	if err := renewal.Validate(); err != nil {
		return persistence.View{}, err
	}
	if err := s.gate.enter(ctx); err != nil {
		return persistence.View{}, err
	}
	defer s.gate.leave()
	var view persistence.View
	// Counting twice does no harm: others ask whether the count has changed.
	err := try(ctx, s.members, repeatable, func() (err error) {
		view, err = s.renew(ctx, renewal)
		return err
	})
	if err != nil {
		return persistence.View{}, fmt.Errorf("renew %s: %w", renewal.Node, err)
	}
	return view, nil
}

func (s *Store) renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	// Not begun explicitly, hence one transaction in one round trip. The second
	// statement sees what the first did.
	var batch pgx.Batch
	batch.Queue(renewSQL, string(renewal.Node), string(renewal.State), renewal.Suspects)
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

// View returns the tables, nodes ascending by id.
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
		if row[1] != nil {
			p := int(d.int4(row[1]))
			if p < 0 || p >= len(view.Partitions) {
				return view, fmt.Errorf("the table has a partition %d", p)
			}
			seen++
			view.Partitions[p] = persistence.Ownership{
				Partition: persistence.Partition(p),
				Owner:     persistence.NodeID(row[0]),
				Epoch:     persistence.Epoch(d.int8(row[2])),
				Released:  row[3][0] != 0,
			}
			continue
		}
		if row[4] == nil {
			view.Lineage = string(row[0])
			continue
		}
		var n persistence.Node
		var lease int64
		err := rows.Scan(&n.ID, nil, nil, nil, &n.State, &n.Address, &n.Types, &n.Renewals, &n.Host, &n.Lock, &n.Cluster,
			&lease, &n.Weight, &n.Suspects)
		if err != nil {
			return view, err
		}
		n.Lease = micros(lease)
		if len(n.Types) == 0 {
			n.Types = nil
		}
		if n.State.Alive() {
			view.Nodes = append(view.Nodes, n)
		} else {
			view.Dead = append(view.Dead, n)
		}
	}
	if err := rows.Err(); err != nil {
		return view, err
	}
	if seen != len(view.Partitions) {
		return view, fmt.Errorf("the table has %d partitions, want %d", seen, len(view.Partitions))
	}
	byID := func(a, b persistence.Node) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(view.Nodes, byID)
	slices.SortFunc(view.Dead, byID)
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

// Verify tells which partitions the node owns under the epochs of the fences,
// with logs that reach their heads.
func (s *Store) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	if err := s.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer s.gate.leave()
	owned := make([]bool, len(fences))
	parts, epochs, heads := make([]int32, len(fences)), make([]int64, len(fences)), make([]int64, len(fences))
	for i, f := range fences {
		if err := s.within(f.Partition); err != nil {
			return nil, fmt.Errorf("verify %s: %w", node, err)
		}
		parts[i], epochs[i], heads[i] = int32(f.Partition), int64(f.Epoch), int64(f.Head)
	}
	err := try(ctx, s.members, repeatable, func() error {
		clear(owned)
		rows, err := s.members.Query(ctx, verifySQL, parts, epochs, heads, string(node))
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
		return nil, fmt.Errorf("verify %s: %w", node, err)
	}
	return owned, nil
}

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ingrain-go/ingrain/persistence"
)

const (
	takeSQL  = `select outcome, coalesce(epoch, 0), coalesce(owner, ''), coalesce(released, false), coalesce(head, 0) from es_take($1, $2, $3)`
	giveSQL  = `select outcome, coalesce(epoch, 0), coalesce(owner, '') from es_give($1, $2, $3, $4)`
	leaveSQL = `select exists (select from es_node n where n.node = $1) from es_leave($1)`

	// A writer that holds a partition's lock while it waits for its own client
	// is frozen, or as good as: after patience it is terminated. One that is at
	// work gets more, but not for ever. Its append has an unknown outcome then,
	// under an epoch that ends now anyway.
	patience     = 200 * time.Millisecond
	morePatience = time.Second

	// Other claimers that wait in the same queue are left alone, and so are
	// locks on whole tables, which are an operator's doing.
	terminateSQL = `select b.pid, b.application_name, pg_terminate_backend(b.pid)
		from pg_stat_activity w, unnest(pg_blocking_pids(w.pid)) blocker
		join pg_stat_activity b on b.pid = blocker
		where w.pid = $1 and w.wait_event in ('transactionid', 'tuple')
		  and b.application_name not like $2 || '%'
		  and b.wait_event_type is distinct from 'Lock'
		  and (b.wait_event_type = 'Client' or $3)
		  and pg_has_role(b.usesysid, 'member')`
)

// Claim takes a partition over. The lock it takes waits for the append in
// flight and keeps later ones out until it has the next epoch. // I1
func (s *Store) Claim(ctx context.Context, partition persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	var outcome string
	var epoch persistence.Epoch
	tenure := persistence.Tenure{Partition: partition}
	err := s.wait(ctx, once, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, takeSQL, int32(partition), int64(seen), string(node)).
			Scan(&outcome, &epoch, &tenure.Previous, &tenure.Released, &tenure.Head)
	})
	if err == nil {
		err = s.refusal(outcome, partition, seen, epoch, tenure.Previous)
	}
	if err != nil {
		return persistence.Tenure{}, fmt.Errorf("claim partition %d for %s: %w", partition, node, err)
	}
	tenure.Epoch = epoch
	return tenure, nil
}

// Release gives a partition up, or over to another member.
func (s *Store) Release(ctx context.Context, partition persistence.Partition, epoch persistence.Epoch, node, to persistence.NodeID) error {
	var outcome string
	var current persistence.Epoch
	var owner persistence.NodeID
	err := s.wait(ctx, once, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, giveSQL, int32(partition), int64(epoch), string(node), string(to)).Scan(&outcome, &current, &owner)
	})
	if err == nil {
		err = s.refusal(outcome, partition, epoch, current, owner)
	}
	if err != nil {
		return fmt.Errorf("release partition %d of %s: %w", partition, node, err)
	}
	return nil
}

func (s *Store) refusal(outcome string, partition persistence.Partition, seen, current persistence.Epoch, owner persistence.NodeID) error {
	if err := s.within(partition); err != nil {
		return err // it has no row: the outcome says nothing
	}
	switch outcome {
	case "lost":
		return &persistence.ClaimLostError{Partition: partition, Seen: seen, Current: current, Owner: owner}
	case "stranger":
		return persistence.ErrNotMember
	}
	return nil
}

// Leave marks the node dead and releases what it owns, even if it was evicted
// before.
func (s *Store) Leave(ctx context.Context, node persistence.NodeID) error {
	var joined bool
	err := s.wait(ctx, repeatable, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, leaveSQL, string(node)).Scan(&joined)
	})
	if err == nil && !joined {
		err = persistence.ErrNotMember
	}
	if err != nil {
		return fmt.Errorf("leave %s: %w", node, err)
	}
	return nil
}

// wait runs a statement that may have to wait for writers, and terminates those
// that are frozen.
func (s *Store) wait(ctx context.Context, again bool, statement func(context.Context, *pgx.Conn) error) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	return try(ctx, s.claims, again, func() error { return s.waitOnce(ctx, statement) })
}

func (s *Store) waitOnce(ctx context.Context, statement func(context.Context, *pgx.Conn) error) error {
	conn, err := s.claims.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()

	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.unblock(watching, conn.Conn().PgConn().PID())
	}()
	defer func() {
		stop()
		<-done
	}()
	return statement(ctx, conn.Conn())
}

// unblock terminates frozen writers that the session pid waits for, until ctx
// ends.
func (s *Store) unblock(ctx context.Context, pid uint32) {
	start := time.Now()
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Not cut off by the end of the wait, which would cost the connection.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), morePatience)
		rows, err := s.members.Query(asking, terminateSQL, int32(pid), claimRole, time.Since(start) >= morePatience) //nolint:gosec // pids are ints there
		if err == nil {
			var writer int32
			var name string
			var done bool
			_, err = pgx.ForEachRow(rows, []any{&writer, &name, &done}, func() error {
				s.log.Warn("terminated a writer that held a claimed partition", "pid", writer, "session", name, "done", done)
				return nil
			})
		}
		cancel()
		if err != nil {
			s.log.Warn("could not look for frozen writers", "error", err)
		}
	}
}

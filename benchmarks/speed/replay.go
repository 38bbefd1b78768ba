package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

var replayKinds = []kind{onPostgres, onSQLite}

// replay compares how fast a partitioned table is filled from the log, by a
// projection that gathers what a batch does, with how fast the store hands the
// same events out to a reader that throws them away.
func (b *bench) replay(ctx context.Context) ([]*figure, error) {
	return b.eachKind(ctx, replayKinds, []string{"replay-table"}, b.replayOn)
}

func (b *bench) replayOn(ctx context.Context, k kind) (_ []*figure, err error) {
	store, closeStore, err := b.openNew(ctx, k)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	const eventsEach = 10
	r := &replayer{store: store, accounts: b.many / 50}
	r.events = int64(r.accounts * eventsEach)
	if err := populate(ctx, store, r.accounts, eventsEach); err != nil {
		return nil, err
	}
	if r.owner, err = rent(ctx, store); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.owner.leave(ctx)) }()
	taken, err := b.rounds(ctx,
		contender{fmt.Sprintf("replay of %s events into a table on %s", amount(float64(r.events)), k.name), b.length, r.table},
		contender{"the bare Tail of the same", b.length, r.tail})
	if err != nil {
		return nil, err
	}
	f := &figure{
		Name: "replay-table" + k.suffix, What: "replay of a log into a partitioned table on " + k.name, Unit: "events/s",
		Than: "the store's bare Tail over the same events, all partitions at once", Goal: ratioAtLeast(0.60),
	}
	return []*figure{f.rates(taken[0], taken[1])}, nil
}

// replayer has a log, and all partitions of it.
type replayer struct {
	store    persistence.Store
	owner    *tenant
	accounts int
	events   int64
	replays  int
}

// tail reads the log from its first event to the last, as often as d allows.
func (r *replayer) tail(ctx context.Context, d time.Duration) (s sample, err error) {
	for begin := time.Now(); s.elapsed < d; s.elapsed = time.Since(begin) {
		cursors := make([]persistence.Cursor, r.store.Meta().Partitions)
		for i := range cursors {
			cursors[i].Partition = persistence.Partition(i)
		}
		const page = 16_000 // as a projection with batches of 4,000 asks for
		read := int64(0)
		for {
			events, err := r.store.Tail(ctx, cursors, max(page/len(cursors), 16))
			if err != nil {
				return s, err
			}
			if len(events) == 0 {
				break
			}
			read += int64(len(events))
			for i := range events {
				cursors[events[i].Partition].After = events[i].Offset
			}
		}
		if read != r.events {
			return s, fmt.Errorf("the log has %d events, not %d", read, r.events)
		}
		s.n += read
	}
	return s, nil
}

// table fills new tables from the log, one after the other, as often as d allows.
// The time is from the first partition that the projector is given until all rows
// are committed.
func (r *replayer) table(ctx context.Context, d time.Duration) (s sample, err error) {
	for s.elapsed < d {
		took, err := r.fill(ctx)
		if err != nil {
			return s, err
		}
		s.n += r.events
		s.elapsed += took
	}
	return s, nil
}

func (r *replayer) fill(ctx context.Context) (took time.Duration, err error) {
	r.replays++
	name := fmt.Sprintf("replay%d", r.replays)
	projector, err := eventsourcing.StartProjector(eventsourcing.ProjectorConfig{
		Store: r.store, Projections: []eventsourcing.Projection{balanceTable(name, r.store.Meta().Dialect)}, Logger: slog.Default(),
		Owned: func(p persistence.Partition) (persistence.NodeID, persistence.Epoch) {
			return r.owner.id, r.owner.fences[p].Epoch
		},
	})
	if err != nil {
		return 0, err
	}
	defer projector.Stop(context.WithoutCancel(ctx))
	begin := time.Now()
	for i := range r.owner.fences {
		projector.Own(r.owner.fences[i].Partition, r.owner.fences[i].Head)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	for i := range r.owner.fences {
		if f := &r.owner.fences[i]; f.Head > 0 {
			if err := projector.Wait(ctx, name, f.Partition, f.Head); err != nil {
				return 0, fmt.Errorf("replay of partition %d: %w", f.Partition, err)
			}
		}
	}
	took = time.Since(begin)
	return took, r.check(ctx, name)
}

// check compares the table with the log, and drops it.
func (r *replayer) check(ctx context.Context, name string) error {
	return r.store.Advance(ctx, persistence.Step{Projection: "check"}, func(ctx context.Context, tx persistence.Tx) error {
		rows, err := tx.Query(ctx, "SELECT count(*), CAST(sum(cents) AS BIGINT) FROM "+name+"_1")
		if err != nil {
			return err
		}
		var accounts, cents int64
		if rows.Next() {
			err = rows.Scan(&accounts, &cents)
		}
		if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return err
		}
		if accounts != int64(r.accounts) || cents != r.events {
			return fmt.Errorf("the table has %d cents in %d rows, the log %d in %d", cents, accounts, r.events, r.accounts)
		}
		_, err = tx.Exec(ctx, "DROP TABLE "+name+"_1")
		return err
	})
}

// balanceTable has a row for each account: the sum of its deposits. A batch is one
// statement, whose text is always the same, so that it is parsed once.
func balanceTable(name, dialect string) *eventsourcing.Table {
	schema := eventsourcing.Schema{Create: func(ctx context.Context, tx *eventsourcing.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+tx.Name(name)+" (id TEXT PRIMARY KEY, cents BIGINT NOT NULL)")
		return err
	}}
	type sums = map[string]int64
	begin := func() *sums { return &sums{} }
	rows := "SELECT key, value FROM json_each($1) WHERE true" // so that ON is no part of a join
	if dialect == "postgres" {
		rows = "SELECT key, value::bigint FROM json_each_text($1::text::json)"
	}
	flush := func(ctx context.Context, tx *eventsourcing.Tx, batch *sums) error {
		if len(*batch) == 0 {
			return nil
		}
		all, err := json.Marshal(*batch)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO "+tx.Name(name)+" AS t (id, cents) "+rows+
			" ON CONFLICT (id) DO UPDATE SET cents = t.cents + excluded.cents", string(all))
		return err
	}
	return eventsourcing.NewBatchTable(eventsourcing.Settings{Name: name}, schema, begin, flush,
		eventsourcing.On(accounts, func(_ context.Context, batch *sums, e deposited, f eventsourcing.Fact) error {
			(*batch)[f.ID] += e.Cents
			return nil
		}))
}

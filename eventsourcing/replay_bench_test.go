package eventsourcing

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

const replayed = 100_000

// fillLog writes many events to many aggregates, a thousand in a batch.
func fillLog(b *testing.B, store persistence.Store) {
	ctx := b.Context()
	require.NoError(b, store.Join(ctx, persistence.Node{ID: "a", Cluster: "test", State: persistence.Active}))
	fences := map[persistence.Partition]*persistence.Fence{}
	versions := map[string]persistence.Version{}
	for n := 0; n < replayed; {
		batch := &persistence.Batch{Owner: "a"}
		used := map[persistence.Partition]bool{}
		var told []*persistence.Commit
		for range 100 {
			id := fmt.Sprint("account-", n/10%5000)
			s := streamOf(id)
			p := persistence.PartitionOf(s, store.Meta().Partitions)
			f := fences[p]
			if f == nil {
				won, err := store.Claim(ctx, p, 0, "a")
				require.NoError(b, err)
				f = &persistence.Fence{Partition: p, Epoch: won.Epoch}
				fences[p] = f
			}
			if !used[p] {
				used[p] = true
				batch.Fences = append(batch.Fences, *f)
			}
			c := &persistence.Commit{Stream: s, Partition: p, Epoch: f.Epoch, Expected: versions[id], At: time.Now(), Command: persistence.CommandID(aggregate.NewCommandID())}
			for range 10 {
				c.Events = append(c.Events, persistence.NewEvent{Type: "deposited/3", Payload: []byte(`{"Cents":1}`)})
			}
			versions[id] += 10
			n += 10
			f.Head += 10
			told = append(told, c)
		}
		batch.Commits = told
		store.Append(ctx, batch)
		for _, c := range told {
			require.NoError(b, c.Err)
		}
	}
}

// bare is how long it takes to read the log, and do nothing.
func bare(b *testing.B, store persistence.Store) time.Duration {
	cursors := make([]persistence.Cursor, store.Meta().Partitions)
	for i := range cursors {
		cursors[i].Partition = persistence.Partition(i)
	}
	started, total := time.Now(), 0
	for {
		events, err := store.Tail(b.Context(), cursors, max(4000/len(cursors), 16))
		require.NoError(b, err)
		if len(events) == 0 {
			require.Equal(b, replayed, total)
			return time.Since(started)
		}
		total += len(events)
		for i := range events {
			cursors[events[i].Partition].After = events[i].Offset
		}
	}
}

// BenchmarkReplay compares the replay of a table with the bare reading of the
// log. The goal is a ratio of 0.6.
func BenchmarkReplay(b *testing.B) {
	stores := map[string]func(b *testing.B) (persistence.Store, error){
		"sqlite": func(b *testing.B) (persistence.Store, error) {
			return sqlite.Open(b.Context(), sqlite.Config{Dir: b.TempDir(), Partitions: 64})
		},
		"postgres": func(b *testing.B) (persistence.Store, error) {
			return postgres.Open(b.Context(), postgres.Config{DSN: postgrestest.DSN(b), Partitions: 64})
		},
	}
	for name, open := range stores {
		b.Run(name, func(b *testing.B) {
			store, err := open(b)
			require.NoError(b, err)
			defer func() { require.NoError(b, store.Close()) }()
			fillLog(b, store)
			for b.Loop() {
				read := bare(b, store)
				b.ReportMetric(replayed/read.Seconds(), "tail/s")
				took := replay(b, store)
				b.ReportMetric(replayed/took.Seconds(), "replay/s")
				b.ReportMetric(read.Seconds()/took.Seconds(), "ratio")
			}
		})
	}
}

var replays int

func replay(b *testing.B, store persistence.Store) time.Duration {
	replays++
	name := fmt.Sprint("replay", replays)
	table := NewBatchTable(Settings{Name: name, Batch: 4000}, Schema{Create: func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+tx.Name(name)+" (id TEXT PRIMARY KEY, cents BIGINT NOT NULL)")
		return err
	}}, newSums, func(ctx context.Context, tx *Tx, s *sums) error {
		if len(s.cents) == 0 {
			return nil
		}
		sql, args, n := strings.Builder{}, []any{}, 0
		fmt.Fprintf(&sql, "INSERT INTO %s (id, cents) VALUES ", tx.Name(name))
		for id, cents := range s.cents {
			if n > 0 {
				sql.WriteString(", ")
			}
			fmt.Fprintf(&sql, "($%d, $%d)", n+1, n+2)
			n += 2
			args = append(args, id, cents)
		}
		fmt.Fprintf(&sql, " ON CONFLICT (id) DO UPDATE SET cents = %s.cents + excluded.cents", tx.Name(name))
		_, err := tx.Exec(ctx, sql.String(), args...)
		return err
	}, On(accounts, func(_ context.Context, s *sums, e deposited, f Fact) error { s.cents[f.ID] += e.Cents; return nil }))
	started := time.Now()
	p, err := StartProjector(ProjectorConfig{
		Store: store, Projections: []Projection{table}, Logger: slog.New(slog.DiscardHandler),
		Owned: func(persistence.Partition) (persistence.NodeID, persistence.Epoch) { return "a", 1 },
	})
	require.NoError(b, err)
	for i := range store.Meta().Partitions {
		p.Own(persistence.Partition(i), 0)
	}
	require.Eventually(b, func() bool {
		of := p.Progress()
		return len(of) > 0 && of[0].Handled >= replayed
	}, time.Minute, time.Millisecond)
	took := time.Since(started)
	p.Stop(context.Background())
	return took
}

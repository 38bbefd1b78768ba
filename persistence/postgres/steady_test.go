package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

const steadyPartitions = 4

// shapes has one kind of append for each steady statement.
var shapes = []struct {
	name       string
	partitions []persistence.Partition // of the commits
}{
	{"one event", []persistence.Partition{1}},
	{"one partition", []persistence.Partition{1, 1, 1}},
	{"several partitions", []persistence.Partition{1, 2, 1, 3, 2, 1}},
}

// steadyWriter appends to one stream in each of the partitions that it owns.
type steadyWriter struct {
	store   *postgres.Store
	owner   persistence.NodeID
	streams [steadyPartitions]persistence.Stream
	version [steadyPartitions]persistence.Version
	fences  [steadyPartitions]persistence.Fence
}

func newSteadyWriter(t *testing.T, s *postgres.Store, owner persistence.NodeID) *steadyWriter {
	t.Helper()
	w := &steadyWriter{store: s, owner: owner}
	join(t, s, owner)
	for i := 0; ; i++ {
		stream := persistence.Stream{Type: "thing", ID: fmt.Sprint(i)}
		w.streams[persistence.PartitionOf(stream, steadyPartitions)] = stream
		if w.streams[0].ID != "" && w.streams[1].ID != "" && w.streams[2].ID != "" && w.streams[3].ID != "" {
			return w
		}
	}
}

func (w *steadyWriter) claim(t *testing.T) {
	t.Helper()
	view, err := w.store.View(t.Context())
	require.NoError(t, err)
	for p := range persistence.Partition(steadyPartitions) {
		tenure, err := w.store.Claim(t.Context(), p, view.Partitions[p].Epoch, w.owner)
		require.NoError(t, err)
		w.fences[p] = persistence.Fence{Partition: p, Epoch: tenure.Epoch, Head: tenure.Head}
		w.version[p] = persistence.Version(tenure.Head) // the partition has but the one stream
	}
}

// batch has a commit of one event for each of the partitions named.
func (w *steadyWriter) batch(partitions ...persistence.Partition) *persistence.Batch {
	b := &persistence.Batch{Owner: w.owner}
	version := w.version
	var fenced [steadyPartitions]bool
	for _, p := range partitions {
		if !fenced[p] {
			fenced[p] = true
			b.Fences = append(b.Fences, w.fences[p])
		}
		b.Commits = append(b.Commits, &persistence.Commit{
			Stream: w.streams[p], Partition: p, Epoch: w.fences[p].Epoch, Expected: version[p], At: time.Now(),
			Command: persistence.CommandID{1, byte(p), byte(version[p])}, Metadata: []byte("meta"),
			Events: []persistence.NewEvent{{Type: "happened", Payload: []byte(w.owner)}},
		})
		version[p]++
	}
	return b
}

// learn takes over what became of a batch and returns the first error.
func (w *steadyWriter) learn(b *persistence.Batch) (first error) {
	for _, c := range b.Commits {
		if c.Err == nil {
			w.fences[c.Partition].Head = c.Offset
			w.version[c.Partition]++
		} else if first == nil {
			first = c.Err
		}
	}
	return first
}

func (w *steadyWriter) append(ctx context.Context, partitions ...persistence.Partition) (*persistence.Batch, error) {
	b := w.batch(partitions...)
	w.store.Append(ctx, b)
	return b, w.learn(b)
}

// openSteady returns a writer whose connection knows the heads of all
// partitions, each with one event.
func openSteady(t *testing.T) (w *steadyWriter, conn *pgx.Conn, dsn string) {
	t.Helper()
	dsn = postgrestest.DSN(t)
	w = newSteadyWriter(t, openFour(t, dsn), "first")
	w.claim(t)
	_, err := w.append(t.Context(), 0, 1, 2, 3)
	require.NoError(t, err)
	return w, raw(t, dsn), dsn
}

func openFour(t *testing.T, dsn string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{DSN: dsn, Partitions: steadyPartitions, Lanes: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// awaitBlocked waits until a steady statement waits for a lock.
func awaitBlocked(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	awaitCount(t, conn, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
		and query like 'insert into es_event%for no key update%'`, "the steady append waits for a lock")
}

func awaitCount(t *testing.T, conn *pgx.Conn, sql, what string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var n int
		return conn.QueryRow(t.Context(), sql).Scan(&n) == nil && n == 1
	}, 4*time.Second, time.Millisecond, what)
}

// requireDense checks that every partition is its stream from 1 on, without a
// gap, and returns their lengths.
func requireDense(t *testing.T, s *postgres.Store) (lengths [steadyPartitions]persistence.Offset) {
	t.Helper()
	for p := range persistence.Partition(steadyPartitions) {
		events, err := s.Tail(t.Context(), []persistence.Cursor{{Partition: p}}, 1_000_000)
		require.NoError(t, err)
		for i, e := range events {
			require.Equal(t, persistence.Offset(i+1), e.Offset, "partition %d", p)
			require.Equal(t, persistence.Version(i+1), e.Version, "partition %d", p)
		}
		lengths[p] = persistence.Offset(len(events))
	}
	return lengths
}

func requireDeposed(t *testing.T, c *persistence.Commit, by persistence.NodeID) {
	t.Helper()
	var fenced *persistence.FencedError
	require.ErrorAs(t, c.Err, &fenced)
	require.Equal(t, persistence.FencedError{Partition: c.Partition, Epoch: 1, Current: 2, Owner: by}, *fenced)
	require.Zero(t, c.Offset)
}

func TestSteadyAppendIsOneStatement(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			w, conn, _ := openSteady(t)
			exec(t, conn, `create or replace function es_fence(parts int[], epochs bigint[], heads bigint[], fresh_parts int[], fresh_heads bigint[],
				witness_part int, witness_pos bigint, me text) returns void language plpgsql as $$ begin raise 'es_fence was called'; end $$`)
			var sent []persistence.Event
			for range 3 {
				b, err := w.append(t.Context(), shape.partitions...)
				require.NoError(t, err)
				for _, c := range b.Commits {
					sent = append(sent, persistence.Event{
						Stream: c.Stream, Partition: c.Partition, Offset: c.Offset, Version: c.Expected + 1, Epoch: c.Epoch, Command: c.Command,
						Type: "happened", At: c.At.UTC().Truncate(time.Microsecond), Metadata: c.Metadata, Payload: c.Events[0].Payload,
					})
				}
			}
			requireDense(t, w.store)
			for _, want := range sent {
				events, err := w.store.Tail(t.Context(), []persistence.Cursor{{Partition: want.Partition, After: want.Offset - 1}}, 1)
				require.NoError(t, err)
				require.Len(t, events, 1)
				events[0].At = events[0].At.UTC()
				require.Equal(t, want, events[0])
			}
		})
	}
}

func TestSteadyAppendBehindAClaimIsFenced(t *testing.T) {
	for _, by := range []persistence.NodeID{"second", "first"} { // the same node's next epoch is no better
		for _, shape := range shapes {
			t.Run(fmt.Sprintf("%s by %s", shape.name, by), func(t *testing.T) { testSteadyAppendBehindAClaim(t, shape.partitions, by) })
		}
	}
}

func testSteadyAppendBehindAClaim(t *testing.T, partitions []persistence.Partition, by persistence.NodeID) {
	w, conn, dsn := openSteady(t)
	claimer := raw(t, dsn)
	exec(t, claimer, `begin`)
	exec(t, claimer, `update es_partition set epoch = epoch + 1, owner = $1 where part = 1`, string(by))

	var b *persistence.Batch
	var appending sync.WaitGroup
	appending.Go(func() { b, _ = w.append(context.Background(), partitions...) })
	awaitBlocked(t, conn)
	exec(t, claimer, `commit`)
	appending.Wait()
	for range 2 { // then again, when the claim is long done
		for _, c := range b.Commits {
			if c.Partition == 1 {
				requireDeposed(t, c, by)
			} else {
				require.NoError(t, c.Err, "only the lost partition's commits fail")
			}
		}
		lengths := requireDense(t, w.store)
		require.EqualValues(t, 1, lengths[1])
		for p, f := range w.fences {
			require.Equal(t, f.Head, lengths[p])
		}
		b, _ = w.append(t.Context(), partitions...)
	}
}

func TestClaimWaitsForTheSteadyAppend(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			w, conn, dsn := openSteady(t)
			successor := newSteadyWriter(t, openFour(t, dsn), "second")
			// The append stops in the middle, at a row that may still become
			// the one it inserts.
			rival := raw(t, dsn)
			exec(t, rival, `begin`)
			exec(t, rival, `insert into es_event select part, pos + 1, epoch, 'rival', 1, type, at, cmd, meta, payload from es_event where part = 1`)

			var b *persistence.Batch
			var err error
			var running sync.WaitGroup
			running.Go(func() { b, err = w.append(context.Background(), shape.partitions...) })
			awaitBlocked(t, conn)
			var tenure persistence.Tenure
			var claimed error
			running.Go(func() { tenure, claimed = successor.store.Claim(context.Background(), 1, 1, "second") })
			awaitCount(t, conn, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
				and query like '%es_take%'`, "the claim waits for the append")
			exec(t, rival, `rollback`)
			running.Wait()

			require.NoError(t, err)
			require.NoError(t, claimed)
			require.Equal(t, w.fences[1].Head, tenure.Head, "the claim sees what was appended")
			require.Equal(t, tenure.Head, requireDense(t, w.store)[1])
			require.NotEmpty(t, b.Commits)
			b, err = w.append(t.Context(), shape.partitions...)
			require.Error(t, err)
			requireDeposed(t, b.Commits[0], "second")
		})
	}
}

func TestFencedPartitionAmongSteadyOnes(t *testing.T) {
	w, _, dsn := openSteady(t)
	successor := newSteadyWriter(t, openFour(t, dsn), "second")
	_, err := successor.store.Claim(t.Context(), 2, 1, "second")
	require.NoError(t, err)
	for range 2 { // the first time steady, then the long way
		b, err := w.append(t.Context(), 3, 2, 1, 2, 0, 1)
		require.Error(t, err)
		for _, c := range b.Commits {
			if c.Partition == 2 {
				requireDeposed(t, c, "second")
			} else {
				require.NoError(t, c.Err)
			}
		}
	}
	require.Equal(t, [...]persistence.Offset{3, 5, 1, 3}, requireDense(t, w.store))
}

func TestOwnNextEpochFencesTheSteadyAppend(t *testing.T) {
	for _, shape := range shapes {
		w, _, _ := openSteady(t)
		_, err := w.store.Claim(t.Context(), 1, 1, w.owner)
		require.NoError(t, err)
		b, err := w.append(t.Context(), shape.partitions...)
		require.Error(t, err)
		requireDeposed(t, b.Commits[0], w.owner)
		require.EqualValues(t, 1, requireDense(t, w.store)[1])
	}
}

func TestSteadyAppendNeedsAnOwner(t *testing.T) {
	for _, owner := range []persistence.NodeID{"", "second"} {
		for _, shape := range shapes {
			w, conn, _ := openSteady(t)
			w.owner = owner
			if owner == "" {
				exec(t, conn, `update es_partition set owner = ''`)
			}
			b, err := w.append(t.Context(), shape.partitions...)
			require.Error(t, err)
			for _, c := range b.Commits {
				var fenced *persistence.FencedError
				require.ErrorAs(t, c.Err, &fenced)
			}
			require.Equal(t, [...]persistence.Offset{1, 1, 1, 1}, requireDense(t, w.store))
		}
	}
}

func TestRolledBackDatabaseFencesTheSteadyAppend(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			w, conn, _ := openSteady(t)
			_, err := w.append(t.Context(), shape.partitions...)
			require.NoError(t, err)
			lengths := requireDense(t, w.store)
			exec(t, conn, `delete from es_event where pos > 1`)
			b, err := w.append(t.Context(), shape.partitions...)
			require.Error(t, err)
			for _, c := range b.Commits {
				var fenced *persistence.FencedError
				require.ErrorAs(t, c.Err, &fenced)
				require.Equal(t, persistence.FencedError{
					Partition: c.Partition, Epoch: 1, Current: 1, Owner: "first", Head: lengths[c.Partition], StoreHead: 1,
				}, *fenced)
			}
			require.Equal(t, [...]persistence.Offset{1, 1, 1, 1}, requireDense(t, w.store))
		})
	}
}

func TestConflictInASteadyAppend(t *testing.T) {
	w, conn, _ := openSteady(t)
	// A version that the handle knows nothing of, taken under another offset.
	exec(t, conn, `insert into es_event select part, pos + 10, epoch, stream, 2, type, at, cmd, meta, payload from es_event where part = 1`)
	b, err := w.append(t.Context(), 1)
	require.Error(t, err)
	exec(t, conn, `delete from es_event where part = 1 and pos > 1`)
	require.Error(t, b.Commits[0].Err)

	b = w.batch(0, 1, 1, 2)
	b.Commits[2].Expected = 7
	w.store.Append(t.Context(), b)
	requireConflict(t, b.Commits[2], 2)
	require.ErrorAs(t, w.learn(b), new(*persistence.ConflictError))
	require.Equal(t, [...]persistence.Offset{2, 2, 2, 1}, requireDense(t, w.store))

	// The log is longer than its owner knows.
	exec(t, conn, `insert into es_event select part, 3, epoch, 'stranger', 1, type, at, cmd, meta, payload from es_event where part = 1 and pos = 2`)
	b, err = w.append(t.Context(), 1, 0)
	require.Error(t, err)
	var fenced *persistence.FencedError
	require.ErrorAs(t, b.Commits[0].Err, &fenced)
	require.Equal(t, persistence.FencedError{Partition: 1, Epoch: 1, Current: 1, Owner: "first", Head: 2, StoreHead: 3}, *fenced)
	require.NoError(t, b.Commits[1].Err)
}

// TestNoSteadyAppendAfterAClaim lets a deposed owner append as fast as it can
// while a successor claims at some moment and reads the logs: what it saw is
// all that the deposed owner has ever committed. // I1
func TestNoSteadyAppendAfterAClaim(t *testing.T) {
	const rounds = 60
	dsn := postgrestest.DSN(t)
	writers := [2]*steadyWriter{newSteadyWriter(t, openFour(t, dsn), "first"), newSteadyWriter(t, openFour(t, dsn), "second")}
	for round := range rounds {
		deposed, successor := writers[round%2], writers[1-round%2]
		shape := shapes[round%len(shapes)]
		deposed.claim(t)
		_, err := deposed.append(t.Context(), 0, 1, 2, 3)
		require.NoError(t, err)

		var appends atomic.Int64
		var ended error
		var stop atomic.Bool
		var appending sync.WaitGroup
		appending.Go(func() {
			for ended == nil && !stop.Load() {
				_, ended = deposed.append(context.Background(), shape.partitions...)
				appends.Add(1)
			}
		})
		enough := int64(round % 7)
		require.Eventually(t, func() bool { return appends.Load() > enough }, 10*time.Second, 50*time.Microsecond, "appends")
		successor.claim(t)
		seen := requireDense(t, successor.store)
		stop.Store(true)
		appending.Wait()
		if ended == nil {
			_, ended = deposed.append(t.Context(), shape.partitions...)
		}
		require.ErrorAs(t, ended, new(*persistence.FencedError))
		require.False(t, errors.Is(ended, persistence.ErrUnknownOutcome))
		require.Equal(t, seen, requireDense(t, successor.store), "round %d: the deposed owner wrote after the claim", round)
		for p, f := range deposed.fences {
			require.Equal(t, f.Head, seen[p], "what was acknowledged is what is there")
			require.Equal(t, f.Head, successor.fences[p].Head)
		}
	}
}

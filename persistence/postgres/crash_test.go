package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

// appender appends to its partitions until an append fails.
type appender struct {
	store   persistence.Store
	owner   persistence.NodeID
	number  uint64
	fences  []persistence.Fence
	streams map[persistence.Partition]persistence.Stream

	version map[persistence.Stream]persistence.Version
	acked   []*persistence.Commit
	unknown []*persistence.Commit
	undone  []*persistence.Commit
	serial  uint64
}

// run returns at the first batch with an error.
func (a *appender) run(ctx context.Context, batches *atomic.Int64) error {
	for {
		batch := &persistence.Batch{Owner: a.owner, Fences: a.fences}
		for i := range 50 {
			fence := a.fences[i%len(a.fences)]
			stream := a.streams[fence.Partition]
			c := &persistence.Commit{
				Stream: stream, Partition: fence.Partition, Epoch: fence.Epoch, Expected: a.version[stream], At: time.Now(),
				Events: []persistence.NewEvent{{Type: "happened", Payload: []byte("first")}, {Type: "happened", Payload: []byte("second")}},
			}
			a.serial++
			binary.BigEndian.PutUint64(c.Command[:], a.number)
			binary.BigEndian.PutUint64(c.Command[8:], a.serial)
			a.version[stream] += 2
			batch.Commits = append(batch.Commits, c)
		}
		a.store.Append(ctx, batch)
		var failed error
		for _, c := range batch.Commits {
			switch {
			case c.Err == nil:
				a.acked = append(a.acked, c)
				for i := range a.fences {
					if a.fences[i].Partition == c.Partition {
						a.fences[i].Head = c.Offset + 1
					}
				}
			case errors.Is(c.Err, persistence.ErrUnknownOutcome):
				a.unknown = append(a.unknown, c)
				failed = c.Err
			default:
				a.undone = append(a.undone, c)
				failed = c.Err
			}
		}
		if failed != nil {
			return failed
		}
		batches.Add(1)
	}
}

func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
	const partitions, appenders, node = 16, 4, persistence.NodeID("node-1")
	ctx := t.Context()
	server, err := postgrestest.Start(ctx, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(ctx)
	require.NoError(t, err)
	store, err := postgres.Open(ctx, postgres.Config{DSN: dsn, Partitions: partitions, Lanes: appenders})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Join(ctx, persistence.Node{ID: node, Cluster: "test", State: persistence.Active}))

	streams := make(map[persistence.Partition]persistence.Stream)
	for i := 0; len(streams) < partitions; i++ {
		s := persistence.Stream{Type: "account", ID: fmt.Sprintf("a%d", i)}
		streams[persistence.PartitionOf(s, partitions)] = s
	}
	version := make(map[persistence.Stream]persistence.Version)
	doubtful := 0
	for kill := range 3 {
		view, err := store.View(ctx)
		require.NoError(t, err)
		all := make([]*appender, appenders)
		for i := range all {
			a := &appender{store: store, owner: node, number: uint64(kill*appenders + i + 1), streams: streams, version: make(map[persistence.Stream]persistence.Version)}
			for p := persistence.Partition(i); p < partitions; p += appenders {
				tenure, err := store.Claim(ctx, p, view.Partitions[p].Epoch, node)
				require.NoError(t, err)
				a.fences = append(a.fences, persistence.Fence{Partition: p, Epoch: tenure.Epoch, Head: tenure.Head})
				a.version[streams[p]] = version[streams[p]]
			}
			all[i] = a
		}

		var batches atomic.Int64
		var group sync.WaitGroup
		ended := make([]error, appenders)
		for i, a := range all {
			group.Go(func() { ended[i] = a.run(ctx, &batches) })
		}
		require.Eventually(t, func() bool { return batches.Load() >= 100 }, time.Minute, time.Millisecond, "100 batches")
		require.NoError(t, server.Kill9())
		group.Wait()
		for _, err := range ended {
			require.Error(t, err)
		}
		require.NoError(t, server.Restart(ctx))

		// The same handle goes on, and what is unknown is decided by a claim
		// under a new epoch.
		for _, a := range all {
			for _, f := range a.fences {
				_, err := store.Claim(ctx, f.Partition, f.Epoch, node)
				if err != nil { // a connection that died with the server
					_, err = store.Claim(ctx, f.Partition, f.Epoch, node)
				}
				require.NoError(t, err)
			}
			doubtful += len(a.unknown)
			checkLog(t, store, a)
		}
		for _, s := range streams {
			events, err := store.Read(ctx, s, version[s], 1_000_000)
			require.NoError(t, err)
			version[s] += persistence.Version(len(events))
		}
	}
	require.NotZero(t, doubtful, "no append was in flight when the server died")
}

// checkLog compares the appender's partitions with what it was told.
func checkLog(t *testing.T, store persistence.Store, a *appender) {
	t.Helper()
	ctx := t.Context()
	at := make(map[persistence.Partition]map[persistence.Offset]persistence.Event)
	for _, f := range a.fences {
		events, err := store.Tail(ctx, []persistence.Cursor{{Partition: f.Partition}}, 10_000_000)
		require.NoError(t, err)
		at[f.Partition] = make(map[persistence.Offset]persistence.Event)
		for i, e := range events {
			require.Equal(t, persistence.Offset(i+1), e.Offset, "offsets of partition %d", f.Partition)
			require.Equal(t, persistence.Version(i+1), e.Version, "versions of the partition's only stream")
			at[f.Partition][e.Offset] = e
		}
	}
	for _, c := range a.acked {
		for i := range c.Events {
			e, ok := at[c.Partition][c.Offset+persistence.Offset(i)]
			require.True(t, ok, "an acknowledged event of %s is gone", c.Stream)
			require.Equal(t, c.Command, e.Command)
			require.Equal(t, c.Events[i].Payload, e.Payload)
		}
	}
	for _, c := range append(a.unknown, a.undone...) {
		record, found, err := store.FindCommand(ctx, c.Stream, c.Command)
		require.NoError(t, err)
		if !found {
			continue
		}
		require.ErrorIs(t, c.Err, persistence.ErrUnknownOutcome, "a commit that was not done is there")
		require.Equal(t, c.Expected+1, record.First)
		require.Equal(t, c.Expected+2, record.Last)
		require.Equal(t, c.Command, at[c.Partition][record.Offset].Command)
	}
}

func TestAppendThatDoesNotReachTheServerSaysSo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := postgrestest.Start(ctx, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	dsn, err := server.CreateDatabase(ctx)
	require.NoError(t, err)
	s := open(t, dsn)
	join(t, s, me)
	tenure := claim(t, s, 0, me)
	c := commit("x", 0, "e")
	appendTo(ctx, s, me, &tenure, c)
	require.NoError(t, c.Err)

	require.NoError(t, server.Kill9())
	require.Eventually(t, func() bool {
		c = commit("x", 1, "e")
		appendTo(ctx, s, me, &tenure, c)
		return !errors.Is(c.Err, persistence.ErrUnknownOutcome)
	}, 10*time.Second, time.Millisecond, "the connection is known to be broken")
	require.ErrorIs(t, c.Err, persistence.ErrUnreachable)
}

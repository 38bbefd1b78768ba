package postgres_test

import (
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

// BenchmarkAppend appends commits of one event with a payload of 200 bytes, in
// batches of 300 from two lanes at once. One operation is one commit.
func BenchmarkAppend(b *testing.B) {
	const partitions, lanes, size, streams = 32, 2, 300, 10_000
	ctx := b.Context()
	s, err := postgres.Open(ctx, postgres.Config{DSN: postgrestest.DSN(b), Partitions: partitions, Lanes: lanes})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	require.NoError(b, s.Join(ctx, persistence.Node{ID: me, Cluster: "bench", State: persistence.Active}))
	for p := range persistence.Partition(partitions) {
		_, err := s.Claim(ctx, p, 0, me)
		require.NoError(b, err)
	}
	var names [lanes][]persistence.Stream
	for i := range streams {
		name := persistence.Stream{Type: "account", ID: fmt.Sprintf("%08x-0000-4000", i)}
		lane := persistence.PartitionOf(name, partitions) % lanes
		names[lane] = append(names[lane], name)
	}
	events := []persistence.NewEvent{{Type: "deposited", Payload: make([]byte, 200)}}

	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for _, names := range names {
		group.Go(func() {
			versions := make([]persistence.Version, len(names))
			heads := make([]persistence.Offset, partitions)
			commits := make([]persistence.Commit, size)
			batch := persistence.Batch{Owner: me}
			for next := 0; left.Add(-size) > -size; {
				batch.Commits, batch.Fences = batch.Commits[:0], batch.Fences[:0]
				var fenced [partitions]bool
				for i := range commits {
					n := next % len(names)
					next++
					p := persistence.PartitionOf(names[n], partitions)
					commits[i] = persistence.Commit{
						Stream: names[n], Partition: p, Epoch: 1, Expected: versions[n],
						Command: persistence.CommandID{byte(next)}, At: time.Now(), Events: events,
					}
					versions[n]++
					if !fenced[p] {
						fenced[p] = true
						batch.Fences = append(batch.Fences, persistence.Fence{Partition: p, Epoch: 1, Head: heads[p]})
					}
					batch.Commits = append(batch.Commits, &commits[i])
				}
				s.Append(ctx, &batch)
				for _, c := range batch.Commits {
					if c.Err != nil {
						b.Error(c.Err)
						return
					}
					heads[c.Partition] = c.Offset
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

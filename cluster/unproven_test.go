package cluster_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/persistence"
)

var kills = flag.Int("kills", 2, "how often TestOwnerIsReplacedWithoutProofOfItsDeath kills")

// The nodes of these tests have no lock files, as if each had a machine of its
// own: the death of one is what its peers cannot reach and its renewals do not
// show. What the dead node has written is read again when two have found that
// nobody listens at its address, and it is written to when its lease is over.
// Times depend on what else the machine does: the log lines have the figures.
func TestOwnerIsReplacedWithoutProofOfItsDeath(t *testing.T) {
	const limit = 8 * time.Second
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		s := spec(t, store)
		s.Cluster.LockDir = "/dev/null/no-such-directory"
		children := clustertest.LaunchAll(t, 3, s)
		settled(t, children...)
		var reads, writes, all spans
		for i := range *kills {
			oldEnough(t, children...)
			victim, others := children[0], children[1:]
			read, written := killOwner(t, victim, others, i)
			reads, writes = append(reads, slices.Min(read)), append(writes, slices.Min(written))
			all = append(all, slices.Max(append(read, written...)))
			evictions := uint64(0)
			for _, c := range others {
				evictions += c.Stats(within(t, patience)).Evictions
			}
			require.Positive(t, evictions)
			children = append(slices.Clone(others), clustertest.Launch(t, fmt.Sprint("n", i), s))
			settled(t, children...)
		}
		t.Logf("%d kills until the first read: %s; until the first write: %s; until the last partition is read and written: %s", *kills, reads, writes, all)
		require.Less(t, slices.Max(all), limit, "how long a caller waited")
	})
}

// spans are durations of the same thing, again and again.
type spans []time.Duration

func (s spans) String() string {
	slices.Sort(s)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("p50 %s p90 %s max %s", ms(s[len(s)/2]), ms(s[len(s)*9/10]), ms(s[len(s)-1]))
}

// killOwner kills a node, and tells how long it took to read and to write
// counters that were its own, each in another partition if there are as many,
// through the others in turn.
func killOwner(t *testing.T, victim *clustertest.Process, others []*clustertest.Process, round int) (reads, writes []time.Duration) {
	const counters = 12 // half of them are read
	ctx := within(t, patience)
	dead := victim.ID(ctx)
	owner := map[persistence.Partition]persistence.NodeID{}
	for _, row := range others[0].Partitions(ctx) {
		owner[row.Partition] = row.Owner
	}
	var theirs []string
	for i := 0; len(theirs) < counters; i++ {
		id := fmt.Sprint("kill-", round, "-", i)
		p := persistence.PartitionOf(persistence.Stream{Type: "counter", ID: id}, partitions)
		if owner[p] == dead {
			theirs = append(theirs, id)
			if len(theirs) <= 8 {
				delete(owner, p)
			}
		}
	}
	for _, id := range theirs {
		for _, c := range others {
			require.NoError(t, c.Call(ctx, "add", addition{ID: id, N: 1}, nil))
		}
	}
	victim.Kill()
	killed := time.Now()
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i, id := range theirs {
		c := others[i%len(others)]
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			times := &writes
			var err error
			if i < counters/2 {
				times = &reads
				var got int
				if err = c.Call(ctx, "total", id, &got); err == nil && got != len(others) {
					err = fmt.Errorf("it answers %d", got)
				}
			} else {
				var receipt aggregate.Receipt
				if err = c.Call(ctx, "add", addition{ID: id, N: 1}, &receipt); err == nil && int(receipt.Version) != len(others)+1 {
					err = fmt.Errorf("it is version %d", receipt.Version)
				}
			}
			if err != nil {
				t.Errorf("%s through %s: %v", id, c.Name(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			*times = append(*times, time.Since(killed))
		})
	}
	wait.Wait()
	return reads, writes
}

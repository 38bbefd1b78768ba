package sqlite_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

func openStore(t testing.TB, config sqlite.Config) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// owner is a node that holds partitions of a store.
type owner struct {
	store   persistence.Store
	node    persistence.NodeID
	tenures map[persistence.Partition]*tenure
}

type tenure struct {
	persistence.Tenure
	fenced bool // for use while a batch is put together
}

// own joins a node and claims the partitions for it.
func own(ctx context.Context, s persistence.Store, node persistence.NodeID, partitions []persistence.Partition) (*owner, error) {
	if err := s.Join(ctx, persistence.Node{ID: node, Cluster: "test", State: persistence.Active}); err != nil {
		return nil, err
	}
	o := &owner{store: s, node: node, tenures: make(map[persistence.Partition]*tenure)}
	for _, p := range partitions {
		if _, err := o.claim(ctx, p); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func allPartitions() (all []persistence.Partition) {
	for p := range persistence.Partition(sqlite.DefaultPartitions) {
		all = append(all, p)
	}
	return all
}

// claim takes a partition over under the epoch it has now.
func (o *owner) claim(ctx context.Context, p persistence.Partition) (persistence.Epoch, error) {
	view, err := o.store.View(ctx)
	if err != nil {
		return 0, err
	}
	claimed, err := o.store.Claim(ctx, p, view.Partitions[p].Epoch, o.node)
	if err != nil {
		return 0, err
	}
	o.tenures[p] = &tenure{Tenure: claimed}
	return claimed.Epoch, nil
}

// batch makes the fences for the commits, and fills in what follows from the
// stream.
func (o *owner) batch(commits ...*persistence.Commit) *persistence.Batch {
	batch := &persistence.Batch{Owner: o.node, Commits: commits}
	for _, c := range commits {
		c.Partition = persistence.PartitionOf(c.Stream, o.store.Meta().Partitions)
		t := o.tenures[c.Partition]
		if t == nil {
			panic(fmt.Sprintf("%s does not own partition %d of %s", o.node, c.Partition, c.Stream))
		}
		c.Epoch = t.Epoch
		if !t.fenced {
			t.fenced = true
			batch.Fences = append(batch.Fences, persistence.Fence{Partition: t.Partition, Epoch: t.Epoch, Head: t.Head})
		}
	}
	for _, f := range batch.Fences {
		o.tenures[f.Partition].fenced = false
	}
	return batch
}

func (o *owner) settle(commits []*persistence.Commit) {
	for _, c := range commits {
		if c.Err == nil && len(c.Events) > 0 {
			o.tenures[c.Partition].Head = c.Offset + persistence.Offset(len(c.Events)) - 1
		}
	}
}

var noon = time.Date(2026, 5, 1, 12, 0, 0, 123_456_000, time.UTC)

func account(id any) persistence.Stream {
	return persistence.Stream{Type: "account", ID: fmt.Sprint(id)}
}

// commit makes a commit of n events.
func commit(stream persistence.Stream, expected persistence.Version, n int) *persistence.Commit {
	c := &persistence.Commit{Stream: stream, Expected: expected, At: noon, Command: command(stream, expected)}
	for i := range n {
		c.Events = append(c.Events, persistence.NewEvent{
			Type: "deposited", Payload: fmt.Appendf(nil, "%s@%d", stream, int(expected)+i+1),
		})
	}
	return c
}

// command makes an id from what it is for.
func command(stream persistence.Stream, expected persistence.Version) persistence.CommandID {
	var id persistence.CommandID
	copy(id[:], fmt.Sprintf("%d %s", expected, stream))
	return id
}

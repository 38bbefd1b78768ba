package clustertest

import (
	"context"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// View is the cluster as one node sees it.
type View struct {
	Members    []persistence.Node
	Partitions []persistence.Ownership
}

// Unsettled says what keeps the views from being that of one cluster with so
// many active members, in which everybody owns its share; empty when nothing
// does.
func Unsettled(members int, views ...View) string {
	for i, v := range views {
		if len(v.Members) != members {
			return fmt.Sprintf("node %d sees %d members, not %d", i, len(v.Members), members)
		}
		shares := map[persistence.NodeID]int{}
		for _, m := range v.Members {
			if m.State != persistence.Active {
				return fmt.Sprintf("node %d sees %s %s", i, m.ID, m.State)
			}
			shares[m.ID] = 0
		}
		for p, row := range v.Partitions {
			if _, ok := shares[row.Owner]; !ok {
				return fmt.Sprintf("node %d sees partition %d owned by %q", i, row.Partition, row.Owner)
			}
			shares[row.Owner]++
			if first := views[0].Partitions[p]; first.Owner != row.Owner || first.Epoch != row.Epoch {
				return fmt.Sprintf("nodes 0 and %d disagree about partition %d", i, row.Partition)
			}
		}
		floor := len(v.Partitions) / members
		for id, n := range shares {
			if n != floor && n != floor+1 {
				return fmt.Sprintf("node %d sees %d of %d partitions with %s", i, n, len(v.Partitions), id)
			}
		}
	}
	return ""
}

// Log is everything that is in a store, read from its partitions in order.
type Log struct {
	Events []persistence.Event
	// Commands is how many events each command left.
	Commands map[persistence.CommandID]int
}

const tailLimit = 1000

// ReadLog reads the whole log and checks it: offsets and versions are dense,
// epochs never go back, and no command appears in two places.
func ReadLog(ctx context.Context, store persistence.Store) (*Log, error) {
	l := &Log{Commands: map[persistence.CommandID]int{}}
	versions := map[persistence.Stream]persistence.Version{}
	last := map[persistence.Stream]persistence.CommandID{}
	for p := range persistence.Partition(store.Meta().Partitions) {
		cursor := persistence.Cursor{Partition: p}
		var epoch persistence.Epoch
		for {
			events, err := store.Tail(ctx, []persistence.Cursor{cursor}, tailLimit)
			if err != nil {
				return nil, fmt.Errorf("read the log of partition %d: %w", p, err)
			}
			for _, e := range events {
				switch {
				case e.Offset != cursor.After+1:
					return nil, fmt.Errorf("partition %d: offset %d follows %d", p, e.Offset, cursor.After)
				case e.Version != versions[e.Stream]+1:
					return nil, fmt.Errorf("stream %s: version %d follows %d", e.Stream, e.Version, versions[e.Stream])
				case e.Epoch < epoch:
					return nil, fmt.Errorf("partition %d: epoch %d after %d at offset %d", p, e.Epoch, epoch, e.Offset)
				case l.Commands[e.Command] > 0 && last[e.Stream] != e.Command:
					return nil, fmt.Errorf("stream %s: command %s took effect twice", e.Stream, e.Command)
				}
				cursor.After, epoch = e.Offset, e.Epoch
				versions[e.Stream], last[e.Stream] = e.Version, e.Command
				l.Commands[e.Command]++
				l.Events = append(l.Events, e)
			}
			if len(events) < tailLimit {
				break
			}
		}
	}
	return l, nil
}

// Has reports how many events a command left.
func (l *Log) Has(id aggregate.CommandID) int { return l.Commands[persistence.CommandID(id)] }

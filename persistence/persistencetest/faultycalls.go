package persistencetest

import (
	"context"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// Read implements persistence.Log.
func (f *Faulty) Read(ctx context.Context, stream persistence.Stream, after persistence.Version, limit int) ([]persistence.Event, error) {
	return call(ctx, f, Call{Method: "Read"}, func() ([]persistence.Event, error) {
		return f.next.Read(ctx, stream, after, limit)
	})
}

// ReadMany implements persistence.Log.
func (f *Faulty) ReadMany(ctx context.Context, streams []persistence.Stream, limit int) ([]persistence.History, error) {
	return call(ctx, f, Call{Method: "ReadMany"}, func() ([]persistence.History, error) {
		return f.next.ReadMany(ctx, streams, limit)
	})
}

// Tail implements persistence.Log.
func (f *Faulty) Tail(ctx context.Context, cursors []persistence.Cursor, limit int) ([]persistence.Event, error) {
	return call(ctx, f, Call{Method: "Tail"}, func() ([]persistence.Event, error) {
		return f.next.Tail(ctx, cursors, limit)
	})
}

// FindCommand implements persistence.Log.
func (f *Faulty) FindCommand(ctx context.Context, stream persistence.Stream, id persistence.CommandID) (persistence.CommandRecord, bool, error) {
	return find(ctx, f, Call{Method: "FindCommand"}, func() (persistence.CommandRecord, bool, error) {
		return f.next.FindCommand(ctx, stream, id)
	})
}

// FindClaim implements persistence.Log.
func (f *Faulty) FindClaim(ctx context.Context, claim persistence.Claim) (persistence.Stream, bool, error) {
	return find(ctx, f, Call{Method: "FindClaim"}, func() (persistence.Stream, bool, error) {
		return f.next.FindClaim(ctx, claim)
	})
}

// Claims implements persistence.Log.
func (f *Faulty) Claims(ctx context.Context, after persistence.Claim, limit int) ([]persistence.HeldClaim, error) {
	return call(ctx, f, Call{Method: "Claims"}, func() ([]persistence.HeldClaim, error) {
		return f.next.Claims(ctx, after, limit)
	})
}

// SaveSnapshots implements persistence.Snapshots.
func (f *Faulty) SaveSnapshots(ctx context.Context, snapshots []persistence.Snapshot) error {
	return f.do(ctx, Call{Method: "SaveSnapshots"}, func() error { return f.next.SaveSnapshots(ctx, snapshots) })
}

// DeleteSnapshots implements persistence.Snapshots.
func (f *Faulty) DeleteSnapshots(ctx context.Context, streams []persistence.Stream) error {
	return f.do(ctx, Call{Method: "DeleteSnapshots"}, func() error { return f.next.DeleteSnapshots(ctx, streams) })
}

// DueTimers implements persistence.Timers.
func (f *Faulty) DueTimers(ctx context.Context, partitions []persistence.Partition, until time.Time, limit int) ([]persistence.Timer, error) {
	return call(ctx, f, Call{Method: "DueTimers"}, func() ([]persistence.Timer, error) {
		return f.next.DueTimers(ctx, partitions, until, limit)
	})
}

// LoadCheckpoints implements persistence.Checkpoints.
func (f *Faulty) LoadCheckpoints(ctx context.Context, projection string) ([]persistence.Cursor, error) {
	return call(ctx, f, Call{Method: "LoadCheckpoints"}, func() ([]persistence.Cursor, error) {
		return f.next.LoadCheckpoints(ctx, projection)
	})
}

// SaveCheckpoints implements persistence.Checkpoints.
func (f *Faulty) SaveCheckpoints(ctx context.Context, projection string, cursors []persistence.Cursor) error {
	return f.do(ctx, Call{Method: "SaveCheckpoints"}, func() error { return f.next.SaveCheckpoints(ctx, projection, cursors) })
}

// DeleteCheckpoints implements persistence.Checkpoints.
func (f *Faulty) DeleteCheckpoints(ctx context.Context, projection string) error {
	return f.do(ctx, Call{Method: "DeleteCheckpoints"}, func() error { return f.next.DeleteCheckpoints(ctx, projection) })
}

// Join implements persistence.Membership.
func (f *Faulty) Join(ctx context.Context, node persistence.Node) error {
	return f.do(ctx, Call{Method: "Join", Node: node.ID}, func() error { return f.next.Join(ctx, node) })
}

// Renew implements persistence.Membership.
func (f *Faulty) Renew(ctx context.Context, renewal persistence.Renewal) (persistence.View, error) {
	return call(ctx, f, Call{Method: "Renew", Node: renewal.Node}, func() (persistence.View, error) {
		return f.next.Renew(ctx, renewal)
	})
}

// View implements persistence.Membership.
func (f *Faulty) View(ctx context.Context) (persistence.View, error) {
	return call(ctx, f, Call{Method: "View"}, func() (persistence.View, error) { return f.next.View(ctx) })
}

// Leave implements persistence.Membership.
func (f *Faulty) Leave(ctx context.Context, node persistence.NodeID) error {
	return f.do(ctx, Call{Method: "Leave", Node: node}, func() error { return f.next.Leave(ctx, node) })
}

// Evict implements persistence.Membership.
func (f *Faulty) Evict(ctx context.Context, victim persistence.NodeID, renewals int64) (bool, error) {
	return call(ctx, f, Call{Method: "Evict", Node: victim}, func() (bool, error) {
		return f.next.Evict(ctx, victim, renewals)
	})
}

// Claim implements persistence.Membership.
func (f *Faulty) Claim(ctx context.Context, p persistence.Partition, seen persistence.Epoch, node persistence.NodeID) (persistence.Tenure, error) {
	return call(ctx, f, Call{Method: "Claim", Node: node, Partition: p}, func() (persistence.Tenure, error) {
		return f.next.Claim(ctx, p, seen, node)
	})
}

// Release implements persistence.Membership.
func (f *Faulty) Release(ctx context.Context, p persistence.Partition, epoch persistence.Epoch, node, to persistence.NodeID) error {
	return f.do(ctx, Call{Method: "Release", Node: node, Partition: p}, func() error {
		return f.next.Release(ctx, p, epoch, node, to)
	})
}

// Verify implements persistence.Membership.
func (f *Faulty) Verify(ctx context.Context, node persistence.NodeID, fences []persistence.Fence) ([]bool, error) {
	return call(ctx, f, Call{Method: "Verify", Node: node}, func() ([]bool, error) {
		return f.next.Verify(ctx, node, fences)
	})
}

package persistencetest

import (
	"context"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// Advance implements persistence.Projections. An answer that is lost is of
// unknown outcome when the step has happened; otherwise it is not lost.
func (f *Faulty) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	var answer error
	done := false
	err := f.do(ctx, Call{Method: "Advance", Node: step.Owner}, func() error {
		answer = f.next.Advance(ctx, step, work)
		done = true
		return answer
	})
	switch {
	case done && answer == nil && err != nil:
		return fmt.Errorf("%w: %w", persistence.ErrUnknownOutcome, err)
	case done:
		return answer
	}
	return err
}

// DeadLetters implements persistence.Projections.
func (f *Faulty) DeadLetters(
	ctx context.Context, projection string, after persistence.DeadLetterKey, limit int,
) ([]persistence.DeadLetter, error) {
	return call(ctx, f, Call{Method: "DeadLetters"}, func() ([]persistence.DeadLetter, error) {
		return f.next.DeadLetters(ctx, projection, after, limit)
	})
}

// ProjectionNames implements persistence.Projections.
func (f *Faulty) ProjectionNames(ctx context.Context) ([]string, error) {
	return call(ctx, f, Call{Method: "ProjectionNames"}, func() ([]string, error) { return f.next.ProjectionNames(ctx) })
}

// DeleteProjection implements persistence.Projections.
func (f *Faulty) DeleteProjection(ctx context.Context, projection string) error {
	return f.do(ctx, Call{Method: "DeleteProjection"}, func() error { return f.next.DeleteProjection(ctx, projection) })
}

// Heads implements persistence.Property.
func (f *Faulty) Heads(ctx context.Context) ([]persistence.Cursor, error) {
	return call(ctx, f, Call{Method: "Heads"}, func() ([]persistence.Cursor, error) { return f.next.Heads(ctx) })
}

// Streams implements persistence.Property.
func (f *Faulty) Streams(
	ctx context.Context, p persistence.Partition, after persistence.Offset, limit int,
) ([]persistence.StreamInfo, error) {
	return call(ctx, f, Call{Method: "Streams", Partition: p}, func() ([]persistence.StreamInfo, error) {
		return f.next.Streams(ctx, p, after, limit)
	})
}

// Import implements persistence.Property.
func (f *Faulty) Import(ctx context.Context, source string, events []persistence.Event) error {
	return f.do(ctx, Call{Method: "Import"}, func() error { return f.next.Import(ctx, source, events) })
}

// Erase implements persistence.Property.
func (f *Faulty) Erase(
	ctx context.Context, owner persistence.NodeID, fence persistence.Fence, stream persistence.Stream,
) (persistence.Version, error) {
	return call(ctx, f, Call{Method: "Erase", Node: owner, Partition: fence.Partition}, func() (persistence.Version, error) {
		return f.next.Erase(ctx, owner, fence, stream)
	})
}

// FindKeys implements persistence.Keys.
func (f *Faulty) FindKeys(ctx context.Context, subjects []string) ([]persistence.Key, error) {
	return call(ctx, f, Call{Method: "FindKeys"}, func() ([]persistence.Key, error) { return f.next.FindKeys(ctx, subjects) })
}

// PutKey implements persistence.Keys.
func (f *Faulty) PutKey(ctx context.Context, key persistence.Key, renew bool) (persistence.Key, error) {
	return call(ctx, f, Call{Method: "PutKey"}, func() (persistence.Key, error) { return f.next.PutKey(ctx, key, renew) })
}

// DeleteKey implements persistence.Keys.
func (f *Faulty) DeleteKey(ctx context.Context, subject string, at time.Time) error {
	return f.do(ctx, Call{Method: "DeleteKey"}, func() error { return f.next.DeleteKey(ctx, subject, at) })
}

// ListKeys implements persistence.Keys.
func (f *Faulty) ListKeys(ctx context.Context, after string, limit int) ([]persistence.Key, error) {
	return call(ctx, f, Call{Method: "ListKeys"}, func() ([]persistence.Key, error) { return f.next.ListKeys(ctx, after, limit) })
}

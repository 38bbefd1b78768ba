package simulation

import (
	"context"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// The machines of a simulation neither project nor export: what they would need
// for it goes to the store at once.

// Advance implements persistence.Projections.
func (s *storeEnd) Advance(ctx context.Context, step persistence.Step, work func(context.Context, persistence.Tx) error) error {
	return do(ctx, s, "advance", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.Advance(always, step, work) })
	})
}

// DeadLetters implements persistence.Projections.
func (s *storeEnd) DeadLetters(
	ctx context.Context, projection string, after persistence.DeadLetterKey, limit int,
) ([]persistence.DeadLetter, error) {
	return ask(ctx, s, "dead letters", func() ([]persistence.DeadLetter, error) {
		return s.m.w.db.store.DeadLetters(always, projection, after, limit)
	})
}

// ProjectionNames implements persistence.Projections.
func (s *storeEnd) ProjectionNames(ctx context.Context) ([]string, error) {
	return ask(ctx, s, "projections", func() ([]string, error) { return s.m.w.db.store.ProjectionNames(always) })
}

// DeleteProjection implements persistence.Projections.
func (s *storeEnd) DeleteProjection(ctx context.Context, projection string) error {
	return do(ctx, s, "delete projection", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.DeleteProjection(always, projection) })
	})
}

// Heads implements persistence.Property.
func (s *storeEnd) Heads(ctx context.Context) ([]persistence.Cursor, error) {
	return ask(ctx, s, "heads", func() ([]persistence.Cursor, error) { return s.m.w.db.store.Heads(always) })
}

// Streams implements persistence.Property.
func (s *storeEnd) Streams(
	ctx context.Context, p persistence.Partition, after persistence.Offset, limit int,
) ([]persistence.StreamInfo, error) {
	return ask(ctx, s, "streams", func() ([]persistence.StreamInfo, error) {
		return s.m.w.db.store.Streams(always, p, after, limit)
	})
}

// Import implements persistence.Property.
func (s *storeEnd) Import(ctx context.Context, source string, events []persistence.Event) error {
	return do(ctx, s, "import", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.Import(always, source, events) })
	})
}

// Erase implements persistence.Property.
func (s *storeEnd) Erase(
	ctx context.Context, owner persistence.NodeID, fence persistence.Fence, stream persistence.Stream,
) (persistence.Version, error) {
	var version persistence.Version
	err := do(ctx, s, "erase", func() error {
		return s.m.w.db.change(func(st persistence.Store) (err error) {
			version, err = st.Erase(always, owner, fence, stream)
			return err
		})
	})
	return version, err
}

// FindKeys implements persistence.Keys.
func (s *storeEnd) FindKeys(ctx context.Context, subjects []string) ([]persistence.Key, error) {
	return ask(ctx, s, "find keys", func() ([]persistence.Key, error) { return s.m.w.db.store.FindKeys(always, subjects) })
}

// PutKey implements persistence.Keys.
func (s *storeEnd) PutKey(ctx context.Context, key persistence.Key, renew bool) (persistence.Key, error) {
	var winner persistence.Key
	err := do(ctx, s, "put key", func() error {
		return s.m.w.db.change(func(st persistence.Store) (err error) {
			winner, err = st.PutKey(always, key, renew)
			return err
		})
	})
	return winner, err
}

// DeleteKey implements persistence.Keys.
func (s *storeEnd) DeleteKey(ctx context.Context, subject string, at time.Time) error {
	return do(ctx, s, "delete key", func() error {
		return s.m.w.db.change(func(st persistence.Store) error { return st.DeleteKey(always, subject, at) })
	})
}

// ListKeys implements persistence.Keys.
func (s *storeEnd) ListKeys(ctx context.Context, after string, limit int) ([]persistence.Key, error) {
	return ask(ctx, s, "list keys", func() ([]persistence.Key, error) { return s.m.w.db.store.ListKeys(always, after, limit) })
}

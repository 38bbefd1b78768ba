package eventsourcing

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// processPage is how many rows are read at once.
const processPage = 500

var errNoEnd = errors.New("the type has no end: see aggregate.Ended")

// OpenProcesses lists the processes of a type that have begun and not ended, by
// their ids in the order of their bytes. It costs what it lists.
func OpenProcesses(ctx context.Context, store persistence.Store, process aggregate.Any) iter.Seq2[string, error] {
	d := process.Definition()
	return func(yield func(string, error) bool) {
		if !d.Ends() {
			yield("", fmt.Errorf("list open processes %q: %w", d.Name(), errNoEnd))
			return
		}
		prefix := d.Name() + "/"
		for after := (persistence.Claim{Namespace: openNamespace, Key: prefix}); ; {
			claims, err := store.Claims(ctx, after, processPage)
			if err != nil {
				yield("", fmt.Errorf("list open processes %q: %w", d.Name(), err))
				return
			}
			for i := range claims {
				after = claims[i].Claim
				id, is := strings.CutPrefix(after.Key, prefix)
				if after.Namespace != openNamespace || !is || !yield(id, nil) {
					return
				}
			}
			if len(claims) < processPage {
				return
			}
		}
	}
}

// EndedProcesses lists the processes of a type that have ended, by their ids, in
// no order. It reads through all streams of the store.
func EndedProcesses(ctx context.Context, store persistence.Store, process aggregate.Any) iter.Seq2[string, error] {
	d := process.Definition()
	return func(yield func(string, error) bool) {
		if !d.Ends() {
			yield("", fmt.Errorf("list ended processes %q: %w", d.Name(), errNoEnd))
			return
		}
		for p := range store.Meta().Partitions {
			if !endedIn(ctx, store, persistence.Partition(p), d.Name(), yield) {
				return
			}
		}
	}
}

func endedIn(ctx context.Context, store persistence.Store, p persistence.Partition, process string, yield func(string, error) bool) bool {
	for after := persistence.Offset(0); ; {
		streams, err := store.Streams(ctx, p, after, processPage)
		if err != nil {
			return yield("", fmt.Errorf("list ended processes %q: %w", process, err)) && false
		}
		for i := range streams {
			s := &streams[i]
			after = s.First
			if s.Stream.Type != process {
				continue
			}
			ended, err := hasEnded(ctx, store, s)
			if err != nil {
				return yield("", fmt.Errorf("list ended processes %q: %w", process, err)) && false
			}
			if ended && !yield(s.Stream.ID, nil) {
				return false
			}
		}
		if len(streams) < processPage {
			return true
		}
	}
}

// hasEnded reports whether a process has begun, and is not open.
func hasEnded(ctx context.Context, store persistence.Store, s *persistence.StreamInfo) (bool, error) {
	if _, open, err := store.FindClaim(ctx, OpenClaim(s.Stream)); open || err != nil {
		return false, err
	}
	for after := persistence.Version(0); after < s.Version; {
		events, err := store.Read(ctx, s.Stream, after, processPage)
		if err != nil || len(events) == 0 {
			return false, err
		}
		for i := range events {
			if !IsOutcome(events[i].Type) {
				return true, nil
			}
		}
		after = events[len(events)-1].Version
	}
	return false, nil // nothing but refusals
}

package eventsourcing

import (
	"context"
	"errors"
	"fmt"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// PurgeDeadLetters takes the causes out of the dead letters whose events are of
// the subject, in all projections: they may quote what was sealed. The letters stay,
// so that their sequences do.
func PurgeDeadLetters(
	ctx context.Context, store persistence.Store, definitions func(name string) *aggregate.Definition, subject string,
) error {
	return eachLetter(ctx, store, definitions, subject, func(l persistence.DeadLetter) error {
		if l.Cause == purged {
			return nil
		}
		l.Cause = purged
		return store.Advance(ctx, persistence.Step{Projection: l.Projection, Park: []persistence.DeadLetter{l}}, nil)
	})
}

// purged stands in place of the cause of a forgotten subject's dead letter.
const purged = "forgotten"

// eachLetter calls f with the dead letters of a subject's events.
func eachLetter(
	ctx context.Context, store persistence.Store, definitions func(string) *aggregate.Definition, subject string,
	f func(persistence.DeadLetter) error,
) error {
	names, err := store.ProjectionNames(ctx)
	if err != nil {
		return fmt.Errorf("dead letters of %q: %w", subject, err)
	}
	const page = 500
	for _, name := range names {
		var after persistence.DeadLetterKey
		for {
			letters, err := store.DeadLetters(ctx, name, after, page)
			if err != nil {
				return fmt.Errorf("dead letters of %q: %w", subject, err)
			}
			for _, l := range letters {
				after = l.DeadLetterKey
				if d := definitions(l.Stream.Type); d == nil || d.Subject(l.Stream.ID) != subject {
					continue
				}
				if err := f(l); err != nil {
					return fmt.Errorf("dead letters of %q: %w", subject, err)
				}
			}
			if len(letters) < page {
				break
			}
		}
	}
	return nil
}

// Proof is what VerifyForgotten looked at. Forgotten is the verdict; the counts say
// what it rests on.
type Proof struct {
	Subject string
	// Forgotten: there is a marker in place of the key, and nothing of the subject
	// can be read.
	Forgotten bool
	// Marker: the key store says that the key was destroyed. KeyThere: it still
	// has one.
	Marker, KeyThere bool
	// Streams, Events and Snapshots of the subject were looked at. Readable ones
	// were never sealed, or their key is still there.
	Streams, Events, ReadableEvents    int
	Snapshots, ReadableSnapshots       int
	DeadLetters, DeadLettersWithACause int
}

// VerifyForgotten goes through the whole log and says what can still be read of a
// subject. It needs no vault: without the key nothing that is sealed can be read,
// so it looks for what is not sealed, and for the key. It takes as long as reading
// the log does. It sees neither backups, nor archives, nor what projections wrote
// into tables of their own.
func VerifyForgotten(
	ctx context.Context, store persistence.Store, keys persistence.Keys, aggregates []aggregate.Any, subject string,
) (Proof, error) {
	p := Proof{Subject: subject}
	if subject == "" {
		return p, errors.New("verify: no subject")
	}
	types := make(map[string]*aggregate.Definition)
	for _, a := range aggregates {
		types[a.Definition().Name()] = a.Definition()
	}
	definitions := func(name string) *aggregate.Definition { return types[name] }
	stored, err := keys.FindKeys(ctx, []string{subject})
	if err != nil {
		return p, fmt.Errorf("verify %q: %w", subject, err)
	}
	for _, key := range stored {
		p.Marker, p.KeyThere = key.Forgotten, !key.Forgotten
	}
	for part := range store.Meta().Partitions {
		if err := p.lookAt(ctx, store, definitions, persistence.Partition(part)); err != nil {
			return p, fmt.Errorf("verify %q: %w", subject, err)
		}
	}
	err = eachLetter(ctx, store, definitions, subject, func(l persistence.DeadLetter) error {
		p.DeadLetters++
		if l.Cause != purged && l.Cause != "" {
			p.DeadLettersWithACause++
		}
		return nil
	})
	p.Forgotten = err == nil && p.Marker && !p.KeyThere &&
		p.ReadableEvents+p.ReadableSnapshots+p.DeadLettersWithACause == 0
	return p, err
}

// lookAt goes through a partition's streams.
func (p *Proof) lookAt(
	ctx context.Context, store persistence.Store, definitions func(string) *aggregate.Definition, part persistence.Partition,
) error {
	const page = 500
	for after := persistence.Offset(0); ; {
		streams, err := store.Streams(ctx, part, after, page)
		if err != nil || len(streams) == 0 {
			return err
		}
		for _, s := range streams {
			after = s.First
			if d := definitions(s.Stream.Type); d != nil && d.Subject(s.Stream.ID) == p.Subject {
				if err := p.lookInto(ctx, store, s.Stream); err != nil {
					return err
				}
			}
		}
	}
}

func (p *Proof) lookInto(ctx context.Context, store persistence.Store, stream persistence.Stream) error {
	p.Streams++
	histories, err := store.ReadMany(ctx, []persistence.Stream{stream}, 0)
	if err != nil {
		return err
	}
	if s := histories[0].Snapshot; s != nil {
		p.Snapshots++
		if !isSealed(s.Payload) || p.KeyThere {
			p.ReadableSnapshots++
		}
	}
	for at := persistence.Version(0); ; {
		events, err := store.Read(ctx, stream, at, loadPage)
		if err != nil || len(events) == 0 {
			return err
		}
		for i := range events {
			at = events[i].Version
			p.Events++
			if !isSealed(events[i].Payload) || p.KeyThere {
				p.ReadableEvents++
			}
		}
	}
}

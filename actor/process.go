package actor

import (
	"errors"
	"slices"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
)

// keep commits what became of a caused command that did nothing: then it has this
// outcome for ever, and a copy of it that is still on its way anywhere can have no
// other (I5, I10).
func (g *grain) keep(it *item) {
	c := it.call
	var rejection *aggregate.Rejection
	errors.As(it.result.Err, &rejection) // none: there was nothing to do
	stored, err := eventsourcing.EncodeOutcome(rejection)
	if err == nil {
		it.events[0] = stored
		err = g.seal(it.events[:])
	}
	var metadata []byte
	if err == nil {
		metadata, err = eventsourcing.EncodeMetadata(&c.Request.Metadata)
	}
	if err == nil {
		err = g.tenure.lane.admit()
	}
	if err != nil {
		if !isFailure(err) {
			err = aggregate.Invalid(aggregate.ReasonBadPayload, err)
		}
		g.finish(c, failed(err))
		return
	}
	it.hasCommit, it.commit = true, g.commit(c)
	it.commit.Metadata, it.commit.Events = metadata, it.events[:]
	it.bytes = len(metadata) + len(stored.Payload) + len(stored.Type)
	g.commitTo(it, 1)
}

// ended reports whether the aggregate is a process that is finished, with the
// rejection of everything it is asked.
func (g *grain) ended() (ended bool, err error) {
	if !g.def.Ends() {
		return false, nil
	}
	_, err = safely(func() (any, error) {
		if ended = g.def.Ended(g.instance.State()); ended {
			return nil, aggregate.ErrEnded
		}
		return nil, nil
	})
	return ended, err
}

// open lists a process that may end among the open ones with its first event, and
// takes it off the list with its last. The state has the events already.
func (g *grain) open(it *item) error {
	begins := !g.begun
	g.begun = true
	if !g.def.Ends() {
		return nil
	}
	ended, err := g.ended()
	claim := eventsourcing.OpenClaim(g.stream)
	switch {
	case ended && !begins:
		it.commit.Releases = append(it.commit.Releases, claim)
	case ended:
	case err != nil:
		return err
	case begins && !slices.Contains(it.commit.Claims, claim):
		it.commit.Claims = append(it.commit.Claims, claim)
	}
	return nil
}

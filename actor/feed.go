package actor

import (
	"time"

	"github.com/ingrain-go/ingrain/persistence"
)

// tell reports, per partition and in the order of their offsets, the events of the
// commits that have just become durable. Their replies have not left yet. A commit
// of unknown outcome is reported when it was found in the log.
func (l *lane) tell(commits []*persistence.Commit) {
	for len(commits) > 0 {
		p, n := commits[0].Partition, 0
		var events []persistence.Event
		var others []*persistence.Commit
		for _, c := range commits {
			switch {
			case c.Err != nil || len(c.Events) == 0:
			case c.Partition != p:
				others = append(others, c)
			default:
				n += len(c.Events)
			}
		}
		if n > 0 {
			events = make([]persistence.Event, 0, n)
		}
		for _, c := range commits {
			if c.Partition == p && c.Err == nil {
				events = appendEvents(events, c)
			}
		}
		if n > 0 {
			l.host.config.OnCommitted(p, events)
		}
		commits = others
	}
}

// tellFound is tell for one commit of which only the log could say that it is
// there.
func (l *lane) tellFound(c *persistence.Commit) {
	if l.host.config.OnCommitted != nil && len(c.Events) > 0 {
		l.host.config.OnCommitted(c.Partition, appendEvents(nil, c))
	}
}

func appendEvents(events []persistence.Event, c *persistence.Commit) []persistence.Event {
	at := c.At.Truncate(time.Microsecond)
	for i := range c.Events {
		events = append(events, persistence.Event{
			Partition: c.Partition, Offset: c.Offset + persistence.Offset(i), Epoch: c.Epoch, Stream: c.Stream,
			Version: c.Expected + persistence.Version(i) + 1, Type: c.Events[i].Type, At: at, Command: c.Command,
			Metadata: c.Metadata, Payload: c.Events[i].Payload,
		})
	}
	return events
}

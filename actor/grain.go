package actor

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/asynkron/protoactor-go/actor"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// grain is the one activation of an aggregate: a protoactor actor whose turn
// runs commands one after the other on the newest state.
//
//	loading ──▶ running ──▶ leaving ──▶ stopped
//	   └──────────┴────────────┘
//
// loading stashes calls until the state is there; leaving stashes them until
// the commits in flight are settled, so that the next activation cannot load a
// state without them. The stash is bounded by the host's admission.
//
// A grain runs ahead of its commits: it decides the next command on a state
// whose events are still on their way. Every reply therefore stands in a queue
// behind the commits its state depends on (I3).
type grain struct {
	host    *Host
	tenure  *tenure
	def     *aggregate.Definition
	stream  persistence.Stream
	pid     *proto.PID
	mailbox mailbox

	stopped  atomic.Bool  // set by the turn, read by the mailbox and the host
	inflight atomic.Int32 // admitted and not answered
	lastUsed atomic.Int64 // host clock
	tidied   atomic.Int64 // lastUsed when it was last told to tidy up

	// guarded by the host's list of residents
	place  *list.Element
	listed int64 // lastUsed when it got its place

	key *eventsourcing.Key // of a sealed aggregate; set when it is loaded

	fetched bool // a load of it has begun; guarded by the loader
	begun   bool // something has happened to it besides outcomes that were kept; owned by the turn

	// owned by the turn
	phase     phase
	stash     []*Call
	instance  aggregate.Instance
	version   persistence.Version
	last      stamp // of the event of that version
	window    eventsourcing.Window
	sinceSnap snapshotDebt
	erasing   *erasing // nil while nobody waits for the aggregate to be erased

	mu       sync.Mutex
	queue    *item // oldest unsettled commit, and what waits behind it
	tail     *item
	commits  int       // commits in the queue
	settled  []settled // for the window, taken by the next turn
	broken   bool      // a commit failed: the state is not the log's any more
	notify   bool      // the turn wants to know when no commit is in flight
	revealed bool      // a commit of this activation is durable, or in flight
}

type phase uint8

const (
	loading phase = iota
	running
	leaving
)

// messages to a grain besides calls
type (
	loadedMessage  struct{ eventsourcing.Loaded }
	settledMessage struct{}
	leaveMessage   struct{} // stop when nothing is in flight
	passivate      struct{} // stop if nobody uses it
	snapshotNow    struct { // hand over a snapshot once its events are durable
		to chan<- *persistence.Snapshot // has room; gets nil when there is none
	}
	tidy struct{} // give back what a burst needed
)

// Receive implements proto.Actor.
func (g *grain) Receive(ctx proto.Context) {
	switch m := ctx.Message().(type) {
	case *Call:
		g.receive(m)
	case *loadedMessage:
		g.loaded(&m.Loaded)
	case *foundMessage:
		g.found(m)
	case settledMessage:
		g.leaveIfQuiet()
	case erasure:
		g.erase(m)
	case *wipedMessage:
		g.wiped(m)
	case forgetMessage:
		if g.phase == running && g.key == m.key {
			g.leave()
		}
	case leaveMessage:
		g.leave()
	case passivate:
		g.passivate()
	case snapshotNow:
		g.snapshotEarly(m.to)
	case tidy:
		g.tidy()
	case *proto.Stopping:
		if !g.stopped.Load() { // somebody else stopped the actor
			g.stop()
		}
	case proto.SystemMessage, proto.AutoReceiveMessage:
	default:
		g.foreign(ctx, m)
	}
}

func (g *grain) receive(c *Call) {
	switch {
	case g.stopped.Load(): // by a call that was stashed before this one
		g.bounce(c)
	case g.phase == running:
		g.execute(c)
	default:
		if g.stash = append(g.stash, c); len(g.stash) == 2 && g.phase == loading {
			g.host.loader.hurry(g)
		}
	}
}

func (g *grain) loaded(l *eventsourcing.Loaded) {
	if g.phase != loading {
		return
	}
	if g.erasing != nil { // whatever it was, or whyever it cannot be known
		g.leave()
		return
	}
	stash := g.stash
	g.stash = nil
	if result := g.unfit(l); result.Err != nil {
		g.phase = leaving
		for _, c := range stash {
			g.finish(c, result)
		}
		g.stop()
		return
	}
	g.instance, g.version, g.window, g.key = l.Instance, l.Version, l.Window, l.Key
	g.last = stampOf(l.Last)
	g.begun = l.Begun
	g.sinceSnap = snapshotDebt{events: int(l.Version - l.Snapshot), bytes: l.Bytes}
	g.revealed = g.tenure.marked(g.stream)
	g.phase = running
	for _, c := range stash {
		g.receive(c)
	}
}

// unfit says why nobody may be served from what was loaded; no error if he may.
func (g *grain) unfit(l *eventsourcing.Loaded) Result {
	var unreadable *eventsourcing.UnreadableError
	switch head := persistence.Offset(g.tenure.head.Load()); {
	case errors.As(l.Err, &unreadable):
		return failed(aggregate.NotDone(aggregate.ReasonUnreadable, l.Err))
	case errors.Is(l.Err, eventsourcing.ErrForgotten):
		return failed(aggregate.NotDone(aggregate.ReasonForgotten, l.Err))
	case l.Err != nil:
		return failed(aggregate.NotDone(aggregate.ReasonStoreDown, l.Err))
	case l.Reach > head:
		// Somebody has written since, and so owned the partition. A store that is
		// set back later may call us the owner again, of a log without these events.
		g.host.deposed(g.tenure, fmt.Errorf("the log has event %d of %s at offset %d, and the owner's ends at %d",
			l.Version, g.stream, l.Reach, head))
		return notOwner
	}
	return Result{}
}

// leave gives the activation up once nothing of it is in flight.
func (g *grain) leave() {
	g.phase = leaving
	g.leaveIfQuiet()
}

func (g *grain) leaveIfQuiet() {
	if g.phase != leaving || g.stopped.Load() || g.erasing != nil && g.erasing.begun {
		return
	}
	g.mu.Lock()
	quiet := g.queue == nil
	g.notify = !quiet
	g.mu.Unlock()
	switch {
	case !quiet:
	case g.erasing != nil:
		g.wipe()
	default:
		g.stop()
	}
}

// stop ends the activation. What it has not begun goes back to the host, which
// finds the aggregate's next activation, here or elsewhere.
func (g *grain) stop() {
	g.stopped.Store(true)
	g.tenure.forget(g)
	g.host.resident.remove(g)
	stash := g.stash
	g.stash = nil
	if g.erasing != nil {
		g.erasing.tell(erased{err: errLeft})
		g.erasing = nil
	}
	for _, c := range stash {
		g.bounce(c)
	}
	g.host.system.Root.Stop(g.pid)
}

// bounce takes a message that arrived after the stop.
func (g *grain) bounce(message any) {
	switch m := proto.UnwrapEnvelopeMessage(message).(type) {
	case *Call:
		g.release(m).leave()
		if sender, ok := m.Reply.(Redeliverer); ok {
			sender.Redeliver(m)
		} else {
			g.host.Deliver(m)
		}
	case *foundMessage:
		g.bounce(m.call)
	case snapshotNow:
		m.to <- nil
	case erasure:
		m.done <- erased{err: errLeft}
	case *loadedMessage, settledMessage, leaveMessage, passivate, tidy, forgetMessage, *wipedMessage, proto.SystemMessage, proto.AutoReceiveMessage:
	default:
		if sender := proto.UnwrapEnvelopeSender(message); sender != nil {
			g.host.system.Root.Send(sender, &proto.DeadLetterResponse{Target: g.pid})
		}
	}
}

// passivate leaves memory if nobody uses the aggregate.
func (g *grain) passivate() {
	if g.phase != running || g.inflight.Load() > 0 || !g.catchUp() {
		return
	}
	if p := g.def.Snapshots(); !p.Off && g.sinceSnap.events >= p.OnPassivation {
		if s := g.snapshot(); s != nil {
			g.host.save(s)
		}
	}
	g.host.stats.passivations.Add(1)
	g.leave()
}

// tidy gives back the memory of a burst, once nobody has used the aggregate for
// a while.
func (g *grain) tidy() {
	if g.phase != running || g.inflight.Load() > 0 || !g.catchUp() {
		return
	}
	g.window.Trim()
	g.stash = nil
	g.mu.Lock()
	g.settled = nil
	g.mu.Unlock()
	g.mailbox.tidy()
}

// snapshot encodes the state as it is now.
func (g *grain) snapshot() *persistence.Snapshot {
	if g.catchUp(); !g.begun {
		return nil // the log tells it by as few events
	}
	s, err := safely(func() (persistence.Snapshot, error) {
		s, err := eventsourcing.EncodeSnapshot(g.def, g.stream, g.version, g.last.cause(), g.instance, &g.window, g.host.clock.Wall())
		if err == nil && g.key != nil {
			err = g.key.SealSnapshot(&s)
		}
		return s, err
	})
	g.sinceSnap = snapshotDebt{}
	if err != nil {
		g.host.log.Error("snapshot not taken", "stream", g.stream.String(), "error", err)
		return nil
	}
	return &s
}

func (g *grain) idleSince() time.Duration { return time.Duration(g.lastUsed.Load()) }

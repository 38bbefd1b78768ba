package actor

import (
	"errors"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// Call is one command or query on its way through a host. It is answered
// exactly once, whatever happens.
type Call struct {
	Request   *aggregate.Request
	Stream    persistence.Stream
	Partition persistence.Partition
	// Epoch of the partition as the sender saw it. A call from before this tenure
	// is refused as NotOwner: its sender may have asked another owner since, and
	// taken that answer for final. 0 for any.
	Epoch persistence.Epoch
	// Deadline by the host's coarse clock; 0 for none. A call that is not begun by
	// then certainly has no effect.
	Deadline time.Duration
	// Reply receives the result, on whatever goroutine it became known. It must
	// not block.
	Reply Replier

	tenure *tenure             // while admitted
	grain  *grain              // while admitted
	looked bool                // the log has been asked about the command id: it was new
	asked  persistence.Version // of the aggregate when the log was asked
	timer  *armed              // that sends the command; nil for a caller's
	done   bool                // the commit that cancels the timer is durable
}

// Replier receives the result of a call.
type Replier interface {
	Reply(c *Call, r Result)
}

// Redeliverer is implemented by repliers whose calls may be given up and asked
// again. Redeliver takes back a call whose activation ended before it began: it
// delivers the call again, or drops it if its successor may have been answered
// (I5). It runs in a turn: it must not block, and delivers on another goroutine.
type Redeliverer interface {
	Redeliver(c *Call)
}

// Result is what became of a call.
type Result struct {
	Response aggregate.Response
	// Err is nil, an *aggregate.Rejection or an *aggregate.Failure.
	Err error
	// NotOwner says that this node does not own the partition, so the call was
	// certainly not executed; Err says so too, for callers who cannot route.
	NotOwner bool
}

// errMoved is the result of a call that met a partition on its way elsewhere.
var errMoved = aggregate.NotDone(aggregate.ReasonMoved, nil)

// errStopping is the result of a call that met a host on its way out.
var errStopping = aggregate.NotDone(aggregate.ReasonStopping, nil)

var notOwner = Result{Err: errMoved, NotOwner: true}

func failed(err error) Result { return Result{Err: err} }

// expired reports whether the caller has given up.
func (c *Call) expired(clock Clock) bool { return c.Deadline != 0 && clock.Coarse() >= c.Deadline }

func (c *Call) id() aggregate.CommandID { return c.Request.Command }

// tooLate is the result of a call that was not begun in time.
func tooLate() Result {
	return failed(aggregate.NotDone(aggregate.ReasonDeadline, errors.New("the deadline passed before the call was begun")))
}

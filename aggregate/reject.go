package aggregate

import (
	"errors"
	"fmt"
	"maps"
)

// Rejection is the domain's no: a business rule forbade the command. It keeps
// its code, message and details across the wire.
//
// Two rejections with the same code are the same to errors.Is, whatever their
// message and details, so that a package-level rejection serves as a sentinel.
type Rejection struct {
	// Code is stable and meant for programs.
	Code string
	// Message is meant for people.
	Message string
	// Details are facts for programs; nil when there are none.
	Details map[string]string
}

// Reject makes a rejection, usually held in a package-level variable.
func Reject(code, message string) *Rejection {
	return &Rejection{Code: code, Message: message}
}

func (r *Rejection) Error() string { return r.Message }

// Is reports whether target is a rejection with the same code.
func (r *Rejection) Is(target error) bool {
	t, ok := target.(*Rejection)
	return ok && t.Code == r.Code
}

// With returns a copy that carries one more detail.
func (r *Rejection) With(key, value string) *Rejection {
	c := *r
	c.Details = make(map[string]string, len(r.Details)+1)
	maps.Copy(c.Details, r.Details)
	c.Details[key] = value
	return &c
}

// CodeUnspecified is the code of a rejection whose Decide returned an error
// that is no *Rejection.
const CodeUnspecified = "unspecified"

// AsRejection turns what Decide or Answer returned into a rejection: the one
// that err is or wraps, under err's full message, or one with
// [CodeUnspecified].
func AsRejection(err error) *Rejection {
	var r *Rejection
	if !errors.As(err, &r) {
		return &Rejection{Code: CodeUnspecified, Message: err.Error()}
	}
	if msg := err.Error(); msg != r.Message {
		return &Rejection{Code: r.Code, Message: msg, Details: r.Details}
	}
	return r
}

// Kind sorts the errors that a caller of an aggregate can see. There are four
// and no more, the same for local and remote aggregates.
type Kind uint8

const (
	// KindNone is no error.
	KindNone Kind = iota
	// KindRejected: the domain said no. Nothing happened. Asking again gives an
	// answer about another moment.
	KindRejected
	// KindNotDone: the command certainly had no effect and may be sent again.
	// With [ReasonPanic] and [ReasonUnreadable] it would fail again, until the
	// program is mended: see cluster.SafeToRetry.
	KindNotDone
	// KindUnknown: the command may have had its effect. Only asking again with
	// the same command id is safe.
	KindUnknown
	// KindInvalid: the request itself is wrong, and always will be.
	KindInvalid
)

func (k Kind) String() string {
	switch k {
	case KindNone:
		return "none"
	case KindRejected:
		return "rejected"
	case KindNotDone:
		return "not done"
	case KindUnknown:
		return "unknown"
	case KindInvalid:
		return "invalid"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Reasons of failures. They are stable and travel on the wire.
const (
	ReasonOverloaded    = "overloaded"     // not done: a bounded queue is full
	ReasonDeadline      = "deadline"       // not done or unknown: the caller's time was up
	ReasonNoOwner       = "no-owner"       // not done: no node owns the partition yet
	ReasonStopping      = "stopping"       // not done: the node is stopping
	ReasonStoreDown     = "store-down"     // not done: the store cannot be reached
	ReasonPanic         = "panic"          // not done: Decide or Answer panicked
	ReasonMoved         = "moved"          // not done: the aggregate moved meanwhile
	ReasonConflict      = "conflict"       // not done: another writer was first
	ReasonUnreadable    = "unreadable"     // not done: a stored event cannot be read
	ReasonForgotten     = "forgotten"      // not done: its subject was forgotten, and with it what it was
	ReasonConnection    = "connection"     // unknown: the owner was lost with the request
	ReasonOutcome       = "outcome"        // unknown: the store did not say what became of it
	ReasonUnknownType   = "unknown-type"   // invalid: no such aggregate type
	ReasonUnknownName   = "unknown-name"   // invalid: no such command or query
	ReasonBadID         = "bad-id"         // invalid: empty, too long, with NUL, or not UTF-8
	ReasonBadPayload    = "bad-payload"    // invalid: cannot be encoded or decoded
	ReasonTooLarge      = "too-large"      // invalid: payload over the limit
	ReasonBadCommandID  = "bad-command-id" // invalid: command id zero, or no UUID of version 7
	ReasonBadVersion    = "bad-version"    // invalid: a negative expected version, or one of a query
	ReasonBadEffect     = "bad-effect"     // invalid: an event claims or schedules what cannot be kept
	ReasonCommandTooOld = "command-id-age" // invalid: command id too old, or from the future
	ReasonBadEvent      = "bad-event"      // invalid: Decide returned an event that is not registered
	ReasonNoAnswer      = "no-answer"      // invalid: the command took effect, see its receipt, but its answer cannot be carried
	ReasonVersion       = "version"        // rejected: not at the expected version
)

// Failure is any error but a rejection: not done, unknown or invalid.
type Failure struct {
	Kind Kind
	// Reason is one of the Reason constants.
	Reason string
	// Err says more; it may be nil, and crosses the wire as text only.
	Err error
}

func (f *Failure) Error() string {
	if f.Err != nil {
		return fmt.Sprintf("%s (%s): %v", f.Kind, f.Reason, f.Err)
	}
	return fmt.Sprintf("%s (%s)", f.Kind, f.Reason)
}

func (f *Failure) Unwrap() error { return f.Err }

// NotDone makes a failure of [KindNotDone].
func NotDone(reason string, err error) *Failure {
	return &Failure{Kind: KindNotDone, Reason: reason, Err: err}
}

// UnknownOutcome makes a failure of [KindUnknown].
func UnknownOutcome(reason string, err error) *Failure {
	return &Failure{Kind: KindUnknown, Reason: reason, Err: err}
}

// Invalid makes a failure of [KindInvalid].
func Invalid(reason string, err error) *Failure {
	return &Failure{Kind: KindInvalid, Reason: reason, Err: err}
}

// KindOf sorts an error that Send, Ask or Do returned. An error that is neither
// rejection nor failure is unknown: nothing can be concluded from it.
func KindOf(err error) Kind {
	if err == nil {
		return KindNone
	}
	var f *Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	var r *Rejection
	if errors.As(err, &r) {
		return KindRejected
	}
	return KindUnknown
}

// ErrVersion is the rejection of a command whose [ExpectVersion] does not hold.
// The one that is returned has both versions in its message, and in its details
// as "expected" and "actual".
var ErrVersion = Reject(ReasonVersion, "the aggregate is not at the expected version")

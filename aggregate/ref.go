package aggregate

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// MaxIDBytes is the limit of an aggregate id.
const MaxIDBytes = 512

// Ref addresses one aggregate. It is a small value, comparable, and safe for
// concurrent use.
type Ref[S any] struct {
	def     *Definition
	gateway Gateway
	id      string
}

// ID is the aggregate's id.
func (r Ref[S]) ID() string { return r.id }

// Send delivers a command and returns when its events are durable, or when it
// is certain or unknowable that they are not: see [KindOf]. The command, and
// whatever it refers to, must not be changed afterwards.
//
// While ctx allows, Send asks again by itself, with the same command id,
// whenever the command was not done or its outcome is unknown.
func (r Ref[S]) Send(ctx context.Context, command Command[S], options ...Option) (Receipt, error) {
	response, err := r.deliver(ctx, command, KindCommand, false, options)
	return response.Receipt, err
}

// Ask delivers a query. The answer is linearizable, unless the type's
// [ReadMode] says otherwise: it reflects every command that was acknowledged
// before Ask was called, and nothing that is not durable. [Into] tells the
// version it was given at.
func Ask[S, R any](ctx context.Context, r Ref[S], query Query[S, R], options ...Option) (R, error) {
	response, err := r.deliver(ctx, query, KindQuery, true, options)
	return answer[R](response, err)
}

// Do delivers a command that answers, and returns the answer on the state that
// its events left, once they are durable. A repeated command gets the answer on
// the state of that time, too.
func Do[S, R any](ctx context.Context, r Ref[S], command CommandQuery[S, R], options ...Option) (R, Receipt, error) {
	response, err := r.deliver(ctx, command, KindCommand, true, options)
	result, err := answer[R](response, err)
	return result, response.Receipt, err
}

func answer[R any](response Response, err error) (R, error) {
	var zero R
	if err != nil {
		return zero, err
	}
	if result, ok := response.Answer.(R); ok {
		return result, nil
	}
	if response.Answer == nil && reflect.TypeFor[R]().Kind() == reflect.Interface {
		return zero, nil
	}
	return zero, Invalid(ReasonBadPayload, fmt.Errorf("the answer is a %T, not a %T", response.Answer, zero))
}

func (r Ref[S]) deliver(ctx context.Context, value any, kind MessageKind, answer bool, options []Option) (Response, error) {
	if r.gateway == nil {
		return Response{}, Invalid(ReasonUnknownType, fmt.Errorf("the reference to %q has no gateway", r.id))
	}
	message := r.def.messageOf(reflect.TypeOf(value), kind)
	if message == nil {
		return Response{}, Invalid(ReasonUnknownName,
			fmt.Errorf("%T is not a registered %s of aggregate %q", value, kind, r.def.name))
	}
	if message.pointer && reflect.ValueOf(value).IsNil() {
		return Response{}, Invalid(ReasonBadPayload, fmt.Errorf("the %s is a nil %T", kind, value))
	}
	if err := CheckID(r.id); err != nil {
		return Response{}, err
	}
	request := Request{
		Definition: r.def, ID: r.id, Message: message, Value: value, Answer: answer,
		Expect: -1, Metadata: MetadataFrom(ctx),
	}
	for _, o := range options {
		if o != nil {
			o(&request)
		}
	}
	switch {
	case request.err != nil:
		return Response{}, request.err
	case kind == KindQuery:
		request.Command = CommandID{}
	case request.Command.IsZero():
		request.Command = NewCommandID()
	}
	response, err := r.gateway.Deliver(ctx, &request)
	if request.into != nil && (err == nil || kind == KindCommand) {
		*request.into = response.Receipt
	}
	return response, err
}

// CheckID returns an invalid failure unless id is 1 to 512 bytes of UTF-8 without NUL.
func CheckID(id string) error {
	switch {
	case id == "":
		return Invalid(ReasonBadID, fmt.Errorf("the aggregate id is empty"))
	case len(id) > MaxIDBytes:
		return Invalid(ReasonBadID, fmt.Errorf("the aggregate id has %d bytes, the limit is %d", len(id), MaxIDBytes))
	case strings.IndexByte(id, 0) >= 0:
		return Invalid(ReasonBadID, fmt.Errorf("the aggregate id %q contains NUL", id))
	case !utf8.ValidString(id):
		return Invalid(ReasonBadID, fmt.Errorf("the aggregate id %q is not valid UTF-8", id))
	}
	return nil
}

// Option changes one call. One that makes no sense is an invalid failure of the
// call; nil changes nothing.
type Option func(*Request)

// WithCommandID gives the command an identity of the caller's choice, so that
// the caller can ask again after its own restart. See [NewCommandID]. An id that
// is zero or no UUID of version 7 is invalid. A query has no id and ignores a
// valid one.
//
// One id has one effect on one aggregate; another aggregate knows nothing of it.
// Who sends it again gets the first receipt, with Duplicate set, whatever the
// command says this time. Only commands with events are remembered: one that was
// rejected, or that had nothing to do, decides anew.
func WithCommandID(id CommandID) Option {
	return func(r *Request) {
		if !id.isVersion7() {
			r.refuse(ReasonBadCommandID, fmt.Errorf("the command id %s is not a UUID of version 7: use NewCommandID or ParseCommandID", id))
		}
		r.Command = id
	}
}

// ExpectVersion makes the command conditional on the version the caller has
// seen: otherwise it is rejected with [ErrVersion]. Version 0 means that the
// aggregate must be new; a negative one is invalid, and so is the option on a
// query. A repeated command gets its first receipt whatever it expects.
func ExpectVersion(v Version) Option {
	return func(r *Request) {
		switch {
		case v < 0:
			r.refuse(ReasonBadVersion, fmt.Errorf("the expected version is %d: without ExpectVersion any will do", v))
		case r.Message.Kind() == KindQuery:
			r.refuse(ReasonBadVersion, fmt.Errorf("the query %q cannot expect a version: read its own with Into", r.Message.Name()))
		}
		r.Expect = v
	}
}

// Into stores the call's receipt when the call returns. For a command it is the
// one that Send or Do return. For a query it has the partition, and the version
// of the state that answered, to be given to [ExpectVersion] by whoever changes
// what he has read. A query that fails, and a request that is refused as invalid
// before it is sent, store nothing.
func Into(receipt *Receipt) Option {
	return func(r *Request) { r.into = receipt }
}

// CausedBy sets the causation of one command.
func CausedBy(cause string) Option {
	return func(r *Request) { r.Metadata.Causation = cause }
}

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
// before Ask was called, and nothing that is not durable.
func Ask[S, R any](ctx context.Context, r Ref[S], query Query[S, R], options ...Option) (R, error) {
	response, err := r.deliver(ctx, query, KindQuery, true, options)
	return answer[R](response, err)
}

// Do delivers a command that answers, and returns the answer on the state that
// its events left, once they are durable.
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
		o(&request)
	}
	switch {
	case kind == KindQuery:
		request.Command, request.Expect = CommandID{}, -1
	case request.Command.IsZero():
		request.Command = NewCommandID()
	}
	return r.gateway.Deliver(ctx, &request)
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

// Option changes one call.
type Option func(*Request)

// WithCommandID gives the command an identity of the caller's choice, so that
// the caller can ask again after its own restart. See [NewCommandID].
func WithCommandID(id CommandID) Option {
	return func(r *Request) { r.Command = id }
}

// ExpectVersion makes the command conditional on the version the caller has
// seen: otherwise it is rejected with [ErrVersion]. Version 0 means that the
// aggregate must be new.
func ExpectVersion(v Version) Option {
	return func(r *Request) { r.Expect = v }
}

// CausedBy sets the causation of one command.
func CausedBy(cause string) Option {
	return func(r *Request) { r.Metadata.Causation = cause }
}

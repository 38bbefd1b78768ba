package cluster

import (
	"errors"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/internal/wire"
)

// encodeError gives an error its wire form: kind, code, message, details.
func encodeError(err error) *wire.Error {
	var rejection *aggregate.Rejection
	if errors.As(err, &rejection) {
		return &wire.Error{
			Kind: int32(aggregate.KindRejected), Code: rejection.Code, Message: rejection.Message, Details: rejection.Details,
		}
	}
	var failure *aggregate.Failure
	if errors.As(err, &failure) {
		e := &wire.Error{Kind: int32(failure.Kind), Code: failure.Reason}
		if failure.Err != nil {
			e.Message = failure.Err.Error()
		}
		return e
	}
	return &wire.Error{Kind: int32(aggregate.KindUnknown), Code: aggregate.ReasonOutcome, Message: err.Error()}
}

func decodeError(e *wire.Error) error {
	kind := aggregate.Kind(e.Kind)
	if kind == aggregate.KindRejected {
		return &aggregate.Rejection{Code: e.Code, Message: e.Message, Details: e.Details}
	}
	if kind != aggregate.KindNotDone && kind != aggregate.KindInvalid {
		kind = aggregate.KindUnknown // also whatever a later version may send
	}
	f := &aggregate.Failure{Kind: kind, Reason: e.Code}
	if e.Message != "" {
		f.Err = errors.New(e.Message)
	}
	return f
}

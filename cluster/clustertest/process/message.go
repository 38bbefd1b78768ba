package process

import (
	"encoding/json"
	"errors"

	"github.com/ingrain-go/ingrain/aggregate"
)

// order is a line from parent to child.
type order struct {
	Number  uint64
	Op      string
	Args    json.RawMessage `json:",omitempty"`
	Micros  int64           `json:",omitempty"` // until the caller gives up; 0 for no deadline
	Abandon bool            `json:",omitempty"` // the caller has given up
}

// report is a line from child to parent. Number 0 is the child itself: Hello
// says that it has started, Error that it ends.
type report struct {
	Number uint64
	Hello  json.RawMessage `json:",omitempty"`
	Result json.RawMessage `json:",omitempty"`
	Error  *problem        `json:",omitempty"`
}

// problem is an error on its way to the parent, with everything that a caller
// of an aggregate can tell about it.
type problem struct {
	Kind    aggregate.Kind
	Code    string
	Message string
	Details map[string]string `json:",omitempty"`
}

func problemOf(err error) *problem {
	var rejection *aggregate.Rejection
	if errors.As(err, &rejection) {
		return &problem{Kind: aggregate.KindRejected, Code: rejection.Code, Message: rejection.Message, Details: rejection.Details}
	}
	var failure *aggregate.Failure
	if errors.As(err, &failure) {
		p := &problem{Kind: failure.Kind, Code: failure.Reason}
		if failure.Err != nil {
			p.Message = failure.Err.Error()
		}
		return p
	}
	return &problem{Message: err.Error()}
}

func (p *problem) error() error {
	var inner error
	if p.Message != "" {
		inner = errors.New(p.Message)
	}
	switch p.Kind {
	case aggregate.KindNone:
		return inner
	case aggregate.KindRejected:
		return &aggregate.Rejection{Code: p.Code, Message: p.Message, Details: p.Details}
	default:
		return &aggregate.Failure{Kind: p.Kind, Reason: p.Code, Err: inner}
	}
}

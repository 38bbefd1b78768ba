package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

var errClosed = aggregate.Reject("closed", "the account is closed")

func TestRejectionsWithOneCodeAreTheSame(t *testing.T) {
	require.ErrorIs(t, &aggregate.Rejection{Code: "closed", Message: "from the wire"}, errClosed)
	require.ErrorIs(t, fmt.Errorf("pay: %w", errClosed.With("since", "may")), errClosed)
	require.NotErrorIs(t, errInsufficientFunds, errClosed)
	require.NotErrorIs(t, errClosed, errors.New("the account is closed"))
	require.NotErrorIs(t, aggregate.Invalid("closed", nil), errClosed, "a reason is no code")
	require.EqualError(t, errClosed, "the account is closed")
}

func TestWithLeavesTheOriginalAlone(t *testing.T) {
	one := errClosed.With("since", "may")
	two := one.With("by", "bob").With("since", "june")
	require.Nil(t, errClosed.Details)
	require.Equal(t, map[string]string{"since": "may"}, one.Details)
	require.Equal(t, map[string]string{"since": "june", "by": "bob"}, two.Details)
}

func TestAsRejection(t *testing.T) {
	detailed := errClosed.With("since", "may")
	require.Same(t, detailed, aggregate.AsRejection(detailed))
	require.Equal(t,
		&aggregate.Rejection{Code: "closed", Message: "pay: the account is closed", Details: detailed.Details},
		aggregate.AsRejection(fmt.Errorf("pay: %w", detailed)))
	require.Equal(t,
		&aggregate.Rejection{Code: aggregate.CodeUnspecified, Message: "no"},
		aggregate.AsRejection(errors.New("no")))
}

func TestKindOf(t *testing.T) {
	cause := errors.New("cause")
	for want, errs := range map[aggregate.Kind][]error{
		aggregate.KindNone:     {nil},
		aggregate.KindRejected: {errClosed, fmt.Errorf("pay: %w", errClosed), aggregate.ErrVersion.With("actual", "3")},
		aggregate.KindNotDone: {
			aggregate.NotDone(aggregate.ReasonOverloaded, nil),
			fmt.Errorf("pay: %w", aggregate.NotDone(aggregate.ReasonStoreDown, cause)),
			aggregate.NotDone(aggregate.ReasonPanic, errClosed),
		},
		aggregate.KindUnknown: {
			aggregate.UnknownOutcome(aggregate.ReasonConnection, cause), cause, context.DeadlineExceeded,
		},
		aggregate.KindInvalid: {aggregate.Invalid(aggregate.ReasonBadID, nil)},
	} {
		for _, err := range errs {
			require.Equal(t, want, aggregate.KindOf(err), "%v", err)
		}
	}
}

func TestFailuresSayKindReasonAndCause(t *testing.T) {
	require.EqualError(t, aggregate.NotDone(aggregate.ReasonOverloaded, nil), "not done (overloaded)")
	err := aggregate.UnknownOutcome(aggregate.ReasonDeadline, context.DeadlineExceeded)
	require.EqualError(t, err, "unknown (deadline): context deadline exceeded")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for kind, want := range []string{"none", "rejected", "not done", "unknown", "invalid", "kind 5"} {
		require.Equal(t, want, aggregate.Kind(kind).String())
	}
}

package aggregate_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

// capture remembers the last request and gives a fixed response.
type capture struct {
	request  *aggregate.Request
	response aggregate.Response
	err      error
}

func (g *capture) Deliver(_ context.Context, r *aggregate.Request) (aggregate.Response, error) {
	g.request = r
	return g.response, g.err
}

type deposit struct{ Cents int64 }

func (c *deposit) Decide(account) ([]event, error) { return []event{&deposited{c.Cents}}, nil }

type stranger struct{}

func (stranger) Decide(account) ([]event, error) { return nil, nil }
func (stranger) Answer(account) (int64, error)   { return 0, nil }
func (stranger) Evolve(*account)                 {}

// owner is a query whose answer may be nil.
type owner struct{}

func (owner) Answer(account) (any, error) { return nil, nil }

var bank = aggregate.Define("bank",
	aggregate.Accepts[withdraw]("withdraw"), aggregate.Accepts[*deposit]("deposit"),
	aggregate.Records[withdrawn]("withdrawn"), aggregate.Answers[balance]("balance"), aggregate.Answers[owner]("owner"))

func requireInvalid(t *testing.T, err error, reason string) {
	t.Helper()
	require.Equal(t, aggregate.KindInvalid, aggregate.KindOf(err), "%v", err)
	var f *aggregate.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, reason, f.Reason)
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "alice/1", "ä\n\u2028", strings.Repeat("a", aggregate.MaxIDBytes)} {
		require.NoError(t, aggregate.CheckID(id))
	}
	for _, id := range []string{"", strings.Repeat("a", aggregate.MaxIDBytes+1), strings.Repeat("ä", 257), "a\x00b", "\x00", "a\xff", "\xed\xa0\x80"} {
		requireInvalid(t, aggregate.CheckID(id), aggregate.ReasonBadID)
		_, err := bank.Ref(&capture{}, id).Send(t.Context(), withdraw{1})
		requireInvalid(t, err, aggregate.ReasonBadID)
	}
}

func TestWhatIsNotDefinedIsInvalid(t *testing.T) {
	g := &capture{}
	alice := bank.Ref(g, "alice")
	for _, command := range []aggregate.Command[account]{stranger{}, &withdraw{}, nil} {
		_, err := alice.Send(t.Context(), command)
		requireInvalid(t, err, aggregate.ReasonUnknownName)
	}
	_, err := aggregate.Ask(t.Context(), alice, stranger{})
	requireInvalid(t, err, aggregate.ReasonUnknownName)
	_, err = aggregate.Ask(t.Context(), alice, withdraw{})
	requireInvalid(t, err, aggregate.ReasonUnknownName)
	require.ErrorContains(t, err, `aggregate_test.withdraw is not a registered query of aggregate "bank"`)
	_, _, err = aggregate.Do(t.Context(), alice, stranger{})
	requireInvalid(t, err, aggregate.ReasonUnknownName)
	_, err = alice.Send(t.Context(), (*deposit)(nil))
	requireInvalid(t, err, aggregate.ReasonBadPayload)
	require.Nil(t, g.request, "nothing of this reached the gateway")
}

func TestARefWithoutGatewayIsInvalid(t *testing.T) {
	for _, ref := range []aggregate.Ref[account]{{}, bank.Ref(nil, "alice")} {
		_, err := ref.Send(t.Context(), withdraw{1})
		requireInvalid(t, err, aggregate.ReasonUnknownType)
	}
}

func TestARequestCarriesEverything(t *testing.T) {
	g := &capture{response: aggregate.Response{Receipt: aggregate.Receipt{Version: 3, Events: 1}}}
	alice := bank.Ref(g, "alice")
	require.Equal(t, "alice", alice.ID())
	require.Equal(t, bank.Ref(g, "alice"), alice)

	metadata := aggregate.Metadata{User: "bob", Causation: "request 7"}
	ctx := aggregate.WithMetadata(t.Context(), metadata)
	receipt, err := alice.Send(ctx, withdraw{5})
	require.NoError(t, err)
	require.Equal(t, g.response.Receipt, receipt)
	command := g.request.Command
	require.False(t, command.IsZero(), "a command has an id of its own")
	require.Equal(t, &aggregate.Request{
		Definition: bank.Definition(), ID: "alice", Message: bank.Definition().MessageOf(withdraw{}),
		Value: withdraw{5}, Command: command, Expect: -1, Metadata: metadata,
	}, g.request)

	_, err = alice.Send(ctx, withdraw{5})
	require.NoError(t, err)
	require.NotEqual(t, command, g.request.Command)

	_, err = alice.Send(ctx, withdraw{5}, aggregate.WithCommandID(goldenID), aggregate.ExpectVersion(0), aggregate.CausedBy("event 9"))
	require.NoError(t, err)
	require.Equal(t, goldenID, g.request.Command)
	require.Equal(t, aggregate.Version(0), g.request.Expect)
	require.Equal(t, aggregate.Metadata{User: "bob", Causation: "event 9"}, g.request.Metadata)
	require.Equal(t, metadata, aggregate.MetadataFrom(ctx))
}

func TestAQueryHasNoCommandID(t *testing.T) {
	g := &capture{response: aggregate.Response{Answer: int64(7)}}
	ctx := aggregate.WithMetadata(t.Context(), aggregate.Metadata{User: "bob"})
	cents, err := aggregate.Ask(ctx, bank.Ref(g, "alice"), balance{}, aggregate.WithCommandID(goldenID))
	require.NoError(t, err)
	require.Equal(t, int64(7), cents)
	require.Equal(t, &aggregate.Request{
		Definition: bank.Definition(), ID: "alice", Message: bank.Definition().MessageOf(balance{}),
		Value: balance{}, Answer: true, Expect: -1, Metadata: aggregate.Metadata{User: "bob"},
	}, g.request)
}

func TestDoReturnsAnswerAndReceipt(t *testing.T) {
	g := &capture{response: aggregate.Response{Answer: int64(7), Receipt: aggregate.Receipt{Version: 3}}}
	cents, receipt, err := aggregate.Do(t.Context(), bank.Ref(g, "alice"), withdraw{5})
	require.NoError(t, err)
	require.Equal(t, int64(7), cents)
	require.Equal(t, aggregate.Version(3), receipt.Version)
	require.True(t, g.request.Answer)
	require.False(t, g.request.Command.IsZero())
}

func TestAnswersOfAnotherTypeAreNoAnswers(t *testing.T) {
	alice := func(answer any) aggregate.Ref[account] {
		return bank.Ref(&capture{response: aggregate.Response{Answer: answer}}, "alice")
	}
	for _, answer := range []any{"7", 7, nil} {
		_, err := aggregate.Ask(t.Context(), alice(answer), balance{})
		requireInvalid(t, err, aggregate.ReasonBadPayload)
	}
	who, err := aggregate.Ask(t.Context(), alice(nil), owner{})
	require.NoError(t, err)
	require.Nil(t, who)
}

func TestErrorsOfTheGatewayArriveUnchanged(t *testing.T) {
	cause := errors.New("cause")
	g := &capture{err: cause, response: aggregate.Response{Answer: int64(7)}}
	alice := bank.Ref(g, "alice")
	_, err := alice.Send(t.Context(), withdraw{})
	require.Equal(t, cause, err)
	cents, err := aggregate.Ask(t.Context(), alice, balance{})
	require.Equal(t, cause, err)
	require.Zero(t, cents, "no answer beside an error")
}

func TestOptionsThatMakeNoSenseAreInvalid(t *testing.T) {
	g := &capture{}
	alice := bank.Ref(g, "alice")
	version4 := goldenID
	version4[6] = 0x4c
	otherVariant := goldenID
	otherVariant[8] = 0x18
	for _, id := range []aggregate.CommandID{{}, version4, otherVariant} {
		_, err := alice.Send(t.Context(), withdraw{1}, aggregate.WithCommandID(id))
		requireInvalid(t, err, aggregate.ReasonBadCommandID)
		require.ErrorContains(t, err, "the command id "+id.String()+" is not a UUID of version 7")
	}
	_, err := alice.Send(t.Context(), withdraw{1}, aggregate.ExpectVersion(-1))
	requireInvalid(t, err, aggregate.ReasonBadVersion)
	require.ErrorContains(t, err, "the expected version is -1")
	_, err = aggregate.Ask(t.Context(), alice, balance{}, aggregate.ExpectVersion(3))
	requireInvalid(t, err, aggregate.ReasonBadVersion)
	require.ErrorContains(t, err, `the query "balance" cannot expect a version`)

	_, err = alice.Send(t.Context(), withdraw{1}, aggregate.WithCommandID(version4), aggregate.ExpectVersion(-1))
	requireInvalid(t, err, aggregate.ReasonBadCommandID)
	require.Nil(t, g.request, "nothing of this reached the gateway")
}

func TestANilOptionChangesNothing(t *testing.T) {
	g := &capture{}
	_, err := bank.Ref(g, "alice").Send(t.Context(), withdraw{1}, nil, aggregate.WithCommandID(goldenID), nil)
	require.NoError(t, err)
	require.Equal(t, goldenID, g.request.Command)
}

func TestIntoStoresTheReceipt(t *testing.T) {
	g := &capture{response: aggregate.Response{Answer: int64(7), Receipt: aggregate.Receipt{Version: 3, Duplicate: true}}}
	alice := bank.Ref(g, "alice")
	var ofQuery, ofCommand, ofFailure aggregate.Receipt
	_, err := aggregate.Ask(t.Context(), alice, balance{}, aggregate.Into(&ofQuery))
	require.NoError(t, err)
	require.Equal(t, g.response.Receipt, ofQuery)
	_, err = alice.Send(t.Context(), withdraw{1}, aggregate.Into(&ofCommand))
	require.NoError(t, err)
	require.Equal(t, g.response.Receipt, ofCommand)

	g.err = aggregate.Invalid(aggregate.ReasonNoAnswer, nil)
	_, receipt, err := aggregate.Do(t.Context(), alice, withdraw{1}, aggregate.Into(&ofFailure))
	require.Equal(t, g.err, err)
	require.Equal(t, receipt, ofFailure, "the command took effect, see its receipt")

	g.err, ofQuery = errClosed, aggregate.Receipt{}
	_, err = aggregate.Ask(t.Context(), alice, balance{}, aggregate.Into(&ofQuery))
	require.Equal(t, errClosed, err)
	require.Zero(t, ofQuery, "no state answered")
	_, err = alice.Send(t.Context(), withdraw{1}, aggregate.Into(nil))
	require.Equal(t, errClosed, err)
}

// trivial answers at once and keeps nothing.
type trivial struct{}

func (trivial) Deliver(context.Context, *aggregate.Request) (aggregate.Response, error) {
	return aggregate.Response{}, nil
}

// Sending costs the request and the command that escapes into it.
func TestSendAllocatesTwice(t *testing.T) {
	ctx := aggregate.WithMetadata(t.Context(), aggregate.Metadata{User: "bob"})
	alice, cents := bank.Ref(trivial{}, "alice"), int64(1000)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		cents++
		if _, err := alice.Send(ctx, withdraw{cents}); err != nil {
			t.Error(err)
		}
	}), 2.0)
}

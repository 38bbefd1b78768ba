package aggregate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

// affected is an event with whatever effects a test wants.
type affected struct {
	claims, releases []aggregate.Claim
	timers           []aggregate.Timer[account]
	cancels          []string
}

func (*affected) Evolve(*account)                      {}
func (e *affected) Claims() []aggregate.Claim          { return e.claims }
func (e *affected) Releases() []aggregate.Claim        { return e.releases }
func (e *affected) Timers() []aggregate.Timer[account] { return e.timers }
func (e *affected) Cancels() []string                  { return e.cancels }

type unaccepted struct{}

func (unaccepted) Decide(account) ([]event, error) { return nil, nil }

var affectedAccounts = aggregate.Define("account",
	aggregate.Accepts[withdraw]("withdraw"), aggregate.Accepts[*pointed]("pointed"),
	aggregate.Records[*affected]("affected"), aggregate.Records[withdrawn]("withdrawn"))

type pointed struct{}

func (*pointed) Decide(account) ([]event, error) { return nil, nil }

func add(t *testing.T, events ...event) (aggregate.Effects, error) {
	t.Helper()
	d := affectedAccounts.Definition()
	var e aggregate.Effects
	for _, event := range events {
		if err := d.AddEffects(&e, d.MessageOf(event), event); err != nil {
			return e, err
		}
	}
	return e, nil
}

func TestEffectsAreFoldedInTheOrderOfTheEvents(t *testing.T) {
	require.NoError(t, aggregate.Validate(affectedAccounts))
	require.True(t, affectedAccounts.Definition().SetsTimers())
	require.False(t, accounts.Definition().SetsTimers())
	a, b := aggregate.Claim{Namespace: "n", Key: "a"}, aggregate.Claim{Namespace: "n", Key: "b"}
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	timer := func(name string, cents int64) aggregate.Timer[account] {
		return aggregate.Timer[account]{Name: name, Due: at, Command: withdraw{cents}}
	}
	e, err := add(t,
		withdrawn{1},
		&affected{claims: []aggregate.Claim{a, b}, timers: []aggregate.Timer[account]{timer("x", 1), timer("y", 1)}},
		&affected{releases: []aggregate.Claim{a}, cancels: []string{"x", "z"}, timers: []aggregate.Timer[account]{timer("y", 2)}},
		&affected{releases: []aggregate.Claim{b}, claims: []aggregate.Claim{b}, cancels: []string{"w"}, timers: []aggregate.Timer[account]{timer("w", 3), timer("z", 4)}},
	)
	require.NoError(t, err)
	require.Equal(t, []aggregate.Claim{b}, e.Claims)
	require.Equal(t, []aggregate.Claim{a}, e.Releases)
	require.Equal(t, []string{"x"}, e.Cancels)
	require.Len(t, e.Timers, 3)
	require.Equal(t, "y", e.Timers[0].Name)
	require.Equal(t, withdraw{2}, e.Timers[0].Command)
	require.Equal(t, "withdraw", e.Timers[0].Message.Name())
	require.False(t, e.Empty())
}

func TestEffectsThatCannotBeKeptAreInvalid(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	timer := func(name string, due time.Time, c aggregate.Command[account]) event {
		return &affected{timers: []aggregate.Timer[account]{{Name: name, Due: due, Command: c}}}
	}
	for what, bad := range map[string]event{
		`event "affected" of aggregate "account" claims or releases "x" without a namespace`: &affected{claims: []aggregate.Claim{{Key: "x"}}},
		`2049 bytes`:                      &affected{releases: []aggregate.Claim{{Namespace: "n", Key: strings.Repeat("x", 2048)}}},
		`not UTF-8 without NUL`:           &affected{claims: []aggregate.Claim{{Namespace: "n", Key: "\xff"}}},
		`cancels a timer: it has no name`: &affected{cancels: []string{""}},
		`at most 256`:                     timer(strings.Repeat("x", 257), at, withdraw{}),
		`it has no due time`:              timer("x", time.Time{}, withdraw{}),
		`after 9999`:                      timer("x", at.AddDate(9000, 0, 0), withdraw{}),
		`not accepted`:                    timer("x", at, unaccepted{}),
		`command <nil>`:                   timer("x", at, nil),
		`a nil *aggregate_test.po`:        timer("x", at, (*pointed)(nil)),
	} {
		_, err := add(t, bad)
		require.ErrorContains(t, err, what)
		require.Equal(t, aggregate.KindInvalid, aggregate.KindOf(err))
	}
}

type (
	wrongClaims   struct{}
	wrongTimers   struct{}
	pointerCancel struct{}
)

func (wrongClaims) Evolve(*account)                             {}
func (wrongClaims) Claims() []string                            { return nil }
func (wrongClaims) Releases(a account) (aggregate.Claim, error) { return aggregate.Claim{}, nil }
func (wrongTimers) Evolve(*account)                             {}
func (wrongTimers) Timers() []aggregate.Timer[int]              { return nil }
func (pointerCancel) Evolve(*account)                           {}
func (*pointerCancel) Cancels() []string                        { return nil }

func TestWrongEffectMethodsAreStartUpMistakes(t *testing.T) {
	err := aggregate.Validate(aggregate.Define("account", aggregate.Records[wrongClaims]("claims"),
		aggregate.Records[wrongTimers]("timers"), aggregate.Records[pointerCancel]("pointer")))
	for _, text := range []string{
		`event "claims": its method Claims is func() []string, not func() []aggregate.Claim`,
		`event "claims": its method Releases is func(aggregate_test.account) (aggregate.Claim, error), not func() []aggregate.Claim`,
		`event "timers": its method Timers is func() []aggregate.Timer[int], not func() []aggregate.Timer[github.com/ingrain-go/ingrain/aggregate_test.account]`,
		`event "pointer": its method Cancels has a pointer receiver, but the event is recorded as a value: the effect would be lost`,
	} {
		require.ErrorContains(t, err, text)
	}
	require.NoError(t, aggregate.Validate(aggregate.Define("account", aggregate.Records[*pointerCancel]("pointer"))))
}

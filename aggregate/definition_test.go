package aggregate_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

type (
	depositedV2  struct{ Amount int64 }
	depositedV2b struct{ Amount int64 }
)

// jsonCodec stands for the default codec, which lives a floor above.
type jsonCodec struct{}

func (jsonCodec) Name() string                           { return "json" }
func (jsonCodec) Marshal(value any) ([]byte, error)      { return json.Marshal(value) }
func (jsonCodec) Unmarshal(data []byte, value any) error { return json.Unmarshal(data, value) }

func v1ToDeposited(v1 depositedV1) *deposited  { return &deposited{v1.Dollars * 100} }
func v1ToV2(v1 depositedV1) depositedV2        { return depositedV2{v1.Dollars * 100} }
func v2ToDeposited(v2 depositedV2) *deposited  { return &deposited{v2.Amount} }
func v2bToDeposited(v depositedV2b) *deposited { return &deposited{v.Amount} }

type byValue struct{}

func (byValue) Definition() *aggregate.Definition { return accounts.Definition() }

// TestEveryMistakeIsListed gives one definition each, and then all at once.
func TestEveryMistakeIsListed(t *testing.T) {
	records := aggregate.Records[withdrawn]("withdrawn")
	upcasts := func(settings ...aggregate.Setting) *aggregate.Type[account] {
		return aggregate.Define("account", aggregate.Records[*deposited]("deposited", settings...))
	}
	mistakes := []struct {
		typ  aggregate.Any
		want string
	}{
		{aggregate.Define("", records), `aggregate "": a type name is 1 to 128 bytes`},
		{aggregate.Define("Account", records), `aggregate "Account": a type name is`},
		{aggregate.Define("1account", records), `aggregate "1account": a type name is`},
		{aggregate.Define("a/b", records), `aggregate "a/b": a type name is`},
		{aggregate.Define("a\n", records), `aggregate "a\n": a type name is`},
		{aggregate.Define("é", records), `aggregate "é": a type name is`},
		{aggregate.Define(strings.Repeat("a", 129), records), `a type name is`},
		{aggregate.Define("bad-names", aggregate.Records[withdrawn]("With Drawn")), `event "With Drawn": a name is 1 to 128`},
		{aggregate.Define("bad-names", records, aggregate.Accepts[withdraw]("")), `command "": a name is`},
		{aggregate.Define("bad-names", records, aggregate.Answers[balance]("balance/2")), `query "balance/2": a name is`},
		{
			aggregate.Define("twice", records, aggregate.Records[*deposited]("withdrawn")),
			`aggregate "twice": event "withdrawn" is registered twice`,
		},
		{
			aggregate.Define("twice", records, aggregate.Records[withdrawn]("taken")),
			`aggregate_test.withdrawn is registered twice, as "withdrawn" and as "taken"`,
		},
		{
			aggregate.Define("twice", records, aggregate.Accepts[withdraw]("withdraw"), aggregate.Answers[withdraw]("withdraw")),
			`aggregate_test.withdraw is registered twice`,
		},
		{aggregate.Define("eventless", aggregate.Accepts[withdraw]("withdraw")), `aggregate "eventless": it records no event`},
		{aggregate.Define[account]("empty"), `aggregate "empty": it records no event`},
		{aggregate.Define("interface", aggregate.Records[event]("event")), `event "event": aggregate.Event[`},
		{
			aggregate.Define("interface", records, aggregate.Accepts[aggregate.Command[account]]("command")),
			`command "command": aggregate.Command[`,
		},
		{
			aggregate.Define("interface", records, aggregate.Answers[aggregate.Query[account, int64]]("query")),
			`query "query": aggregate.Query[`,
		},
		{aggregate.Define[any]("abstract"), `the state interface {} is an interface`},
		{aggregate.Define("part", records, nil), `part 2 is nil`},
		{aggregate.Define("setting", aggregate.Records[withdrawn]("withdrawn", nil)), `event "withdrawn": setting 1 is nil`},
		{
			aggregate.Define("codec", aggregate.Records[withdrawn]("withdrawn", aggregate.Encoded(nil))),
			`event "withdrawn": the codec is nil`,
		},
		{aggregate.Define("reads", records, aggregate.Reads[account](9)), `read mode 9 is unknown`},
		{aggregate.Define("idle", records, aggregate.IdleAfter[account](-time.Second)), `idle time -1s is negative`},
		{upcasts(aggregate.From(2, v2ToDeposited)), `event "deposited": From(1, ...) is missing: there is an upcast from version 2`},
		{upcasts(aggregate.From(0, v1ToDeposited)), `event "deposited": From(0, ...): versions are counted from 1`},
		{
			upcasts(aggregate.From(3, v2ToDeposited), aggregate.From(1, v1ToDeposited)),
			`event "deposited": From(2, ...) is missing: there is an upcast from version 3`,
		},
		{
			upcasts(aggregate.From(1, v1ToDeposited), aggregate.From(1, v2ToDeposited)),
			`event "deposited": From(1, ...) is there twice`,
		},
		{upcasts(aggregate.From(1, v1ToV2)), `from version 1 makes a aggregate_test.depositedV2, not a *aggregate_test.deposited`},
		{
			upcasts(aggregate.From(1, v1ToV2), aggregate.From(2, v2bToDeposited)),
			`from version 1 makes a aggregate_test.depositedV2, but version 2 is a aggregate_test.depositedV2b`,
		},
		{
			upcasts(aggregate.From(1, v1ToDeposited), aggregate.From(2, func(d *deposited) *deposited { return d })),
			`from version 1 makes a *aggregate_test.deposited, which is both version 2 and 3`,
		},
		{
			upcasts(aggregate.From[depositedV1, *deposited](1, nil)),
			`from version 1 has no function`,
		},
		{
			upcasts(aggregate.From(1, func(any) *deposited { return nil })),
			`from version 1 takes interface {}, an interface`,
		},
		{
			aggregate.Define("command-form", records, aggregate.Accepts[withdraw]("withdraw", aggregate.From(1, v1ToV2))),
			`command "withdraw": only events have upcasts`,
		},
		{nil, `is nil`},
		{(*aggregate.Type[account])(nil), `is nil`},
		{(*aggregate.Definition)(nil), `is nil`},
		{&aggregate.Type[account]{}, `is nil`},
	}
	all := make([]aggregate.Any, 0, len(mistakes))
	for _, m := range mistakes {
		require.ErrorContains(t, aggregate.Validate(m.typ), m.want)
		all = append(all, m.typ)
	}

	err := aggregate.Validate(all...)
	for _, m := range mistakes {
		require.ErrorContains(t, err, m.want)
	}
	require.NotContains(t, err.Error(), "%!", "no formatting went wrong")
}

func TestTwoTypesWithOneNameAreAMistake(t *testing.T) {
	other := aggregate.Define("account", aggregate.Records[withdrawn]("withdrawn"))
	require.NoError(t, aggregate.Validate(other))
	require.EqualError(t, aggregate.Validate(accounts, other), `aggregate "account": two types have this name`)
	require.NoError(t, aggregate.Validate())
	require.NoError(t, aggregate.Validate(byValue{}), "an Any need not be a pointer")
}

func TestNamesUpToTheLimitAreGood(t *testing.T) {
	for _, name := range []string{"a", "a-b_c.d9", strings.Repeat("a", 128)} {
		require.NoError(t, aggregate.Validate(aggregate.Define(name, aggregate.Records[withdrawn](name))))
	}
}

func TestUpcastsLeadToTheCurrentForm(t *testing.T) {
	chain := aggregate.Define("account", aggregate.Records[*deposited]("deposited",
		aggregate.From(2, v2ToDeposited), aggregate.From(1, v1ToV2)))
	direct := aggregate.Define("account", aggregate.Records[*deposited]("deposited",
		aggregate.From(1, v1ToDeposited), aggregate.From(2, v2ToDeposited)))
	for name, typ := range map[string]*aggregate.Type[account]{"chain": chain, "direct": direct} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, aggregate.Validate(typ))
			m := typ.Definition().Message(aggregate.KindEvent, "deposited")
			require.Equal(t, 3, m.Version())
			require.Equal(t, "deposited/3", m.StoredName())
			require.Equal(t, "depositedV1", m.OldType(1).Name())
			for version, stored := range map[int]string{1: `{"Dollars":7}`, 2: `{"Amount":700}`, 3: `{"Cents":700}`} {
				got, err := decoded(typ, versionOf("deposited", version), stored)
				require.NoError(t, err)
				require.Equal(t, []any{&deposited{700}}, got)
			}
			_, err := typ.Definition().Find("deposited/4")
			require.ErrorContains(t, err, "is known up to version 3, not 4")
			for _, malformed := range []string{"deposited/0", "deposited/1", "deposited/-1", "deposited/02", "deposited/", "", "/2", "+", "deposited/4+", "+deposited"} {
				_, err := typ.Definition().Find(malformed)
				if malformed == "deposited/4+" {
					require.NoError(t, err, "it may be missed")
					continue
				}
				require.ErrorContains(t, err, "malformed", malformed)
			}
			for version := 1; version <= 3; version++ {
				_, err := decoded(typ, versionOf("deposited", version), `{`)
				require.Error(t, err)
			}
		})
	}
}

func TestAPanicInAnUpcastIsAnError(t *testing.T) {
	typ := aggregate.Define("account", aggregate.Records[*deposited]("deposited",
		aggregate.From(1, func(old map[string]int64) *deposited { return &deposited{100 / old["Divisor"]} })))
	got, err := decoded(typ, "deposited", `{}`)
	require.ErrorContains(t, err, `upcast of event "deposited" from version 1 panicked`)
	require.Empty(t, got)
}

func TestTheSchemaDescribesTheType(t *testing.T) {
	d := accounts.Definition()
	require.Equal(t, "account", d.Name())
	require.Equal(t, aggregate.Strict, d.Reads())
	require.Zero(t, d.Idle())
	require.Equal(t, aggregate.SnapshotPolicy{Every: 200, Bytes: 64 << 10, OnPassivation: 20}, d.Snapshots())
	require.Len(t, d.Messages(), 4)

	command := d.Message(aggregate.KindCommand, "withdraw")
	require.Equal(t, "withdraw", command.StoredName())
	require.Same(t, command, d.MessageOf(withdraw{}))
	require.True(t, command.Answers())
	require.Equal(t, "int64", command.ResultType().String())
	answer, err := command.DecodeAnswer(jsonCodec{}, []byte(`7`))
	require.NoError(t, err)
	require.Equal(t, int64(7), answer)
	_, err = command.DecodeAnswer(jsonCodec{}, []byte(`"x"`))
	require.Error(t, err)

	event := d.MessageOf(&deposited{})
	require.Equal(t, "deposited", event.Name())
	require.Equal(t, "deposited/2", event.StoredName())
	require.False(t, event.Answers())
	require.Nil(t, event.ResultType())
	require.Nil(t, event.Codec())
	require.Nil(t, d.MessageOf(deposited{}), "the pointer was registered, not the value")
	require.Nil(t, d.MessageOf(nil))
	require.Nil(t, d.Message(aggregate.KindQuery, "withdraw"))
	require.Equal(t, "command query event message kind 9", strings.Join([]string{
		aggregate.KindCommand.String(), aggregate.KindQuery.String(), aggregate.KindEvent.String(), aggregate.MessageKind(9).String(),
	}, " "))
}

func TestSettingsReachTheDefinition(t *testing.T) {
	policy := aggregate.SnapshotPolicy{Every: 1, Bytes: 2, OnPassivation: 3, Schema: 4, Codec: jsonCodec{}}
	d := aggregate.Define("account",
		aggregate.Records[withdrawn]("withdrawn", aggregate.Encoded(jsonCodec{})),
		aggregate.Snapshots[account](policy), aggregate.IdleAfter[account](time.Minute)).Definition()
	require.Equal(t, policy, d.Snapshots())
	require.Equal(t, time.Minute, d.Idle())
	require.Equal(t, aggregate.Lease, d.Reads())
	require.Equal(t, jsonCodec{}, d.MessageOf(withdrawn{}).Codec())
}

func TestRestoreReplacesTheState(t *testing.T) {
	instance := accounts.Definition().NewInstance()
	instance.Evolve(&deposited{700})
	require.Error(t, instance.Restore(jsonCodec{}, []byte(`{"Cents":`)))
	require.Equal(t, &account{700}, instance.State(), "a snapshot that cannot be read changes nothing")
	require.NoError(t, instance.Restore(jsonCodec{}, []byte(`{}`)))
	require.Equal(t, &account{}, instance.State())
}

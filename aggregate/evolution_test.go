package aggregate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
)

// decoded reads a stored event of one form.
func decoded(typ aggregate.Any, stored, payload string) ([]any, error) {
	k, err := typ.Definition().Find(stored)
	if err != nil {
		return nil, err
	}
	return k.Append(nil, jsonCodec{}, []byte(payload))
}

func versionOf(name string, version int) string {
	if version == 1 {
		return name
	}
	return fmt.Sprintf("%s/%d", name, version)
}

// moved was, in one event, what are two today.
type moved struct{ In, Out int64 }

type movedV1 struct{ Net int64 }

func splitMoved(m moved) []event {
	events := []event{&deposited{m.In}}
	if m.Out != 0 {
		events = append(events, withdrawn{m.Out})
	}
	return events
}

func movedV1ToMoved(v1 movedV1) moved { return moved{In: v1.Net} }

func TestARetiredNameIsReadAsTheEventsOfToday(t *testing.T) {
	typ := aggregate.Define("account",
		aggregate.Records[*deposited]("deposited"),
		aggregate.Records[withdrawn]("withdrawn"),
		aggregate.Retires("taken", func(w withdrawn) []event { return []event{w} }), // another name, the same type
		aggregate.Retires("moved", splitMoved, aggregate.From(1, movedV1ToMoved)),
		aggregate.Drops[account]("viewed"),
	)
	require.NoError(t, aggregate.Validate(typ))
	for _, c := range []struct {
		stored, payload string
		want            []any
	}{
		{"taken", `{"Cents":7}`, []any{withdrawn{7}}},
		{"moved", `{"Net":7}`, []any{&deposited{7}}},
		{"moved/2", `{"In":7,"Out":3}`, []any{&deposited{7}, withdrawn{3}}},
		{"viewed", `not even JSON`, nil},
		{"viewed/9", ``, nil},
	} {
		got, err := decoded(typ, c.stored, c.payload)
		require.NoError(t, err)
		require.Equal(t, c.want, got, c.stored)
	}
	d := typ.Definition()
	require.True(t, d.Message(aggregate.KindEvent, "moved").Retired())
	require.False(t, d.Message(aggregate.KindEvent, "moved").Dropped())
	require.True(t, d.Message(aggregate.KindEvent, "viewed").Dropped())
	require.Equal(t, "withdrawn", d.MessageOf(withdrawn{}).Name(), "new ones have the name of today")
	_, err := decoded(typ, "moved/3", `{}`)
	require.ErrorContains(t, err, "known up to version 2")
}

func TestAnEarlierFormIsSplit(t *testing.T) {
	typ := aggregate.Define("account",
		aggregate.Records[*deposited]("deposited",
			aggregate.From(1, movedV1ToMoved), // leads to what is split
			aggregate.Split(2, splitMoved),
			aggregate.From(3, v2ToDeposited)), // begins anew
		aggregate.Records[withdrawn]("withdrawn"))
	require.NoError(t, aggregate.Validate(typ))
	for stored, c := range map[string]struct {
		payload string
		want    []any
	}{
		"deposited":   {`{"Net":5}`, []any{&deposited{5}}},
		"deposited/2": {`{"In":5,"Out":2}`, []any{&deposited{5}, withdrawn{2}}},
		"deposited/3": {`{"Amount":5}`, []any{&deposited{5}}},
		"deposited/4": {`{"Cents":5}`, []any{&deposited{5}}},
	} {
		got, err := decoded(typ, stored, c.payload)
		require.NoError(t, err)
		require.Equal(t, c.want, got, stored)
	}
	find := func(stored string) aggregate.Known {
		k, err := typ.Definition().Find(stored)
		require.NoError(t, err)
		return k
	}
	require.Nil(t, find("deposited").Type(), "which events it is depends on what is stored")
	require.Nil(t, find("deposited/2").Type())
	require.Equal(t, "deposited", find("deposited/3").Type().Elem().Name())
	require.Equal(t, "deposited", find("deposited/4").Type().Elem().Name())
}

func TestASplitIntoWhatIsNotRecordedIsAnError(t *testing.T) {
	for name, into := range map[string]func(moved) []event{
		"unrecorded": func(moved) []event { return []event{withdrawn{}} },
		"nil":        func(moved) []event { return []event{nil} },
		"nilpointer": func(moved) []event { return []event{(*deposited)(nil)} },
	} {
		typ := aggregate.Define("account", aggregate.Records[*deposited]("deposited"), aggregate.Retires("moved", into))
		require.NoError(t, aggregate.Validate(typ))
		got, err := decoded(typ, "moved", `{}`)
		require.ErrorContains(t, err, `"moved" was split into a`, name)
		require.Empty(t, got)
	}
	typ := aggregate.Define("account", aggregate.Records[*deposited]("deposited"),
		aggregate.Retires("moved", func(moved) []event { panic("no") }))
	_, err := decoded(typ, "moved", `{}`)
	require.ErrorContains(t, err, "panicked: no")
}

func back1(d depositedV2) depositedV1 { return depositedV1{d.Amount / 100} }
func back2(d *deposited) depositedV2  { return depositedV2{d.Cents} }

func TestWaysBackStoreEarlierFormsBesides(t *testing.T) {
	names := func(settings ...aggregate.Setting) (string, []any) {
		typ := aggregate.Define("account", aggregate.Records[withdrawn]("withdrawn"), aggregate.Records[*deposited]("deposited", settings...))
		require.NoError(t, aggregate.Validate(typ))
		m := typ.Definition().Message(aggregate.KindEvent, "deposited")
		var values []any
		for _, f := range m.Forms() {
			if f.Message != nil {
				values = append(values, f.Of(&deposited{300}))
			}
		}
		return m.StoredName(), values
	}
	stored, values := names(aggregate.From(1, v1ToV2, back1), aggregate.From(2, v2ToDeposited, back2))
	require.Equal(t, "deposited/3+deposited/2+deposited", stored)
	require.Equal(t, []any{&deposited{300}, depositedV2{300}, depositedV1{3}}, values)

	stored, values = names(aggregate.From(1, v1ToV2), aggregate.From(2, v2ToDeposited, back2))
	require.Equal(t, "deposited/3+deposited/2", stored)
	require.Equal(t, []any{&deposited{300}, depositedV2{300}}, values)

	direct := func(d *deposited) depositedV1 { return depositedV1{d.Cents / 100} }
	stored, values = names(aggregate.From(1, v1ToDeposited, direct), aggregate.From(2, v2ToDeposited))
	require.Equal(t, "deposited/3+deposited", stored)
	require.Equal(t, []any{&deposited{300}, depositedV1{3}}, values)

	stored, values = names(aggregate.ReadAs(func(d *deposited) withdrawn { return withdrawn{-d.Cents} }))
	require.Equal(t, "deposited+withdrawn", stored)
	require.Equal(t, []any{&deposited{300}, withdrawn{-300}}, values)

	stored, values = names(aggregate.Optional(), aggregate.From(1, v1ToDeposited, direct))
	require.Equal(t, "deposited/2+deposited+", stored)
	require.Equal(t, []any{&deposited{300}, depositedV1{3}}, values)
}

func TestReadAsGoesOnToWhatThatIsReadAs(t *testing.T) {
	typ := aggregate.Define("account",
		aggregate.Records[withdrawn]("withdrawn", aggregate.ReadAs(func(w withdrawn) *deposited { return &deposited{-w.Cents} })),
		aggregate.Records[*deposited]("deposited", aggregate.From(2, v2ToDeposited, back2), aggregate.From(1, v1ToV2, back1)))
	require.NoError(t, aggregate.Validate(typ))
	m := typ.Definition().Message(aggregate.KindEvent, "withdrawn")
	require.Equal(t, "withdrawn+deposited/3+deposited/2+deposited", m.StoredName())
	require.Equal(t, depositedV1{-3}, m.Forms()[3].Of(withdrawn{300}))
}

// What is read of a name with several forms is the first form that is known.
func TestTheFirstKnownFormIsRead(t *testing.T) {
	old := aggregate.Define("account", aggregate.Records[*deposited]("deposited", aggregate.From(1, v1ToDeposited)))
	for stored, want := range map[string]struct{ place, version int }{
		"deposited/4+deposited/3+deposited/2": {2, 2},
		"deposited/4+deposited/2+deposited":   {1, 2},
		"deposited/3+deposited":               {1, 1},
		"moved+deposited/2":                   {1, 2},
		"deposited+":                          {0, 1},
	} {
		k, err := old.Definition().Find(stored)
		require.NoError(t, err, stored)
		require.Equal(t, want.place, k.Place, stored)
		require.Equal(t, want.version, k.Version, stored)
		require.Equal(t, strings.Count(stored, "+")+1, k.Of)
		require.False(t, k.Nothing())
	}
	k, err := old.Definition().Find("noted+noted-before+")
	require.NoError(t, err)
	require.True(t, k.Nothing(), "it may be missed")
	_, err = old.Definition().Find("deposited/4+deposited/3")
	require.EqualError(t, err, `event "deposited" is known up to version 2, not 4`)
	_, err = old.Definition().Find("noted+other")
	require.EqualError(t, err, `aggregate "account" records no event "noted"`)
}

func TestMistakesInEvolutionAreListed(t *testing.T) {
	records := aggregate.Records[withdrawn]("withdrawn")
	deposits := func(settings ...aggregate.Setting) aggregate.Any {
		return aggregate.Define("account", records, aggregate.Records[*deposited]("deposited", settings...))
	}
	type foreign struct{}
	mistakes := map[string]aggregate.Any{
		`event "withdrawn" is registered twice`:           aggregate.Define("a", records, aggregate.Drops[account]("withdrawn")),
		`event "old" is registered twice`:                 aggregate.Define("b", records, aggregate.Drops[account]("old"), aggregate.Retires("old", splitMoved)),
		`it records no event`:                             aggregate.Define("c", aggregate.Drops[account]("old")),
		`retired without a function`:                      aggregate.Define("d", records, aggregate.Retires[moved, account]("old", nil)),
		`event "Old": a name is`:                          aggregate.Define("e", records, aggregate.Drops[account]("Old")),
		`"old" is retired: it is not stored any more`:     aggregate.Define("f", records, aggregate.Retires("old", splitMoved, aggregate.Optional())),
		`splits it into events of aggregate_test.foreign`: deposits(aggregate.Split(1, func(moved) []aggregate.Event[foreign] { return nil })),
		`from version 1 has no function`:                  deposits(aggregate.Split[moved, account](1, nil)),
		`from version 1 makes a aggregate_test.moved, but version 2 is a aggregate_test.depositedV2`: deposits(
			aggregate.From(1, movedV1ToMoved), aggregate.Split(2, func(depositedV2) []event { return nil })),
		`has a way back from version 2, to which there is none`: deposits(aggregate.From(1, v1ToV2, back1), aggregate.From(2, v2ToDeposited)),
		`From(1, ...) has one way back at most`:                 deposits(aggregate.From(1, v2ToDeposited, nil)),
		`"deposited" is read as a aggregate_test.moved, which`:  deposits(aggregate.ReadAs(func(*deposited) moved { return moved{} })),
		`ReadAs takes a aggregate_test.moved, not a`:            deposits(aggregate.ReadAs(func(moved) withdrawn { return withdrawn{} })),
		`"deposited" is read as itself`:                         deposits(aggregate.ReadAs(func(d *deposited) *deposited { return d })),
		`ReadAs has no function`:                                deposits(aggregate.ReadAs[*deposited, withdrawn](nil)),
		`ReadAs is there twice`: deposits(aggregate.ReadAs(func(*deposited) withdrawn { return withdrawn{} }),
			aggregate.ReadAs(func(*deposited) withdrawn { return withdrawn{} })),
		`command "w": only events have ReadAs and Optional`: aggregate.Define("g", records, aggregate.Accepts[withdraw]("w", aggregate.Optional())),
		`bytes, at most 128`: aggregate.Define("h", aggregate.Records[*deposited](strings.Repeat("x", 70), aggregate.From(1, v2ToDeposited, back2))),
	}
	var all []aggregate.Any
	for want, typ := range mistakes {
		require.ErrorContains(t, aggregate.Validate(typ), want)
		all = append(all, typ)
	}
	err := aggregate.Validate(all...)
	for want := range mistakes {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), "%!")
}

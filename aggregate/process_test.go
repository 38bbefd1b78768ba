package aggregate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type shop struct{}

type sell struct{ N int }

func (c sell) Decide(shop) ([]Event[shop], error) { return []Event[shop]{sold(c)}, nil }

type sold struct{ N int }

func (sold) Evolve(*shop) {}

var shops = Define("shop", Accepts[sell]("sell"), Records[sold]("sold"))

type errand struct{ Done bool }

type start struct{ Where string }

func (c start) Decide(errand) ([]Event[errand], error) { return []Event[errand]{started(c)}, nil }

type unknownInput struct{}

func (unknownInput) Decide(errand) ([]Event[errand], error) { return nil, nil }

type started struct{ Where string }

func (started) Evolve(e *errand) { e.Done = true }

func (e started) Sends() []Outgoing[errand] {
	switch e.Where {
	case "nowhere":
		return []Outgoing[errand]{To[errand](nil, "x", Command[shop](sell{1}))}
	case "unknown":
		return []Outgoing[errand]{To[errand](shops, "x", sell{1}).OnDone(unknownInput{})}
	case "nil":
		return []Outgoing[errand]{To[errand](shops, "x", Command[shop](nil))}
	}
	return []Outgoing[errand]{
		To[errand](shops, e.Where, sell{1}).OnDone(start{}).OnRejected(func(r *Rejection) Command[errand] {
			if r.Code == "ignored" {
				return nil
			}
			return start{r.Code}
		}),
		To[errand](shops, "b", sell{2}),
	}
}

func TestSendsAreReadFromTheirEvent(t *testing.T) {
	p := Define("errand", Accepts[start]("start"), Records[started]("started"), Ended(func(e errand) bool { return e.Done }),
		Reacts(shops, func(e sold, o Origin) (string, Command[errand]) {
			if e.N == 0 {
				return "none", nil
			}
			return o.ID, start{}
		}))
	require.NoError(t, Validate(p, shops))
	d := p.Definition()
	require.True(t, d.IsProcess())
	require.True(t, d.Ended(&errand{Done: true}))
	require.False(t, d.Ended(&errand{}))
	require.False(t, shops.Definition().IsProcess())
	require.False(t, shops.Definition().Ends())
	m := d.Message(KindEvent, "started")
	sends, err := d.SendsOf(m, started{"a"})
	require.NoError(t, err)
	require.Len(t, sends, 2)
	require.Equal(t, "a", sends[0].ID)
	require.Equal(t, "sell", sends[0].Message.Name())
	require.Equal(t, sell{1}, sends[0].Command)
	require.Equal(t, start{}, sends[0].Done)
	require.Equal(t, start{"no"}, sends[0].Rejected(Reject("no", "")))
	require.Nil(t, sends[0].Rejected(Reject("ignored", "")))
	require.Nil(t, sends[1].Done)
	require.Nil(t, sends[1].Rejected)
	for where, why := range map[string]string{
		"": "the aggregate id is empty", "nowhere": "no aggregate type", "unknown": "is not accepted", "nil": "does not accept",
	} {
		_, err := d.SendsOf(m, started{where})
		require.ErrorContains(t, err, why)
		require.Equal(t, KindInvalid, KindOf(err))
	}
	r := d.Reactions()[0]
	id, input := r.Input(sold{1}, Origin{ID: "s"})
	require.Equal(t, "s", id)
	require.Equal(t, start{}, input)
	id, _ = r.Input(sold{0}, Origin{ID: "s"})
	require.Empty(t, id)
}

type wrongSends struct{}

func (wrongSends) Evolve(*errand)  {}
func (wrongSends) Sends() []string { return nil }

type lostSends struct{}

func (lostSends) Evolve(*errand)             {}
func (*lostSends) Sends() []Outgoing[errand] { return nil }

type unsold struct{}

func (unsold) Evolve(*shop) {}

func TestMistakesOfAProcessAreListed(t *testing.T) {
	hear := func(sold, Origin) (string, Command[errand]) { return "", nil }
	p := Define("errand", Accepts[start]("start"), Records[started]("started"), Records[wrongSends]("wrong"), Records[lostSends]("lost"),
		Reacts(shops, hear), Reacts(shops, hear), Reacts[sold](nil, hear),
		Reacts(shops, func(unsold, Origin) (string, Command[errand]) { return "", nil }),
		Reacts(shops, (func(sold, Origin) (string, Command[errand]))(nil)),
		Ended[errand](nil), ReactsSince[errand](time.Unix(1, 0)))
	err := Validate(p)
	for _, want := range []string{
		`event "wrong": its method Sends is func() []string`, `event "lost": its method Sends has a pointer receiver`,
		`Reacts to aggregate.sold of aggregate "shop" twice`, "Reacts to aggregate.sold of no aggregate type",
		`Reacts to aggregate.unsold, which aggregate "shop" does not record`, "Reacts to aggregate.sold without a function", "Ended without a function",
	} {
		require.ErrorContains(t, err, want)
	}
	require.Equal(t, int64(1), p.Definition().Since().Unix())
}

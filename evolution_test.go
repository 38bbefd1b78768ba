package ingrain_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

// docs/schema-evolution.md shows stretches of this file.

// Parcel has been through a lot.
type Parcel struct {
	Where string
	Grams int
	Paid  int
}

type ParcelEvent = aggregate.Event[Parcel]

type Shipped struct {
	To  string
	Via string
}

func (e Shipped) Evolve(p *Parcel) { p.Where = e.To }

type shippedV1 struct{ Place string }

type Weighed struct{ Grams int }

func (e Weighed) Evolve(p *Parcel) { p.Grams = e.Grams }

type Franked struct{ Cents int }

func (e Franked) Evolve(p *Parcel) { p.Paid += e.Cents }

type Returned struct{ To, Reason string }

func (e Returned) Evolve(p *Parcel) { p.Where = e.To }

type Photographed struct{ URL string }

func (Photographed) Evolve(*Parcel) {}

type acceptedV1 struct {
	Office       string
	Grams, Cents int
}

type stamped struct{ Cents int }

var Parcels = aggregate.Define("parcel",
	aggregate.Records[Shipped]("shipped"),
	aggregate.Records[Weighed]("weighed"),
	aggregate.Records[Franked]("franked"),
	// renamed: it is stored as "franked" now
	aggregate.Retires("stamped", func(old stamped) []ParcelEvent { return []ParcelEvent{Franked(old)} }),
	// split: what was one event is three today
	aggregate.Retires("accepted", func(old acceptedV1) []ParcelEvent {
		return []ParcelEvent{Shipped{To: old.Office}, Weighed{old.Grams}, Franked{old.Cents}}
	}),
	// dropped: it means nothing any more
	aggregate.Drops[Parcel]("label-printed"),
)

func TestEveryNameThatAParcelEverStoredIsRead(t *testing.T) {
	aggregatetest.For(t, Parcels).
		GivenStored("accepted", 1, []byte(`{"Office":"Ulm","Grams":900,"Cents":300}`)).
		GivenStored("label-printed", 1, []byte(`<label/>`)).
		GivenStored("stamped", 1, []byte(`{"Cents":80}`)).
		State(func(p Parcel) { require.Equal(t, Parcel{Where: "Ulm", Grams: 900, Paid: 380}, p) })
}

// NewParcels is the version that is being rolled out, beside one that knows "shipped"
// in its first form only, and neither "returned" nor "photographed".
var NewParcels = aggregate.Define("parcel",
	aggregate.Records[Shipped]("shipped", aggregate.From(1,
		func(v1 shippedV1) Shipped { return Shipped{To: v1.Place} },
		func(now Shipped) shippedV1 { return shippedV1{Place: now.To} })), // the way back
	aggregate.Records[Returned]("returned", aggregate.ReadAs(func(e Returned) Shipped { return Shipped{To: e.To} })),
	aggregate.Records[Photographed]("photographed", aggregate.Optional()),
)

func TestNewParcelsStoreWhatOldOnesRead(t *testing.T) {
	aggregatetest.For(t, NewParcels).
		Given(Shipped{To: "Ulm", Via: "Rome"}, Returned{To: "Oslo", Reason: "refused"}, Photographed{"https://example.org/1"})
	for event, stored := range map[ParcelEvent]string{
		Shipped{}: "shipped/2+shipped", Returned{}: "returned+shipped/2+shipped", Photographed{}: "photographed+",
	} {
		require.Equal(t, stored, NewParcels.Definition().MessageOf(event).StoredName())
	}
}

// What parcels store is checked against testdata/parcel.schema.
func TestWhatParcelsStore(t *testing.T) {
	aggregatetest.Schema(t, Parcels)
}

// PayOrWithdraw sends a command that is new, and where the owner of the account runs
// the version before, the one that it knows.
func PayOrWithdraw(ctx context.Context, account aggregate.Ref[Account], pay aggregate.Command[Account], id aggregate.CommandID) error {
	_, err := account.Send(ctx, pay, aggregate.WithCommandID(id))
	var failure *aggregate.Failure
	if errors.As(err, &failure) && failure.Reason == aggregate.ReasonUnknownName && aggregate.KindOf(err) == aggregate.KindInvalid {
		_, err = account.Send(ctx, Withdraw{Cents: 500}, aggregate.WithCommandID(id))
	}
	return err
}

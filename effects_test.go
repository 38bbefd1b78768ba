package ingrain_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// The domain of docs/effects.md.

type User struct{ Name string }

type Register struct{ Name string }

func (c Register) Decide(u User) ([]aggregate.Event[User], error) {
	if u.Name != "" {
		return nil, ErrRegistered
	}
	return []aggregate.Event[User]{Registered(c)}, nil
}

type Rename struct{ Name string }

func (c Rename) Decide(u User) ([]aggregate.Event[User], error) {
	return []aggregate.Event[User]{Renamed{From: u.Name, To: c.Name}}, nil
}

var ErrRegistered = aggregate.Reject("registered", "the user has a name already")

type Registered struct{ Name string }

func (e Registered) Evolve(u *User) { u.Name = e.Name }

func (e Registered) Claims() []aggregate.Claim { return username(e.Name) }

type Renamed struct{ From, To string }

func (e Renamed) Evolve(u *User) { u.Name = e.To }

func (e Renamed) Releases() []aggregate.Claim { return username(e.From) }
func (e Renamed) Claims() []aggregate.Claim   { return username(e.To) }

func username(name string) []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "username", Key: name}}
}

var Users = aggregate.Define("user",
	aggregate.Accepts[Register]("register"), aggregate.Accepts[Rename]("rename"),
	aggregate.Records[Registered]("registered"), aggregate.Records[Renamed]("renamed"))

type Order struct{ Open, Expired bool }

type Place struct{ At time.Time }

func (c Place) Decide(Order) ([]aggregate.Event[Order], error) {
	return []aggregate.Event[Order]{Placed(c)}, nil
}

type Fill struct{}

func (Fill) Decide(o Order) ([]aggregate.Event[Order], error) {
	if !o.Open {
		return nil, ErrClosed
	}
	return []aggregate.Event[Order]{Filled{}}, nil
}

type Expire struct{}

func (Expire) Decide(o Order) ([]aggregate.Event[Order], error) {
	if !o.Open {
		return nil, nil
	}
	return []aggregate.Event[Order]{Expired{}}, nil
}

var ErrClosed = aggregate.Reject("closed", "the order is closed")

type Placed struct{ At time.Time }

func (e Placed) Evolve(o *Order) { o.Open = true }

func (e Placed) Timers() []aggregate.Timer[Order] {
	return []aggregate.Timer[Order]{{Name: "expiry", Due: e.At.Add(24 * time.Hour), Command: Expire{}}}
}

type Filled struct{}

func (Filled) Evolve(o *Order) { o.Open = false }

func (Filled) Cancels() []string { return []string{"expiry"} }

type Expired struct{}

func (Expired) Evolve(o *Order) { o.Open, o.Expired = false, true }

var Orders = aggregate.Define("order",
	aggregate.Accepts[Place]("place"), aggregate.Accepts[Fill]("fill"), aggregate.Accepts[Expire]("expire"),
	aggregate.Records[Placed]("placed"), aggregate.Records[Filled]("filled"), aggregate.Records[Expired]("expired"))

func TestUsersClaimTheirNames(t *testing.T) {
	aggregatetest.For(t, Users).
		When(Register{"ada"}).Claims(username("ada")...).Then(Registered{"ada"}).
		When(Rename{"eve"}).Releases(username("ada")...).Claims(username("eve")...).Then(Renamed{"ada", "eve"}).
		Holds(username("eve")...)
}

func TestOrdersExpire(t *testing.T) {
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	expiry := aggregate.Timer[Order]{Name: "expiry", Due: at.Add(24 * time.Hour), Command: Expire{}}
	aggregatetest.For(t, Orders).
		When(Place{at}).SetsTimers(expiry).Then(Placed{at}).
		Pending(expiry).
		When(Fill{}).CancelsTimers("expiry").Then(Filled{}).
		Pending().
		When(Expire{}).ThenNothing()
}

// signUp is how a program tells its user that a name is taken.
func signUp(ctx context.Context, node aggregate.Gateway, id, name string) (string, error) {
	_, err := Users.Ref(node, id).Send(ctx, Register{name})
	if errors.Is(err, aggregate.ErrClaimTaken) {
		return fmt.Sprintf("%s is taken, choose another name", name), nil
	}
	return "", err
}

// checkEffects holds what a store has against its log.
func checkEffects(ctx context.Context, store persistence.Store) error {
	differences, err := eventsourcing.CheckEffects(ctx, store, time.Now(), Users, Orders)
	for _, d := range differences {
		fmt.Println(d)
	}
	return err
}

func TestEffectsOfTheGuide(t *testing.T) {
	store, err := memory.Open(memory.Config{})
	require.NoError(t, err)
	node, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: []aggregate.Any{Users, Orders}})
	require.NoError(t, err)
	defer func() { require.NoError(t, node.Stop(context.Background())) }()

	for _, c := range []struct{ id, name, told string }{
		{"1", "ada", ""}, {"2", "ada", "ada is taken, choose another name"}, {"2", "eve", ""},
	} {
		told, err := signUp(t.Context(), node, c.id, c.name)
		require.NoError(t, err)
		require.Equal(t, c.told, told)
	}
	_, err = Users.Ref(node, "1").Send(t.Context(), Rename{"grace"})
	require.NoError(t, err)
	told, err := signUp(t.Context(), node, "3", "ada")
	require.NoError(t, err)
	require.Empty(t, told, "what was released is free")

	yesterday := time.Now().Add(-24 * time.Hour)
	_, err = Orders.Ref(node, "1").Send(t.Context(), Place{yesterday})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return node.Stats().Host.TimersFired == 1 }, 10*time.Second, time.Millisecond)
	_, err = Orders.Ref(node, "1").Send(t.Context(), Fill{})
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, checkEffects(t.Context(), store))
}

package inprocess_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/examples/transfer"
	"github.com/ingrain-go/ingrain/examples/transfer/bank"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/persistencetest"
)

// ledgerOf reads what transfers have done to accounts, from the log: how often
// each withdrew, deposited and refunded.
func (h *house) ledgerOf() map[string]map[string]int {
	h.t.Helper()
	reader := eventsourcing.NewReader(eventsourcing.ReaderConfig{Store: h.store, Aggregates: banking})
	done := map[string]map[string]int{}
	for e, err := range reader.All(within(h.t, patience), nil, eventsourcing.Filter{Aggregates: []string{"bank-account"}}) {
		require.NoError(h.t, err)
		reason := ""
		switch v := e.Value.(type) {
		case bank.Withdrawn:
			reason = v.Reason
		case bank.Deposited:
			reason = v.Reason
		default:
			continue
		}
		if done[reason] == nil {
			done[reason] = map[string]int{}
		}
		done[reason][e.Event+" "+e.ID]++
	}
	return done
}

func TestTransfersHaveEachEffectOnceWhileMessagesAndAnswersAreLost(t *testing.T) {
	const accounts, transfers, money = 12, 150, 100
	h := build(t, 3, asBank)
	for i := range accounts {
		h.deposit(fmt.Sprint("a", i), money)
	}
	_, err := bank.Accounts.Ref(h.nodes[0], "a0").Send(within(t, patience), bank.Close{})
	require.NoError(t, err)
	dice := persistencetest.NewDice(7, persistencetest.Odds{Refused: 0.02, LostAnswer: 0.02})
	var carried, dropped atomic.Int64
	h.store.OnAppend(dice.Append)
	h.fabric.OnSend(func(m clustertest.Message) clustertest.Fate {
		drop := m.Calls+m.Replies > 0 && carried.Add(1)%7 == 0
		if drop {
			dropped.Add(1)
		}
		return clustertest.Fate{Drop: drop}
	})
	type plan struct {
		from, to string
		cents    int64
	}
	plans := make([]plan, transfers)
	var clients sync.WaitGroup
	first := h.nodes
	for i := range plans {
		plans[i] = plan{fmt.Sprint("a", 1+rand.IntN(accounts-1)), fmt.Sprint("a", rand.IntN(accounts)), int64(1 + rand.IntN(40))}
		clients.Go(func() {
			id, p := aggregate.NewCommandID(), plans[i]
			order := bank.Order{Transfer: fmt.Sprint("t", i), To: p.to, Cents: p.cents, Until: time.Now().Add(time.Hour)}
			for {
				_, err := bank.Accounts.Ref(first[i%len(first)], p.from).Send(within(t, 2*time.Second), order, aggregate.WithCommandID(id))
				if err == nil {
					return
				}
				if kind := aggregate.KindOf(err); kind != aggregate.KindNotDone && kind != aggregate.KindUnknown {
					t.Error(err)
					return
				}
			}
		})
	}
	joined := clustertest.Start(t, h.config(3, asBank)) // partitions move
	clients.Wait()
	h.heal()
	h.nodes = append(h.nodes, joined)
	var total int64
	require.Eventually(t, func() bool {
		for i := range transfers {
			if p := h.phase(fmt.Sprint("t", i)); p != transfer.Completed && p != transfer.Failed && p != transfer.Refunded {
				return false
			}
		}
		return true
	}, 2*patience, 50*time.Millisecond, "every transfer ends")
	for i := range accounts {
		b := h.balance(fmt.Sprint("a", i))
		require.GreaterOrEqual(t, b, int64(0))
		total += b
	}
	require.EqualValues(t, accounts*money, total)
	require.Positive(t, dropped.Load())
	done := h.ledgerOf()
	for i, p := range plans {
		id := fmt.Sprint("t", i)
		want := map[string]int{}
		switch h.phase(id) {
		case transfer.Completed:
			want["withdrawn "+p.from]++
			want["deposited "+p.to]++
		case transfer.Refunded:
			require.Equal(t, "a0", p.to)
			want["withdrawn "+p.from]++
			want["deposited "+p.from]++
		}
		if len(want) == 0 {
			require.Empty(t, done[id])
			continue
		}
		require.Equal(t, want, done[id], "transfer %s, %s", id, h.phase(id))
	}
}

// A process whose target cannot do what it is asked.
type errandState struct{ Told []string }

type sendTo struct{ Counter, What string }

func (c sendTo) Decide(errandState) ([]aggregate.Event[errandState], error) {
	return []aggregate.Event[errandState]{sent(c)}, nil
}

type sent struct{ Counter, What string }

func (sent) Evolve(*errandState) {}

func (e sent) Sends() []aggregate.Outgoing[errandState] {
	var command aggregate.Command[counter] = add{N: 1}
	switch e.What {
	case "explode":
		command = explode{}
	case "negative":
		command = add{N: -1}
	}
	o := aggregate.To[errandState](counters, e.Counter, command).OnDone(told{e.What + " done"})
	if e.What != "negative" {
		o = o.OnRejected(func(r *aggregate.Rejection) aggregate.Command[errandState] { return told{e.What + " " + r.Code} })
	}
	return []aggregate.Outgoing[errandState]{o}
}

type told struct{ What string }

func (c told) Decide(errandState) ([]aggregate.Event[errandState], error) {
	return []aggregate.Event[errandState]{heard(c)}, nil
}

type heard struct{ What string }

func (e heard) Evolve(s *errandState) { s.Told = append(append([]string{}, s.Told...), e.What) }

type tell struct{}

func (tell) Answer(s errandState) ([]string, error) { return append([]string{}, s.Told...), nil }

var errands = aggregate.Define("errand",
	aggregate.Accepts[sendTo]("send-to"), aggregate.Accepts[told]("told"),
	aggregate.Records[sent]("sent"), aggregate.Records[heard]("heard"), aggregate.Answers[tell]("tell"))

func TestWhatFailsAgainAndAgainIsParkedAndAnOperatorResumesOrSkipsIt(t *testing.T) {
	h := build(t, 3, func(_ int, c *cluster.Config) { c.Aggregates = []aggregate.Any{counters, errands} })
	ctx := within(t, patience)
	send := func(id, what string) {
		_, err := errands.Ref(h.nodes[0], id).Send(ctx, sendTo{Counter: "c-" + id, What: what})
		require.NoError(t, err)
	}
	parked := func(n int) (letters []persistence.DeadLetter) {
		require.Eventually(t, func() bool {
			var err error
			letters, err = h.nodes[1].ParkedProcesses(ctx, "errand", persistence.DeadLetterKey{}, 100)
			return err == nil && len(letters) == n
		}, patience, 5*time.Millisecond, "%d letters", n)
		return letters
	}
	tells := func(id string, want ...string) {
		require.Eventually(t, func() bool {
			got, err := aggregate.Ask(ctx, errands.Ref(h.nodes[2], id), tell{})
			return err == nil && fmt.Sprint(got) == fmt.Sprint(want)
		}, patience, 5*time.Millisecond, "%s is to be told %v", id, want)
	}
	send("bad", "explode")
	send("bad", "plain")
	send("good", "plain")
	tells("good", "plain done")
	letters := parked(2)
	require.Contains(t, letters[0].Cause, "boom")
	require.Positive(t, letters[0].Attempts)
	require.Zero(t, letters[1].Attempts, "it stands behind")
	require.Equal(t, "sends of errand/bad", letters[0].Sequence)
	require.Equal(t, "errand", letters[0].Projection)

	err := h.nodes[0].ResumeProcess(ctx, "errand", "sends of errand/bad")
	require.ErrorContains(t, err, "boom", "nothing was mended")
	parked(2)
	require.NoError(t, h.nodes[2].SkipProcess(ctx, "errand", "sends of errand/bad"))
	tells("bad", "explode skipped", "plain done")
	parked(0)
	require.ErrorIs(t, h.nodes[0].SkipProcess(ctx, "errand", "sends of errand/bad"), eventsourcing.ErrNoLetter)
	require.ErrorContains(t, h.nodes[0].SkipProcess(ctx, "nobody", "x"), "no such process")

	send("odd", "negative")
	require.Contains(t, parked(1)[0].Cause, "does not expect")
	require.NoError(t, h.nodes[0].SkipProcess(ctx, "errand", "sends of errand/odd"))
	send("odd", "plain")
	tells("odd", "plain done")
	var pending int
	for _, n := range h.nodes {
		pending += n.Processes()[0].Pending
	}
	require.Zero(t, pending)
}

func TestASendIsCheckedWhenItsEventIsCommitted(t *testing.T) {
	h := build(t, 1, func(_ int, c *cluster.Config) { c.Aggregates = []aggregate.Any{counters, errands} })
	_, err := errands.Ref(h.nodes[0], "e").Send(within(t, patience), sendTo{Counter: ""})
	var failure *aggregate.Failure
	require.True(t, errors.As(err, &failure))
	require.Equal(t, aggregate.ReasonBadEffect, failure.Reason)
}

// A name that is held by one counter-like aggregate at a time.
type holder struct{ Name string }

type hold struct{ Name string }

func (c hold) Decide(holder) ([]aggregate.Event[holder], error) {
	return []aggregate.Event[holder]{held(c)}, nil
}

type held struct{ Name string }

func (e held) Evolve(h *holder)          { h.Name = e.Name }
func (e held) Claims() []aggregate.Claim { return []aggregate.Claim{{Namespace: "held", Key: e.Name}} }

type letGo struct{}

func (letGo) Decide(h holder) ([]aggregate.Event[holder], error) {
	return []aggregate.Event[holder]{released(h)}, nil
}

type released struct{ Name string }

func (released) Evolve(h *holder) { h.Name = "" }
func (e released) Releases() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: "held", Key: e.Name}}
}

var holders = aggregate.Define("holder",
	aggregate.Accepts[hold]("hold"), aggregate.Accepts[letGo]("let-go"), aggregate.Records[held]("held"), aggregate.Records[released]("released"))

type seeker struct{ Heard []string }

type seek struct{ Name string }

func (c seek) Decide(seeker) ([]aggregate.Event[seeker], error) {
	return []aggregate.Event[seeker]{sought(c)}, nil
}

type sought struct{ Name string }

func (sought) Evolve(*seeker) {}

func (e sought) Sends() []aggregate.Outgoing[seeker] {
	return []aggregate.Outgoing[seeker]{
		aggregate.To[seeker](holders, "second", hold(e)).OnDone(hear{"done"}).
			OnRejected(func(r *aggregate.Rejection) aggregate.Command[seeker] {
				return hear{r.Code + " " + r.Details["holder"]}
			}),
	}
}

type hear struct{ What string }

func (c hear) Decide(seeker) ([]aggregate.Event[seeker], error) {
	return []aggregate.Event[seeker]{heardOf(c)}, nil
}

type heardOf struct{ What string }

func (e heardOf) Evolve(s *seeker) { s.Heard = append(append([]string{}, s.Heard...), e.What) }

type whatHeard struct{}

func (whatHeard) Answer(s seeker) ([]string, error) { return append([]string{}, s.Heard...), nil }

var seekers = aggregate.Define("seeker", aggregate.Accepts[seek]("seek"), aggregate.Accepts[hear]("hear"),
	aggregate.Records[sought]("sought"), aggregate.Records[heardOf]("heard-of"), aggregate.Answers[whatHeard]("what-heard"))

func TestARefusalByTheStoreStandsToo(t *testing.T) {
	onProcessStores(t, func(t *testing.T, store persistence.Store) {
		h := buildOn(t, store, 2, func(_ int, c *cluster.Config) { c.Aggregates = []aggregate.Any{holders, seekers} })
		ctx := within(t, patience)
		_, err := holders.Ref(h.nodes[0], "first").Send(ctx, hold{"x"})
		require.NoError(t, err)
		_, err = seekers.Ref(h.nodes[0], "s").Send(ctx, seek{"x"})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			got, err := aggregate.Ask(ctx, seekers.Ref(h.nodes[1], "s"), whatHeard{})
			return err == nil && fmt.Sprint(got) == "[claim-taken holder/first]"
		}, patience, 5*time.Millisecond)
		events, err := h.store.Read(ctx, persistence.Stream{Type: "holder", ID: "second"}, 0, 10)
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Equal(t, eventsourcing.OutcomeType, events[0].Type)

		_, err = holders.Ref(h.nodes[0], "first").Send(ctx, letGo{})
		require.NoError(t, err)
		d := holders.Definition()
		late := &aggregate.Request{ // a copy of the command that was on its way
			Definition: d, ID: "second", Message: d.MessageOf(hold{}), Value: hold{"x"}, Expect: -1, Caused: true, Command: aggregate.CommandID(events[0].Command),
		}
		response, err := h.nodes[1].Deliver(ctx, late)
		require.NoError(t, err)
		require.True(t, response.Receipt.Duplicate)
		_, taken, err := h.store.FindClaim(ctx, persistence.Claim{Namespace: "held", Key: "x"})
		require.NoError(t, err)
		require.False(t, taken, "it had no effect")
	})
}

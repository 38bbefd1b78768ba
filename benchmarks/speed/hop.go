package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// clerk is a process manager: a booking on an account begins one, which books on
// a ledger.
type clerk struct{ Begun bool }

type clerkEvent = aggregate.Event[clerk]

type begin struct{ Ledger string }

func (c begin) Decide(clerk) ([]clerkEvent, error) { return []clerkEvent{begun(c)}, nil }

type begun struct{ Ledger string }

func (begun) Evolve(c *clerk) { c.Begun = true }

func (e begun) Sends() []aggregate.Outgoing[clerk] {
	return []aggregate.Outgoing[clerk]{aggregate.To[clerk](ledgers, e.Ledger, deposit{Cents: 1})}
}

// ledgers are accounts on which nobody but clerks books.
var ledgers = aggregate.Define("ledger", aggregate.Accepts[deposit]("deposit"), aggregate.Records[deposited]("deposited"))

var clerks = aggregate.Define("clerk",
	aggregate.Accepts[begin]("begin"), aggregate.Records[begun]("begun"),
	aggregate.Reacts(accounts, func(_ booked, o aggregate.Origin) (string, aggregate.Command[clerk]) {
		return clerkOf(o.ID, o.Version), begin{Ledger: ledgerOf(o.ID)}
	}))

func clerkOf(account string, version aggregate.Version) string {
	return fmt.Sprintf("%s-%d", account, version)
}

func ledgerOf(account string) string { return "ledger-" + account }

var hopKinds = []kind{onPostgres, onSQLite}

// hop measures how long after an event is durable the next command of its process
// is: from a booking to the clerk, and from the clerk to the ledger. Nothing else
// goes on meanwhile.
func (b *bench) hop(ctx context.Context) ([]*figure, error) {
	return b.eachKind(ctx, hopKinds, []string{"process-hop"}, b.hopOn)
}

func (b *bench) hopOn(ctx context.Context, k kind) (_ []*figure, err error) {
	store, closeStore, err := b.openNew(ctx, k)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	moments := make(chan time.Time, 3)
	watch := eventsourcing.NewLocal(eventsourcing.Settings{Name: "durable"}, moments,
		eventsourcing.On(accounts, seenAt[booked]), eventsourcing.On(clerks, seenAt[begun]), eventsourcing.On(ledgers, seenAt[deposited]))
	node, err := startNode(ctx, store, func(c *cluster.Config) {
		c.Aggregates, c.Projections = []aggregate.Any{accounts, clerks, ledgers}, []eventsourcing.Projection{watch}
	})
	if err != nil {
		return nil, err
	}
	defer stopNode(node)
	booked := newBookings(node, 0, 64)
	var next, sent atomic.Int64
	ledger := ledgers.Ref(node, "alone")
	taken, err := b.rounds(ctx,
		contender{"hops of a process on " + k.name, b.middle, func(ctx context.Context, d time.Duration) (s sample, err error) {
			_, s.elapsed, err = closedLoop(ctx, d, 1, func(int) error {
				if err := booked.send(ctx, int(next.Add(1))%len(booked.refs), bookOf(storedBytes)); err != nil {
					return err
				}
				var at [3]time.Time
				for i := range at {
					select {
					case at[i] = <-moments:
					case <-time.After(patience):
						return fmt.Errorf("event %d of a process did not come", i+1)
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				s.latencies = append(s.latencies, at[1].Sub(at[0]), at[2].Sub(at[1]))
				return nil
			})
			slices.Sort(s.latencies)
			s.n = int64(len(s.latencies))
			return s, err
		}},
		contender{"one commit, from the call to its acknowledgement", b.brief, func(ctx context.Context, d time.Duration) (s sample, err error) {
			s.n, s.elapsed, err = closedLoop(ctx, d, 1, func(int) error {
				begin := time.Now()
				if _, err := ledger.Send(ctx, deposit{Cents: 1}); err != nil {
					return err
				}
				s.latencies = append(s.latencies, time.Since(begin))
				sent.Add(1)
				<-moments
				return nil
			})
			slices.Sort(s.latencies)
			return s, err
		}})
	if err != nil {
		return nil, err
	}
	if err := checkHops(ctx, store, booked, ledger.ID(), sent.Load()); err != nil {
		return nil, err
	}
	p50 := func(s sample) float64 { return float64(percentile(s.latencies, 0.50).Nanoseconds()) / 1e3 }
	return []*figure{{
		Name: "process-hop" + k.suffix, What: "from an event of a process until the next command's is durable on " + k.name + ", p50", Unit: "us",
		Than: "one command to an aggregate that does nothing else, p50", Goal: ratioAtMost(3),
		Of: each(taken[0], p50), Base: each(taken[1], p50),
		curves: []curve{{"hops", quantiles(taken[0])}, {"one commit", quantiles(taken[1])}},
	}}, nil
}

// seenAt notes when an event became durable: local projections are told before the
// reply leaves.
func seenAt[E any](_ context.Context, moments chan<- time.Time, _ E, _ eventsourcing.Fact) error {
	moments <- time.Now()
	return nil
}

// checkHops sees to it that every booking had one clerk, and one deposit on the
// account's ledger.
func checkHops(ctx context.Context, store persistence.Store, booked *bookings, alone string, sent int64) error {
	inStore, err := stored(ctx, store)
	if err != nil {
		return err
	}
	if inStore[alone] != sent {
		return fmt.Errorf("ledger %s has %d events, but %d commands were acknowledged", alone, inStore[alone], sent)
	}
	streams := 1
	for i := range booked.refs {
		id, acked := booked.refs[i].ID(), booked.acked[i].Load()
		if acked == 0 {
			continue
		}
		streams += 2 + int(acked)
		if accounts, deposits := inStore[id], inStore[ledgerOf(id)]; accounts != acked || deposits != acked {
			return fmt.Errorf("account %s has %d events and %d deposits on its ledger, but %d commands were acknowledged", id, accounts, deposits, acked)
		}
		for version := range acked {
			if clerk := clerkOf(id, aggregate.Version(version)+1); inStore[clerk] != 1 {
				return fmt.Errorf("clerk %s has %d events", clerk, inStore[clerk])
			}
		}
	}
	if streams != len(inStore) {
		return fmt.Errorf("%d aggregates in the store, not %d", len(inStore), streams)
	}
	return nil
}

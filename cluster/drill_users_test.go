package cluster_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// together runs some things at the same moment, and waits for all of them.
func together(count int, do func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			<-start
			do(i)
		})
	}
	close(start)
	all.Wait()
}

// A user clicks twice, his browser asks again, a proxy repeats the request: one
// command id arrives many times, through all nodes at once.
func TestDrillDuplicateClick(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		const clicks, orders = 20, 30
		nodes := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, nodes...)
		ctx := within(t, patience)
		firsts := make([]outcome, orders)
		click := func(order int, through []*clustertest.Process, command aggregate.CommandID) (fresh int) {
			t.Helper()
			answers, errs := make([]outcome, clicks), make([]error, clicks)
			together(clicks, func(i int) {
				a := addition{ID: fmt.Sprint("order-", order), N: 5, Command: command}
				errs[i] = through[i%len(through)].Call(ctx, "sum", a, &answers[i])
			})
			require.NoError(t, errors.Join(errs...))
			for i := range answers {
				if !answers[i].Receipt.Duplicate {
					fresh++
				}
				answers[i].Receipt.Duplicate = false
			}
			if firsts[order].Answer == 0 {
				firsts[order] = answers[0]
			}
			for _, a := range answers {
				require.Equal(t, firsts[order], a, "every click gets the first receipt and answer")
			}
			return fresh
		}
		commands := make([]aggregate.CommandID, orders)
		for i := range commands {
			commands[i] = aggregate.NewCommandID()
			require.Equal(t, 1, click(i, nodes, commands[i]), "one click is the first")
		}
		duplicates := count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Host.Duplicates })
		require.GreaterOrEqual(t, duplicates, uint64(orders*(clicks-1)))

		victim, survivors := nodes[0], nodes[1:]
		lost := holdings(survivors[0].Partitions(ctx), victim.ID(ctx))
		require.True(t, slices.ContainsFunc(firsts, func(o outcome) bool { return slices.Contains(lost, o.Receipt.Partition) }),
			"the victim owns one of the orders")
		victim.Kill()
		for i, command := range commands {
			require.Zero(t, click(i, survivors, command), "none is the first any more")
		}
		require.NotZero(t, count(ctx, survivors, takeovers))
		log := readLog(t, store)
		for _, command := range commands {
			require.Equal(t, 1, log.Has(command), "command %s has its effect once", command)
		}
		require.Len(t, log.Events, orders)
		t.Logf("%d commands, each sent %d times at once and %d times after a kill: %d events, %d duplicates answered before the kill",
			orders, clicks, clicks, len(log.Events), duplicates)
	})
}

// Whatever stands before the nodes need not know who owns what.
func TestDrillRandomLoadBalancer(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		nodes := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, nodes...)
		ctx := within(t, patience)
		before := nodes[0].Partitions(ctx)
		c := startClients(t, false, balance(nodes...))
		c.progress(1500)
		c.end(store, nodes...)
		local := count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Local })
		remote := count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Remote })
		share := float64(remote) / float64(local+remote)
		require.InDelta(t, 2.0/3, share, 0.1, "two of three requests come to a node that is not the owner")
		require.EqualValues(t, partitions, count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Host.Activations }), "each counter is in one memory")
		requireMoved(t, before, nodes[0].Partitions(ctx), nil)
		t.Logf("%.0f %% of the requests came to a node that was not the owner", 100*share)
	})
}

// Users Ua and Ub act on one aggregate at the same time, through different
// machines: both are heard, one after the other, and the second on what the first
// has left.
func TestDrillTwoUsersOnOneAggregate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		const rounds = 100
		nodes := clustertest.LaunchAll(t, 2, spec(t, store))
		settled(t, nodes...)
		ctx := within(t, patience)
		wins := [2]int{}
		for round := range rounds {
			// Of 700 cents either can spend 500, but not both.
			got, errs := [2]outcome{}, [2]error{}
			together(2, func(i int) {
				errs[i] = nodes[i].Call(ctx, "spend", addition{ID: fmt.Sprint("narrow-", round), N: 500}, &got[i])
			})
			winner := 0
			if errs[0] != nil {
				winner = 1
			}
			wins[winner]++
			require.NoError(t, errs[winner])
			require.EqualValues(t, 1, got[winner].Receipt.Version)
			var rejection *aggregate.Rejection
			require.ErrorAs(t, errs[1-winner], &rejection)
			require.ErrorIs(t, rejection, errTooLittle)
			require.Equal(t, strconv.Itoa(allowance-500), rejection.Details["left"], "the second sees what the first has left")

			// Both can spend 300.
			together(2, func(i int) {
				errs[i] = nodes[i].Call(ctx, "spend", addition{ID: fmt.Sprint("wide-", round), N: 300}, &got[i])
			})
			require.NoError(t, errors.Join(errs[:]...))
			first, second := got[0], got[1]
			if first.Receipt.Version > second.Receipt.Version {
				first, second = second, first
			}
			require.EqualValues(t, 1, first.Receipt.Version)
			require.EqualValues(t, 2, second.Receipt.Version)
			require.Equal(t, []int{allowance - 300, allowance - 600}, []int{first.Answer, second.Answer})
		}
		require.Len(t, readLog(t, store).Events, 3*rounds)
		require.Zero(t, count(ctx, nodes, func(s cluster.Stats) uint64 { return s.Host.Conflicts }))
		t.Logf("%d rounds: Ua was first %d times, Ub %d times; every second one was decided on the first one's result", rounds, wins[0], wins[1])
	})
}

// The pages of one user send their requests side by side, and some of them twice.
func TestDrillOverlappingRequestsOfOneUser(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		const sessions, requests, distinct = 5, 100, 80
		nodes := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, nodes...)
		ctx := within(t, patience)
		all := balance(nodes...)
		duplicates := 0
		var commands []aggregate.CommandID
		for session := range sessions {
			id := fmt.Sprint("session-", session)
			clicks := make([]addition, requests)
			for i := range clicks {
				clicks[i] = addition{ID: id, N: i + 1, Command: aggregate.NewCommandID()}
				if i >= distinct { // again what an earlier one asks for
					clicks[i] = clicks[i-distinct]
				} else {
					commands = append(commands, clicks[i].Command)
				}
			}
			rand.Shuffle(requests, func(i, j int) { clicks[i], clicks[j] = clicks[j], clicks[i] })
			got, errs := make([]outcome, requests), make([]error, requests)
			together(requests, func(i int) { _, errs[i] = all.call(ctx, "sum", clicks[i], &got[i]) })
			require.NoError(t, errors.Join(errs...))

			// In the order of their versions, each saw what all before it left.
			byVersion := make([]int, distinct+1)
			answers := make([]int, distinct+1)
			for i, o := range got {
				v := o.Receipt.Version
				require.True(t, v >= 1 && v <= distinct, "version %d", v)
				require.True(t, byVersion[v] == 0 || byVersion[v] == clicks[i].N && answers[v] == o.Answer, "version %d has two commands", v)
				byVersion[v], answers[v] = clicks[i].N, o.Answer
				if o.Receipt.Duplicate {
					duplicates++
				}
			}
			sum := 0
			for v := 1; v <= distinct; v++ {
				require.NotZero(t, byVersion[v], "version %d has a command", v)
				sum += byVersion[v]
				require.Equal(t, sum, answers[v], "the answer at version %d", v)
			}
		}
		require.Equal(t, sessions*(requests-distinct), duplicates)
		log := readLog(t, store)
		require.Len(t, log.Events, sessions*distinct)
		for _, command := range commands {
			require.Equal(t, 1, log.Has(command))
		}
		t.Logf("%d sessions of %d requests at once: %d events, %d duplicates", sessions, requests, len(log.Events), duplicates)
	})
}

// Two users save what they have read at the same version, through different
// nodes: the first wins, the second is told.
func TestDrillFirstWriterWins(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		const rounds = 1000
		nodes := clustertest.LaunchAll(t, 2, spec(t, store))
		settled(t, nodes...)
		ctx := within(t, 2*patience)
		ids := everyPartition()
		wins := [2]int{}
		for round := range rounds {
			id, seen := ids[round%len(ids)], aggregate.Version(round/len(ids))
			errs, got := [2]error{}, [2]aggregate.Receipt{}
			together(2, func(i int) {
				errs[i] = nodes[i].Call(ctx, "add", addition{ID: id, N: 1, Expect: seen, Checked: true}, &got[i])
			})
			winner := 0
			if errs[0] != nil {
				winner = 1
			}
			wins[winner]++
			require.NoError(t, errs[winner], "round %d", round)
			require.Equal(t, seen+1, got[winner].Version)
			var rejection *aggregate.Rejection
			require.ErrorAs(t, errs[1-winner], &rejection, "round %d has one winner", round)
			require.ErrorIs(t, rejection, aggregate.ErrVersion)
			require.Equal(t, fmt.Sprint(seen+1), rejection.Details["actual"])
		}
		log := readLog(t, store)
		require.Len(t, log.Events, rounds)
		require.NotZero(t, wins[0])
		require.NotZero(t, wins[1])
		t.Logf("%d rounds: one success each, %d through the one node, %d through the other", rounds, wins[0], wins[1])
	})
}

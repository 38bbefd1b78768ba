package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

func TestDrillKill(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		nodes := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, nodes...)
		oldEnough(t, nodes...)
		victim, survivors := nodes[0], nodes[1:]
		ctx := within(t, patience)
		before := survivors[0].Partitions(ctx)
		dead := victim.ID(ctx)
		lost := holdings(before, dead)
		c := startClients(t, true, balance(nodes...))
		c.progress(200)

		killed := time.Now()
		victim.Kill()
		times := c.back(killed, lost)
		settled(t, survivors...)
		c.progress(200)

		requireReplaced(t, before, dead, survivors)
		requireLogged(t, `reason="proven dead"`, survivors...)
		requireLogged(t, "partitions taken over", survivors...)
		t.Logf("%d partitions lost their owner; first command acknowledged after p50 %s, max %s", len(lost), at(times, 0.5), at(times, 1))
		c.end(store, survivors...)
	})
}

func TestDrillKillAllButOne(t *testing.T) {
	store := clustertest.SQLite(t, partitions)
	s := spec(t, store)
	nodes := clustertest.LaunchAll(t, 3, s)
	settled(t, nodes...)
	oldEnough(t, nodes...)
	all := balance(nodes...)
	c := startClients(t, true, all)
	ctx := within(t, 2*patience)
	var worst []time.Duration
	orders := [][2]int{{0, 1}, {1, 2}, {2, 0}, {1, 0}, {2, 1}, {0, 2}}
	for round, order := range orders {
		first, second := nodes[order[0]], nodes[order[1]]
		survivor := others(nodes, first, second)[0]
		lost := holdings(survivor.Partitions(ctx), first.ID(ctx), second.ID(ctx))
		c.progress(50)
		killed := time.Now()
		first.Kill()
		second.Kill()
		worst = append(worst, at(c.back(killed, lost), 1))
		settled(t, survivor)
		require.Len(t, holdings(survivor.Partitions(ctx), survivor.ID(ctx)), partitions)
		all.drop(first)
		all.drop(second)
		for _, i := range order {
			nodes[i] = clustertest.Launch(t, fmt.Sprint(string(rune('a'+i)), round+1), s)
			all.add(nodes[i])
		}
		settled(t, nodes...)
	}
	t.Logf("%d times two of three killed; first command to each of their partitions acknowledged after at most %s; where the last one had just started itself, after at most %s",
		len(orders), worst[0], slices.Max(worst[1:]))
	c.end(store, nodes...)
}

func TestDrillPause(t *testing.T) {
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		nodes := clustertest.LaunchAll(t, 3, spec(t, store))
		settled(t, nodes...)
		oldEnough(t, nodes...)
		victim, survivors := nodes[0], nodes[1:]
		ctx := within(t, patience)
		before, frozen := survivors[0].Partitions(ctx), victim.ID(ctx)
		lost := holdings(before, frozen)
		c := startClients(t, true, balance(survivors...), balance(victim)) // some orders wait for it when it wakes up
		c.progress(200)

		paused := pauseBetweenWrites(t, victim, survivors[0])
		times := c.back(paused, lost)
		settled(t, survivors...)
		requireReplaced(t, before, frozen, survivors)
		c.progress(100)
		victim.Resume()
		requireComesBack(t, victim, frozen)
		settled(t, nodes...)
		c.progress(200)

		requireLogged(t, "reason=silent", survivors...)
		requireLogged(t, "evicted from the cluster, coming back as another incarnation", victim)
		t.Logf("%d partitions lost their owner; first command acknowledged after p50 %s, max %s; %d appends of the node that woke up were fenced",
			len(lost), at(times, 0.5), at(times, 1), victim.Stats(ctx).Host.Fenced)
		c.end(store, nodes...)
	})
}

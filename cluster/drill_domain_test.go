package cluster_test

import (
	"context"
	"strconv"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/cluster/clustertest"
)

// purse holds money that two users may want to spend at the same time. It begins
// with allowance.
type purse struct{ Spent int }

const allowance = 700

type spend struct{ Cents int }

func (c spend) Decide(p purse) ([]aggregate.Event[purse], error) {
	if left := allowance - p.Spent; c.Cents > left {
		return nil, errTooLittle.With("left", strconv.Itoa(left))
	}
	return []aggregate.Event[purse]{spent(c)}, nil
}

// Answer is what is left.
func (spend) Answer(p purse) (int, error) { return allowance - p.Spent, nil }

type spent struct{ Cents int }

func (e spent) Evolve(p *purse) { p.Spent += e.Cents }

var errTooLittle = aggregate.Reject("too-little", "there is too little left")

var purses = aggregate.Define("purse", aggregate.Accepts[spend]("spend"), aggregate.Records[spent]("spent"))

// outcome is a receipt together with the command's answer.
type outcome struct {
	Receipt aggregate.Receipt
	Answer  int
}

func doSpend(ctx context.Context, n *cluster.Node, a addition) (outcome, error) {
	left, receipt, err := aggregate.Do(ctx, purses.Ref(n, a.ID), spend{Cents: a.N}, a.options()...)
	return outcome{receipt, left}, err
}

func doSum(ctx context.Context, n *cluster.Node, a addition) (outcome, error) {
	sum, receipt, err := aggregate.Do(ctx, counters.Ref(n, a.ID), add{N: a.N}, a.options()...)
	return outcome{receipt, sum}, err
}

// subtract is a command that only the next version of the program knows. Its
// event is one that both know.
type subtract struct{ N int }

func (c subtract) Decide(counter) ([]event, error) { return []event{added{N: -c.N}}, nil }

var nextCounters = aggregate.Define("counter",
	aggregate.Accepts[add]("add"), aggregate.Accepts[subtract]("subtract"),
	aggregate.Records[added]("added"), aggregate.Answers[total]("total"))

// nextProgram is the program after an upgrade.
var nextProgram = clustertest.Program{
	Name:       "counters-next",
	Aggregates: []aggregate.Any{nextCounters, registers, purses},
	Ops: map[string]clustertest.Op{
		"add": clustertest.Do(func(ctx context.Context, n *cluster.Node, a addition) (aggregate.Receipt, error) {
			return nextCounters.Ref(n, a.ID).Send(ctx, add{N: a.N}, a.options()...)
		}),
		"total": clustertest.Do(func(ctx context.Context, n *cluster.Node, id string) (int, error) {
			return aggregate.Ask(ctx, nextCounters.Ref(n, id), total{})
		}),
		"subtract": clustertest.Do(func(ctx context.Context, n *cluster.Node, a addition) (aggregate.Receipt, error) {
			return nextCounters.Ref(n, a.ID).Send(ctx, subtract{N: a.N}, a.options()...)
		}),
	},
}

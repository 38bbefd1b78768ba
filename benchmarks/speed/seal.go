package main

import (
	"context"
	"errors"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// sealedAccounts are accounts whose events are encrypted, a key for each account.
var sealedAccounts = aggregate.Define("sealed-account",
	aggregate.Accepts[book]("book"), aggregate.Records[booked]("booked"), aggregate.Answers[entries]("entries"),
	aggregate.Sealed[account](func(id string) string { return id }))

var sealKinds = []kind{onPostgres, onSQLite, onMemory}

// seal compares commands of a sealed aggregate with those of the same aggregate
// unsealed, each type on a store of its own.
func (b *bench) seal(ctx context.Context) ([]*figure, error) {
	return b.eachKind(ctx, sealKinds, []string{"seal-cost", "seal-cost-cpu"}, b.sealOn)
}

func (b *bench) sealOn(ctx context.Context, k kind) (_ []*figure, err error) {
	var contenders []contender
	var rigs []*rig
	for _, c := range []struct {
		what string
		of   *aggregate.Type[account]
	}{{"sealed aggregates", sealedAccounts}, {"the same, unsealed", accounts}} {
		r, err := b.newRig(ctx, k, c.of, concurrent, nil)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.end()) }()
		rigs = append(rigs, r)
		contenders = append(contenders, contender{c.what + " on " + k.name, b.length, func(ctx context.Context, d time.Duration) (sample, error) {
			return r.run(ctx, d, concurrent)
		}})
	}
	taken, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	for _, r := range rigs {
		if err := r.check(ctx); err != nil {
			return nil, err
		}
	}
	rate := (&figure{
		Name: "seal-cost" + k.suffix, What: "durable commands of sealed aggregates on " + k.name + ", 1,024 aggregates", Unit: "commands/s",
		Than: "the same aggregates unsealed", Goal: ratioAtLeast(0.80),
	}).rates(taken[0], taken[1])
	cpu := &figure{
		Name: "seal-cost-cpu" + k.suffix, What: "processor time of such a command, the server's included", Unit: "us",
		Than: "the same aggregates unsealed", Goal: ratioAtMost(1.20),
		Of: each(taken[0], sample.allMicros), Base: each(taken[1], sample.allMicros),
	}
	if k == onMemory {
		rate.Goal, cpu.Goal = nil, nil
		rate.Note = "no goal: nothing is stored, so that nothing else costs much"
	}
	return []*figure{rate, cpu}, nil
}

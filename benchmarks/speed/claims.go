package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/persistence"
)

// enroll is book, and takes a value that nobody else may have.
type enroll struct {
	Cents int64
	Memo  string
	Key   string
}

func (c enroll) Decide(account) ([]accountEvent, error) { return []accountEvent{enrolled(c)}, nil }

type enrolled struct {
	Cents int64
	Memo  string
	Key   string
}

func (e enrolled) Evolve(a *account) {
	a.Entries++
	a.Cents += e.Cents
}

func (e enrolled) Claims() []aggregate.Claim {
	return []aggregate.Claim{{Namespace: claimSpace, Key: e.Key}}
}

const claimSpace = "speed"

// claimingAccounts are accounts, of whose commands one claims.
var claimingAccounts = aggregate.Define(accountType,
	aggregate.Accepts[book]("book"), aggregate.Records[booked]("booked"),
	aggregate.Accepts[enroll]("enroll"), aggregate.Records[enrolled]("enrolled"), aggregate.Answers[entries]("entries"))

var claimKinds = []kind{onPostgres, onSQLite, onMemory}

// claims compares commands without claims on a store that holds many with the same
// on one that holds none, and, on the full one, commands that claim with those
// that do not.
func (b *bench) claims(ctx context.Context) ([]*figure, error) {
	return b.eachKind(ctx, claimKinds, []string{"claims-cost", "claims-taken"}, b.claimsOn)
}

func (b *bench) claimsOn(ctx context.Context, k kind) (_ []*figure, err error) {
	full, err := b.newRig(ctx, k, claimingAccounts, concurrent, func(s persistence.Store) error {
		b.progress("  %d values are claimed on %s", b.many, k.name)
		return holdClaims(ctx, s, b.many)
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, full.end()) }()
	empty, err := b.newRig(ctx, k, claimingAccounts, concurrent, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, empty.end()) }()
	plain := func(r *rig) func(context.Context, time.Duration) (sample, error) {
		return func(ctx context.Context, d time.Duration) (sample, error) { return r.run(ctx, d, concurrent) }
	}
	contenders := []contender{
		{"no claims, the store holds many, " + k.name, b.length, plain(full)},
		{"no claims, the store holds none, " + k.name, b.length, plain(empty)},
	}
	var taken atomic.Int64
	if b.wants("claims-taken" + k.suffix) {
		template := enroll{Cents: 1, Memo: bookOf(storedBytes - len(`,"Key":"0000000000"`)).Memo}
		contenders = append(contenders, contender{"each command claims a value, " + k.name, b.length, func(ctx context.Context, d time.Duration) (s sample, err error) {
			s.n, s.elapsed, err = closedLoop(ctx, d, concurrent, func(i int) error {
				command := template
				command.Key = fmt.Sprintf("%010d", taken.Add(1))
				return full.booked.send(ctx, i, command)
			})
			return s, err
		}})
	}
	samples, err := b.rounds(ctx, contenders...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(full.check(ctx), empty.check(ctx), checkClaims(ctx, full.store, taken.Load())); err != nil {
		return nil, err
	}
	cost := (&figure{
		Name: "claims-cost" + k.suffix, What: fmt.Sprintf("commands without claims on %s, which holds %s claims", k.name, amount(float64(b.many))),
		Unit: "commands/s", Than: "the same, the store holds none", Goal: ratioAtLeast(0.90),
	}).rates(samples[0], samples[1])
	figures := []*figure{cost}
	if len(samples) > 2 {
		figures = append(figures, (&figure{
			Name: "claims-taken" + k.suffix, What: "commands that claim a value each on " + k.name, Unit: "commands/s",
			Than: "commands of the same aggregates, and as many bytes, without claims",
		}).rates(samples[2], samples[0]))
	}
	return figures, nil
}

// holdClaims lets streams that nobody uses claim n values, a thousand each.
func holdClaims(ctx context.Context, store persistence.Store, n int) (err error) {
	holder, err := rent(ctx, store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, holder.leave(ctx)) }()
	const each = 1000
	for from := 0; from < n; from += each {
		c := &persistence.Commit{
			Stream: persistence.Stream{Type: "holder", ID: strconv.Itoa(from)}, At: time.Now(),
			Command: persistence.CommandID(aggregate.NewCommandID()),
		}
		for i := from; i < min(from+each, n); i++ {
			c.Claims = append(c.Claims, persistence.Claim{Namespace: claimSpace, Key: "held-" + accountID(i)})
		}
		if err := holder.append(ctx, []*persistence.Commit{c}); err != nil {
			return err
		}
	}
	return nil
}

// checkClaims sees to it that what was acknowledged is claimed: the last value is,
// the next one is not.
func checkClaims(ctx context.Context, store persistence.Store, taken int64) error {
	for key, want := range map[int64]bool{taken: taken > 0, taken + 1: false} {
		_, found, err := store.FindClaim(ctx, persistence.Claim{Namespace: claimSpace, Key: fmt.Sprintf("%010d", key)})
		if err != nil {
			return err
		}
		if found != want {
			return fmt.Errorf("claim %d of %d: found %t", key, taken, found)
		}
	}
	_, found, err := store.FindClaim(ctx, persistence.Claim{Namespace: claimSpace, Key: "held-" + accountID(0)})
	if err == nil && !found {
		err = errors.New("the store does not hold what it was filled with")
	}
	return err
}

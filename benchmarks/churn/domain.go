package main

import (
	"strconv"
	"sync/atomic"

	"github.com/ingrain-go/ingrain/aggregate"
)

// The aggregates of the workloads. Each is as small as what it proves allows:
//
//	register  the last value written to it
//	list      how many commands it took; each leaves its number in the log
//	account   a balance that is never overdrawn: it says no
//	name      belongs to the first who asked
//
// Beside its state an aggregate remembers which activation it is, so that every
// answer can say who gave it. That is not pure, and meant so: it is how the
// harness looks inside, it is not stored, and no event depends on it.
var aggregates = []aggregate.Any{registers, lists, accounts, names, wallets, payments}

// here is who this process is as a node; "" in others and between two
// incarnations.
var here = func() string { return "" }

// activations counts the states that were built up in this process.
var activations atomic.Uint64

// activation is a state's number among those of its process; 0 when nothing has
// happened to it yet.
type activation struct{ number uint64 }

func (a *activation) note() {
	if a.number == 0 {
		a.number = activations.Add(1)
	}
}

// seen is every answer: a value, and who gave it.
type seen struct {
	Value      int64
	Node       string
	Activation uint64
}

func (a activation) answer(value int64) (seen, error) {
	return seen{Value: value, Node: here(), Activation: a.number}, nil
}

type register struct {
	Value int64
	activation
}

type write struct{ Value int64 }

func (c write) Decide(register) ([]aggregate.Event[register], error) {
	return []aggregate.Event[register]{written(c)}, nil
}

func (write) Answer(s register) (seen, error) { return s.answer(s.Value) }

type written struct{ Value int64 }

func (e written) Evolve(s *register) {
	s.note()
	s.Value = e.Value
}

type read struct{}

func (read) Answer(s register) (seen, error) { return s.answer(s.Value) }

var registers = aggregate.Define("register",
	aggregate.Accepts[write]("write"), aggregate.Records[written]("written"), aggregate.Answers[read]("read"))

type list struct {
	Count int64
	activation
}

type add struct{ Seq int64 }

func (c add) Decide(list) ([]aggregate.Event[list], error) {
	return []aggregate.Event[list]{added(c)}, nil
}

func (add) Answer(s list) (seen, error) { return s.answer(s.Count) }

type added struct{ Seq int64 }

func (e added) Evolve(s *list) {
	s.note()
	s.Count++
}

type count struct{}

func (count) Answer(s list) (seen, error) { return s.answer(s.Count) }

var lists = aggregate.Define("list",
	aggregate.Accepts[add]("add"), aggregate.Records[added]("added"), aggregate.Answers[count]("count"))

type account struct {
	Balance int64
	activation
}

type give struct{ Amount int64 }

func (c give) Decide(account) ([]aggregate.Event[account], error) {
	return []aggregate.Event[account]{given(c)}, nil
}

func (give) Answer(s account) (seen, error) { return s.answer(s.Balance) }

type given struct{ Amount int64 }

func (e given) Evolve(s *account) {
	s.note()
	s.Balance += e.Amount
}

var errTooLittle = aggregate.Reject("too-little", "the balance does not suffice")

type take struct{ Amount int64 }

func (c take) Decide(s account) ([]aggregate.Event[account], error) {
	if s.Balance < c.Amount {
		return nil, errTooLittle
	}
	return []aggregate.Event[account]{taken(c)}, nil
}

func (take) Answer(s account) (seen, error) { return s.answer(s.Balance) }

type taken struct{ Amount int64 }

func (e taken) Evolve(s *account) {
	s.note()
	s.Balance -= e.Amount
}

type balance struct{}

func (balance) Answer(s account) (seen, error) { return s.answer(s.Balance) }

var accounts = aggregate.Define("account",
	aggregate.Accepts[give]("give"), aggregate.Accepts[take]("take"),
	aggregate.Records[given]("given"), aggregate.Records[taken]("taken"), aggregate.Answers[balance]("balance"))

type name struct {
	Holder int64 // 0 is nobody
	activation
}

var errHeld = aggregate.Reject("held", "the name belongs to somebody else")

// holderDetail is the detail of errHeld that says whom the name belongs to.
const holderDetail = "holder"

type claim struct{ By int64 }

func (c claim) Decide(s name) ([]aggregate.Event[name], error) {
	if s.Holder != 0 {
		return nil, errHeld.With(holderDetail, strconv.FormatInt(s.Holder, 10))
	}
	return []aggregate.Event[name]{claimed(c)}, nil
}

func (claim) Answer(s name) (seen, error) { return s.answer(s.Holder) }

type claimed struct{ By int64 }

func (e claimed) Evolve(s *name) {
	s.note()
	s.Holder = e.By
}

type holder struct{}

func (holder) Answer(s name) (seen, error) { return s.answer(s.Holder) }

var names = aggregate.Define("name",
	aggregate.Accepts[claim]("claim"), aggregate.Records[claimed]("claimed"), aggregate.Answers[holder]("holder"))

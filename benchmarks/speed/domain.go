package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
)

// account is the aggregate that is measured. Its state is small, so that what
// is seen is the cost of the framework.
type account struct {
	Entries int64
	Cents   int64
}

type accountEvent = aggregate.Event[account]

// book is a command with a payload. It always yields one event.
type book struct {
	Cents int64
	Memo  string
}

func (c book) Decide(account) ([]accountEvent, error) { return []accountEvent{booked(c)}, nil }

type booked struct {
	Cents int64
	Memo  string
}

func (e booked) Evolve(a *account) {
	a.Entries++
	a.Cents += e.Cents
}

// entries asks how many bookings there are.
type entries struct{}

func (entries) Answer(a account) (int64, error) { return a.Entries, nil }

// deposit is a command with next to no payload.
type deposit struct{ Cents int64 }

func (c deposit) Decide(account) ([]accountEvent, error) { return []accountEvent{deposited(c)}, nil }

type deposited struct{ Cents int64 }

func (e deposited) Evolve(a *account) {
	a.Entries++
	a.Cents += e.Cents
}

// note is a command that is bytes already, as the messages of the remote
// baseline are: what is compared is the way there and back, not JSON.
type note struct{ Bytes []byte }

func (c note) Decide(account) ([]accountEvent, error) { return []accountEvent{noted(c)}, nil }

type noted struct{ Bytes []byte }

func (noted) Evolve(a *account) { a.Entries++ }

// raw is the codec of bytes: themselves.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(value any) ([]byte, error) {
	switch v := value.(type) {
	case note:
		return v.Bytes, nil
	case noted:
		return v.Bytes, nil
	}
	return nil, fmt.Errorf("raw: %T is no note", value)
}

func (raw) Unmarshal(data []byte, value any) error {
	switch v := value.(type) {
	case *note:
		v.Bytes = bytes.Clone(data)
	case *noted:
		v.Bytes = bytes.Clone(data)
	default:
		return fmt.Errorf("raw: %T is no note", value)
	}
	return nil
}

const accountType = "account"

var accounts = aggregate.Define(accountType,
	aggregate.Accepts[book]("book"), aggregate.Accepts[deposit]("deposit"),
	aggregate.Records[booked]("booked"), aggregate.Records[deposited]("deposited"),
	aggregate.Accepts[note]("note", aggregate.Encoded(raw{})), aggregate.Records[noted]("noted", aggregate.Encoded(raw{})),
	aggregate.Answers[entries]("entries"))

// The bytes of one event's payload: in the stores, and in what goes to another
// process.
const (
	storedBytes = 200
	remoteBytes = 128
)

// bookOf is a command whose event takes size bytes as JSON.
func bookOf(size int) book {
	const frame = len(`{"Cents":1,"Memo":""}`)
	return book{Cents: 1, Memo: strings.Repeat("a", size-frame)}
}

// accountID spreads the ids as random ones would be.
func accountID(i int) string { return fmt.Sprintf("%08x-0000-4000", uint32(i)*2_654_435_761) }

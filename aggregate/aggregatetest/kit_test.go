package aggregatetest_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
	"github.com/ingrain-go/ingrain/eventsourcing"
)

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	failure  string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Failed() bool     { return r.failure != "" }
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	if r.failure == "" {
		r.failure = fmt.Sprintf(format, args...)
	}
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// failureOf runs a test to its end and returns what it failed with.
func failureOf(t *testing.T, test func(t testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		test(r)
	}()
	require.Nil(t, <-done, "a broken aggregate must not panic the test")
	for _, f := range r.cleanups {
		f()
	}
	return r.failure
}

type scenario = *aggregatetest.Scenario[shelf]

func filled(t testing.TB) scenario {
	return aggregatetest.For(t, shelves).Given(added{"a"}, added{"b"}, labelled{"top"})
}

func when(c aggregate.Command[shelf]) func(s scenario) {
	return func(s scenario) { s.When(c).ThenNothing() }
}

func ask[R any](q aggregate.Query[shelf, R]) func(s scenario) {
	return func(s scenario) { aggregatetest.Ask(s, q).AnswersWith(func(R) {}) }
}

func TestBrokenAggregatesAreCaught(t *testing.T) {
	for name, c := range map[string]struct {
		step func(s scenario)
		want []string // parts of the failure
	}{
		"Decide changes a map":     {when(changesMap{}), []string{"changesMap", "changed the state", `.Count["a"]: 99, not 1`}},
		"Decide changes a slice":   {when(changesSlice{}), []string{"changed the state", `.Items[0]: "other", not "a"`}},
		"Decide changes a pointer": {when(changesPointer{}), []string{"changed the state", `.Top.Text: "other", not "top"`}},
		"Decide changes the command": {
			when(changesItself{[]string{"mine"}}), []string{"changed the command", `.Items[0]: "other", not "mine"`},
		},
		"Decide follows the order of a map":   {when(ordersByMap{}), []string{"ordersByMap", "not deterministic"}},
		"Decide reads the clock":              {when(readsClock{}), []string{"not deterministic"}},
		"Decide refuses at times":             {when(refusesAtTimes{}), []string{"not deterministic", "the shelf is full"}},
		"Decide refuses with events":          {when(refusesWithEvents{}), []string{"error and events", "leaves no trace"}},
		"Decide returns a typed nil":          {when(refusesWithNil{}), []string{"nil *aggregate.Rejection"}},
		"Decide panics":                       {when(panics{}), []string{"Decide of aggregatetest_test.panics", "panicked", "out of range"}},
		"an unknown event":                    {when(emits{"unknown"}), []string{"unknown is no event of"}},
		"a pointer to an event":               {when(emits{"pointer"}), []string{"*aggregatetest_test.added is no event", "but aggregatetest_test.added is"}},
		"an event without its pointer":        {when(emits{"value"}), []string{"but *aggregatetest_test.valueOfPointer is"}},
		"a nil event":                         {when(emits{"nil"}), []string{"an event is a nil"}},
		"a nil pointer event":                 {when(emits{"nil pointer"}), []string{"an event is a nil *aggregatetest_test.kept"}},
		"an event with a private field":       {when(emits{"private"}), []string{"event", "another after its codec, json", ".number: 0, not 7"}},
		"an event that has no JSON":           {when(emits{"channel"}), []string{"cannot be encoded as json", "chan int"}},
		"Evolve counts its calls":             {when(emits{"counter"}), []string{"replayed state is not the live one", ".Resets"}},
		"Evolve panics":                       {when(emits{"evolve panics"}), []string{"Evolve of aggregatetest_test.panicsEvent", "panicked: cannot"}},
		"a state with a private field":        {when(emits{"private state"}), []string{"another after its snapshot codec, json", ".private: 0, not 7"}},
		"a command with a private field":      {when(privateCommand{7}), []string{"command", "another after its codec", ".number: 0, not 7"}},
		"a query with a private field":        {ask(privateQuery{7}), []string{"query", "another after its codec", ".number: 0, not 7"}},
		"an answer with a private field":      {ask(privateAnswer{}), []string{"the answer of", "another after its codec", ".private: 0, not 1"}},
		"an answer that has no JSON":          {ask(channelAnswer{}), []string{"the answer of", "cannot be encoded"}},
		"an answer of an interface type":      {ask(abstractAnswer{}), []string{"the answer of", "cannot be decoded"}},
		"Answer changes the state":            {ask(sortsItems{}), []string{"Answer of aggregatetest_test.sortsItems", "changed the state", `.Items[0]: "b", not "a"`}},
		"Answer changes the query":            {ask(changesQuery{[]string{"mine"}}), []string{"changed the message"}},
		"Answer panics":                       {ask(panicsQuery{}), []string{"Answer of", "panicked: cannot"}},
		"Answer shares a slice":               {ask(sharesSlice{}), []string{"shares memory", "state.Items"}},
		"Answer shares a map":                 {ask(sharesMap{}), []string{"shares memory", "state.Count"}},
		"Answer shares a pointer":             {ask(sharesPointer{}), []string{"shares memory", "answer.Deep[1].L is in state.Top"}},
		"Answer shares an element":            {ask(sharesElement{}), []string{"shares memory", "state.Items"}},
		"Answer refuses after the events":     {when(refusesLate{}), []string{"the shelf is empty", "let Decide refuse"}},
		"a stored event of an unknown name":   {func(s scenario) { s.GivenStored("gone", 1, []byte(`{}`)) }, []string{`GivenStored("gone")`, "records no event"}},
		"a stored event of an unknown form":   {func(s scenario) { s.GivenStored("added", 2, []byte(`{}`)) }, []string{`GivenStored("added/2")`}},
		"a stored event that cannot be read":  {func(s scenario) { s.GivenStored("added", 1, []byte(`{`)) }, []string{`GivenStored("added")`, "unexpected end"}},
		"a given event with a private field":  {func(s scenario) { s.Given(privateEvent{1}) }, []string{"another after its codec"}},
		"a given event that is not defined":   {func(s scenario) { s.Given(unknown{}) }, []string{"unknown is no event"}},
		"nothing was expected of the command": {func(s scenario) { s.When(add{[]string{"c"}}) }, []string{"nothing was expected of", "add"}},
	} {
		t.Run(name, func(t *testing.T) {
			failure := failureOf(t, func(t testing.TB) { c.step(filled(t)) })
			for _, part := range c.want {
				require.Contains(t, failure, part)
			}
		})
	}
}

func TestMemoryKeptByTheStateIsCaught(t *testing.T) {
	failure := failureOf(t, func(t testing.TB) {
		aggregatetest.For(t, shelves).Given(&kept{[]string{"a"}}).Given(&kept{[]string{"b"}})
	})
	require.Contains(t, failure, "Evolve changed the event &aggregatetest_test.kept")
	require.Contains(t, failure, `.Items[0]: "changed", not "a"`)

	failure = failureOf(t, func(t testing.TB) {
		aggregatetest.For(t, shelves).When(keep{[]string{"a"}}).ThenNothing()
	})
	require.Contains(t, failure, "Evolve changed the command")
}

// After a snapshot an empty map is nil, which two kinds of Evolve notice.
func TestASnapshotThatLosesSomethingIsCaught(t *testing.T) {
	failure := failureOf(t, func(t testing.TB) {
		aggregatetest.For(t, shelves).Given(added{"a"}, emptied{}, resets{})
	})
	require.Contains(t, failure, "from the snapshot at version 2 and the events behind it: .Resets: 1, not 0")

	failure = failureOf(t, func(t testing.TB) {
		aggregatetest.For(t, shelves).Given(added{"a"}, emptied{}, counted{"b"})
	})
	require.Contains(t, failure, "in a restart from the snapshot at version 2 panicked: assignment to entry in nil map")
}

func TestWrongExpectationsFail(t *testing.T) {
	for name, c := range map[string]struct {
		step func(s scenario)
		want string
	}{
		"another event":      {func(s scenario) { s.When(add{[]string{"c"}}).Then(added{"d"}) }, `.Item: "c", not "d"`},
		"another event type": {func(s scenario) { s.When(add{[]string{"c"}}).Then(labelled{"c"}) }, "type aggregatetest_test.added, not aggregatetest_test.labelled"},
		"too few events":     {func(s scenario) { s.When(add{[]string{"c"}}).Then(added{"c"}, added{"d"}) }, "the number of events"},
		"too many events":    {func(s scenario) { s.When(add{[]string{"c", "d"}}).Then(added{"c"}) }, "the number of events"},
		"events for nothing": {func(s scenario) { s.When(add{[]string{"c"}}).ThenNothing() }, "want: no event"},
		"a rejection for an event": {
			func(s scenario) { s.When(refusesWrapped{}).Then(added{"c"}) }, "was rejected: row 3: the shelf is full",
		},
		"an event for a rejection": {func(s scenario) { s.When(add{[]string{"c"}}).ThenRejected(errFull) }, "was accepted"},
		"another rejection":        {func(s scenario) { s.When(refusesWrapped{}).ThenRejected(errEmpty) }, "for another reason"},
		"another detail": {
			func(s scenario) { s.When(refusesWrapped{}).ThenRejected(errFull.With("row", "4")) }, `row = "3", want "4"`,
		},
		"an error that callers cannot know": {func(s scenario) { s.When(refusesPlainly{}).ThenRejected(errPlain) }, "aggregate.Reject"},
		"another answer": {
			func(s scenario) { aggregatetest.Ask(s, items{}).Answers([]string{"a"}) }, "2 elements, not 1",
		},
		"an answer for a refusal": {
			func(s scenario) { aggregatetest.Ask(s, items{}).Rejected(errEmpty) }, "was answered with",
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, failureOf(t, func(t testing.TB) { c.step(filled(t)) }), c.want)
		})
	}
}

func TestWrongExpectationsOfAnswersFail(t *testing.T) {
	require.Contains(t, failureOf(t, func(t testing.TB) {
		aggregatetest.Ask(aggregatetest.For(t, Accounts), History{}).Answers(nil)
	}), "nothing has happened yet")
	require.Contains(t, failureOf(t, func(t testing.TB) {
		aggregatetest.Do(aggregatetest.For(t, Accounts), Withdraw{1}).Answers(0)
	}), "has no answer, it was rejected: insufficient funds")
	require.Contains(t, failureOf(t, func(t testing.TB) {
		aggregatetest.Do(aggregatetest.For(t, Accounts), Withdraw{0}).Answers(1).Then(Withdrawn{0})
	}), "diff: 0, not 1")
	require.Contains(t, failureOf(t, func(t testing.TB) {
		aggregatetest.Ask(aggregatetest.For(t, Accounts), Withdraw{0}).Answers(1)
	}), `is the command "withdraw"`)
}

// A caller of Do sees the refusal of Answer, one of Send does not ask for it.
func TestACommandWithNothingToDoMayRefuseToAnswer(t *testing.T) {
	aggregatetest.Do(filled(t), refusesIdle{}).ThenRejected(errEmpty).
		When(refusesIdle{}).ThenNothing()
	require.Contains(t, failureOf(t, func(t testing.TB) {
		aggregatetest.Do(filled(t), refusesIdle{}).ThenRejected(errFull)
	}), "for another reason")
	require.Contains(t, failureOf(t, func(t testing.TB) {
		filled(t).When(refusesIdle{}).ThenRejected(errEmpty)
	}), "was accepted")
}

func TestAWrongDefinitionFails(t *testing.T) {
	wrong := aggregate.Define("Shelf", aggregate.Records[added]("added"))
	require.Contains(t, failureOf(t, func(t testing.TB) { aggregatetest.For(t, wrong) }), `aggregate "Shelf"`)
}

func TestCorrectStepsOfABrokenAggregatePass(t *testing.T) {
	s := filled(t).
		When(add{[]string{"c", "a"}}).Then(added{"c"}, added{"a"}).
		When(refusesWrapped{}).ThenRejected(errFull.With("row", "3"))
	aggregatetest.Ask(s, items{}).Answers([]string{"a", "b", "c", "a"})
	aggregatetest.Ask(s, countOf{}).Answers(map[string]int{"a": 2, "b": 1, "c": 1})
}

// A state that never becomes a snapshot need not survive its codec.
func TestWithoutSnapshotsTheStateMayBePrivate(t *testing.T) {
	typ := aggregate.Define("shelf", aggregate.Records[intoPrivate]("into-private"),
		aggregate.Snapshots[shelf](aggregate.SnapshotPolicy{Off: true}))
	aggregatetest.For(t, typ).Given(intoPrivate{7}).
		State(func(s shelf) { require.Equal(t, 7, s.private) })
}

// stepped counts how often the kit evolves a state.
type stepped struct{}

var evolved int

func (stepped) Evolve(s *shelf) { evolved++; s.Resets++ }

// What a step costs grows with the history, and no faster: of the snapshots only
// the latest are restored.
func TestALongHistoryStaysCheap(t *testing.T) {
	s := aggregatetest.For(t, aggregate.Define("shelf", aggregate.Records[stepped]("stepped")))
	cost := func() int {
		evolved = 0
		s.Given(stepped{})
		return evolved
	}
	var first, second int
	for n := range 400 {
		switch c := cost(); n + 1 {
		case 200:
			first = c
		case 400:
			second = c
		}
	}
	require.GreaterOrEqual(t, first, 200, "the history is replayed")
	require.LessOrEqual(t, second, 2*first)
}

// oneWay is a codec that fails in one direction.
type oneWay struct {
	aggregate.Codec
	marshal, unmarshal error
}

func (c oneWay) Marshal(value any) ([]byte, error) {
	if c.marshal != nil {
		return nil, c.marshal
	}
	return c.Codec.Marshal(value)
}

func (c oneWay) Unmarshal(data []byte, value any) error {
	if c.unmarshal != nil {
		return c.unmarshal
	}
	return c.Codec.Unmarshal(data, value)
}

func TestAStateWithoutASnapshotIsCaught(t *testing.T) {
	with := func(codec oneWay) string {
		codec.Codec = eventsourcing.JSON
		typ := aggregate.Define("shelf", aggregate.Records[added]("added"),
			aggregate.Snapshots[shelf](aggregate.SnapshotPolicy{Codec: codec}))
		return failureOf(t, func(t testing.TB) { aggregatetest.For(t, typ) })
	}
	require.Empty(t, with(oneWay{}))
	require.Contains(t, with(oneWay{marshal: errPlain}), "before its first event cannot be encoded for a snapshot")
	require.Contains(t, with(oneWay{unmarshal: errPlain}), "version 0 cannot be decoded from its snapshot")
}

func TestAMessageThatCannotBeReadIsCaught(t *testing.T) {
	typ := aggregate.Define("shelf", aggregate.Records[added]("added",
		aggregate.Encoded(oneWay{Codec: eventsourcing.JSON, unmarshal: errPlain})))
	require.Contains(t, failureOf(t, func(t testing.TB) { aggregatetest.For(t, typ).Given(added{"a"}) }),
		"cannot be decoded from its json")
}

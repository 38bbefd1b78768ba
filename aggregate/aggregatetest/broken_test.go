package aggregatetest_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// shelf is an aggregate in which each command, event and query breaks one rule.
type shelf struct {
	Items   []string       `json:"items,omitempty"`
	Count   map[string]int `json:"count,omitempty"`
	Top     *label         `json:"top,omitempty"`
	Resets  int
	private int
}

type label struct{ Text string }

type shelfEvent = aggregate.Event[shelf]

var (
	errFull  = aggregate.Reject("full", "the shelf is full")
	errEmpty = aggregate.Reject("empty", "the shelf is empty")
	errPlain = errors.New("no sentinel that callers could know")
	calls    int
)

// The correct ones.
type added struct{ Item string }

func (e added) Evolve(s *shelf) {
	s.Items = append(s.Items, e.Item)
	if s.Count == nil {
		s.Count = map[string]int{}
	}
	s.Count[e.Item]++
}

type labelled struct{ Text string }

func (e labelled) Evolve(s *shelf) { s.Top = &label{e.Text} }

type add struct{ Items []string }

func (c add) Decide(shelf) (events []shelfEvent, _ error) {
	for _, item := range c.Items {
		events = append(events, added{item})
	}
	return events, nil
}

type items struct{}

func (items) Answer(s shelf) ([]string, error) { return slices.Clone(s.Items), nil }

// Decide that changes something.
type changesMap struct{}

func (changesMap) Decide(s shelf) ([]shelfEvent, error) { s.Count["a"] = 99; return nil, nil }

type changesSlice struct{}

func (changesSlice) Decide(s shelf) ([]shelfEvent, error) { s.Items[0] = "other"; return nil, errFull }

type changesPointer struct{}

func (changesPointer) Decide(s shelf) ([]shelfEvent, error) { s.Top.Text = "other"; return nil, nil }

type changesItself struct{ Items []string }

func (c changesItself) Decide(shelf) ([]shelfEvent, error) { c.Items[0] = "other"; return nil, nil }

// Decide that is not a function of state and command.
type ordersByMap struct{}

func (ordersByMap) Decide(s shelf) (events []shelfEvent, _ error) {
	for item := range s.Count {
		events = append(events, added{item})
	}
	return events, nil
}

type readsClock struct{}

func (readsClock) Decide(shelf) ([]shelfEvent, error) {
	return []shelfEvent{added{time.Now().String()}}, nil
}

type refusesAtTimes struct{}

func (refusesAtTimes) Decide(shelf) ([]shelfEvent, error) {
	if calls++; calls%2 == 0 {
		return nil, errFull
	}
	return nil, nil
}

// Decide that returns what it must not.
type refusesWithEvents struct{}

func (refusesWithEvents) Decide(shelf) ([]shelfEvent, error) {
	return []shelfEvent{added{"a"}}, errFull
}

type refusesWithNil struct{}

func (refusesWithNil) Decide(shelf) ([]shelfEvent, error) {
	var r *aggregate.Rejection
	return nil, r
}

type refusesPlainly struct{}

func (refusesPlainly) Decide(shelf) ([]shelfEvent, error) { return nil, errPlain }

type refusesWrapped struct{}

func (refusesWrapped) Decide(shelf) ([]shelfEvent, error) {
	return nil, fmt.Errorf("row 3: %w", errFull.With("row", "3"))
}

type panics struct{}

func (panics) Decide(s shelf) ([]shelfEvent, error) { return nil, errors.New(s.Items[1000]) }

// emits returns one event that the definition does not expect.
type emits struct{ What string }

func (c emits) Decide(shelf) ([]shelfEvent, error) {
	return []shelfEvent{map[string]shelfEvent{
		"unknown": unknown{}, "pointer": &added{"a"}, "value": valueOfPointer{}, "nil": nil,
		"nil pointer": (*kept)(nil), "private": privateEvent{7}, "channel": channelEvent{make(chan int)},
		"counter": counter{}, "resets": resets{}, "private state": intoPrivate{7}, "evolve panics": panicsEvent{},
	}[c.What]}, nil
}

type unknown struct{}

func (unknown) Evolve(*shelf) {}

type valueOfPointer struct{}

func (valueOfPointer) Evolve(*shelf) {}

type privateEvent struct{ number int }

func (e privateEvent) Evolve(s *shelf) { s.Resets += e.number }

type channelEvent struct{ C chan int }

func (channelEvent) Evolve(*shelf) {}

type panicsEvent struct{}

func (panicsEvent) Evolve(*shelf) { panic("cannot") }

// Evolve that is not a function of state and event.
type counter struct{}

func (counter) Evolve(s *shelf) { calls++; s.Resets = calls }

// kept changes its own memory when the next one comes.
type kept struct{ Items []string }

func (e *kept) Evolve(s *shelf) {
	if len(s.Items) > 0 {
		s.Items[0] = "changed"
		return
	}
	s.Items = e.Items
}

// keep gives the command's own memory to the event.
type keep struct{ Items []string }

func (c keep) Decide(shelf) ([]shelfEvent, error) {
	return []shelfEvent{passedOn(c), passedOn{[]string{"x"}}}, nil
}

type passedOn struct{ Items []string }

func (e passedOn) Evolve(s *shelf) {
	if e.Items[0] == "x" {
		s.Items[0] = "changed"
		return
	}
	s.Items = e.Items
}

// The state and its snapshots.
type intoPrivate struct{ Number int }

func (e intoPrivate) Evolve(s *shelf) { s.private = e.Number }

type emptied struct{}

func (emptied) Evolve(s *shelf) { s.Count = map[string]int{} }

// resets takes a nil map for a new shelf; an empty map is nil after a snapshot.
type resets struct{}

func (resets) Evolve(s *shelf) {
	if s.Count == nil {
		s.Resets++
	}
}

type counted struct{ Item string }

func (e counted) Evolve(s *shelf) { s.Count[e.Item]++ }

// Codecs.
type privateCommand struct{ number int }

func (c privateCommand) Decide(shelf) ([]shelfEvent, error) { return nil, nil }

type privateQuery struct{ number int }

func (q privateQuery) Answer(shelf) (int, error) { return q.number, nil }

type privateAnswer struct{}

func (privateAnswer) Answer(shelf) (shelf, error) { return shelf{private: 1}, nil }

type channelAnswer struct{}

func (channelAnswer) Answer(shelf) (chan int, error) { return make(chan int), nil }

type abstractAnswer struct{}

func (abstractAnswer) Answer(shelf) (fmt.Stringer, error) { return time.Second, nil }

// Answers.
type sortsItems struct{}

func (sortsItems) Answer(s shelf) (int, error) { slices.Reverse(s.Items); return 0, nil }

type changesQuery struct{ Items []string }

func (q changesQuery) Answer(shelf) (int, error) { q.Items[0] = "other"; return 0, nil }

type sharesSlice struct{}

func (sharesSlice) Answer(s shelf) ([]string, error) { return s.Items[1:], nil }

type sharesMap struct{}

func (sharesMap) Answer(s shelf) (map[string]int, error) { return s.Count, nil }

type sharesPointer struct{}

func (sharesPointer) Answer(s shelf) (struct{ Deep []any }, error) {
	return struct{ Deep []any }{[]any{1, struct{ L *label }{s.Top}}}, nil
}

type sharesElement struct{}

func (sharesElement) Answer(s shelf) (*string, error) { return &s.Items[1], nil }

type panicsQuery struct{}

func (panicsQuery) Answer(shelf) (int, error) { panic("cannot") }

type refusesLate struct{}

func (refusesLate) Decide(shelf) ([]shelfEvent, error) { return []shelfEvent{added{"a"}}, nil }
func (refusesLate) Answer(shelf) (int, error)          { return 0, errEmpty }

// refusesIdle has nothing to do and then refuses to answer, which is allowed.
type refusesIdle struct{}

func (refusesIdle) Decide(shelf) ([]shelfEvent, error) { return nil, nil }
func (refusesIdle) Answer(shelf) (int, error)          { return 0, errEmpty }

// countOf is a correct query whose answer is a fresh map.
type countOf struct{}

func (countOf) Answer(s shelf) (map[string]int, error) { return maps.Clone(s.Count), nil }

var shelves = aggregate.Define("shelf",
	aggregate.Records[added]("added"), aggregate.Records[labelled]("labelled"),
	aggregate.Records[*valueOfPointer]("value-of-pointer"), aggregate.Records[privateEvent]("private-event"),
	aggregate.Records[channelEvent]("channel-event"), aggregate.Records[counter]("counter"),
	aggregate.Records[*kept]("kept"), aggregate.Records[passedOn]("passed-on"),
	aggregate.Records[intoPrivate]("into-private"), aggregate.Records[emptied]("emptied"),
	aggregate.Records[resets]("resets"), aggregate.Records[counted]("counted"),
	aggregate.Records[panicsEvent]("panics-event"),

	aggregate.Accepts[add]("add"), aggregate.Accepts[keep]("keep"), aggregate.Accepts[emits]("emits"),
	aggregate.Accepts[changesMap]("changes-map"), aggregate.Accepts[changesSlice]("changes-slice"),
	aggregate.Accepts[changesPointer]("changes-pointer"), aggregate.Accepts[changesItself]("changes-itself"),
	aggregate.Accepts[ordersByMap]("orders-by-map"), aggregate.Accepts[readsClock]("reads-clock"),
	aggregate.Accepts[refusesAtTimes]("refuses-at-times"), aggregate.Accepts[refusesWithEvents]("refuses-with-events"),
	aggregate.Accepts[refusesWithNil]("refuses-with-nil"), aggregate.Accepts[refusesPlainly]("refuses-plainly"),
	aggregate.Accepts[refusesWrapped]("refuses-wrapped"), aggregate.Accepts[refusesLate]("refuses-late"),
	aggregate.Accepts[refusesIdle]("refuses-idle"),
	aggregate.Accepts[panics]("panics"), aggregate.Accepts[repeats]("repeats"), aggregate.Accepts[privateCommand]("private-command"),

	aggregate.Answers[items]("items"), aggregate.Answers[countOf]("count"),
	aggregate.Answers[privateQuery]("private-query"), aggregate.Answers[privateAnswer]("private-answer"),
	aggregate.Answers[channelAnswer]("channel-answer"), aggregate.Answers[sortsItems]("sorts-items"),
	aggregate.Answers[abstractAnswer]("abstract-answer"),
	aggregate.Answers[changesQuery]("changes-query"), aggregate.Answers[sharesSlice]("shares-slice"),
	aggregate.Answers[sharesMap]("shares-map"), aggregate.Answers[sharesPointer]("shares-pointer"),
	aggregate.Answers[sharesElement]("shares-element"), aggregate.Answers[panicsQuery]("panics-query"),
)

package aggregatetest

import (
	"fmt"
	"reflect"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// A process manager is tested like any aggregate; what it hears and what it sends
// have words of their own:
//
//	s := aggregatetest.For(t, Transfers)
//	aggregatetest.Hear(s, bank.Accounts, "alice", bank.Ordered{Transfer: "t1", To: "bob", Cents: 5}).
//		Reaches("t1").Sends(withdraw).Then(Begun{...})
//	s.WhenDone().Sends(deposit).Then(Debited{...})
//	s.WhenRejected(bank.ErrClosed).Sends(refund).Then(Reversed{...})
//	s.WhenDone().Then(Done{...}).Ended(true)
//
// Hear lets an event happen to another aggregate, to which the process reacts. The
// command that follows is run like one of When.
func Hear[S, T any](s *Scenario[S], source *aggregate.Type[T], id string, event aggregate.Event[T]) *Outcome[S] {
	s.t.Helper()
	return HearAt(s, source, event, aggregate.Origin{ID: id, Version: 1, At: time.Unix(0, 0).UTC()})
}

// HearAt is [Hear] of an event at a moment and a place.
func HearAt[S, T any](s *Scenario[S], source *aggregate.Type[T], event aggregate.Event[T], origin aggregate.Origin) *Outcome[S] {
	s.t.Helper()
	for _, r := range s.def.Reactions() {
		if r.Source != source.Definition() || r.Event != reflect.TypeOf(event) {
			continue
		}
		var id string
		var input any
		s.guard("the reaction to "+show(event), func() { id, input = r.Input(event, origin) })
		for range repeats {
			againID, again := r.Input(event, origin)
			if diff := difference([]any{againID, again}, []any{id, input}); diff != "" {
				s.t.Fatalf("the reaction to %s is not always the same: %s", show(event), diff)
			}
		}
		o := &Outcome[S]{scenario: s, command: "the reaction to " + show(event)}
		if command, ok := input.(aggregate.Command[S]); ok && id != "" {
			o = s.run(command)
			o.instance = id
		}
		s.expectWord(o)
		return o
	}
	s.t.Fatalf("process %q does not react to %T of aggregate %q", s.def.Name(), event, source.Name())
	return nil
}

// Reaches expects which instance a reaction chose; "" for none.
func (o *Outcome[S]) Reaches(id string) *Outcome[S] {
	o.scenario.t.Helper()
	if o.instance != id {
		o.scenario.t.Fatalf("%s reaches instance %q, want %q", o.command, o.instance, id)
	}
	return o
}

// Sends expects that the command's events send these, in this order, and nothing
// else. What is compared is target and command. Say it before Then.
func (o *Outcome[S]) Sends(want ...aggregate.Outgoing[S]) *Outcome[S] {
	s := o.scenario
	s.t.Helper()
	got := make([]string, len(o.sends))
	for i := range o.sends {
		got[i] = fmt.Sprintf("%s/%s: %s", o.sends[i].Definition.Name(), o.sends[i].ID, show(o.sends[i].Command))
	}
	wanted := make([]string, len(want))
	for i, w := range want {
		target, id := w.Target()
		wanted[i] = fmt.Sprintf("%s/%s: %s", target, id, show(w.Command()))
	}
	if diff := difference(got, wanted); diff != "" && len(got)+len(wanted) > 0 {
		s.t.Fatalf("%s sends other commands\n got: %s\nwant: %s\ndiff: %s", o.command, show(got), show(wanted), diff)
	}
	return o
}

// WhenDone lets the first of the sends that nobody has answered be executed, and
// runs the command that the process asked for.
func (s *Scenario[S]) WhenDone() *Outcome[S] {
	s.t.Helper()
	send := s.outgoing()
	return s.answered(send, "done", send.Done)
}

// WhenRejected lets the first of the sends that nobody has answered be rejected,
// and runs the command that the process makes of that.
func (s *Scenario[S]) WhenRejected(rejection *aggregate.Rejection) *Outcome[S] {
	s.t.Helper()
	send := s.outgoing()
	if send.Rejected == nil {
		s.t.Fatalf("the process does not expect that %s is rejected: see OnRejected", show(send.Command))
	}
	var input any
	s.guard("OnRejected of "+show(send.Command), func() { input = send.Rejected(rejection) })
	return s.answered(send, "rejected", input)
}

func (s *Scenario[S]) outgoing() aggregate.Send {
	s.t.Helper()
	if len(s.sends) == 0 {
		s.t.Fatalf("the process has sent nothing that is not answered")
	}
	send := s.sends[0]
	s.sends = s.sends[1:]
	return send
}

func (s *Scenario[S]) answered(send aggregate.Send, how string, input any) *Outcome[S] {
	s.t.Helper()
	o := &Outcome[S]{scenario: s, command: show(send.Command) + " being " + how}
	if command, ok := input.(aggregate.Command[S]); ok {
		o = s.run(command)
	}
	s.expectWord(o)
	return o
}

// Ended expects whether the process is finished.
func (s *Scenario[S]) Ended(want bool) *Scenario[S] {
	s.t.Helper()
	if got := s.ended(); got != want {
		s.t.Fatalf("the process is finished: %t, want %t", got, want)
	}
	return s
}

func (s *Scenario[S]) ended() (ended bool) {
	s.t.Helper()
	s.guard("Ended", func() { ended = s.def.Ended(s.live.State()) })
	return ended
}

// sendsOf asks an event what it sends, more than once.
func (s *Scenario[S]) sendsOf(message *aggregate.Message, event any) []aggregate.Send {
	s.t.Helper()
	if !message.MaySend() {
		return nil
	}
	ask := func() (sends []aggregate.Send) {
		s.guard("Sends of "+show(event), func() {
			var err error
			if sends, err = s.def.SendsOf(message, event); err != nil {
				s.t.Fatalf("%v", err)
			}
		})
		return sends
	}
	sends := ask()
	for range repeats {
		again := ask()
		same := len(again) == len(sends)
		for i := 0; same && i < len(sends); i++ {
			same = again[i].ID == sends[i].ID && again[i].Definition == sends[i].Definition &&
				difference(again[i].Command, sends[i].Command) == "" && difference(again[i].Done, sends[i].Done) == ""
		}
		if !same {
			s.t.Fatalf("what %s sends is not always the same (it may depend on the event only)", show(event))
		}
	}
	return sends
}

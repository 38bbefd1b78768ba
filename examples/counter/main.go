// Counter is the smallest program: one aggregate, one node, one file.
//
//	go run ./examples/counter
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

type Counter struct{ Value int } // the state

type Add struct{ N int } // a command decides which events happen

func (c Add) Decide(s Counter) ([]aggregate.Event[Counter], error) {
	if s.Value+c.N < 0 {
		return nil, ErrNegative
	}
	return []aggregate.Event[Counter]{Added(c)}, nil
}

var ErrNegative = aggregate.Reject("negative", "a counter never goes below zero")

type Added struct{ N int } // an event evolves the state

func (e Added) Evolve(s *Counter) { s.Value += e.N }

type Value struct{} // a query reads it

func (Value) Answer(s Counter) (int, error) { return s.Value, nil }

var Counters = aggregate.Define("counter", aggregate.Accepts[Add]("add"),
	aggregate.Records[Added]("added"), aggregate.Answers[Value]("value"))

func main() {
	ctx := context.Background()
	slog.SetLogLoggerLevel(slog.LevelWarn)
	store := must(sqlite.Open(ctx, sqlite.Config{Dir: "counter-data"}))
	node := must(cluster.Start(ctx, &cluster.Config{Store: store, Aggregates: []aggregate.Any{Counters}}))
	visits := Counters.Ref(node, "visits")
	receipt := must(visits.Send(ctx, Add{N: 1})) // durable when Send returns
	_, err := visits.Send(ctx, Add{N: -1000})
	fmt.Println("version", receipt.Version, "value", must(aggregate.Ask(ctx, visits, Value{})), "rejected:", err)
	must(0, node.Stop(ctx))
	must(0, store.Close())
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

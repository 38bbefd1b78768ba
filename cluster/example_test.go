package cluster_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// Visits counts visitors.
type Visits struct{ N int }

// Visit records one visitor.
type Visit struct{ Name string }

// Decide greets everybody.
func (c Visit) Decide(Visits) ([]aggregate.Event[Visits], error) {
	if c.Name == "" {
		return nil, aggregate.Reject("nameless", "a visitor has a name")
	}
	return []aggregate.Event[Visits]{Visited(c)}, nil
}

// Visited says that somebody was here.
type Visited struct{ Name string }

// Evolve counts.
func (e Visited) Evolve(v *Visits) { v.N++ }

// Count asks how many there were.
type Count struct{}

// Answer is the number of visitors.
func (Count) Answer(v Visits) (int, error) { return v.N, nil }

var visits = aggregate.Define("visits",
	aggregate.Accepts[Visit]("visit"), aggregate.Records[Visited]("visited"), aggregate.Answers[Count]("count"))

// A program that already speaks protoactor reaches the same aggregates with
// protoactor's own calls: the kind is the aggregate type, the identity its id,
// and messages are registered commands and queries.
func ExampleNode_Cluster() {
	store, err := memory.Open(memory.Config{Partitions: 8})
	if err != nil {
		fmt.Println(err)
		return
	}
	node, err := cluster.Start(context.Background(), &cluster.Config{
		Store: store, Aggregates: []aggregate.Any{visits}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = node.Stop(context.Background()) }()

	receipt, err := node.Cluster().Request("alice", "visits", Visit{Name: "bob"})
	fmt.Println(receipt.(aggregate.Receipt).Version, err)
	_, err = node.Cluster().Request("alice", "visits", Visit{})
	fmt.Println(err)

	// The grain's PID takes the same messages.
	pid := node.Cluster().Get("alice", "visits")
	count, err := node.Cluster().ActorSystem.Root.RequestFuture(pid, Count{}, patience).Result()
	fmt.Println(count, err)
	// Output:
	// 1 <nil>
	// a visitor has a name
	// 1 <nil>
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/eventsourcing"
	"github.com/ingrain-go/ingrain/persistence"
)

// Process managers run where the partitions are, like projections: each has a
// courier, which follows what this node owns. See eventsourcing.Courier.

// startProcesses starts a courier for every process manager among the aggregates.
func (n *Node) startProcesses() error {
	for _, t := range n.config.Aggregates {
		d := t.Definition()
		if !d.IsProcess() {
			continue
		}
		c, err := eventsourcing.StartCourier(eventsourcing.CourierConfig{
			Process: d, Store: n.store, Deliver: n.Deliver, Owned: n.owned, Vault: n.vault, Clock: n.clock, Logger: n.log,
		})
		if err != nil {
			return err
		}
		n.couriers = append(n.couriers, c)
	}
	return nil
}

// releaseProcesses returns when the process managers of a partition stand still
// here, or there is no time left.
func (n *Node) releaseProcesses(ctx context.Context, p persistence.Partition) {
	if len(n.couriers) == 0 {
		return
	}
	ctx, cancel := n.seams.Timeout(ctx, drainTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, c := range n.couriers {
		all.Go(func() { c.Release(ctx, p) })
	}
	all.Wait()
}

// Processes tells how the process managers fare in the partitions of this node.
func (n *Node) Processes() []eventsourcing.CourierProgress {
	list := make([]eventsourcing.CourierProgress, len(n.couriers))
	for i, c := range n.couriers {
		list[i] = c.Progress()
	}
	return list
}

// ParkedProcesses lists up to limit events that a process manager could not carry
// out, or that stand behind such an event in their sequence; those behind after, by
// partition and offset. It lists those of the whole cluster.
func (n *Node) ParkedProcesses(ctx context.Context, process string, after persistence.DeadLetterKey, limit int) ([]persistence.DeadLetter, error) {
	c, err := n.courier(process)
	if err != nil {
		return nil, err
	}
	return c.Parked(ctx, after, limit)
}

// ResumeProcess lets a parked sequence of a process manager be tried again, by the
// node that owns its partition, and returns what becomes of its first event. Those
// behind it follow by themselves.
func (n *Node) ResumeProcess(ctx context.Context, process, sequence string) error {
	c, err := n.courier(process)
	if err != nil {
		return err
	}
	return c.Resume(ctx, sequence)
}

// SkipProcess gives the first event of a parked sequence up. What it was to send
// counts as rejected with eventsourcing.ErrSkipped, and the process is told so, if
// it expects rejections. Those behind it follow by themselves.
func (n *Node) SkipProcess(ctx context.Context, process, sequence string) error {
	c, err := n.courier(process)
	if err != nil {
		return err
	}
	return c.Skip(ctx, sequence)
}

var errNoProcess = errors.New("the node has no such process manager")

func (n *Node) courier(process string) (*eventsourcing.Courier, error) {
	for _, c := range n.couriers {
		if c.Process() == process {
			return c, nil
		}
	}
	return nil, fmt.Errorf("process %q: %w", process, errNoProcess)
}

// OpenProcesses lists the processes of a type that have begun and not ended, by
// their ids, for a type that has an end: see aggregate.Ended. It costs what it
// lists.
func (n *Node) OpenProcesses(ctx context.Context, process aggregate.Any) iter.Seq2[string, error] {
	return eventsourcing.OpenProcesses(ctx, n.store, process)
}

// EndedProcesses lists the processes of a type that have ended, by their ids. It
// reads through all streams of the store.
func (n *Node) EndedProcesses(ctx context.Context, process aggregate.Any) iter.Seq2[string, error] {
	return eventsourcing.EndedProcesses(ctx, n.store, process)
}

package cluster

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ingrain-go/ingrain/eventsourcing"
)

// projectionReadings are published for each projection, which is their attribute
// "projection".
var projectionReadings = []struct {
	name, unit, meaning string
	gauge               bool
	read                func(*eventsourcing.Progress) int64
}{
	{"ingrain.projection.handled", "{event}", "events that the projection has handled or passed over", false, func(p *eventsourcing.Progress) int64 { return int64(p.Handled) }},
	{"ingrain.projection.fetched", "{event}", "events read from the store, because no push brought them in time", false, func(p *eventsourcing.Progress) int64 { return int64(p.Fetched) }},
	{"ingrain.projection.failures", "{call}", "calls of handlers that came to nothing", false, func(p *eventsourcing.Progress) int64 { return int64(p.Failures) }},
	{"ingrain.projection.rate", "{event}/s", "events handled per second of late", true, func(p *eventsourcing.Progress) int64 { return int64(p.Rate) }},
	{"ingrain.projection.lag", "{event}", "events known to be in the log and not handled", true, func(p *eventsourcing.Progress) int64 { return p.Lag }},
	{"ingrain.projection.behind", "ms", "age of the last event that was handled, while there is a lag", true, func(p *eventsourcing.Progress) int64 { return p.Behind.Milliseconds() }},
	{"ingrain.projection.position", "{event}", "sum of the positions in the partitions that this node handles", true, func(p *eventsourcing.Progress) (sum int64) {
		for i := range p.Partitions {
			sum += int64(p.Partitions[i].Position)
		}
		return sum
	}},
	{"ingrain.projection.parked", "{letter}", "dead letters of the partitions that this node handles", true, func(p *eventsourcing.Progress) int64 { return int64(p.Parked) }},
	{"ingrain.projection.standing", "{partition}", "partitions that stand still before an event", true, func(p *eventsourcing.Progress) (n int64) {
		for i := range p.Partitions {
			if p.Partitions[i].Standing != "" {
				n++
			}
		}
		return n
	}},
}

// publishProjections registers the readings of projections with the configured
// meter; the result undoes it.
func (n *Node) publishProjections() (stop func() error, err error) {
	meter := n.config.Meter
	if meter == nil || n.projector == nil {
		return func() error { return nil }, nil
	}
	instruments := make([]metric.Int64Observable, len(projectionReadings))
	all := make([]metric.Observable, len(projectionReadings))
	for i, r := range projectionReadings {
		if r.gauge {
			instruments[i], err = meter.Int64ObservableGauge(r.name, metric.WithUnit(r.unit), metric.WithDescription(r.meaning))
		} else {
			instruments[i], err = meter.Int64ObservableCounter(r.name, metric.WithUnit(r.unit), metric.WithDescription(r.meaning))
		}
		if err != nil {
			return nil, fmt.Errorf("cluster: metric %s: %w", r.name, err)
		}
		all[i] = instruments[i]
	}
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		list := n.Projections()
		for i := range list {
			of := metric.WithAttributes(attribute.String("projection", list[i].Name), attribute.Bool("building", list[i].Building))
			for k, r := range projectionReadings {
				o.ObserveInt64(instruments[k], r.read(&list[i]), of)
			}
		}
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("cluster: metrics of projections: %w", err)
	}
	return registration.Unregister, nil
}

// unpublishing joins two ways to undo something.
func unpublishing(a, b func() error) func() error {
	return func() error { return errors.Join(a(), b()) }
}

package cluster

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/ingrain-go/ingrain/aggregate"
)

// reading is one metric: a name, what it means, and where it is found in Stats.
type reading struct {
	name, unit, meaning string
	gauge               bool
	read                func(*Stats) int64
}

// readings are published when Config.Meter is set, one for each field of Stats.
// They are read when the meter collects, and cost nothing per command.
var readings = []reading{
	{"ingrain.commits", "{commit}", "commits that became durable", false, func(s *Stats) int64 { return int64(s.Host.Commits) }},
	{"ingrain.batches", "{batch}", "round trips of the writer lanes", false, func(s *Stats) int64 { return int64(s.Host.Batches) }},
	{"ingrain.fenced", "{commit}", "commits the store refused because the partition was in other hands", false, func(s *Stats) int64 { return int64(s.Host.Fenced) }},
	{"ingrain.conflicts", "{commit}", "commits refused because of the version", false, func(s *Stats) int64 { return int64(s.Host.Conflicts) }},
	{"ingrain.unknown", "{commit}", "commits whose outcome had to be looked up", false, func(s *Stats) int64 { return int64(s.Host.Unknown) }},
	{"ingrain.store_errors", "{commit}", "commits the store could not take", false, func(s *Stats) int64 { return int64(s.Host.StoreErrors) }},
	{"ingrain.repeated", "{commit}", "commits appended again because the store was lost", false, func(s *Stats) int64 { return int64(s.Host.Repeated) }},
	{"ingrain.broken", "{aggregate}", "aggregates that left memory because a commit of theirs failed", false, func(s *Stats) int64 { return int64(s.Host.Broken) }},
	{"ingrain.activations", "{aggregate}", "aggregates brought to life", false, func(s *Stats) int64 { return int64(s.Host.Activations) }},
	{"ingrain.passivations", "{aggregate}", "unused aggregates that left memory", false, func(s *Stats) int64 { return int64(s.Host.Passivations) }},
	{"ingrain.loads", "{load}", "loads of an aggregate from the store", false, func(s *Stats) int64 { return int64(s.Host.Loads) }},
	{"ingrain.warmed", "{aggregate}", "aggregates brought to life before any call asked for them", false, func(s *Stats) int64 { return int64(s.Host.Warmed) }},
	{"ingrain.lookups", "{command}", "command ids that only the log could tell", false, func(s *Stats) int64 { return int64(s.Host.Lookups) }},
	{"ingrain.duplicates", "{command}", "commands that were delivered again", false, func(s *Stats) int64 { return int64(s.Host.Duplicates) }},
	{"ingrain.overloaded", "{call}", "calls refused because a queue of the node or of an aggregate was full", false, func(s *Stats) int64 { return int64(s.Host.Overloaded) }},
	{"ingrain.refused", "{call}", "calls refused at once because the store could not be reached a moment before", false, func(s *Stats) int64 { return int64(s.Host.Refused) }},
	{"ingrain.panics", "{call}", "panics in domain code", false, func(s *Stats) int64 { return int64(s.Host.Panics) }},
	{"ingrain.barriers", "{roundtrip}", "ownership proofs because no lease covered a reply", false, func(s *Stats) int64 { return int64(s.Host.Barriers) }},
	{"ingrain.held", "{reply}", "replies held back after a take-over", false, func(s *Stats) int64 { return int64(s.Host.Held) }},
	{"ingrain.snapshots", "{snapshot}", "snapshots stored", false, func(s *Stats) int64 { return int64(s.Host.Snapshots) }},
	{"ingrain.snapshots_dropped", "{snapshot}", "snapshots dropped because too many waited", false, func(s *Stats) int64 { return int64(s.Host.SnapshotsDropped) }},
	{"ingrain.timers_set", "{timer}", "timers in commits handed to the store", false, func(s *Stats) int64 { return int64(s.Host.TimersSet) }},
	{"ingrain.timers_fired", "{timer}", "timers whose command was decided, durably", false, func(s *Stats) int64 { return int64(s.Host.TimersFired) }},
	{"ingrain.timers_late", "{timer}", "timers that fired more than a second late", false, func(s *Stats) int64 { return int64(s.Host.TimersLate) }},
	{"ingrain.timers_retried", "{attempt}", "attempts of a timer that did not get through", false, func(s *Stats) int64 { return int64(s.Host.TimersRetried) }},
	{"ingrain.timer_lag", "ms", "how late the most overdue timer is now", true, func(s *Stats) int64 { return time.Duration.Milliseconds(s.Host.TimerLag) }},
	{"ingrain.resident", "{aggregate}", "aggregates in memory", true, func(s *Stats) int64 { return int64(s.Host.Resident) }},
	{"ingrain.in_flight", "{call}", "calls admitted and not answered", true, func(s *Stats) int64 { return int64(s.Host.InFlight) }},
	{"ingrain.attempts.local", "{call}", "deliveries in this process", false, func(s *Stats) int64 { return int64(s.Local) }},
	{"ingrain.attempts.remote", "{call}", "deliveries to another node", false, func(s *Stats) int64 { return int64(s.Remote) }},
	{"ingrain.attempts.overloaded", "{call}", "deliveries refused because too many to one node were in flight", false, func(s *Stats) int64 { return int64(s.Overloaded) }},
	{"ingrain.retries", "{call}", "deliveries that were not the first attempt", false, func(s *Stats) int64 { return int64(s.Retries) }},
	{"ingrain.envelopes", "{envelope}", "envelopes sent to other nodes", false, func(s *Stats) int64 { return int64(s.Envelopes) }},
	{"ingrain.renewals", "{renewal}", "lease renewals", false, func(s *Stats) int64 { return int64(s.Renewals) }},
	{"ingrain.renewals_failed", "{renewal}", "lease renewals that failed", false, func(s *Stats) int64 { return int64(s.RenewalsFailed) }},
	{"ingrain.claims", "{partition}", "partitions claimed", false, func(s *Stats) int64 { return int64(s.Claims) }},
	{"ingrain.takeovers", "{partition}", "partitions taken by force", false, func(s *Stats) int64 { return int64(s.Takeovers) }},
	{"ingrain.handovers", "{partition}", "partitions given to another node", false, func(s *Stats) int64 { return int64(s.Handovers) }},
	{"ingrain.parked", "{call}", "calls that waited here for a partition on its way to or from this node", false, func(s *Stats) int64 { return int64(s.Parked) }},
	{"ingrain.redirected", "{call}", "parked calls whose partition was elsewhere at last, and that were sent there", false, func(s *Stats) int64 { return int64(s.Redirected) }},
	{"ingrain.events_pushed", "{event}", "events pushed to the views of other nodes", false, func(s *Stats) int64 { return int64(s.EventsPushed) }},
	{"ingrain.events_dropped", "{event}", "events not pushed because too many waited", false, func(s *Stats) int64 { return int64(s.EventsDropped) }},
	{"ingrain.evictions", "{node}", "other nodes evicted by this one", false, func(s *Stats) int64 { return int64(s.Evictions) }},
	{"ingrain.unreached", "{node}", "times another node could not be reached any more", false, func(s *Stats) int64 { return int64(s.Unreached) }},
	{"ingrain.relayed", "{envelope}", "envelopes sent through a third node, for want of contact with their receiver", false, func(s *Stats) int64 { return int64(s.Relayed) }},
	{"ingrain.passed", "{envelope}", "envelopes of other nodes passed on", false, func(s *Stats) int64 { return int64(s.Passed) }},
	{"ingrain.rejoins", "{node}", "times this node came back after an eviction", false, func(s *Stats) int64 { return int64(s.Rejoins) }},
}

// publish registers the readings with the configured meter; the result undoes it.
func (n *Node) publish() (stop func() error, err error) {
	meter := n.config.Meter
	if meter == nil {
		return func() error { return nil }, nil
	}
	instruments := make([]metric.Int64Observable, len(readings))
	all := make([]metric.Observable, len(readings))
	for i, r := range readings {
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
		stats := n.Stats()
		for i, r := range readings {
			o.ObserveInt64(instruments[i], r.read(&stats))
		}
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("cluster: metrics: %w", err)
	}
	return registration.Unregister, nil
}

// traced delivers a request in a span of its own, whose context travels in the
// metadata to the events.
func (n *Node) traced(ctx context.Context, request *aggregate.Request) (aggregate.Response, error) {
	ctx, span := n.config.Tracer.Start(ctx, request.Message.Kind().String()+" "+request.Message.Name(),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("ingrain.type", request.Definition.Name()), attribute.String("ingrain.id", request.ID)))
	defer span.End()
	if c := span.SpanContext(); c.IsValid() && request.Metadata.Trace == "" {
		copied := *request
		copied.Metadata.Trace = fmt.Sprintf("00-%s-%s-%s", c.TraceID(), c.SpanID(), c.TraceFlags())
		request = &copied
	}
	response, err := n.deliver(ctx, request)
	if err != nil {
		span.SetAttributes(attribute.String("ingrain.error", aggregate.KindOf(err).String()))
		if aggregate.KindOf(err) != aggregate.KindRejected {
			span.SetStatus(codes.Error, err.Error())
		}
	}
	return response, err
}

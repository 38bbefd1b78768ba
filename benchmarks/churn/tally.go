package main

import (
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/check"
)

// tally counts outcomes, and how they spread over time.
type tally struct {
	OK, Rejected, Unknown, Failed, Shed int
	Retried                             int // operations that took more than one attempt
	// Answered in each tenth of a second since the beginning.
	Answered []int32
	// Worst latency of each second, and its median, in microseconds.
	Median, Tail []int32

	second    int64
	latencies []time.Duration
	last      progress
}

const (
	tallySlot = int64(100 * time.Millisecond)
	// sampleLimit bounds the latencies kept of a second.
	sampleLimit = 20_000
)

func (t *tally) begin() { t.latencies = make([]time.Duration, 0, sampleLimit) }

func (t *tally) add(r *result) {
	switch r.outcome {
	case check.OK:
		t.OK++
	case check.Rejected:
		t.Rejected++
	case check.Unknown:
		t.Unknown++
	default:
		t.Failed++
	}
	if r.attempts > 1 {
		t.Retried++
	}
	t.roll(r.end / int64(time.Second))
	if r.outcome != check.OK && r.outcome != check.Rejected {
		return
	}
	slot := int(r.end / tallySlot)
	for len(t.Answered) <= slot {
		t.Answered = append(t.Answered, 0)
	}
	t.Answered[slot]++
	if len(t.latencies) < sampleLimit {
		t.latencies = append(t.latencies, time.Duration(r.end-r.call))
	}
}

// roll closes the seconds before this one.
func (t *tally) roll(second int64) {
	for t.second < second {
		sorted := sortedDurations(t.latencies)
		t.Median = append(t.Median, int32(percentile(sorted, 0.5).Microseconds()))
		t.Tail = append(t.Tail, int32(percentile(sorted, 0.99).Microseconds()))
		t.latencies = t.latencies[:0]
		t.second++
	}
}

// progress is what happened since the last time it was asked for.
type progress struct {
	OK, Rejected, Unknown, Failed, Shed int
	InFlight                            int
	Median, Tail                        time.Duration
}

func (t *tally) progress(inFlight int) progress {
	total := progress{OK: t.OK, Rejected: t.Rejected, Unknown: t.Unknown, Failed: t.Failed, Shed: t.Shed}
	since := progress{
		OK: total.OK - t.last.OK, Rejected: total.Rejected - t.last.Rejected, Unknown: total.Unknown - t.last.Unknown,
		Failed: total.Failed - t.last.Failed, Shed: total.Shed - t.last.Shed, InFlight: inFlight,
	}
	if n := len(t.Median); n > 0 {
		since.Median, since.Tail = time.Duration(t.Median[n-1])*time.Microsecond, time.Duration(t.Tail[n-1])*time.Microsecond
	}
	t.last = total
	return since
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// steadySample is a time without faults.
type steadySample struct {
	Rate      int     // that was asked for
	Commands  float64 // that were answered, a second
	Leases    float64 // statements about membership and ownership, a second
	PerSecond map[string]float64
}

// measureSteady counts lease statements at a tenth of the load and at all of it:
// they must not depend on it (F11, F12).
func (h *harness) measureSteady(ctx context.Context) error {
	for _, rate := range []int{h.o.rate / 10, h.o.rate} {
		if err := h.rate(ctx, rate); err != nil {
			return err
		}
		if err := pauseFor(ctx, h.o.lease); err != nil { // what the change of rate did is over
			return err
		}
		before, begin := h.fleet.counters(ctx), time.Now()
		if err := h.clients.Call(ctx, "begin", nil, nil); err != nil {
			return err
		}
		if err := pauseFor(ctx, h.o.steady); err != nil {
			return err
		}
		var w windowResult
		if err := h.clients.Call(ctx, "end", nil, &w); err != nil {
			return err
		}
		after, seconds := h.fleet.counters(ctx), time.Since(begin).Seconds()
		s := steadySample{Rate: rate, Commands: float64(w.OK+w.Rejected) / seconds, PerSecond: map[string]float64{}}
		s.Leases = (after["Store.Leases"] - before["Store.Leases"]) / seconds
		for key := range after {
			s.PerSecond[key] = (after[key] - before[key]) / seconds
		}
		h.steady = append(h.steady, s)
		h.say("steady at %d a second: %.0f answered, %.1f lease statements a second", rate, s.Commands, s.Leases)
	}
	return nil
}

// speed is what a baseline reaches beside what the framework does.
type speed struct {
	Name           string
	This, Baseline float64 // operations a second that were answered
}

// loses says that the baseline is slower, as it should be.
func (s *speed) loses() bool { return s.Baseline < s.This }

// saturatingCallers ask as fast as they are answered.
const saturatingCallers = 128

// compare measures full speed without the baseline and with it, each on a store
// of its own.
func (h *harness) compare(ctx context.Context) (*speed, error) {
	s := &speed{Name: "no-cache"}
	if h.o.baseline.LockPerCommand {
		s.Name = "lock-per-command"
	}
	for _, with := range []bool{false, true} {
		plain := *h.o
		plain.fleet = min(plain.fleet, 10_000)
		name := "speed-" + s.Name
		if !with {
			plain.baseline = baseline{}
			name = "speed-this"
		}
		side := &harness{o: &plain, out: h.out, begin: h.begin, dir: filepath.Join(h.dir, name)}
		rate, err := side.fullSpeed(ctx)
		if err = errors.Join(err, side.close(err == nil, false)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		h.say("%s: %.0f operations a second", name, rate)
		if with {
			s.Baseline = rate
		} else {
			s.This = rate
		}
	}
	return s, nil
}

func (h *harness) fullSpeed(ctx context.Context) (float64, error) {
	if err := h.open(ctx, h.dir); err != nil {
		return 0, err
	}
	var rate float64
	for range 2 { // the first warms up
		if err := h.clients.Call(ctx, "saturate", saturation{Callers: saturatingCallers, For: h.o.saturate}, &rate); err != nil {
			return 0, err
		}
	}
	return rate, nil
}

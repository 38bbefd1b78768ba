package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ingrain-go/ingrain/persistence/postgres/postgrestest"
)

const (
	// haltPatience is how long robots may take to finish their last command,
	// quietPatience how long the settlement may take after them.
	haltPatience  = 45 * time.Second
	quietPatience = 45 * time.Second
)

// trade runs the market once and checks it.
func trade(ctx context.Context, o options, out, errs io.Writer) (_ *summary, err error) {
	screen := out
	if o.json {
		screen = errs
	}
	told := func(text string) { fmt.Fprintln(screen, text) }

	// An interrupt ends the trading; what comes after it is finished.
	work := context.WithoutCancel(ctx)
	dsn, stopServer, err := o.server(ctx, told)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopServer()) }()
	at := o.place(dsn)
	store, err := at.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	audit := newAudit(store, filepath.Join(o.data, "acks", store.Meta().StoreID))
	if err := audit.catchUp(ctx); err != nil {
		return nil, err
	}
	if n := audit.checker.Events(); n > 0 {
		told(fmt.Sprintf("going on from %d events in the store", n))
	}
	audit.begin()
	run := time.Now().UTC().Format("20060102-150405.000")
	fleet, err := launch(ctx, &o, at, func(node string) string {
		return filepath.Join(audit.acks, run+"-"+node+".acks")
	}, told)
	if err != nil {
		return nil, err
	}
	defer fleet.stop(2 * stopPatience)
	for _, c := range fleet.children {
		told(fmt.Sprintf("%s is process %d, page at http://%s/", c.name, c.cmd.Process.Pid, c.peer.HTTP))
	}
	began := time.Now()
	fleet.order(order{Do: "trade"})
	if err := watch(ctx, &o, fleet, audit, told); err != nil {
		return nil, err
	}
	took := time.Since(began)
	told("closing the market, waiting for the settlement")
	if err := fleet.halt(haltPatience); err != nil {
		return nil, err
	}
	settled, err := audit.quiet(work, quietPatience)
	if err != nil {
		return nil, err
	}
	if !settled {
		told(fmt.Sprintf("%d steps are still open after %s", audit.checker.Pending(), quietPatience))
	}
	return audit.conclude(work, &o, fleet, took)
}

// server returns the database to use. Without -dsn it starts a private server.
func (o *options) server(ctx context.Context, told func(string)) (dsn string, stop func() error, err error) {
	none := func() error { return nil }
	if err := os.MkdirAll(o.data, 0o755); err != nil {
		return "", none, fmt.Errorf("-data %s: %w", o.data, err)
	}
	if o.store != storePostgres || o.dsn != "" {
		return o.dsn, none, nil
	}
	told("starting a private PostgreSQL server; its data ends with this run, -dsn names a database that stays")
	server, err := postgrestest.Start(ctx, "")
	if err != nil {
		return "", none, fmt.Errorf("-store postgres without -dsn: %w", err)
	}
	if dsn, err = server.CreateDatabase(ctx); err != nil {
		return "", none, errors.Join(err, server.Stop())
	}
	return dsn, server.Stop, nil
}

// watch prints a line every second while the robots trade.
func watch(ctx context.Context, o *options, fleet *fleet, audit *audit, told func(string)) error {
	var end, kill <-chan time.Time
	if o.duration > 0 {
		timer := time.NewTimer(o.duration)
		defer timer.Stop()
		end = timer.C
	}
	if o.kill > 0 {
		timer := time.NewTimer(o.kill)
		defer timer.Stop()
		kill = timer.C
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told("   time  nodes  commands/s  acknowledged  rejected    trades   steps open   p50 ms   p99 ms")
	var last int64
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			return nil
		case <-kill:
			fleet.kill()
		case <-tick.C:
			if len(fleet.alive()) == 0 {
				return errors.New("no node is left")
			}
			if err := audit.catchUp(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			f := fleet.total()
			told(fmt.Sprintf("%6.0fs  %5d  %10d  %12d  %8d  %8d  %11d  %7.1f  %7.1f", time.Since(began).Seconds(),
				len(fleet.alive()), f.Commands-last, f.Acknowledged, f.Rejected, audit.trades(), audit.checker.Pending(),
				milliseconds(f.Latency.Quantile(0.50)), milliseconds(f.Latency.Quantile(0.99))))
			last = f.Commands
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

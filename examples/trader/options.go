package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/postgres"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// partitions of a store that this program creates.
const partitions = 64

// lastPort is the highest there is.
const lastPort = 65535

// The stores to choose from.
const (
	storeSQLite   = "sqlite"
	storePostgres = "postgres"
)

type options struct {
	nodes    int
	store    string
	dsn      string
	data     string
	robots   int
	duration time.Duration
	http     string
	json     bool
	kill     time.Duration
}

func parse(args []string, errs io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("trader", flag.ContinueOnError)
	f.SetOutput(errs)
	f.IntVar(&o.nodes, "nodes", 3, "node processes, 1 to 16")
	f.StringVar(&o.store, "store", storeSQLite, "where events are kept: sqlite (embedded, in -data) or postgres")
	f.StringVar(&o.dsn, "dsn", "", "PostgreSQL database to use; without it, -store postgres starts a private server\nwhose data ends with the run")
	f.StringVar(&o.data, "data", "trader-data", "folder for the store, the acknowledgements and the nodes' logs")
	f.IntVar(&o.robots, "robots", 24, "robot traders, spread over the nodes, 0 to 1000")
	f.DurationVar(&o.duration, "for", 20*time.Second, "how long robots trade; 0 until interrupted")
	f.StringVar(&o.http, "http", "127.0.0.1:8080", "web address of the first node; the others get the next free ports")
	f.BoolVar(&o.json, "json", false, "print one JSON object at the end, and everything else on stderr")
	f.DurationVar(&o.kill, "kill", 0, "after this time kill the last node with SIGKILL; 0 never")
	f.Usage = func() {
		fmt.Fprintln(errs, "A stock market on several processes, checked at the end. Flags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(f.Args())
}

func (o *options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.nodes < 1 || o.nodes > 16:
		return fmt.Errorf("-nodes %d: want 1 to 16", o.nodes)
	case o.robots < 0 || o.robots > 1000:
		return fmt.Errorf("-robots %d: want 0 to 1000", o.robots)
	case o.store != storeSQLite && o.store != storePostgres:
		return fmt.Errorf("-store %q: want %s or %s", o.store, storeSQLite, storePostgres)
	case o.dsn != "" && o.store != storePostgres:
		return errors.New("-dsn goes with -store postgres")
	case o.data == "":
		return errors.New("-data names no folder")
	case o.duration < 0:
		return fmt.Errorf("-for %s: want 0 or more", o.duration)
	case o.kill < 0:
		return fmt.Errorf("-kill %s: want 0 or more", o.kill)
	case o.kill > 0 && o.nodes < 2:
		return errors.New("-kill needs another node to go on: -nodes 2 or more")
	case o.kill > 0 && o.duration > 0 && o.kill >= o.duration:
		return fmt.Errorf("-kill %s: want less than -for %s", o.kill, o.duration)
	}
	_, port, err := o.address()
	switch {
	case err != nil:
		return fmt.Errorf("-http %q: want host:port: %w", o.http, err)
	case port > 0 && port+o.nodes-1 > lastPort:
		return fmt.Errorf("-http %q: leaves no ports for %d nodes", o.http, o.nodes)
	}
	return nil
}

// address splits -http.
func (o *options) address() (host string, port int, err error) {
	host, text, err := net.SplitHostPort(o.http)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	if err == nil && (port < 0 || port > lastPort) {
		err = errors.New("no such port")
	}
	return host, port, err
}

// place says where the market's store is. It is told to the nodes.
type place struct {
	Store string
	DSN   string
	Dir   string
}

func (p place) open(ctx context.Context) (persistence.Store, error) {
	if p.Store == storePostgres {
		return postgres.Open(ctx, postgres.Config{DSN: p.DSN, Partitions: partitions})
	}
	return sqlite.Open(ctx, sqlite.Config{Dir: p.Dir, Partitions: partitions})
}

func (o *options) place(dsn string) place {
	return place{Store: o.store, DSN: dsn, Dir: filepath.Join(o.data, "store")}
}

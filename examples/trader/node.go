package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/examples/trader/check"
	"github.com/ingrain-go/ingrain/examples/trader/figures"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/robots"
	"github.com/ingrain-go/ingrain/examples/trader/settlement"
	"github.com/ingrain-go/ingrain/examples/trader/web"
	"github.com/ingrain-go/ingrain/persistence"
)

// specEnv holds a node's [spec] and makes the program that node.
const specEnv = "INGRAIN_TRADER_NODE"

// spec is what a node is told at its start.
type spec struct {
	Name   string
	Place  place
	Acks   string   // file for acknowledgements
	Robots []string // names
	Host   string   // to serve the page on
	Port   int
	Fixed  bool // this port and no other
}

// order is a line that a node reads from its standard input.
//
//	peers  tells the page who else was started
//	trade  lets the robots loose
//	halt   stops the robots and closes the market; the node answers halted
//
// The end of the input ends the node.
type order struct {
	Do    string
	Peers []web.Peer `json:",omitempty"`
}

// report is a line that a node writes to its standard output.
type report struct {
	Ready   *web.Peer        `json:",omitempty"`
	Figures *figures.Figures `json:",omitempty"`
	Halted  bool             `json:",omitempty"`
	Error   string           `json:",omitempty"`
}

const (
	// reportEvery is how often a node tells its figures.
	reportEvery = 200 * time.Millisecond
	// startPatience bounds the way to a node that is ready, stopPatience the
	// way out.
	startPatience = 30 * time.Second
	stopPatience  = 10 * time.Second
	// portsTried is how many ports are tried from the wanted one on.
	portsTried = 100
)

// nodeMain is the program when it is a node.
func nodeMain(encoded string) int {
	// The parent decides what an interrupt at the terminal means.
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var s spec
	reports := &reporter{encoder: json.NewEncoder(os.Stdout)}
	err := json.Unmarshal([]byte(encoded), &s)
	if err == nil {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", s.Name))
		err = serve(ctx, &s, os.Stdin, reports)
	}
	if err != nil {
		slog.Error("node ended", "error", err)
		reports.send(report{Error: err.Error()})
		return 1
	}
	return 0
}

// reporter writes reports, whole lines at a time.
type reporter struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (r *reporter) send(line report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.encoder.Encode(line); err != nil {
		slog.Warn("report not sent", "error", err) // the parent is gone, and its end of our input too
	}
}

// member is a node with everything that runs on it.
type member struct {
	spec    *spec
	store   persistence.Store
	node    *cluster.Node
	settler *settlement.Settler
	acks    *check.AckLog
	desk    *figures.Desk
	web     *web.Server
	crew    *robots.Crew
}

// serve runs a node until its input or ctx ends.
func serve(ctx context.Context, s *spec, input io.Reader, reports *reporter) (err error) {
	m := &member{spec: s}
	defer func() {
		last, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		err = errors.Join(err, m.stop(last))
	}()
	start, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := m.start(start); err != nil {
		return err
	}
	reports.send(report{Ready: &web.Peer{
		Name: s.Name, ID: m.node.ID(), Address: m.node.Address(), HTTP: m.web.Address(), PID: os.Getpid(),
	}})
	orders := make(chan order)
	go func() { // ends with the input, or with the process
		defer close(orders)
		for lines := bufio.NewScanner(input); lines.Scan(); {
			var o order
			if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
				slog.Error("order not understood", "error", err)
				continue
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f := m.figures()
			reports.send(report{Figures: &f})
		case o, ok := <-orders:
			if !ok {
				return nil
			}
			m.obey(o, reports)
		}
	}
}

func (m *member) obey(o order, reports *reporter) {
	switch o.Do {
	case "peers":
		m.web.SetPeers(o.Peers)
	case "trade":
		m.crew = robots.Start(robots.Config{Gateway: m.node, Desk: m.desk, Names: m.spec.Robots})
	case "halt":
		m.web.Close()
		if m.crew != nil {
			m.crew.Stop()
		}
		f := m.figures()
		reports.send(report{Figures: &f, Halted: true})
	default:
		slog.Error("order not understood", "order", o.Do)
	}
}

func (m *member) start(ctx context.Context) (err error) {
	if m.store, err = m.spec.Place.open(ctx); err != nil {
		return err
	}
	if m.acks, err = check.CreateAckLog(m.spec.Acks); err != nil {
		return err
	}
	listener, err := m.listen(ctx)
	if err != nil {
		return err
	}
	m.node, err = cluster.Start(ctx, &cluster.Config{Store: m.store, Aggregates: market.Aggregates(), Name: "trader"})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	m.settler = settlement.Start(settlement.Config{
		Store: m.store, Name: "settlement", Gateway: m.node, Owned: m.owned, Welcome: market.Welcome,
	})
	m.desk = &figures.Desk{Recorder: &figures.Recorder{}, Acks: m.acks}
	m.web = web.Serve(listener, web.Config{
		Node: m.node, Name: m.spec.Name, Desk: m.desk, Figures: m.figures, Logger: slog.Default(),
	})
	if err := m.node.Ready(ctx); err != nil {
		return err
	}
	return market.Open(ctx, m.node)
}

// listen opens the web address: the wanted port, or one of the next.
func (m *member) listen(ctx context.Context) (listener net.Listener, err error) {
	for port := m.spec.Port; port < m.spec.Port+portsTried && port <= lastPort; port++ {
		address := net.JoinHostPort(m.spec.Host, strconv.Itoa(port))
		if listener, err = web.Listen(ctx, address); err == nil {
			return listener, nil
		}
		if m.spec.Fixed {
			return nil, fmt.Errorf("-http %s: %w", address, err)
		}
	}
	return nil, fmt.Errorf("-http: no free port of %d from %d on: %w", portsTried, m.spec.Port, err)
}

// owned lists the partitions that this node owns.
func (m *member) owned() []persistence.Partition {
	self := m.node.ID()
	var out []persistence.Partition
	for _, p := range m.node.Partitions() {
		if p.Owner == self && self != "" {
			out = append(out, p.Partition)
		}
	}
	return out
}

func (m *member) figures() figures.Figures {
	f := m.desk.Recorder.Snapshot()
	stats := m.settler.Stats()
	f.Steps, f.Parked = stats.Steps, stats.Parked
	return f
}

// stop ends what start began, in reverse order.
func (m *member) stop(ctx context.Context) error {
	var errs []error
	if m.crew != nil {
		m.crew.Stop()
	}
	if m.web != nil {
		errs = append(errs, m.web.Stop(ctx))
	}
	if m.settler != nil {
		errs = append(errs, m.settler.Stop(ctx))
	}
	if m.node != nil {
		errs = append(errs, m.node.Stop(ctx))
	}
	if m.acks != nil {
		errs = append(errs, m.acks.Close())
	}
	if m.store != nil {
		errs = append(errs, m.store.Close())
	}
	return errors.Join(errs...)
}

// Package web shows the market to people and takes their orders: a JSON API and
// one page, the same on every node.
//
//	GET  /                                the page
//	GET  /api/state                       everything the page shows
//	GET  /api/nodes                       members, who owns what, counters
//	GET  /api/books                       all books
//	GET  /api/books/{book}                one; ?depth=N levels, 0 for all
//	GET  /api/books/{book}/orders         its open orders
//	GET  /api/portfolios/{user}           cash, shares, open orders
//	POST /api/portfolios/{user}/deposit   {"cents","request"}
//	POST /api/portfolios/{user}/withdraw  {"cents","request"}
//	POST /api/users                       {"name"}
//	POST /api/orders                      {"user","book","side","price","quantity","request"}
//	POST /api/orders/{id}/cancel          {"user","book"}
//	GET  /livez /readyz                   health
//
// There is no log-in: it is a demonstration for one machine. Changes are made by
// POST with a JSON body from the same origin only. Every error is JSON and of
// one of the four kinds that the framework knows.
package web

import (
	"context"
	"embed"
	"errors"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/figures"
	"github.com/ingrain-go/ingrain/persistence"
)

// Node is what the web needs of a cluster node.
type Node interface {
	aggregate.Gateway
	ID() persistence.NodeID
	Members() []persistence.Node
	Partitions() []persistence.Ownership
	Owner(aggregateType, id string) persistence.Ownership
	Ready(ctx context.Context) error
}

// Peer is a node as the program that started it knows it.
type Peer struct {
	Name    string             `json:"name"`
	ID      persistence.NodeID `json:"id"`
	Address string             `json:"address"` // for its peers
	HTTP    string             `json:"http"`
	PID     int                `json:"pid"`
}

// Config says what to serve. All fields are needed.
type Config struct {
	Node Node
	// Name of this node, for people.
	Name string
	Desk *figures.Desk
	// Figures are those of this node.
	Figures func() figures.Figures
	Logger  *slog.Logger
}

// Server serves the market on one address. [Serve] makes one. It is safe for
// concurrent use.
type Server struct {
	config   Config
	http     http.Server
	listener net.Listener
	serving  sync.WaitGroup
	peers    atomic.Pointer[[]Peer]

	changing sync.RWMutex // held for reading by every change under way
	closed   bool         // under changing
}

//go:embed assets
var assets embed.FS

var page = template.Must(template.ParseFS(assets, "assets/index.html"))

// patience bounds one request.
const patience = 5 * time.Second

// Listen opens an address. Serve then answers on it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

// Serve answers on a listener until Stop.
func Serve(listener net.Listener, config Config) *Server {
	s := &Server{config: config, listener: listener}
	s.http = http.Server{
		Handler: s.handler(), ReadHeaderTimeout: patience, ReadTimeout: 2 * patience, WriteTimeout: 4 * patience,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(config.Logger.Handler(), slog.LevelWarn),
	}
	s.serving.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			config.Logger.Error("web server ended", "error", err)
		}
	})
	return s
}

// Address is where the server listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// SetPeers tells the page about the nodes that were started together.
func (s *Server) SetPeers(peers []Peer) { s.peers.Store(&peers) }

// Close closes the market: it waits for the changes that were begun, each of
// which has a time limit, and refuses every other. Reading goes on.
func (s *Server) Close() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.closed = true
}

// Stop ends the server when the requests under way are answered.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.serving.Wait()
	return err
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.Handle("GET /assets/", cached(http.FileServerFS(assets)))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, map[string]bool{"live": true}) })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /api/state", s.state)
	mux.HandleFunc("GET /api/nodes", s.nodes)
	mux.HandleFunc("GET /api/books", s.books)
	mux.HandleFunc("GET /api/books/{book}", s.book)
	mux.HandleFunc("GET /api/books/{book}/orders", s.openOrders)
	mux.HandleFunc("GET /api/portfolios/{user}", s.portfolio)
	mux.HandleFunc("POST /api/portfolios/{user}/deposit", s.deposit)
	mux.HandleFunc("POST /api/portfolios/{user}/withdraw", s.withdraw)
	mux.HandleFunc("POST /api/users", s.signUp)
	mux.HandleFunc("POST /api/orders", s.place)
	mux.HandleFunc("POST /api/orders/{id}/cancel", s.cancel)
	return s.guard(mux)
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, struct{ Name string }{s.config.Name}); err != nil {
		s.config.Logger.Warn("page not sent", "error", err)
	}
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.config.Node.Ready(ctx); err != nil {
		fail(w, aggregate.NotDone(aggregate.ReasonNoOwner, err))
		return
	}
	reply(w, http.StatusOK, map[string]bool{"ready": true})
}

func cached(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		h.ServeHTTP(w, r)
	})
}

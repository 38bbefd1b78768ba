package web

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/users"
	"github.com/ingrain-go/ingrain/persistence"
)

// Cluster is who is there and who owns what.
type Cluster struct {
	Self  string    `json:"self"`
	Nodes []NodeRow `json:"nodes"`
	// Partitions are by number; Owner is a place in Nodes, -1 for nobody.
	Partitions []PartitionRow `json:"partitions"`
	Commands   int64          `json:"commands"`
	Acked      int64          `json:"acknowledged"`
	Rejected   int64          `json:"rejected"`
	Steps      int64          `json:"steps"`
	Parked     int64          `json:"parked"`
	P50        float64        `json:"p50_ms"`
	P99        float64        `json:"p99_ms"`
}

// NodeRow is one node. A node that is gone stays listed, dead.
type NodeRow struct {
	Peer
	State persistence.NodeState `json:"state"`
	Self  bool                  `json:"self"`
	Owns  int                   `json:"owns"`
}

// PartitionRow is one partition's owner.
type PartitionRow struct {
	Owner int               `json:"o"`
	Epoch persistence.Epoch `json:"e"`
}

func (s *Server) cluster() Cluster {
	node := s.config.Node
	var rows []NodeRow
	if peers := s.peers.Load(); peers != nil {
		for _, p := range *peers {
			rows = append(rows, NodeRow{Peer: p, State: persistence.Dead})
		}
	}
	members := node.Members()
	slices.SortFunc(members, func(a, b persistence.Node) int { return cmp.Compare(a.ID, b.ID) }) // by age
	index := map[persistence.NodeID]int{}
	for _, m := range members {
		if m.State == persistence.Dead {
			continue
		}
		i := slices.IndexFunc(rows, func(r NodeRow) bool { return r.ID == m.ID || r.Address == m.Address })
		if i < 0 {
			rows = append(rows, NodeRow{Peer: Peer{Name: "node at " + m.Address, Address: m.Address}})
			i = len(rows) - 1
		}
		rows[i].ID, rows[i].State, rows[i].Self = m.ID, m.State, m.ID == node.ID()
		index[m.ID] = i
	}
	view := Cluster{Self: s.config.Name, Nodes: rows}
	for _, p := range node.Partitions() {
		owner, ok := index[p.Owner]
		if !ok {
			owner = -1
		} else {
			rows[owner].Owns++
		}
		view.Partitions = append(view.Partitions, PartitionRow{Owner: owner, Epoch: p.Epoch})
	}
	f := s.config.Figures()
	view.Commands, view.Acked, view.Rejected, view.Steps, view.Parked = f.Commands, f.Acknowledged, f.Rejected, f.Steps, f.Parked
	view.P50 = float64(f.Latency.Quantile(0.50).Microseconds()) / 1000
	view.P99 = float64(f.Latency.Quantile(0.99).Microseconds()) / 1000
	return view
}

// BookRow is a book and where it lives.
type BookRow struct {
	ID        string                `json:"id"`
	Owner     persistence.NodeID    `json:"owner"`
	Partition persistence.Partition `json:"partition"`
	Book      *book.View            `json:"book,omitempty"`
	Error     *Fault                `json:"error,omitempty"`
}

func (s *Server) allBooks(ctx context.Context, depth int) []BookRow {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rows := make([]BookRow, len(market.Companies))
	var group sync.WaitGroup
	for i, c := range market.Companies {
		group.Go(func() { rows[i] = s.bookRow(ctx, c.ID, depth) })
	}
	group.Wait()
	return rows
}

func (s *Server) bookRow(ctx context.Context, id string, depth int) BookRow {
	at := s.config.Node.Owner(book.Books.Name(), id)
	row := BookRow{ID: id, Owner: at.Owner, Partition: at.Partition}
	view, err := aggregate.Ask(ctx, book.Books.Ref(s.config.Node, id), book.Ladder{Depth: depth})
	if err != nil {
		fault := faultOf(err)
		row.Error = &fault
		return row
	}
	row.Book = &view
	return row
}

func (s *Server) state(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, struct {
		Cluster Cluster   `json:"cluster"`
		Books   []BookRow `json:"books"`
	}{s.cluster(), s.allBooks(r.Context(), 8)})
}

func (s *Server) nodes(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.cluster()) }

func (s *Server) books(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, s.allBooks(r.Context(), 1))
}

func (s *Server) book(w http.ResponseWriter, r *http.Request) {
	depth := 10
	if text := r.URL.Query().Get("depth"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			refuse(w, http.StatusBadRequest, fmt.Errorf("depth %q is not a number of levels", text))
			return
		}
		depth = n
	}
	ask(s, w, r, book.Books, r.PathValue("book"), book.Ladder{Depth: depth})
}

func (s *Server) openOrders(w http.ResponseWriter, r *http.Request) {
	ask(s, w, r, book.Books, r.PathValue("book"), book.Resters{})
}

func (s *Server) portfolio(w http.ResponseWriter, r *http.Request) {
	id, err := users.ID(r.PathValue("user"))
	if err != nil {
		fail(w, err)
		return
	}
	ask(s, w, r, portfolio.Portfolios, id, portfolio.Statement{})
}

// ask answers with an aggregate's answer.
func ask[S, R any](s *Server, w http.ResponseWriter, r *http.Request, typ *aggregate.Type[S], id string, q aggregate.Query[S, R]) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	answer, err := aggregate.Ask(ctx, typ.Ref(s.config.Node, id), q)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, answer)
}

func (s *Server) signUp(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Name string `json:"name"`
	}
	if err := read(r, &body); err != nil {
		badRequest(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*patience)
	defer cancel()
	id, known, err := market.Join(ctx, s.config.Node, body.Name)
	switch {
	case err != nil:
		fail(w, err)
	case known:
		fail(w, users.ErrTaken)
	default:
		reply(w, http.StatusCreated, map[string]string{"user": id})
	}
}

// Accepted says that an order is on its way to its book, or was cancelled, or
// that cash was moved.
type Accepted struct {
	Order portfolio.OrderID `json:"order,omitempty"`
	// Request is the client's id of what he asked for; the same request sent
	// again has no second effect.
	Request   string `json:"request,omitempty"`
	Command   string `json:"command"`
	Duplicate bool   `json:"duplicate"`
}

func (s *Server) place(w http.ResponseWriter, r *http.Request) {
	var body struct {
		User     string             `json:"user"`
		Book     string             `json:"book"`
		Side     portfolio.Side     `json:"side"`
		Price    portfolio.Cents    `json:"price"`
		Quantity portfolio.Quantity `json:"quantity"`
		Request  string             `json:"request"`
	}
	if err := read(r, &body); err != nil {
		badRequest(w, err)
		return
	}
	user, err := users.ID(body.User)
	if err != nil {
		fail(w, err)
		return
	}
	request, err := requestID(body.Request)
	if err != nil {
		badRequest(w, err)
		return
	}
	company, ok := market.Find(body.Book)
	switch {
	case !ok:
		fail(w, book.ErrNotOpen)
		return
	case book.Price(body.Price)%company.Terms.Tick != 0:
		fail(w, book.ErrPrice.With("tick", fmt.Sprint(company.Terms.Tick)))
		return
	case book.Quantity(body.Quantity)%company.Terms.Lot != 0:
		fail(w, book.ErrQuantity.With("lot", fmt.Sprint(company.Terms.Lot)))
		return
	}
	var order portfolio.OrderID
	receipt, err := s.run(r, user, func(ctx context.Context) (receipt aggregate.Receipt, err error) {
		order, receipt, err = market.Place(ctx, s.config.Node, market.Order{
			User: user, Request: request, Book: body.Book, Side: body.Side, Price: body.Price, Quantity: body.Quantity,
		})
		return receipt, err
	})
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusAccepted, Accepted{
		Order: order, Request: request.String(), Command: receipt.Command.String(), Duplicate: receipt.Duplicate,
	})
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) {
	var body struct {
		User string `json:"user"`
		Book string `json:"book"`
	}
	if err := read(r, &body); err != nil {
		badRequest(w, err)
		return
	}
	user, err := users.ID(body.User)
	if err != nil {
		fail(w, err)
		return
	}
	if _, ok := market.Find(body.Book); !ok {
		fail(w, book.ErrNotOpen)
		return
	}
	order := portfolio.OrderID(r.PathValue("id"))
	receipt, err := s.run(r, user, func(ctx context.Context) (aggregate.Receipt, error) {
		return market.Cancel(ctx, s.config.Node, user, body.Book, order)
	})
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, Accepted{Order: order, Command: receipt.Command.String(), Duplicate: receipt.Duplicate})
}

func (s *Server) deposit(w http.ResponseWriter, r *http.Request) {
	s.cash(w, r, func(c portfolio.Cents) aggregate.Command[portfolio.Portfolio] { return portfolio.Deposit{Cents: c} })
}

func (s *Server) withdraw(w http.ResponseWriter, r *http.Request) {
	s.cash(w, r, func(c portfolio.Cents) aggregate.Command[portfolio.Portfolio] { return portfolio.Withdraw{Cents: c} })
}

// cash moves cash into a portfolio or out of it.
func (s *Server) cash(w http.ResponseWriter, r *http.Request, command func(portfolio.Cents) aggregate.Command[portfolio.Portfolio]) {
	var body struct {
		Cents   portfolio.Cents `json:"cents"`
		Request string          `json:"request"`
	}
	if err := read(r, &body); err != nil {
		badRequest(w, err)
		return
	}
	request, err := requestID(body.Request)
	if err != nil {
		badRequest(w, err)
		return
	}
	user, err := users.ID(r.PathValue("user"))
	if err != nil {
		fail(w, err)
		return
	}
	receipt, err := s.run(r, user, func(ctx context.Context) (aggregate.Receipt, error) {
		return portfolio.Portfolios.Ref(s.config.Node, user).Send(ctx, command(body.Cents), aggregate.WithCommandID(request))
	})
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, Accepted{Request: request.String(), Command: receipt.Command.String(), Duplicate: receipt.Duplicate})
}

// requestID is the client's own id of what he asks for, or a new one.
func requestID(text string) (aggregate.CommandID, error) {
	if text == "" {
		return aggregate.NewCommandID(), nil
	}
	return aggregate.ParseCommandID(text)
}

// run executes a user's command at the desk. A client that goes away does not
// stop it.
func (s *Server) run(r *http.Request, user string, command func(context.Context) (aggregate.Receipt, error)) (aggregate.Receipt, error) {
	ctx := aggregate.WithMetadata(context.WithoutCancel(r.Context()), aggregate.Metadata{User: user})
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.config.Desk.Run(ctx, command)
}

package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/examples/trader/book"
	"github.com/ingrain-go/ingrain/examples/trader/figures"
	"github.com/ingrain-go/ingrain/examples/trader/market"
	"github.com/ingrain-go/ingrain/examples/trader/portfolio"
	"github.com/ingrain-go/ingrain/examples/trader/settlement"
	"github.com/ingrain-go/ingrain/examples/trader/web"
	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/memory"
)

// receipts keeps what the desk gives out.
type receipts struct {
	mu  sync.Mutex
	all []aggregate.Receipt
}

func (r *receipts) Add(receipt aggregate.Receipt) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, receipt)
	return nil
}

type site struct {
	t        *testing.T
	server   *web.Server
	receipts *receipts
}

// open starts a node with the market on it, and its page.
func open(t *testing.T) *site {
	store, err := memory.Open(memory.Config{Partitions: 8})
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	node, err := cluster.Start(t.Context(), &cluster.Config{Store: store, Aggregates: market.Aggregates(), Logger: quiet, LockDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Stop(context.Background())) })
	settler := settlement.Start(settlement.Config{
		Store: store, Name: "settlement", Gateway: node, Welcome: market.Welcome, Logger: quiet,
		Owned: func() []persistence.Partition { return []persistence.Partition{0, 1, 2, 3, 4, 5, 6, 7} },
	})
	t.Cleanup(func() { require.NoError(t, settler.Stop(context.Background())) })
	require.NoError(t, node.Ready(t.Context()))
	require.NoError(t, market.Open(t.Context(), node))
	listener, err := web.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	s := &site{t: t, receipts: &receipts{}}
	recorder := &figures.Recorder{}
	s.server = web.Serve(listener, web.Config{
		Node: node, Name: "node-1", Desk: &figures.Desk{Recorder: recorder, Acks: s.receipts}, Figures: recorder.Snapshot, Logger: quiet,
	})
	t.Cleanup(func() { require.NoError(t, s.server.Stop(context.Background())) })
	s.server.SetPeers([]web.Peer{
		{Name: "node-1", ID: node.ID(), Address: node.Address(), HTTP: s.server.Address()}, {Name: "node-2", ID: "gone", Address: "gone"},
	})
	return s
}

// call sends a request and decodes the answer.
func (s *site) call(method, path, body string, change func(*http.Request), into any) int {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.server.Address()+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	if into != nil {
		require.NoError(s.t, json.Unmarshal(content, into), "%s", content)
	}
	return response.StatusCode
}

func (s *site) get(path string, into any) int { return s.call(http.MethodGet, path, "", nil, into) }
func (s *site) post(path, body string, into any) int {
	return s.call(http.MethodPost, path, body, nil, into)
}

func TestOrdersFromThePageTradeAndSettle(t *testing.T) {
	s := open(t)
	require.Equal(t, 201, s.post("/api/users", `{"name":"Ann"}`, nil))
	require.Equal(t, 201, s.post("/api/users", `{"name":"bob"}`, nil))
	var sold, bought, again web.Accepted
	var view portfolio.View
	require.Eventually(t, func() bool {
		return s.get("/api/portfolios/ann", &view) == 200 && len(view.Holdings) == len(market.Companies)
	}, 10*time.Second, 5*time.Millisecond, "the first shares did not arrive")
	require.Equal(t, 202, s.post("/api/orders", `{"user":"ann","book":"shell","side":"sell","price":5000,"quantity":100}`, &sold))
	request := aggregate.NewCommandID().String()
	buy := `{"user":"bob","book":"shell","side":"buy","price":5100,"quantity":40,"request":"` + request + `"}`
	require.Eventually(t, func() bool {
		var open []book.Rester
		return s.get("/api/books/shell/orders", &open) == 200 && len(open) == 1
	}, 10*time.Second, 5*time.Millisecond, "the order did not reach the book")
	require.Equal(t, 202, s.post("/api/orders", buy, &bought))
	require.Equal(t, 202, s.post("/api/orders", buy, &again))
	require.False(t, bought.Duplicate)
	require.True(t, again.Duplicate, "a double click is one order")
	require.Equal(t, bought.Order, again.Order)
	require.Equal(t, request, again.Request)

	require.Eventually(t, func() bool {
		s.get("/api/portfolios/BOB", &view)
		return len(view.Orders) == 0 && view.Reserved == 0
	}, 10*time.Second, 5*time.Millisecond, "the trade did not settle")
	require.Equal(t, market.Welcome-40*5000, view.Available)

	cancel := "/api/orders/" + string(sold.Order) + "/cancel"
	var problem web.Problem
	require.Equal(t, 409, s.post(cancel, `{"user":"bob","book":"shell"}`, &problem))
	require.Equal(t, "not-your-order", problem.Error.Code)
	require.Equal(t, 200, s.post(cancel, `{"user":"ann","book":"shell"}`, nil))
	require.Equal(t, 409, s.post(cancel, `{"user":"ann","book":"shell"}`, &problem))
	require.Equal(t, "order-not-open", problem.Error.Code)
	require.Eventually(t, func() bool {
		s.get("/api/portfolios/ann", &view)
		return len(view.Orders) == 0
	}, 10*time.Second, 5*time.Millisecond, "the reservation was not released")
	require.Equal(t, market.Welcome+40*5000, view.Available)
	require.Len(t, s.receipts.all, 4)
}

func TestCashComesAndGoesOnce(t *testing.T) {
	s := open(t)
	require.Equal(t, 201, s.post("/api/users", `{"name":"ann"}`, nil))
	body := `{"cents":700,"request":"` + aggregate.NewCommandID().String() + `"}`
	var first, again web.Accepted
	require.Equal(t, 200, s.post("/api/portfolios/ann/deposit", body, &first))
	require.Equal(t, 200, s.post("/api/portfolios/ANN/deposit", body, &again))
	require.False(t, first.Duplicate)
	require.True(t, again.Duplicate)
	require.Equal(t, 200, s.post("/api/portfolios/ann/withdraw", `{"cents":200}`, nil))
	var view portfolio.View
	require.Equal(t, 200, s.get("/api/portfolios/ann", &view))
	require.Equal(t, market.Welcome+500, view.Available)
	require.Len(t, s.receipts.all, 3)
}

// pausing is a body of which the server gets the first part, and the rest when
// the test lets it go.
type pausing struct {
	rest    io.Reader
	reading chan struct{} // closed when the server has begun to read
	resume  chan struct{}
	once    sync.Once
}

func (p *pausing) Read(b []byte) (int, error) {
	p.once.Do(func() {
		close(p.reading)
		<-p.resume
	})
	return p.rest.Read(b)
}

func TestTheMarketClosesWhenWhatWasBegunIsDone(t *testing.T) {
	s := open(t)
	require.Equal(t, 201, s.post("/api/users", `{"name":"ann"}`, nil))
	body := &pausing{rest: strings.NewReader(`{"cents":700}`), reading: make(chan struct{}), resume: make(chan struct{})}
	status, closed := make(chan int, 1), make(chan struct{})
	go func() {
		status <- s.call(http.MethodPost, "/api/portfolios/ann/deposit", "", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(body), -1
			r.Header.Set("Expect", "100-continue") // the body is sent when the server wants to read it
		}, nil)
	}()
	<-body.reading
	go func() {
		defer close(closed)
		s.server.Close()
	}()
	isClosed := func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	}
	require.Never(t, isClosed, 100*time.Millisecond, 5*time.Millisecond, "a change is under way")
	close(body.resume)
	require.Equal(t, 200, <-status)
	<-closed
	require.Len(t, s.receipts.all, 1)
	var problem web.Problem
	require.Equal(t, 503, s.post("/api/portfolios/ann/deposit", `{"cents":700}`, &problem))
	require.Equal(t, "not done", problem.Error.Kind)
	require.Equal(t, 200, s.get("/api/portfolios/ann", nil), "one can still look")
}

func TestBadInputGetsOneOfFourKinds(t *testing.T) {
	s := open(t)
	require.Equal(t, 201, s.post("/api/users", `{"name":"ann"}`, nil))
	order := func(change string) string {
		return strings.NewReplacer("CHANGE", change).Replace(`{"user":"ann","book":"shell","side":"buy","price":5000,"quantity":10,CHANGE}`)
	}
	big := `{"name":"` + strings.Repeat("x", 20<<10) + `"}`
	for _, c := range []struct {
		name, method, path, body string
		change                   func(*http.Request)
		status                   int
		kind, code               string
	}{
		{"name taken", "POST", "/api/users", `{"name":"ANN"}`, nil, 409, "rejected", "name-taken"},
		{"bad name", "POST", "/api/users", `{"name":"a b"}`, nil, 409, "rejected", "invalid-name"},
		{"no JSON", "POST", "/api/users", `name=ann`, nil, 400, "invalid", "bad-request"},
		{"two values", "POST", "/api/users", `{"name":"x"}{}`, nil, 400, "invalid", "bad-request"},
		{"unknown field", "POST", "/api/users", `{"nome":"x"}`, nil, 400, "invalid", "bad-request"},
		{"too large", "POST", "/api/users", big, nil, 413, "invalid", "bad-request"},
		{"a form", "POST", "/api/users", `name=x`, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415, "invalid", "bad-request"},
		{"another site", "POST", "/api/users", `{"name":"x"}`, func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403, "invalid", "bad-request"},
		{"another site, by its browser", "POST", "/api/users", `{"name":"x"}`, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403, "invalid", "bad-request"},
		{"another name for us", "GET", "/api/state", "", func(r *http.Request) { r.Host = "evil.example" }, 403, "invalid", "bad-request"},
		{"a change by GET", "GET", "/api/orders", "", nil, 405, "invalid", "bad-request"},
		{"another method", "DELETE", "/api/books", "", nil, 405, "invalid", "bad-request"},
		{"no such path", "GET", "/api/nothing", "", nil, 404, "invalid", "bad-request"},
		{"price no integer", "POST", "/api/orders", order(`"price":50.5`), nil, 400, "invalid", "bad-request"},
		{"price too large", "POST", "/api/orders", order(`"price":99999999999999999999`), nil, 400, "invalid", "bad-request"},
		{"price off the tick", "POST", "/api/orders", order(`"price":5001`), nil, 409, "rejected", "invalid-price"},
		{"price below zero", "POST", "/api/orders", order(`"price":-10`), nil, 409, "rejected", "invalid-order"},
		{"no price", "POST", "/api/orders", order(`"price":0`), nil, 409, "rejected", "invalid-order"},
		{"quantity off the lot", "POST", "/api/orders", order(`"quantity":11`), nil, 409, "rejected", "invalid-quantity"},
		{"no side", "POST", "/api/orders", order(`"side":"up"`), nil, 409, "rejected", "invalid-order"},
		{"no such book", "POST", "/api/orders", order(`"book":"x"`), nil, 404, "rejected", "unknown-book"},
		{"no such user", "POST", "/api/orders", order(`"user":"nobody"`), nil, 404, "rejected", "unknown-portfolio"},
		{"bad user", "POST", "/api/orders", order(`"user":""`), nil, 409, "rejected", "invalid-name"},
		{"bad request id", "POST", "/api/orders", order(`"request":"x"`), nil, 400, "invalid", "bad-request"},
		{"old request id", "POST", "/api/orders", order(`"request":"` + aggregate.CommandIDAt(time.UnixMilli(1)).String() + `"`), nil, 400, "invalid", "command-id-age"},
		{"too expensive", "POST", "/api/orders", order(`"quantity":1000000`), nil, 409, "rejected", "insufficient-cash"},
		{"too many shares", "POST", "/api/orders", order(`"quantity":1000000,"side":"sell"`), nil, 409, "rejected", "insufficient-shares"},
		{"cancel in no book", "POST", "/api/orders/1/cancel", `{"user":"ann","book":"x"}`, nil, 404, "rejected", "unknown-book"},
		{"cancel nothing", "POST", "/api/orders/1/cancel", `{"user":"ann","book":"shell"}`, nil, 409, "rejected", "order-not-open"},
		{"deposit nothing", "POST", "/api/portfolios/ann/deposit", `{"cents":0}`, nil, 409, "rejected", "invalid-amount"},
		{"deposit a bad request id", "POST", "/api/portfolios/ann/deposit", `{"cents":1,"request":"x"}`, nil, 400, "invalid", "bad-request"},
		{"deposit for nobody", "POST", "/api/portfolios/nobody/deposit", `{"cents":1}`, nil, 404, "rejected", "unknown-portfolio"},
		{"withdraw too much", "POST", "/api/portfolios/ann/withdraw", `{"cents":100000000}`, nil, 409, "rejected", "insufficient-cash"},
		{"show no book", "GET", "/api/books/x", "", nil, 404, "rejected", "unknown-book"},
		{"show a strange book", "GET", "/api/books/%00", "", nil, 400, "invalid", "bad-id"},
		{"show a depth below zero", "GET", "/api/books/shell?depth=-1", "", nil, 400, "invalid", "bad-request"},
		{"show nobody", "GET", "/api/portfolios/nobody", "", nil, 404, "rejected", "unknown-portfolio"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var problem web.Problem
			status := s.call(c.method, c.path, c.body, c.change, &problem)
			require.Equal(t, c.status, status, "%+v", problem)
			require.Equal(t, c.kind, problem.Error.Kind)
			require.Equal(t, c.code, problem.Error.Code)
			require.NotEmpty(t, problem.Error.Message)
		})
	}
}

func TestThePageAndWhatItShows(t *testing.T) {
	s := open(t)
	response, err := http.Get("http://" + s.server.Address() + "/")
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Contains(t, string(content), "<b id=\"self\">node-1</b>")
	require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'self'")
	for _, asset := range []string{"app.js", "style.css", "icon.svg"} {
		require.True(t, bytes.Contains(content, []byte("/assets/"+asset)))
		require.Equal(t, 200, s.get("/assets/"+asset, nil))
	}
	require.Equal(t, 200, s.get("/livez", nil))
	require.Equal(t, 200, s.get("/readyz", nil))

	var state struct {
		Cluster web.Cluster
		Books   []web.BookRow
	}
	require.Equal(t, 200, s.get("/api/state", &state))
	require.Len(t, state.Cluster.Partitions, 8)
	require.Len(t, state.Cluster.Nodes, 2)
	require.True(t, state.Cluster.Nodes[0].Self)
	require.Equal(t, 8, state.Cluster.Nodes[0].Owns)
	require.Equal(t, persistence.Dead, state.Cluster.Nodes[1].State)
	require.Len(t, state.Books, len(market.Companies))
	for i, b := range state.Books {
		require.Equal(t, market.Companies[i].Terms.Company, b.Book.Company)
		require.Equal(t, state.Cluster.Nodes[0].ID, b.Owner)
	}
	var nodes web.Cluster
	require.Equal(t, 200, s.get("/api/nodes", &nodes))
	require.Equal(t, "node-1", nodes.Self)
	var view book.View
	require.Equal(t, 200, s.get("/api/books/bp?depth=0", &view))
	require.Equal(t, "BP", view.Company)
}

package ingrain_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster"
	"github.com/ingrain-go/ingrain/persistence"
)

// docs/http.md shows this file.

// API serves accounts over HTTP.
type API struct{ Gateway aggregate.Gateway }

func (a API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /accounts/{id}", a.balance)
	mux.HandleFunc("POST /accounts/{id}/withdrawals", a.withdraw)
	return entrance(mux)
}

// entrance gives every request its time and its metadata.
func entrance(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 8*time.Second) // less than the client and the proxies wait
		defer cancel()
		ctx = aggregate.WithMetadata(ctx, aggregate.Metadata{
			Correlation: r.Header.Get("X-Request-Id"),
			Causation:   r.Method + " " + r.URL.Path,
			User:        r.Header.Get("X-User"), // whoever authenticates sets it, and strips what strangers send
			Trace:       r.Header.Get("Traceparent"),
		})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a API) balance(w http.ResponseWriter, r *http.Request) {
	var read aggregate.Receipt
	cents, err := aggregate.Ask(r.Context(), Accounts.Ref(a.Gateway, r.PathValue("id")), Balance{}, aggregate.Into(&read))
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("ETag", etag(read.Version))
	respond(w, http.StatusOK, map[string]int64{"cents": cents})
}

func (a API) withdraw(w http.ResponseWriter, r *http.Request) {
	id, options, err := conditions(r.Header)
	if err != nil {
		respond(w, http.StatusBadRequest, problem{Kind: "invalid", Message: err.Error()})
		return
	}
	w.Header().Set("Idempotency-Key", id.String()) // with which to ask again, also for a client that sent none
	var command Withdraw
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&command); err != nil {
		respond(w, http.StatusBadRequest, problem{Kind: "invalid", Message: err.Error()})
		return
	}
	left, receipt, err := aggregate.Do(r.Context(), Accounts.Ref(a.Gateway, r.PathValue("id")), command, options...)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("ETag", etag(receipt.Version))
	if receipt.Duplicate {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	respond(w, http.StatusOK, map[string]int64{"cents": left})
}

// conditions reads the headers that say which command this is, and on which
// version it may act.
func conditions(h http.Header) (id aggregate.CommandID, options []aggregate.Option, err error) {
	id = aggregate.NewCommandID()
	if key := h.Get("Idempotency-Key"); key != "" {
		if id, err = aggregate.ParseCommandID(strings.Trim(key, `"`)); err != nil {
			return id, nil, fmt.Errorf("the Idempotency-Key: %w", err)
		}
	}
	options = append(options, aggregate.WithCommandID(id))
	if match := h.Get("If-Match"); match != "" {
		version, err := strconv.ParseUint(strings.Trim(match, `"`), 10, 63)
		if err != nil {
			return id, nil, fmt.Errorf("the If-Match %s is no ETag of an account", match)
		}
		options = append(options, aggregate.ExpectVersion(aggregate.Version(version)))
	}
	return id, options, nil
}

func etag(v aggregate.Version) string { return fmt.Sprintf(`"%d"`, v) }

// problem is the body of an error.
type problem struct {
	Kind    string            `json:"kind"`
	Code    string            `json:"code,omitempty"`
	Message string            `json:"message"`
	Details map[string]string `json:"details,omitempty"`
}

// refuse writes one of the four kinds of errors.
func refuse(w http.ResponseWriter, err error) {
	p := problem{Kind: aggregate.KindOf(err).String(), Message: err.Error()}
	var rejection *aggregate.Rejection
	var failure *aggregate.Failure
	switch {
	case errors.As(err, &failure):
		p.Code = failure.Reason
	case errors.As(err, &rejection):
		p.Code, p.Message, p.Details = rejection.Code, rejection.Message, rejection.Details
	}
	status := statusOf(err)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	respond(w, status, p)
}

func statusOf(err error) int {
	switch aggregate.KindOf(err) {
	case aggregate.KindNone:
		return http.StatusOK
	case aggregate.KindRejected:
		if errors.Is(err, aggregate.ErrVersion) {
			return http.StatusPreconditionFailed // If-Match did not hold
		}
		return http.StatusUnprocessableEntity // 409 Conflict suits a rule about the state
	case aggregate.KindNotDone:
		if cluster.SafeToRetry(err) {
			return http.StatusServiceUnavailable // with Retry-After: nothing happened, any key will do
		}
		return http.StatusInternalServerError // nothing happened, and it would again: panic, unreadable
	case aggregate.KindUnknown:
		return http.StatusGatewayTimeout // it may have happened: again, with the same key
	default:
		return http.StatusBadRequest
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone asks again
}

// roundTrip asks the API; headers come in pairs.
func roundTrip(t *testing.T, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	node, _ := exampleNode()
	request := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response := httptest.NewRecorder()
	API{node}.Handler().ServeHTTP(response, request)
	return response
}

func TestHTTPReadThenChangeWhatWasRead(t *testing.T) {
	node, _ := exampleNode()
	_, err := Accounts.Ref(node, "erin").Send(t.Context(), Deposit{Cents: 700})
	require.NoError(t, err)

	read := roundTrip(t, "GET", "/accounts/erin", "")
	require.Equal(t, http.StatusOK, read.Code)
	require.Equal(t, `"1"`, read.Header().Get("ETag"))
	require.JSONEq(t, `{"cents":700}`, read.Body.String())

	paid := roundTrip(t, "POST", "/accounts/erin/withdrawals", `{"Cents":100}`, "If-Match", read.Header().Get("ETag"))
	require.Equal(t, http.StatusOK, paid.Code, paid.Body)
	require.Equal(t, `"2"`, paid.Header().Get("ETag"))
	require.JSONEq(t, `{"cents":600}`, paid.Body.String())

	late := roundTrip(t, "POST", "/accounts/erin/withdrawals", `{"Cents":100}`, "If-Match", read.Header().Get("ETag"))
	require.Equal(t, http.StatusPreconditionFailed, late.Code)
	require.JSONEq(t, `{"kind":"rejected","code":"version","message":"the aggregate is not at the expected version: it is at version 2, expected was 1",
		"details":{"expected":"1","actual":"2"}}`, late.Body.String())
}

func TestHTTPOneKeyHasOneEffect(t *testing.T) {
	node, _ := exampleNode()
	for _, id := range []string{"frank", "grace"} {
		_, err := Accounts.Ref(node, id).Send(t.Context(), Deposit{Cents: 700})
		require.NoError(t, err)
	}
	first := roundTrip(t, "POST", "/accounts/frank/withdrawals", `{"Cents":100}`)
	key := first.Header().Get("Idempotency-Key")
	roundTrip(t, "POST", "/accounts/frank/withdrawals", `{"Cents":50}`)
	for _, body := range []string{`{"Cents":100}`, `{"Cents":333}`} { // the second says something else
		again := roundTrip(t, "POST", "/accounts/frank/withdrawals", body, "Idempotency-Key", `"`+key+`"`, "If-Match", `"0"`)
		require.Equal(t, http.StatusOK, again.Code, again.Body)
		require.Equal(t, "true", again.Header().Get("Idempotent-Replayed"))
		require.Equal(t, first.Header().Get("ETag"), again.Header().Get("ETag"))
		require.JSONEq(t, `{"cents":600}`, again.Body.String(), "of that time")
	}
	other, err := Accounts.Ref(node, "frank").Send(t.Context(), Deposit{Cents: 1}, idOf(t, key)) // as from another route
	require.NoError(t, err)
	require.True(t, other.Duplicate, "it is the same command")
	require.Equal(t, first.Header().Get("ETag"), etag(other.Version))
	elsewhere := roundTrip(t, "POST", "/accounts/grace/withdrawals", `{"Cents":100}`, "Idempotency-Key", key)
	require.Equal(t, http.StatusOK, elsewhere.Code)
	require.Empty(t, elsewhere.Header().Get("Idempotent-Replayed"))

	key = aggregate.NewCommandID().String()
	refused := roundTrip(t, "POST", "/accounts/frank/withdrawals", `{"Cents":1000}`, "Idempotency-Key", key)
	require.Equal(t, http.StatusUnprocessableEntity, refused.Code)
	require.JSONEq(t, `{"kind":"rejected","code":"insufficient-funds","message":"insufficient funds","details":{"missing":"450"}}`, refused.Body.String())
	_, err = Accounts.Ref(node, "frank").Send(t.Context(), Deposit{Cents: 700})
	require.NoError(t, err)
	decided := roundTrip(t, "POST", "/accounts/frank/withdrawals", `{"Cents":1000}`, "Idempotency-Key", key)
	require.Equal(t, http.StatusOK, decided.Code, "a rejection is not remembered")
}

func idOf(t *testing.T, key string) aggregate.Option {
	t.Helper()
	id, err := aggregate.ParseCommandID(key)
	require.NoError(t, err)
	return aggregate.WithCommandID(id)
}

func TestHTTPSaysWhatIsWrongWithTheRequest(t *testing.T) {
	old := aggregate.CommandIDAt(time.Now().Add(-48 * time.Hour)).String()
	for name, c := range map[string]struct {
		path, body string
		headers    []string
		says       string
	}{
		"version 4": {"/accounts/a/withdrawals", `{}`, []string{"Idempotency-Key", "f47ac10b-58cc-4372-a567-0e02b2c3d479"}, "not a UUID of version 7"},
		"old key":   {"/accounts/a/withdrawals", `{}`, []string{"Idempotency-Key", old}, "command-id-age"},
		"ETag":      {"/accounts/a/withdrawals", `{}`, []string{"If-Match", `"-1"`}, "no ETag of an account"},
		"body":      {"/accounts/a/withdrawals", `{`, nil, "unexpected EOF"},
		"id":        {"/accounts/" + strings.Repeat("a", 513) + "/withdrawals", `{}`, nil, "bad-id"},
	} {
		t.Run(name, func(t *testing.T) {
			response := roundTrip(t, "POST", c.path, c.body, c.headers...)
			require.Equal(t, http.StatusBadRequest, response.Code)
			require.Contains(t, response.Body.String(), c.says)
		})
	}
}

func TestHTTPStatusTellsWhatToDo(t *testing.T) {
	for status, err := range map[int]error{
		http.StatusOK:                  nil,
		http.StatusUnprocessableEntity: ErrInsufficientFunds,
		http.StatusPreconditionFailed:  aggregate.ErrVersion.With("actual", "7"),
		http.StatusServiceUnavailable:  aggregate.NotDone(aggregate.ReasonOverloaded, nil),
		http.StatusInternalServerError: aggregate.NotDone(aggregate.ReasonPanic, nil),
		http.StatusGatewayTimeout:      aggregate.UnknownOutcome(aggregate.ReasonDeadline, nil),
		http.StatusBadRequest:          aggregate.Invalid(aggregate.ReasonBadID, nil),
	} {
		require.Equal(t, status, statusOf(err), "%v", err)
		if err != nil {
			response := httptest.NewRecorder()
			refuse(response, err)
			require.Equal(t, status, response.Code)
			require.Equal(t, status == http.StatusServiceUnavailable, response.Header().Get("Retry-After") != "")
		}
	}
}

func TestHTTPHeadersBecomeMetadata(t *testing.T) {
	node, store := exampleNode()
	_, err := Accounts.Ref(node, "heidi").Send(t.Context(), Deposit{Cents: 700})
	require.NoError(t, err)
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	response := roundTrip(t, "POST", "/accounts/heidi/withdrawals", `{"Cents":1}`, "X-User", "heidi", "X-Request-Id", "r-7", "Traceparent", trace)
	require.Equal(t, http.StatusOK, response.Code)
	events, err := store.Read(t.Context(), persistence.Stream{Type: "account", ID: "heidi"}, 1, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.JSONEq(t, `{"correlation":"r-7","causation":"POST /accounts/heidi/withdrawals","user":"heidi","trace":"`+trace+`"}`, string(events[0].Metadata))
}

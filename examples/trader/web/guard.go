package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"

	"github.com/ingrain-go/ingrain/aggregate"
)

// maxBody bounds what a client may send.
const maxBody = 16 << 10

// reasonBadRequest is the code of requests that are no request of this API.
const reasonBadRequest = "bad-request"

// guard lets through what a browser on the same page, or a program, may ask.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		if !isAddress(r.Host) {
			refuse(w, http.StatusForbidden, fmt.Errorf("host %q is neither localhost nor an address", r.Host))
			return
		}
		if err := sameOrigin.Check(r); err != nil {
			refuse(w, http.StatusForbidden, err)
			return
		}
		_, pattern := mux.Handler(r)
		if pattern == "" {
			s.unknown(w, r, mux)
			return
		}
		if r.Method == http.MethodPost {
			s.changing.RLock()
			defer s.changing.RUnlock()
			if s.closed {
				fail(w, aggregate.NotDone(aggregate.ReasonStopping, errors.New("the market is closed")))
				return
			}
			if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
				refuse(w, http.StatusUnsupportedMediaType, errors.New("the body must be application/json"))
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		mux.ServeHTTP(w, r)
	})
}

// unknown answers for paths and methods that do not exist.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	other := r.Clone(r.Context())
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if other.Method = method; method != r.Method {
			if _, pattern := mux.Handler(other); pattern != "" {
				w.Header().Set("Allow", method)
				refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("%s is for %s only", r.URL.Path, method))
				return
			}
		}
	}
	refuse(w, http.StatusNotFound, fmt.Errorf("there is no %s here", r.URL.Path))
}

// isAddress reports whether a Host header names this machine by an address. A
// name would let any web site point its own name here and then be same-origin.
func isAddress(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	host = strings.Trim(host, "[]")
	return strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil
}

// read decodes a body, strictly.
func read(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the JSON object")
	}
	return nil
}

func reply(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"kind":"unknown","code":"encoding","message":"the answer cannot be encoded"}}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}

// Problem is the body of every error.
type Problem struct {
	Error Fault `json:"error"`
}

// Fault is an error of one of the four kinds.
type Fault struct {
	// Kind is "rejected", "not done", "unknown" or "invalid".
	Kind    string            `json:"kind"`
	Code    string            `json:"code"`
	Message string            `json:"message"`
	Details map[string]string `json:"details,omitempty"`
}

// refuse answers a request that is wrong in itself.
func refuse(w http.ResponseWriter, status int, err error) {
	reply(w, status, Problem{Fault{Kind: aggregate.KindInvalid.String(), Code: reasonBadRequest, Message: err.Error()}})
}

// badRequest answers a body that cannot be read.
func badRequest(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		status = http.StatusRequestEntityTooLarge
	}
	refuse(w, status, err)
}

// faultOf describes an error of the framework or the domain.
func faultOf(err error) Fault {
	fault := Fault{Kind: aggregate.KindOf(err).String(), Code: "outcome", Message: err.Error()}
	var rejection *aggregate.Rejection
	var failure *aggregate.Failure
	switch {
	case errors.As(err, &failure):
		fault.Code = failure.Reason
	case errors.As(err, &rejection):
		fault.Code, fault.Details = rejection.Code, rejection.Details
	}
	return fault
}

// fail answers with an error of the framework or the domain.
func fail(w http.ResponseWriter, err error) {
	fault := faultOf(err)
	status := http.StatusGatewayTimeout
	switch aggregate.KindOf(err) {
	case aggregate.KindRejected:
		status = http.StatusConflict
		if strings.HasPrefix(fault.Code, "unknown-") {
			status = http.StatusNotFound
		}
	case aggregate.KindInvalid:
		status = http.StatusBadRequest
	case aggregate.KindNotDone:
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	reply(w, status, Problem{fault})
}

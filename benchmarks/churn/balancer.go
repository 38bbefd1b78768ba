package main

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// balancer is a random load balancer before the nodes, the kind that knows
// nothing of aggregates: it sends each request to any node that it can connect
// to. It is safe for concurrent use.
type balancer struct {
	mu        sync.Mutex
	endpoints []*endpoint
}

// place is where a node takes requests.
type place struct{ Name, Address string }

// point sets the nodes there are. Those that are gone are dropped when their
// requests are over.
func (b *balancer) point(places []place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var next []*endpoint
	for _, p := range places {
		var known *endpoint
		for _, e := range b.endpoints {
			if e.place == p {
				known = e
			}
		}
		if known == nil {
			known = &endpoint{place: p}
		}
		next = append(next, known)
	}
	for _, e := range b.endpoints {
		kept := false
		for _, n := range next {
			kept = kept || n == e
		}
		if !kept {
			e.retire()
		}
	}
	b.endpoints = next
}

// pick chooses a node, another than the one given when there is another.
func (b *balancer) pick(but *endpoint) *endpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	var up []*endpoint
	for _, e := range b.endpoints {
		if e != but && !e.isDown(now) {
			up = append(up, e)
		}
	}
	switch {
	case len(up) > 0:
		return up[rand.IntN(len(up))]
	case but != nil && !but.isDown(now):
		return but
	case len(b.endpoints) > 0:
		return b.endpoints[rand.IntN(len(b.endpoints))]
	}
	return nil
}

func (b *balancer) close() {
	b.point(nil)
}

var (
	errNotSent = errors.New("the request was not sent")
	errBroken  = errors.New("the connection broke before the answer")
	errSilent  = errors.New("no answer in time")
)

// downFor is how long a node is left alone that could not be connected to.
const downFor = 50 * time.Millisecond

// endpoint is a node, with one connection for all requests.
type endpoint struct {
	place

	mu        sync.Mutex
	session   *session
	downUntil time.Time
	retired   bool
}

func (e *endpoint) isDown(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return now.Before(e.downUntil)
}

// ask sends a request and waits for its reply. errNotSent means that it has
// certainly not been sent.
func (e *endpoint) ask(ctx context.Context, r *request) (*reply, error) {
	s, err := e.connect()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	return s.ask(ctx, r)
}

func (e *endpoint) connect() (*session, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session != nil && !e.session.ended() {
		return e.session, nil
	}
	if e.retired {
		return nil, errors.New("the node has left")
	}
	if time.Now().Before(e.downUntil) {
		return nil, errors.New("the node is down")
	}
	conn, err := net.DialTimeout("tcp", e.Address, time.Second)
	if err != nil {
		e.downUntil = time.Now().Add(downFor)
		return nil, err
	}
	e.session = newSession(conn)
	return e.session, nil
}

// retire lets the requests on their way end and then closes the connection.
func (e *endpoint) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = true
	if e.session != nil {
		e.session.retire()
	}
}

// session is a connection, with many requests on their way.
type session struct {
	conn net.Conn
	out  *sender
	over chan struct{} // closed when the connection broke

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan *reply
	retired bool
	senders sync.WaitGroup
}

func newSession(conn net.Conn) *session {
	s := &session{conn: conn, out: newSender(conn), over: make(chan struct{}), waiting: map[uint64]chan *reply{}}
	go s.listen() // ends with the connection
	return s
}

func (s *session) ended() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

func (s *session) ask(ctx context.Context, r *request) (*reply, error) {
	answer := make(chan *reply, 1)
	s.mu.Lock()
	if s.ended() || s.retired {
		s.mu.Unlock()
		return nil, errNotSent
	}
	s.next++
	r.Number = s.next
	s.waiting[r.Number] = answer
	s.senders.Add(1)
	s.mu.Unlock()
	sent := *r // the sender may still hold it when we are gone
	select {
	case s.out.queue <- &sent:
		s.senders.Done()
	case <-ctx.Done(): // the queue is full because the node reads nothing
		s.senders.Done()
		s.forget(r.Number)
		return nil, errNotSent
	}
	select {
	case got := <-answer:
		return got, nil
	case <-s.over:
		select {
		case got := <-answer:
			return got, nil
		default:
			return nil, errBroken
		}
	case <-ctx.Done():
		s.forget(r.Number)
		return nil, errSilent
	}
}

func (s *session) forget(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, number)
	s.closeIfIdle()
}

func (s *session) listen() {
	in := gob.NewDecoder(s.conn)
	for {
		r := &reply{}
		if err := in.Decode(r); err != nil {
			break
		}
		s.mu.Lock()
		if waiting := s.waiting[r.Number]; waiting != nil {
			delete(s.waiting, r.Number)
			waiting <- r
		}
		s.closeIfIdle()
		s.mu.Unlock()
	}
	s.mu.Lock()
	close(s.over)
	s.mu.Unlock()
	_ = s.conn.Close() // it broke
	s.senders.Wait()
	s.out.close()
}

// retire closes the connection when nothing is on its way any more.
func (s *session) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.closeIfIdle()
}

func (s *session) closeIfIdle() {
	if s.retired && len(s.waiting) == 0 {
		_ = s.conn.Close() // listen notices
	}
}

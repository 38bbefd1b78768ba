package main

import (
	"cmp"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// verb is what a request asks of an aggregate.
type verb uint8

// The verbs. Those before firstQuery are commands.
const (
	verbWrite verb = iota
	verbAdd
	verbGive
	verbTake
	verbClaim
	verbOrder
	verbRead
	verbCount
	verbBalance
	verbHolder
	verbContents
)

const firstQuery = verbRead

// typeOf is the aggregate type that a verb belongs to.
func (v verb) typeOf() string {
	switch v {
	case verbWrite, verbRead:
		return registers.Name()
	case verbAdd, verbCount:
		return lists.Name()
	case verbClaim, verbHolder:
		return names.Name()
	case verbOrder, verbContents:
		return wallets.Name()
	}
	return accounts.Name()
}

// request is what a client sends to a node: any node.
type request struct {
	Number  uint64
	Verb    verb
	ID      string
	Value   int64
	Command aggregate.CommandID
	Micros  int64 // until the client gives up
}

// reply is what it gets back, in any order.
type reply struct {
	Number    uint64
	Kind      aggregate.Kind
	Reason    string // of a failure; the code of a rejection
	Text      string
	Holder    int64 // in a claim's rejection
	Version   int64
	Offset    int64
	Partition int32
	Events    int
	Duplicate bool
	Seen      seen
}

// perform carries a request out through a gateway.
func perform(ctx context.Context, gateway aggregate.Gateway, r *request) reply {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.Micros)*time.Microsecond)
	defer cancel()
	id := aggregate.WithCommandID(r.Command)
	var receipt aggregate.Receipt
	var answer seen
	var err error
	switch r.Verb {
	case verbWrite:
		answer, receipt, err = aggregate.Do(ctx, registers.Ref(gateway, r.ID), write{r.Value}, id)
	case verbAdd:
		answer, receipt, err = aggregate.Do(ctx, lists.Ref(gateway, r.ID), add{r.Value}, id)
	case verbGive:
		answer, receipt, err = aggregate.Do(ctx, accounts.Ref(gateway, r.ID), give{r.Value}, id)
	case verbTake:
		answer, receipt, err = aggregate.Do(ctx, accounts.Ref(gateway, r.ID), take{r.Value}, id)
	case verbClaim:
		answer, receipt, err = aggregate.Do(ctx, names.Ref(gateway, r.ID), claim{r.Value}, id)
	case verbOrder:
		answer, receipt, err = aggregate.Do(ctx, wallets.Ref(gateway, r.ID), orderOf(r.Value, time.Now()), id)
	case verbContents:
		answer, err = aggregate.Ask(ctx, wallets.Ref(gateway, r.ID), contents{}, aggregate.Into(&receipt))
	case verbRead:
		answer, err = aggregate.Ask(ctx, registers.Ref(gateway, r.ID), read{}, aggregate.Into(&receipt))
	case verbCount:
		answer, err = aggregate.Ask(ctx, lists.Ref(gateway, r.ID), count{}, aggregate.Into(&receipt))
	case verbBalance:
		answer, err = aggregate.Ask(ctx, accounts.Ref(gateway, r.ID), balance{}, aggregate.Into(&receipt))
	case verbHolder:
		answer, err = aggregate.Ask(ctx, names.Ref(gateway, r.ID), holder{}, aggregate.Into(&receipt))
	default:
		err = aggregate.Invalid(aggregate.ReasonUnknownName, fmt.Errorf("verb %d", r.Verb))
	}
	return replyOf(r.Number, answer, receipt, err)
}

func replyOf(number uint64, answer seen, receipt aggregate.Receipt, err error) reply {
	out := reply{
		Number: number, Kind: aggregate.KindOf(err), Seen: answer, Version: int64(receipt.Version), Offset: int64(receipt.Offset),
		Partition: int32(receipt.Partition), Events: receipt.Events, Duplicate: receipt.Duplicate,
	}
	var failure *aggregate.Failure
	var rejection *aggregate.Rejection
	switch {
	case err == nil:
	case errors.As(err, &rejection):
		out.Reason, out.Text = rejection.Code, rejection.Message
		out.Holder, _ = strconv.ParseInt(rejection.Details[holderDetail], 10, 64) // 0 when it has none
	case errors.As(err, &failure):
		out.Reason, out.Text = failure.Reason, err.Error()
	default:
		out.Text = err.Error()
	}
	return out
}

// admitted bounds the requests of one connection that are being carried out.
// Beyond, the connection is not read.
const admitted = 8192

// desk takes requests from clients, each connection with many in flight.
type desk struct {
	listener net.Listener
	gateway  aggregate.Gateway
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// openDesk listens on a free port; an empty host is loopback.
func openDesk(host string, gateway aggregate.Gateway) (*desk, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(host, "127.0.0.1"), "0"))
	if err != nil {
		return nil, err
	}
	d := &desk{listener: listener, gateway: gateway, conns: map[net.Conn]struct{}{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			d.mu.Lock()
			d.conns[conn] = struct{}{}
			d.mu.Unlock()
			d.work.Go(func() { d.serve(conn) })
		}
	})
	return d, nil
}

// serve reads requests and writes replies until the connection ends.
func (d *desk) serve(conn net.Conn) {
	out := newSender(conn)
	in := gob.NewDecoder(conn)
	var running sync.WaitGroup
	slots := make(chan struct{}, admitted)
	for {
		r := &request{}
		if err := in.Decode(r); err != nil {
			break // the client is gone, or we close
		}
		slots <- struct{}{}
		running.Go(func() {
			answer := perform(d.ctx, d.gateway, r)
			out.send(&answer)
			<-slots
		})
	}
	running.Wait()
	out.close()
	d.mu.Lock()
	delete(d.conns, conn)
	d.mu.Unlock()
	_ = conn.Close() // it may have ended
}

// drain takes no new connection. Requests on those there are go on.
func (d *desk) drain() { _ = d.listener.Close() } // it may be closed

// close ends everything and waits for it.
func (d *desk) close() {
	d.drain()
	d.cancel()
	d.mu.Lock()
	for conn := range d.conns {
		_ = conn.Close() // it may have ended
	}
	d.mu.Unlock()
	d.work.Wait()
}

// sender encodes values onto a connection, many at once when there are many.
type sender struct {
	queue chan any
	done  chan struct{}
}

// sendQueue bounds what waits for the connection; who sends more waits.
const sendQueue = 1024

func newSender(w io.Writer) *sender {
	s := &sender{queue: make(chan any, sendQueue), done: make(chan struct{})}
	go s.run(w) // close waits for it
	return s
}

func (s *sender) run(w io.Writer) {
	defer close(s.done)
	b := &packer{w: w}
	encoder := gob.NewEncoder(b)
	broken := false
	for v := range s.queue {
		if broken {
			continue // the reader of the connection notices
		}
		broken = encoder.Encode(v) != nil
		if !broken && (len(s.queue) == 0 || len(b.bytes) > 64<<10) {
			broken = b.flush() != nil
		}
	}
}

func (s *sender) send(v any) { s.queue <- v }

// close waits until all is sent. Nobody may send any more.
func (s *sender) close() {
	close(s.queue)
	<-s.done
}

// packer gathers what is written until it is flushed.
type packer struct {
	w     io.Writer
	bytes []byte
}

func (p *packer) Write(b []byte) (int, error) {
	p.bytes = append(p.bytes, b...)
	return len(b), nil
}

func (p *packer) flush() error {
	_, err := p.w.Write(p.bytes)
	p.bytes = p.bytes[:0]
	return err
}

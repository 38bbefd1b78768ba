package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// What a child is, in its environment.
const (
	roleVariable  = "INGRAIN_CHILD_ROLE"
	setupVariable = "INGRAIN_CHILD_SETUP"
)

// Role tells a child what it is to be. It is false in a process that nobody
// started with [Start].
func Role() (role string, setup json.RawMessage, isChild bool) {
	role, isChild = os.LookupEnv(roleVariable)
	return role, json.RawMessage(os.Getenv(setupVariable)), isChild
}

// Handler carries out an order. The context ends when the parent gives up. It
// runs on a goroutine of its own.
type Handler func(ctx context.Context, op string, args json.RawMessage) (any, error)

// Server is the child's end of the line to its parent, on standard input and
// output. It ends the process when the parent is gone: without a parent there is
// nothing to live for.
type Server struct {
	handle     Handler
	terminated chan struct{}

	mu      sync.Mutex
	out     *json.Encoder
	pending map[uint64]context.CancelFunc
	work    sync.WaitGroup
}

// Listen makes this process heed SIGTERM from now on. Orders wait until Ready.
func Listen() *Server {
	s := &Server{
		out: json.NewEncoder(os.Stdout), pending: map[uint64]context.CancelFunc{}, terminated: make(chan struct{}),
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	go func() { // ends with the process
		<-told
		close(s.terminated)
	}()
	return s
}

// Ready tells the parent that the child is ready, with something to say, and
// begins to take its orders.
func (s *Server) Ready(hello any, handle Handler) error {
	encoded, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	s.handle = handle
	go s.obey() // ends with the process
	s.tell(report{Hello: encoded})
	return nil
}

// Terminated is closed when the parent asks the child to end.
func (s *Server) Terminated() <-chan struct{} { return s.terminated }

// Wait returns when no order is being carried out.
func (s *Server) Wait() { s.work.Wait() }

// Fail tells the parent why the child ends.
func (s *Server) Fail(err error) { s.tell(report{Error: problemOf(err)}) }

func (s *Server) obey() {
	lines := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var o order
		if err := lines.Decode(&o); err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "orders:", err)
			}
			os.Exit(3)
		}
		s.mu.Lock()
		if o.Abandon {
			if cancel := s.pending[o.Number]; cancel != nil {
				cancel()
			}
			s.mu.Unlock()
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		if o.Micros > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), time.Duration(o.Micros)*time.Microsecond)
		}
		s.pending[o.Number] = cancel
		s.mu.Unlock()
		s.work.Go(func() {
			s.tell(s.do(ctx, &o))
			cancel()
			s.mu.Lock()
			delete(s.pending, o.Number)
			s.mu.Unlock()
		})
	}
}

func (s *Server) do(ctx context.Context, o *order) report {
	result, err := s.handle(ctx, o.Op, o.Args)
	if err != nil {
		return report{Number: o.Number, Error: problemOf(err)}
	}
	encoded, err := json.Marshal(result)
	if err != nil {
		return report{Number: o.Number, Error: problemOf(err)}
	}
	return report{Number: o.Number, Result: encoded}
}

// tell writes one line. If nobody reads it, the end of standard input says so.
func (s *Server) tell(r report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(r)
}

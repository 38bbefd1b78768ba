package actor

import (
	"runtime"
	"sync"

	proto "github.com/asynkron/protoactor-go/actor"
)

// pool is protoactor's dispatcher for grains: a fixed set of goroutines whose
// stacks have already grown, instead of a new goroutine for each wake-up. A
// grain's turn does no I/O, so as many as there are cores suffice.
type pool struct {
	turns   chan func()
	stopped chan struct{}
	done    sync.WaitGroup
}

var _ proto.Dispatcher = (*pool)(nil)

func newPool() *pool {
	p := &pool{turns: make(chan func(), 1<<14), stopped: make(chan struct{})}
	for range 2 * runtime.GOMAXPROCS(0) {
		p.done.Go(func() {
			for {
				select {
				case turn := <-p.turns:
					turn()
				case <-p.stopped:
					return
				}
			}
		})
	}
	return p
}

// Schedule implements proto.Dispatcher. When the queue is full the turn gets a
// goroutine of its own: a worker that schedules must never wait for workers.
func (p *pool) Schedule(turn func()) {
	select {
	case p.turns <- turn:
	default:
		go turn()
		return
	}
	select {
	case <-p.stopped: // the workers may have ended
		go p.rest()
	default:
	}
}

// Throughput implements proto.Dispatcher.
func (p *pool) Throughput() int { return turnLength }

// stop ends the workers. Whoever schedules a turn later sees to it.
func (p *pool) stop() {
	close(p.stopped)
	p.done.Wait()
	p.rest()
}

// rest runs the turns that no worker will.
func (p *pool) rest() {
	for {
		select {
		case turn := <-p.turns:
			turn()
		default:
			return
		}
	}
}

package actor

import (
	"sync"

	proto "github.com/asynkron/protoactor-go/actor"
)

// turnLength is how many messages a grain handles before it lets others run.
const turnLength = 64

// mailbox is protoactor's mailbox for a grain. It differs from the default one
// in three things: what arrives after the grain has stopped goes back to the
// host instead of being swallowed; a local caller may run an idle grain's turn
// on its own goroutine, which saves a switch; and it costs little while idle.
//
// Its length is bounded by the host's admission, not here.
type mailbox struct {
	grain      *grain
	invoker    proto.MessageInvoker
	dispatcher proto.Dispatcher
	turn       func() // m.run, made once

	mu        sync.Mutex
	system    []any
	user      []any
	head      int // of user
	running   bool
	suspended bool
}

var _ proto.Mailbox = (*mailbox)(nil)

// RegisterHandlers implements proto.Mailbox.
func (m *mailbox) RegisterHandlers(invoker proto.MessageInvoker, dispatcher proto.Dispatcher) {
	m.invoker, m.dispatcher = invoker, dispatcher
	m.turn = m.run
}

// Start implements proto.Mailbox.
func (m *mailbox) Start() {}

// UserMessageCount implements proto.Mailbox.
func (m *mailbox) UserMessageCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.user) - m.head
}

// PostUserMessage implements proto.Mailbox.
func (m *mailbox) PostUserMessage(message any) {
	m.mu.Lock()
	m.user = append(m.user, message)
	m.wake()
}

// PostSystemMessage implements proto.Mailbox.
func (m *mailbox) PostSystemMessage(message any) {
	m.mu.Lock()
	m.system = append(m.system, message)
	m.wake()
}

// wake schedules a turn unless one is scheduled or running. It unlocks.
func (m *mailbox) wake() {
	idle := !m.running
	m.running = true
	m.mu.Unlock()
	if idle {
		m.dispatcher.Schedule(m.turn)
	}
}

// postInline posts a message and, if the grain is idle, runs its turn here.
func (m *mailbox) postInline(message any) {
	m.mu.Lock()
	m.user = append(m.user, message)
	idle := !m.running
	m.running = true
	m.mu.Unlock()
	if idle {
		m.run()
	}
}

// empty reports whether no message waits.
func (m *mailbox) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head == len(m.user)
}

// tidy gives back the memory of a burst.
func (m *mailbox) tidy() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.head == len(m.user) {
		m.user, m.head = nil, 0
	}
	if len(m.system) == 0 {
		m.system = nil
	}
}

func (m *mailbox) run() {
	var current any
	defer func() {
		if p := recover(); p != nil {
			m.invoker.EscalateFailure(p, current)
			m.mu.Lock()
			m.running = false
			m.wake()
		}
	}()
	for range turnLength {
		message, system, ok := m.next()
		if !ok {
			return
		}
		current = message
		switch {
		case system:
			m.invoker.InvokeSystemMessage(message)
		case m.grain.stopped.Load():
			m.grain.bounce(message)
		default:
			m.invoker.InvokeUserMessage(message)
		}
	}
	m.dispatcher.Schedule(m.turn)
}

// next takes the next message; when there is none it ends the turn.
func (m *mailbox) next() (message any, system, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.system) > 0 {
		message = m.system[0]
		m.system = m.system[1:]
		switch message.(type) {
		case *proto.SuspendMailbox:
			m.suspended = true
		case *proto.ResumeMailbox:
			m.suspended = false
		default:
			return message, true, true
		}
	}
	if m.suspended || m.head == len(m.user) {
		m.running = false
		if cap(m.user) > turnLength {
			m.user = nil
		}
		m.user, m.head = m.user[:0], 0
		return nil, false, false
	}
	message = m.user[m.head]
	m.user[m.head] = nil
	m.head++
	if m.head >= turnLength && m.head >= len(m.user)/2 { // a queue that is never empty must not only grow
		n := copy(m.user, m.user[m.head:])
		clear(m.user[n:])
		m.user, m.head = m.user[:n], 0
	}
	return message, false, true
}

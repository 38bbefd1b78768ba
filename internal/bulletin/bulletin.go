// Package bulletin tells any number of waiting goroutines that something has
// happened.
package bulletin

import "sync"

// Board is where announcements are listened for. It is safe for concurrent use.
// Make one with [New].
type Board struct {
	mu   sync.Mutex
	next chan struct{}
}

// New makes a board without announcements.
func New() *Board { return &Board{next: make(chan struct{})} }

// Listen returns a channel that is closed at the next announcement. Who listens
// before looking at the state misses nothing.
func (b *Board) Listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

// Announce wakes all who listen.
func (b *Board) Announce() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

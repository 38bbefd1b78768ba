package cluster

// turn is a lock that may be held while waiting for the store: whoever waits for
// it waits on a channel, like everybody who waits for the outside world.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// Lock waits for the turn.
func (t turn) Lock() { t <- struct{}{} }

// Unlock passes the turn on.
func (t turn) Unlock() { <-t }

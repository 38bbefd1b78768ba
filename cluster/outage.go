package cluster

import "time"

// outage counts failures in a row and decides which of them are logged: the
// first, and then one every quietFor. Not safe for concurrent use.
type outage struct {
	failures      int
	since, logged time.Duration // by the node's clock
}

// quietFor is the time between two lines about one outage.
const quietFor = 10 * time.Second

// failed counts one more, and reports how many there are and whether to log it.
func (o *outage) failed(now time.Duration) (failures int, log bool) {
	o.failures++
	if o.failures == 1 {
		o.since = now
	}
	if log = o.failures == 1 || now-o.logged >= quietFor; log {
		o.logged = now
	}
	return o.failures, log
}

// over ends the outage, and reports how many failures it had and how long it
// lasted; 0 when there was none.
func (o *outage) over(now time.Duration) (failures int, lasted time.Duration) {
	if failures = o.failures; failures > 0 {
		lasted = now - o.since
	}
	*o = outage{}
	return failures, lasted
}

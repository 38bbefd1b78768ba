package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnOutageIsLoggedNowAndThen(t *testing.T) {
	var o outage
	failures, lasted := o.over(time.Second)
	require.Zero(t, failures)
	require.Zero(t, lasted)
	for range 2 { // the second outage is like the first
		const start, every = time.Minute, 250 * time.Millisecond
		var logged []time.Duration
		for i := range 101 { // 25 s
			now := start + time.Duration(i)*every
			failures, log := o.failed(now)
			require.Equal(t, i+1, failures)
			if log {
				logged = append(logged, now-start)
			}
		}
		require.Equal(t, []time.Duration{0, 10 * time.Second, 20 * time.Second}, logged)
		failures, lasted = o.over(start + 30*time.Second)
		require.Equal(t, 101, failures)
		require.Equal(t, 30*time.Second, lasted)
		failures, _ = o.over(start + 31*time.Second)
		require.Zero(t, failures)
	}
}

package cluster

import "github.com/ingrain-go/ingrain/aggregate"

// SafeToRetry reports whether the request certainly had no effect and may
// succeed if it is sent again, even under a new command id. It is false for
// rejections and invalid requests, for which asking again is pointless, and for
// unknown outcomes, for which only the same command id is safe.
func SafeToRetry(err error) bool { return aggregate.KindOf(err) == aggregate.KindNotDone }

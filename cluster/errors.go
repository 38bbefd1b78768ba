package cluster

import (
	"errors"

	"github.com/ingrain-go/ingrain/aggregate"
)

// SafeToRetry reports whether the request certainly had no effect and may
// succeed if it is sent again, even under a new command id. It is false for
// rejections and invalid requests, for which asking again is pointless, for
// unknown outcomes, for which only the same command id is safe, and for the
// reasons for which a request that is not done would fail again until the
// program is mended, panic and unreadable, or for ever: forgotten.
func SafeToRetry(err error) bool {
	var f *aggregate.Failure
	return errors.As(err, &f) && f.Kind == aggregate.KindNotDone &&
		f.Reason != aggregate.ReasonPanic && f.Reason != aggregate.ReasonUnreadable && f.Reason != aggregate.ReasonForgotten
}

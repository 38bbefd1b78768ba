package actor

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/ingrain-go/ingrain/aggregate"
)

// panicError is a panic in domain code.
type panicError struct {
	value any
	stack string
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func panicked(err error) bool {
	var p *panicError
	return errors.As(err, &p)
}

// safely turns a panic of domain code into an error: it hurts one call only.
func safely[T any](f func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: string(debug.Stack())}
		}
	}()
	return f()
}

// report counts and logs a panic that a call caused, and says in one line which
// call it was.
func (g *grain) report(r *aggregate.Request, p *panicError) error {
	kind, name, stream := r.Message.Kind().String(), r.Message.Name(), g.stream.String()
	g.host.stats.panics.Add(1)
	g.host.log.Error("domain code panicked", "stream", stream, kind, name, "id", r.Command.String(), "panic", p.value, "stack", p.stack)
	return fmt.Errorf("%s, %s %q: %v", stream, kind, name, p.value)
}

package actor

import (
	"errors"
	"fmt"
	"runtime/debug"
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

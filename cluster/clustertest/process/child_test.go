package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	role, setup, isChild := process.Role()
	if !isChild {
		os.Exit(m.Run())
	}
	os.Exit(child(role, setup))
}

// child greets, echoes, and says no.
func child(role string, setup json.RawMessage) int {
	server := process.Listen()
	if role == "stillborn" {
		server.Fail(errors.New("there is no store"))
		return 1
	}
	fmt.Fprintln(os.Stderr, "born as", role)
	err := server.Ready(setup, func(ctx context.Context, op string, args json.RawMessage) (any, error) {
		switch op {
		case "echo":
			return args, nil
		case "reject":
			return nil, aggregate.Reject("no", "not today").With("day", "monday")
		case "wait":
			<-ctx.Done()
			return nil, aggregate.NotDone(aggregate.ReasonDeadline, ctx.Err())
		}
		return nil, fmt.Errorf("no op %q", op)
	})
	if err != nil {
		return 2
	}
	<-server.Terminated()
	server.Wait()
	if role == "untidy" {
		server.Fail(errors.New("one call was left"))
		return 1
	}
	return 0
}

func start(t *testing.T, role string) *process.Child {
	c, err := process.Start(within(t), process.Spec{Name: "x", Role: role, Setup: "hello"})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestOrdersAndTheirErrorsCross(t *testing.T) {
	c := start(t, "echo")
	var hello, back string
	require.NoError(t, c.Hello(&hello))
	require.Equal(t, "hello", hello)
	require.NoError(t, c.Call(within(t), "echo", "anybody?", &back))
	require.Equal(t, "anybody?", back)
	err := c.Call(within(t), "reject", nil, nil)
	var rejection *aggregate.Rejection
	require.ErrorAs(t, err, &rejection)
	require.Equal(t, "monday", rejection.Details["day"])
	require.ErrorContains(t, c.Call(within(t), "dance", nil, nil), `no op "dance"`)

	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	require.Equal(t, aggregate.KindNotDone, aggregate.KindOf(c.Call(short, "wait", nil, nil)), "the child says what became of it")

	require.Eventually(t, func() bool { return strings.Contains(string(c.Log()), "born as echo") }, patience, time.Millisecond, "its log is kept")
	require.NoError(t, c.Terminate(within(t)))
	require.ErrorIs(t, c.Call(within(t), "echo", 1, nil), process.ErrGone)
}

func TestLastWordsAreTheChilds(t *testing.T) {
	_, err := process.Start(within(t), process.Spec{Name: "x", Role: "stillborn"})
	require.ErrorContains(t, err, "there is no store")
	require.ErrorContains(t, start(t, "untidy").Terminate(within(t)), "one call was left")
	c := start(t, "echo")
	require.NoError(t, c.Kill(within(t)))
	require.ErrorContains(t, c.LastWords(), "killed")
}

func TestAFrozenChildAnswersWhenItGoesOn(t *testing.T) {
	c := start(t, "echo")
	require.NoError(t, c.Pause(within(t)))
	answered := make(chan error, 1)
	go func() { answered <- c.Call(context.Background(), "echo", 1, nil) }()
	select {
	case err := <-answered:
		t.Fatalf("a frozen child answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, c.Resume())
	require.NoError(t, <-answered)
}

func TestAWrapperBecomesTheChild(t *testing.T) {
	var pid int
	c, err := process.Start(within(t), process.Spec{
		Name: "x", Role: "echo", Wrap: []string{"env", "WRAPPED=1"}, Launched: func(p int) { pid = p },
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	require.Equal(t, c.PID(), pid)
	require.NoError(t, c.Signal(syscall.SIGTERM))
	<-c.Exited()
	require.NoError(t, c.LastWords(), "the signal reached the program itself")
}

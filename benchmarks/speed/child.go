package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// childRole is the environment variable that makes this program one of its own
// children. The parent calls a child's methods over its standard input and
// output; the child ends when its input does.
const childRole = "INGRAIN_SPEED_CHILD"

// childProfile is the environment variable with the file for a child's CPU
// profile.
const childProfile = "INGRAIN_SPEED_CPUPROFILE"

// service is what a child does. Its exported methods are called by net/rpc.
type service interface {
	close() error
}

var roles = map[string]func(context.Context) (service, error){
	"owner":  newOwner,
	"member": newMember,
	"crowd":  newCrowd,
	"branch": newBranch,
	"victim": newVictim,
	"viewer": newViewer,
}

// runChild is the main function of a child.
func runChild(role string) int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "speed %s: %v\n", role, err)
		return 1
	}
	start, ok := roles[role]
	if !ok {
		return fail(errors.New("no such role"))
	}
	stopProfile, err := startProfile(os.Getenv(childProfile), "")
	if err != nil {
		return fail(err)
	}
	s, err := start(ctx)
	if err != nil {
		return fail(err)
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Child", s); err != nil {
		return fail(err)
	}
	server.ServeConn(pipes{os.Stdin, os.Stdout}) // until the parent closes our input
	if err := errors.Join(s.close(), stopProfile()); err != nil {
		return fail(err)
	}
	return 0
}

// pipes is a connection made of two one-way ones.
type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.WriteCloser.Close(), p.ReadCloser.Close()) }

// child is a process of ours.
type child struct {
	*rpc.Client
	cmd *exec.Cmd
}

// startChild starts one; serial tells the profiles of several in a role apart.
func (b *bench) startChild(ctx context.Context, role string, serial int) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childRole+"="+role)
	if b.profile != "" {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s.%s%d", childProfile, b.profile, role, serial))
	}
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = patience
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return &child{rpc.NewClient(pipes{out, in}), cmd}, nil
}

// call runs a method of the child, and gives up when ctx ends.
func (c *child) call(ctx context.Context, method string, args, reply any) error {
	done := c.Go("Child."+method, args, reply, make(chan *rpc.Call, 1)).Done
	select {
	case call := <-done:
		if call.Error != nil {
			return fmt.Errorf("%s: %w", method, call.Error)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the child and waits for it, longer than the child waits for its node.
func (c *child) stop() error {
	err := c.Close()
	kill := time.AfterFunc(2*patience, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	return errors.Join(err, c.cmd.Wait())
}

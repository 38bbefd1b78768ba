package link_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
)

const patience = 10 * time.Second

// echo is a server that answers every line with the same line and counts them.
type echo struct {
	net.Listener
	lines atomic.Int64
}

func startEcho(t *testing.T) *echo {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e := &echo{Listener: l}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				lines := bufio.NewReader(conn)
				for {
					line, err := lines.ReadString('\n')
					if err != nil {
						return
					}
					e.lines.Add(1)
					_, _ = io.WriteString(conn, line)
				}
			})
		}
	})
	t.Cleanup(func() { require.NoError(t, l.Close()); work.Wait() })
	return e
}

// conditions is a rule that a test can change.
type conditions struct {
	mu sync.Mutex
	by map[string]link.Condition
}

func (c *conditions) rule(from, to string) link.Condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[from+">"+to]
}

func (c *conditions) set(way string, condition link.Condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]link.Condition{}
	}
	c.by[way] = condition
}

func start(t *testing.T) (*echo, *link.Proxy, *conditions) {
	server, rules := startEcho(t), &conditions{}
	p, err := link.Listen("b", server.Addr().String(), func(net.Conn) string { return "a" }, rules.rule)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return server, p, rules
}

// caller is a connection whose lines come back on a channel, closed with it.
type caller struct {
	net.Conn
	back chan string
}

func dial(t *testing.T, p *link.Proxy) *caller {
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	c := &caller{conn, make(chan string, 10)}
	go func() {
		defer close(c.back)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			c.back <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close() // the test may have
		for range c.back {
			continue
		}
	})
	return c
}

func (c *caller) say(t *testing.T, line string) {
	_, err := fmt.Fprintln(c, line)
	require.NoError(t, err)
}

func (c *caller) hears(t *testing.T, line string) {
	t.Helper()
	select {
	case got := <-c.back:
		require.Equal(t, line, got)
	case <-time.After(patience):
		t.Fatalf("%q did not come back", line)
	}
}

func (c *caller) isSilent(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case got, ok := <-c.back:
		t.Fatalf("got %q (%v) through a link that is cut", got, ok)
	case <-time.After(d):
	}
}

func TestFrozenRequestsDoNotArriveBeforeTheLinkIsBack(t *testing.T) {
	server, p, rules := start(t)
	c := dial(t, p)
	c.say(t, "one")
	c.hears(t, "one")
	rules.set("a>b", link.Condition{Frozen: true})
	p.Changed()
	c.say(t, "two")
	c.isSilent(t, 100*time.Millisecond)
	require.EqualValues(t, 1, server.lines.Load())
	rules.set("a>b", link.Condition{})
	p.Changed()
	c.hears(t, "two")
}

func TestFrozenAnswersMeanThatTheRequestWasHandled(t *testing.T) {
	server, p, rules := start(t)
	c := dial(t, p)
	rules.set("b>a", link.Condition{Frozen: true})
	p.Changed()
	c.say(t, "one")
	require.Eventually(t, func() bool { return server.lines.Load() == 1 }, patience, time.Millisecond, "the request arrives")
	c.isSilent(t, 100*time.Millisecond)
	rules.set("b>a", link.Condition{})
	p.Changed()
	c.hears(t, "one")
}

func TestOthersLinksStayAsTheyAre(t *testing.T) {
	_, p, rules := start(t)
	rules.set("c>b", link.Condition{Frozen: true})
	p.Changed()
	p.Refuse(func(from, _ string) bool { return from == "c" })
	c := dial(t, p)
	c.say(t, "one")
	c.hears(t, "one")
}

func TestASlowLinkDelaysAndLosesNothing(t *testing.T) {
	_, p, rules := start(t)
	rules.set("a>b", link.Condition{Delay: 50 * time.Millisecond})
	c := dial(t, p)
	begin := time.Now()
	for _, line := range []string{"one", "two", "three"} {
		c.say(t, line)
	}
	for _, line := range []string{"one", "two", "three"} {
		c.hears(t, line)
	}
	require.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)
	require.Less(t, time.Since(begin), patience)
}

func TestASwallowedAnswerBreaksTheConnectionAfterTheRequestWasHandled(t *testing.T) {
	server, p, _ := start(t)
	c := dial(t, p)
	p.Swallow(1)
	c.say(t, "one")
	select {
	case line, ok := <-c.back:
		require.False(t, ok, "got %q, which was to be swallowed", line)
	case <-time.After(patience):
		t.Fatal("the connection did not break")
	}
	require.EqualValues(t, 1, server.lines.Load())
	require.Equal(t, 1, p.Swallowed())
	again := dial(t, p)
	again.say(t, "two")
	again.hears(t, "two")
}

func TestRefusedConnectionsBreak(t *testing.T) {
	_, p, _ := start(t)
	c := dial(t, p)
	c.say(t, "one")
	c.hears(t, "one")
	p.Refuse(func(from, to string) bool { return from == "a" && to == "b" })
	_, open := <-c.back
	require.False(t, open)
	refused := dial(t, p)
	_, open = <-refused.back
	require.False(t, open)
	p.Refuse(nil)
	again := dial(t, p)
	again.say(t, "two")
	again.hears(t, "two")
}

func TestOpenerIsTheProcessThatDialled(t *testing.T) {
	require.True(t, link.Supported)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer near.Close()
	far, err := l.Accept()
	require.NoError(t, err)
	defer far.Close()
	pid, ok := link.Opener(far, []int{1 << 22, os.Getpid()})
	require.True(t, ok)
	require.Equal(t, os.Getpid(), pid)
	_, ok = link.Opener(far, nil)
	require.False(t, ok)
}

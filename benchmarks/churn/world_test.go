package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
)

// echoes answers every line of every connection until the test ends.
func echoes(t *testing.T, address string) string {
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					if _, err := fmt.Fprintln(conn, lines.Text()); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	return l.Addr().String()
}

// answers reports whether a line comes back over a new connection.
func answers(t *testing.T, address string) bool {
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintln(conn, "anybody?")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && line == "anybody?\n"
}

// This process plays node a, whose links are cut in every way.
func TestProxiesCutWhatTheyAreTold(t *testing.T) {
	w := newProxies()
	defer func() { require.NoError(t, w.close()) }()
	server := echoes(t, "127.0.0.1:0")
	_, err := w.prepare(t.Context(), "a", server)
	require.NoError(t, err)
	w.began("a", os.Getpid())
	b, err := w.prepare(t.Context(), "b", server)
	require.NoError(t, err)
	c, err := w.prepare(t.Context(), "c", server)
	require.NoError(t, err)
	w.mu.Lock()
	toStore := w.toStore["a"].Addr()
	w.mu.Unlock()
	echoes(t, b.listen)
	echoes(t, c.listen)
	frozen := link.Condition{Frozen: true}
	for _, step := range []struct {
		what         string
		cut          func()
		peers, store bool // whether a still reaches them
	}{
		{"nothing", func() {}, true, true},
		{"a's peers, what it sends", func() { w.peers("a", out, frozen) }, false, true},
		{"a's peers, what it gets", func() { w.peers("a", in, frozen) }, false, true},
		{"a's store, what it sends", func() { w.store("a", out, frozen) }, true, false},
		{"a's store, what it gets", func() { w.store("a", in, frozen) }, true, false},
		{"everything of a", func() { w.peers("a", both, frozen); w.store("a", both, frozen) }, false, false},
		{"the store of another", func() { w.store("b", both, frozen) }, true, true},
		{"everything of a, loudly", func() { w.peers("a", both, frozen); w.store("a", both, frozen); w.reset("a", true) }, false, false},
	} {
		step.cut()
		require.Equal(t, step.peers, answers(t, b.advertise), "b, when cut is %s", step.what)
		require.Equal(t, step.peers, answers(t, c.advertise), "c, when cut is %s", step.what)
		require.Equal(t, step.store, answers(t, toStore), "the store, when cut is %s", step.what)
		w.heal()
		require.True(t, answers(t, b.advertise), "healed after %s", step.what)
		require.True(t, answers(t, toStore), "healed after %s", step.what)
	}
	w.peers("b", both, frozen) // b from everybody, but c from nobody
	require.False(t, answers(t, b.advertise))
	require.True(t, answers(t, c.advertise))
	w.heal()
	w.swallow("a", 1)
	require.False(t, answers(t, toStore))
	require.Equal(t, 1, w.swallowed("a"))
	require.True(t, answers(t, toStore))
}

// Where namespaces can be made nothing is left of them; elsewhere the error says
// what is missing.
func TestNamespacesAreRemoved(t *testing.T) {
	w, err := newNamespaces()
	if err != nil {
		require.Regexp(t, "needs root|needs ip|ip .*exit status", err.Error())
		return
	}
	l, err := w.prepare(t.Context(), "a", "127.0.0.1:1")
	require.NoError(t, err)
	require.NotEmpty(t, l.wrap)
	w.peers("a", both, link.Condition{Frozen: true})
	w.store("a", in, link.Condition{Frozen: true})
	w.heal()
	w.store("a", in, link.Condition{Frozen: true})
	require.NoError(t, w.gone("a"))
	require.NoError(t, w.gone("a"), "twice is harmless")
	_, err = w.prepare(t.Context(), "b", "")
	require.NoError(t, err)
	require.NoError(t, w.close())
	list, err := exec.Command("ip", "netns", "list").Output()
	require.NoError(t, err)
	require.NotContains(t, string(list), namespaceMark+strconv.Itoa(os.Getpid())+"-")
}

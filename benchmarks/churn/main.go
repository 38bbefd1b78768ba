// Churn kills, freezes, cuts off, starts and stops the nodes of a cluster, and
// its store, while clients keep sending, and then judges whether anybody could
// tell: no acknowledged command may be lost, none may take effect twice, every
// answer must be linearizable.
//
//	go run ./benchmarks/churn [-for 60s] [-nodes 3] [-store sqlite|postgres] [-faults kill,pause,...]
//	                          [-seed n] [-schedule ...] [-json] [-report DIR]
//	go run ./benchmarks/churn -sum FILE...
//
// Nodes and clients are processes of their own. Faults are drawn by seed, and a
// run prints the seed and what it drew, so that it can be repeated; times differ
// from run to run, and so does what happens between the faults.
//
// The exit code is 0 when no promise was broken, 1 when one was, 2 when the run
// could not be made, and 3 when a baseline did not show what it is there for.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/ingrain-go/ingrain/cluster/clustertest/process"
)

func main() {
	if code, isChild := runChild(); isChild {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(churn(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// runChild is the main function of this program's children.
func runChild() (code int, isChild bool) {
	role, setup, isChild := process.Role()
	switch role {
	case roleNode:
		return runNode(setup), true
	case roleClients:
		return runDriver(setup), true
	}
	return 2, isChild
}

// Exit codes.
const (
	exitFine = iota
	exitViolations
	exitBroken
	exitToothless
)

func churn(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err == nil && o == nil {
		return exitFine
	}
	if err != nil {
		fmt.Fprintln(stderr, "churn:", err)
		return exitBroken
	}
	if o.sum {
		if err := sumUp(o.files, stdout); err != nil {
			fmt.Fprintln(stderr, "churn:", err)
			return exitBroken
		}
		return exitFine
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	result, err := run(ctx, o, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "churn:", err)
		if result == nil {
			return exitBroken
		}
	}
	result.table(stdout)
	if o.report != "" {
		path, err := result.writePage(o.report)
		if err != nil {
			fmt.Fprintln(stderr, "churn:", err)
			return exitBroken
		}
		fmt.Fprintln(stdout, "report:", path)
	}
	if result.Violations > 0 {
		fmt.Fprintln(stdout, "store, ledger and logs are kept in", result.Files)
	}
	why := result.missed()
	if why != "" {
		fmt.Fprintln(stdout, why)
	}
	if o.json {
		if err := result.writeJSON(stdout); err != nil {
			return exitBroken
		}
	}
	switch {
	case why != "":
		return exitToothless
	case result.Violations > 0:
		return exitViolations
	case err != nil, result.Early:
		return exitBroken
	}
	return exitFine
}

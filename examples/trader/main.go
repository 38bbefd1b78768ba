// Trader is a stock market on Ingrain: order books, portfolios and users are
// aggregates on several node processes that form one cluster over one store.
// Robots trade on every node, figures appear every second, and at the end the
// log is checked against the invariants of the market.
//
//	go run ./examples/trader
//
// The program starts the nodes as child processes of itself. Each serves a page
// on its own port. The exit code is 0 only if nothing acknowledged was lost,
// nothing happened twice, and every invariant holds over the whole log. The data
// stays in -data, and the next run goes on from it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if spec := os.Getenv(specEnv); spec != "" {
		os.Exit(nodeMain(spec))
	}
	// The first interrupt ends the run in good order, a second one the program.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program but its process. It returns the exit code: 0 when
// the market is proven right, 1 when it is not, 2 when it could not be run.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	options, err := parse(args, errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(errs, "trader:", err)
		return 2
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelWarn})))
	summary, err := trade(ctx, options, out, errs)
	if err != nil {
		fmt.Fprintln(errs, "trader:", err)
		return 2
	}
	if err := summary.print(out, options.json); err != nil {
		fmt.Fprintln(errs, "trader:", err)
		return 2
	}
	if !summary.right() {
		return 1
	}
	return 0
}

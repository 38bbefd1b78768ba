// Speed measures what the framework costs, each figure beside a baseline that
// does the same without it, in turn and in one run:
//
//	go run ./benchmarks/speed [-run regexp] [-for 2s] [-pairs 5] [-markdown] [-json] [-report DIR]
//
// Figures of one machine say little about another; the ratios do. Every run
// checks its own work: what was acknowledged must be in the store, no more and
// no less. It ends by itself, with an error only if something could not be
// measured; -strict makes a missed goal an error too.
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
	"regexp"
	"runtime/pprof"
	"syscall"
	"time"
)

func main() {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// bench is one run.
type bench struct {
	// length of a sample; those of what is steady need less
	length, middle, brief time.Duration
	pairs                 int
	want                  *regexp.Regexp
	many                  int // aggregates, for what must not depend on their number
	resident              int // bound on those in memory, 0 for all of them
	dsn                   string
	profile               string // file for CPU profiles

	machine *machine
	out     io.Writer
	postgres
}

// group is figures that are measured together.
type group struct {
	title   string
	figures []string
	measure func(*bench, context.Context) ([]*figure, error)
}

// groups are everything there is to measure, in order.
var groups = []group{
	{"local commands, memory store", []string{"local-1", "local-64", "cost-cpu-local", "cost-allocs-local"}, (*bench).local},
	{"remote commands, two processes", []string{"remote-256", "remote-256-json"}, (*bench).remote},
	{"SQLite", []string{"sqlite-commands"}, (*bench).sqlite},
	{
		"PostgreSQL", []string{
			"postgres-commands", "postgres-store", "postgres-hot-ceiling", "postgres-hot-round-trip",
			"cost-cpu-postgres", "cost-allocs-postgres",
		}, (*bench).durable,
	},
	{"PostgreSQL, a flush takes 1 ms", []string{"postgres-hot-round-trip-1ms"}, (*bench).slowDisk},
	{"PostgreSQL at 1,000 commands a second", []string{"postgres-latency-p50", "postgres-latency-p99"}, (*bench).latency},
	{"rehydration", []string{"rehydration"}, (*bench).rehydration},
	{"a node is killed, PostgreSQL", crashFigures(""), (*bench).crash},
	{"a node is killed, SQLite", crashFigures("-sqlite"), (*bench).crashSQLite},
	{"memory of idle aggregates", []string{"idle-memory", "idle-memory-busy"}, (*bench).idleMemory},
	{"many aggregates on PostgreSQL", []string{"cost-scale"}, (*bench).scale},
	{"many aggregates, memory store", []string{"cost-scale-memory"}, (*bench).scaleMemory},
	{"several nodes on PostgreSQL", []string{"cost-nodes", "cost-nodes-any"}, (*bench).nodes},
	{"replay of a table", figuresOf(replayKinds, "replay-table"), (*bench).replay},
	{"views on three nodes, PostgreSQL", []string{"view-lag"}, (*bench).viewLag},
	{"timers", figuresOf(timerKinds, "timers-fired"), (*bench).timers},
	{"claims", figuresOf(claimKinds, "claims-cost", "claims-taken"), (*bench).claims},
	{"sealed aggregates", figuresOf(sealKinds, "seal-cost", "seal-cost-cpu"), (*bench).seal},
	{"process managers", figuresOf(hopKinds, "process-hop"), (*bench).hop},
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("speed", flag.ContinueOnError)
	flags.SetOutput(stderr)
	markdown := flags.Bool("markdown", false, "print the table in Markdown, as docs/figures.md shows it")
	asJSON := flags.Bool("json", false, "print one JSON object as the last line")
	dir := flags.String("report", "", "write an HTML page with plots into this `directory`")
	pattern := flags.String("run", "", "measure only the figures whose name matches this `regexp`")
	length := flags.Duration("for", 2*time.Second, "length of one sample")
	pairs := flags.Int("pairs", 5, "samples of each contender, taken in turn")
	dsn := flags.String("dsn", os.Getenv("INGRAIN_TEST_POSTGRES"),
		"`DSN` of a PostgreSQL server where databases may be created; default $INGRAIN_TEST_POSTGRES, else a server is started")
	many := flags.Int("aggregates", 1_000_000, "aggregates for cost-scale and cost-scale-memory, about 3 GB a million unless -resident bounds them; claims for claims-cost, and five for each event of replay-table")
	resident := flags.Int("resident", 0, "bound on the aggregates in memory for cost-scale, as MaxResident sets it; 0 for all of them")
	strict := flags.Bool("strict", false, "fail when a goal is missed")
	profile := flags.String("cpuprofile", "", "write a CPU profile of this process to `file`, and those of its children beside it")
	heap := flags.String("memprofile", "", "write an allocation profile of this process to `file` at the end")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, "speed:", err)
		return 1
	}
	want, err := regexp.Compile(*pattern)
	if err != nil {
		return fail(fmt.Errorf("-run: %w", err))
	}
	if *length <= 0 || *pairs < 1 || *many < 20_000 || *resident < 0 || flags.NArg() > 0 {
		return fail(fmt.Errorf("-for and -pairs must be positive, -aggregates at least 20000, -resident not negative, and nothing else given: %v", flags.Args()))
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	stopProfile, err := startProfile(*profile, *heap)
	if err != nil {
		return fail(err)
	}
	b := &bench{
		length: *length, middle: 2 * *length / 3, brief: max(*length/3, 100*time.Millisecond), pairs: *pairs, want: want, many: *many, resident: *resident, dsn: *dsn, profile: *profile,
		machine: newMachine(), out: stdout,
	}
	figures, err := b.all(ctx)
	err = errors.Join(err, b.stop(), stopProfile())
	if err != nil {
		return fail(err)
	}
	result := result{Figures: figures, Machine: b.machine, Seconds: time.Since(b.machine.begin).Seconds()}
	if *markdown {
		result.markdown(stdout)
	} else {
		result.table(stdout)
	}
	if *dir != "" {
		path, err := result.writePage(*dir)
		if err != nil {
			return fail(err)
		}
		fmt.Fprintf(stdout, "\nreport: %s\n", path)
	}
	if *asJSON {
		if err := result.json(stdout); err != nil {
			return fail(err)
		}
	}
	if *strict && result.missed() > 0 {
		return fail(fmt.Errorf("%d goals missed", result.missed()))
	}
	return 0
}

// all measures what is wanted.
func (b *bench) all(ctx context.Context) ([]*figure, error) {
	b.progress("%s", b.machine)
	var figures []*figure
	for _, g := range groups {
		if !b.wants(g.figures...) {
			continue
		}
		b.progress("%s", g.title)
		measured, err := g.measure(b, ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.title, err)
		}
		for _, f := range measured {
			if !b.wants(f.Name) {
				continue
			}
			f.Command = fmt.Sprintf("go run ./benchmarks/speed -run '^%s$' -for %s -pairs %d", f.Name, b.length, b.pairs)
			if err := f.settle(); err != nil {
				return nil, err
			}
			figures = append(figures, f)
		}
	}
	if len(figures) == 0 {
		return nil, fmt.Errorf("-run %q matches no figure", b.want)
	}
	return figures, nil
}

// wants reports whether one of the figures was asked for.
func (b *bench) wants(names ...string) bool {
	for _, name := range names {
		if b.want.MatchString(name) {
			return true
		}
	}
	return false
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.out, "%6.1fs  %s\n", time.Since(b.machine.begin).Seconds(), fmt.Sprintf(format, args...))
}

// startProfile begins what the flags ask for and returns what ends it.
func startProfile(cpu, heap string) (stop func() error, err error) {
	var stops []func() error
	if cpu != "" {
		file, err := os.Create(cpu)
		if err != nil {
			return nil, fmt.Errorf("-cpuprofile: %w", err)
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return nil, errors.Join(fmt.Errorf("-cpuprofile: %w", err), file.Close())
		}
		stops = append(stops, func() error { pprof.StopCPUProfile(); return file.Close() })
	}
	if heap != "" {
		file, err := os.Create(heap)
		if err != nil {
			return nil, fmt.Errorf("-memprofile: %w", err)
		}
		stops = append(stops, func() error { return errors.Join(pprof.Lookup("allocs").WriteTo(file, 0), file.Close()) })
	}
	return func() error {
		var errs []error
		for _, stop := range stops {
			errs = append(errs, stop())
		}
		return errors.Join(errs...)
	}, nil
}

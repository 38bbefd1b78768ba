package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ingrain-go/ingrain/benchmarks/churn/link"
)

const linksSupported = link.Supported

// options are what the command line says.
type options struct {
	length     time.Duration
	nodes      int
	store      string
	partitions int
	lease      time.Duration
	rate       int
	keys       int
	fleet      int
	patience   time.Duration
	recovery   time.Duration
	calm       time.Duration
	steady     time.Duration
	saturate   time.Duration
	idleAfter  time.Duration
	seed       uint64
	mix        map[string]int
	faults     []fault // drawn from
	schedule   []fault // or exactly these
	world      string
	noProof    bool
	dir        string
	keep       bool
	json       bool
	report     string
	sum        bool
	files      []string // to be summed up
	baseline   baseline
	command    string // as it was given, with the seed
}

// parse reads the command line. A nil error with nil options means that help was
// asked for.
func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("churn", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&o.length, "for", time.Minute, "length of the run, without its beginning and end")
	flags.IntVar(&o.nodes, "nodes", 3, "node processes")
	flags.StringVar(&o.store, "store", "sqlite", "`sqlite`, or postgres: a server of the run's own, which can be killed")
	flags.IntVar(&o.partitions, "partitions", 0, "partitions of the store; default 16, on PostgreSQL 32")
	flags.DurationVar(&o.lease, "lease", time.Second, "the lease L")
	flags.IntVar(&o.rate, "rate", 1000, "operations a second")
	flags.IntVar(&o.keys, "keys", 64, "aggregates of each workload that are in use at a time")
	flags.IntVar(&o.fleet, "fleet", -1, "idle aggregates to be woken; default 100000, or 0 in a mix without idle")
	flags.DurationVar(&o.patience, "patience", 10*time.Second, "how long a client asks, node after node, before it gives up")
	flags.DurationVar(&o.recovery, "recovery", 15*time.Second, "how long service may take to come back when a fault is over; longer is a violation")
	flags.DurationVar(&o.calm, "calm", 2*time.Second, "time between two faults")
	flags.DurationVar(&o.steady, "steady", 3*time.Second, "length of the two samples of lease statements before the faults, at a tenth of the rate and at all of it; 0 for none")
	flags.DurationVar(&o.saturate, "saturate", 3*time.Second, "length of the sample of full speed, with -no-cache and -lock-per-command")
	flags.DurationVar(&o.idleAfter, "idle-after", 5*time.Second, "how long an unused aggregate stays in memory")
	flags.Uint64Var(&o.seed, "seed", 0, "seed of faults and workloads; default at random, and printed")
	faults := flags.String("faults", "kill,pause,leave,join", "kinds of `faults` to draw from, with a comma between: "+kindList()+"; 'none' for none. What is fixed can be said: pause:1.5s, kill:hot, cut-peers:in:reset")
	list := flags.String("schedule", "", "exactly these `faults`, in this order, as a run prints them")
	mix := flags.String("mix", "", "share of each `workload`: register=25,append=15,claim=5,hot=25,idle=5,account=25")
	flags.StringVar(&o.world, "world", "", "what lies between the processes: direct, `proxies` or namespaces (root, Linux); default proxies if a fault needs them")
	flags.BoolVar(&o.noProof, "no-proof", false, "the nodes cannot prove each other's death, as on different machines")
	flags.StringVar(&o.dir, "dir", "", "`directory` for the store, logs and evidence; default a temporary one")
	flags.BoolVar(&o.keep, "keep", false, "keep the directory; it is always kept when something is wrong")
	flags.BoolVar(&o.sum, "sum", false, "make no run: add up the results in the files given, each made of what -json printed")
	flags.BoolVar(&o.json, "json", false, "print one JSON object as the last line")
	flags.StringVar(&o.report, "report", "", "write an HTML page with the time line into this `directory`")
	flags.BoolVar(&o.baseline.NoFence, "unsafe-no-fence", false, "baseline: deposed owners append all the same; violations are expected")
	flags.BoolVar(&o.baseline.NoDedup, "unsafe-no-dedup", false, "baseline: clients ask again under new command ids; violations are expected")
	flags.BoolVar(&o.baseline.NoCache, "no-cache", false, "baseline: every command loads its aggregate; it is expected to lose on speed")
	flags.BoolVar(&o.baseline.LockPerCommand, "lock-per-command", false, "baseline: every command takes a lock in the database; it is expected to lose on speed")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, nil
		}
		return nil, err
	}
	if o.sum {
		o.files = flags.Args()
		return o, nil
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unknown arguments: %s", strings.Join(flags.Args(), " "))
	}
	var err error
	if *faults != "none" {
		if o.faults, err = parseFaults(*faults); err != nil {
			return nil, fmt.Errorf("-faults: %w", err)
		}
	}
	if o.schedule, err = parseFaults(*list); err != nil {
		return nil, fmt.Errorf("-schedule: %w", err)
	}
	if o.mix, err = parseMix(*mix); err != nil {
		return nil, fmt.Errorf("-mix: %w", err)
	}
	o.fill()
	o.command = "go run ./benchmarks/churn " + strings.Join(withSeed(args, o.seed), " ")
	return o, o.validate()
}

// fill sets what was left open.
func (o *options) fill() {
	if o.seed == 0 {
		o.seed = 1 + rand.Uint64()%1_000_000
	}
	if o.partitions == 0 {
		o.partitions = 16
		if o.store == "postgres" {
			o.partitions = 32
		}
	}
	if o.fleet < 0 {
		o.fleet = 100_000
		if o.mix["idle"] == 0 {
			o.fleet = 0
		}
	}
	if o.world == "" {
		o.world = "direct"
		for _, f := range append(o.faults, o.schedule...) {
			if kinds[f.Kind].links {
				o.world = "proxies"
			}
		}
	}
}

func (o *options) validate() error {
	switch {
	case o.store != "sqlite" && o.store != "postgres":
		return fmt.Errorf("-store %q: want sqlite or postgres", o.store)
	case o.world != "direct" && o.world != "proxies" && o.world != "namespaces":
		return fmt.Errorf("-world %q: want direct, proxies or namespaces", o.world)
	case o.nodes < 1 || o.nodes > 16:
		return fmt.Errorf("-nodes %d: want 1 to 16", o.nodes)
	case o.length < 0 || o.lease < 100*time.Millisecond || o.patience <= 0 || o.recovery <= 0 || o.steady < 0 || o.saturate <= 0:
		return errors.New("-for and -steady must not be negative, -patience, -recovery and -saturate positive, -lease at least 100ms")
	case o.rate < 10 || o.keys < 1 || o.partitions < 1:
		return errors.New("-rate must be at least 10, -keys and -partitions at least 1")
	case o.mix["idle"] > 0 && o.fleet < 1:
		return errors.New("the workload idle needs a -fleet")
	case o.baseline.unsafe() && o.baseline.slow(), o.baseline.NoCache && o.baseline.LockPerCommand:
		return errors.New("one baseline at a time: -unsafe-no-fence and -unsafe-no-dedup, -no-cache, or -lock-per-command")
	}
	for _, f := range append(o.faults, o.schedule...) {
		if err := f.allowed(o); err != nil {
			return err
		}
		if kinds[f.Kind].links && o.world == "direct" {
			return fmt.Errorf("fault %s needs links that can be cut: -world proxies", f.Kind)
		}
		if f.Kind == slow && o.world == "namespaces" {
			return errors.New("fault slow needs -world proxies")
		}
	}
	return nil
}

// parseMix reads shares of workloads; what is not named has none. Empty is the
// usual mix.
func parseMix(text string) (map[string]int, error) {
	if text == "" {
		return defaultMix, nil
	}
	mix, sum := map[string]int{}, 0
	for item := range strings.SplitSeq(text, ",") {
		name, share, _ := strings.Cut(item, "=")
		n, err := strconv.Atoi(share)
		if _, known := defaultMix[name]; !known || err != nil || n < 0 || n > 1000 {
			return nil, fmt.Errorf("%q: want a workload and its share, 0 to 1000, such as register=25", item)
		}
		mix[name] = n
		sum += n
	}
	if sum == 0 {
		return nil, errors.New("no workload has a share")
	}
	return mix, nil
}

// withSeed is the command line that repeats the run.
func withSeed(args []string, seed uint64) []string {
	for _, a := range args {
		if a == "-seed" || a == "--seed" || strings.HasPrefix(a, "-seed=") || strings.HasPrefix(a, "--seed=") {
			return args
		}
	}
	return append(append([]string(nil), args...), "-seed", strconv.FormatUint(seed, 10))
}

// place makes the run's directory.
func (o *options) place() (dir string, temporary bool, err error) {
	if o.dir != "" {
		return o.dir, false, os.MkdirAll(o.dir, 0o755)
	}
	if dir, err = os.MkdirTemp("", "ingrain-churn-"); err != nil {
		return "", false, err
	}
	return dir, true, os.Chmod(dir, 0o755) // a server that is started by root runs as somebody else
}

package ingrain_test

import (
	"bytes"
	"database/sql"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/actor"
	"github.com/ingrain-go/ingrain/cluster"
	_ "github.com/ingrain-go/ingrain/persistence/sqlite" // brings the driver that reads its file
)

func TestLinksInTheDocsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	for _, doc := range documents(t) {
		for _, found := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(doc.prose, ""), -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := doc.file
			if target != "" {
				file = path.Join(path.Dir(doc.file), target)
			}
			requireExists(t, file, "%s links to %s", doc.file, found[1])
			if anchor != "" {
				require.Contains(t, anchorsOf(t, file), anchor, "%s links to %s", doc.file, found[1])
			}
		}
	}
}

// A code block may be any stretch of a Go file of this module: then the build
// and the tests answer for it.
func TestGoInTheDocsIsCompiled(t *testing.T) {
	var sources []string
	for _, file := range files(t, ".go") {
		if !strings.Contains(file, "testdata/") { // the go command does not look there
			sources = append(sources, unindented(read(t, file)))
		}
	}
	blocks := 0
	for _, doc := range documents(t) {
		for _, block := range doc.blocks {
			if block.language != "go" {
				continue
			}
			blocks++
			code := unindented(block.text)
			compiled := slices.ContainsFunc(sources, func(source string) bool { return strings.Contains(source, code) })
			require.True(t, compiled, "%s: no Go file of this module has these lines:\n%s", doc.file, block.text)
		}
	}
	require.NotZero(t, blocks)
}

func TestTheReadmeShowsTheWholeCounter(t *testing.T) {
	counter := read(t, "examples/counter/main.go")
	for _, block := range document(t, "README.md").blocks {
		if block.language == "go" && block.text == counter {
			return
		}
	}
	t.Error("README.md has no block that equals examples/counter/main.go")
}

// Every query for SQLite runs on the data of a real program. One that says so
// finds faults, and must find none.
func TestSQLInTheDocsRuns(t *testing.T) {
	db, err := sql.Open("sqlite", counterData(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	queries := 0
	for _, doc := range documents(t) {
		for _, block := range doc.blocks {
			if block.language != "sql" || block.variant == "postgres" {
				continue
			}
			queries++
			found := countRows(t, db, block.text)
			if strings.HasPrefix(block.text, "-- every row is a fault") {
				require.Zero(t, found, "%s:\n%s", doc.file, block.text)
			} else {
				require.NotZero(t, found, "%s:\n%s", doc.file, block.text)
			}
		}
	}
	require.NotZero(t, queries)
}

// counterData runs the counter a few times and returns its database.
func counterData(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "counter")
	out, err := exec.Command("go", "build", "-o", program, "./examples/counter").CombinedOutput()
	require.NoError(t, err, string(out))
	dir := t.TempDir()
	for range 3 {
		run := exec.Command(program)
		run.Dir = dir
		out, err := run.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	found := ""
	require.NoError(t, filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if filepath.Base(file) == "ingrain.db" {
			found = file
		}
		return err
	}))
	require.NotEmpty(t, found, "the counter has left no database")
	return found
}

func countRows(t *testing.T, db *sql.DB, query string) (n int) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	require.NoError(t, err, query)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		n++
	}
	require.NoError(t, rows.Err(), query)
	return n
}

var (
	codeSpan   = regexp.MustCompile("`([^`\n]+)`")
	fileName   = regexp.MustCompile(`^[\w./-]+\.(go|md|sql|sh|yaml|proto|golden|txt|svg)$`)
	pathName   = regexp.MustCompile(`^(\./)?[\w.-]+(/[\w.-]+)*/?(/\.\.\.)?$`)
	makeTarget = regexp.MustCompile(`\bmake ([a-z-]+)\b`)
	goPackage  = regexp.MustCompile(`\bgo (?:run|test|vet|build)\b[^\n]*? (\./[\w/.-]*)`)
)

// What stands in code font must be there: files, folders, make targets, and the
// packages of go commands.
func TestTheDocsNameWhatExists(t *testing.T) {
	makefile := read(t, "Makefile")
	known := map[string]bool{}
	for _, ext := range []string{".go", ".md", ".sql", ".sh", ".yaml", ".proto", ".golden", ".txt", ".svg"} {
		for _, file := range files(t, ext) {
			known[path.Base(file)] = true
		}
	}
	for _, doc := range documents(t) {
		var named []string
		for _, span := range codeSpan.FindAllStringSubmatch(doc.prose, -1) {
			named = append(named, span[1])
		}
		for _, block := range doc.blocks {
			if block.language == "sh" {
				named = append(named, block.text)
			}
		}
		for _, span := range named {
			for _, target := range makeTarget.FindAllStringSubmatch(span, -1) {
				require.True(t, strings.Contains(makefile, "\n"+target[1]+":"), "%s names make %s", doc.file, target[1])
			}
			for _, dir := range goPackage.FindAllStringSubmatch(span, -1) {
				require.DirExists(t, strings.TrimSuffix(dir[1], "..."), "%s: %s", doc.file, span)
			}
			switch {
			case fileName.MatchString(span) && !strings.Contains(span, "/"):
				require.True(t, known[span], "%s names %s, and no file is called so", doc.file, span)
			case pathName.MatchString(span) && isOurPath(span):
				dir := strings.TrimSuffix(strings.TrimSuffix(span, "/..."), "/")
				requireExists(t, dir, "%s names %s", doc.file, span)
			}
		}
	}
}

// isOurPath tells paths from other things with a slash by their first part.
func isOurPath(span string) bool {
	first, _, nested := strings.Cut(strings.TrimPrefix(span, "./"), "/")
	info, err := os.Stat(first)
	return nested && err == nil && info.IsDir()
}

// Whoever adds a setting, a counter or a line to the log explains it to the
// reader who meets it at night.
func TestOperationsExplainsWhatItsReaderMeets(t *testing.T) {
	operations := read(t, "docs/operations.md")
	for _, field := range reflect.VisibleFields(reflect.TypeFor[cluster.Config]()) {
		require.True(t, strings.Contains(operations, "`"+field.Name+"`"), "docs/operations.md does not explain Config.%s", field.Name)
	}
	message := regexp.MustCompile(`(?:log|logger|Logger)\.(?:Info|Warn|Error)\(\s*"([^"]+)"`)
	lines := 0
	for _, file := range files(t, ".go") {
		if strings.HasSuffix(file, "_test.go") || !inTheHouse(file) {
			continue
		}
		for _, found := range message.FindAllStringSubmatch(read(t, file), -1) {
			lines++
			require.True(t, strings.Contains(operations, found[1]), "docs/operations.md does not explain %q, which %s logs", found[1], file)
		}
	}
	require.NotZero(t, lines)
}

// A counter is known by two names, one in Go and one at whatever collects it.
func TestOperationsNamesEveryCounterAndItsMetric(t *testing.T) {
	published := map[string]string{} // metric by field
	for _, found := range regexp.MustCompile(`\{"(ingrain\.[^"]+)",.*s\.([\w.]+)\)`).FindAllStringSubmatch(read(t, "cluster/telemetry.go"), -1) {
		published[found[2]] = found[1]
	}
	_, table, _ := strings.Cut(read(t, "docs/operations.md"), "\n| counter | metric | counts |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	explained := map[string]string{}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		fields, metrics := codeSpan.FindAllStringSubmatch(cells[1], -1), codeSpan.FindAllStringSubmatch(cells[2], -1)
		require.Len(t, metrics, len(fields), "docs/operations.md: %s", row)
		for i := range fields {
			explained[fields[i][1]] = metrics[i][1]
		}
	}
	require.Equal(t, published, explained, "the table of counters in docs/operations.md")
	counters := map[string]bool{}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[cluster.Stats]()) {
		counters[field.Name] = field.Name != "Host"
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[actor.Stats]()) {
		counters["Host."+field.Name] = true
	}
	for name, counter := range counters {
		require.Equal(t, counter, published[name] != "", "cluster/telemetry.go: the metric of Stats.%s", name)
	}
}

// A bound is written twice, where it is kept and where it is explained.
func TestTheDocsQuoteTheBoundsInTheCode(t *testing.T) {
	architecture, operations := read(t, "docs/architecture.md"), read(t, "docs/operations.md")
	for _, bound := range []struct{ file, code, doc, words string }{
		{"actor/host.go", "&c.MaxInFlight, 1<<16", architecture, "`MaxInFlight` 65,536"},
		{"actor/host.go", "&c.MaxPerGrain, 1<<10", architecture, "`MaxPerAggregate` 1,024"},
		{"actor/host.go", "&c.MaxResident, 100_000", architecture, "`MaxResident` 100,000"},
		{"actor/host.go", "&c.MaxPayload, 1<<20", architecture, "`MaxPayload` 1 MiB"},
		{"actor/host.go", "&c.CommandRetention, 24*time.Hour", architecture, "`CommandRetention` 24 h"},
		{"actor/host.go", "&c.CommandSkew, time.Minute", architecture, "`CommandSkew` 1 min into the future"},
		{"actor/host.go", "&c.IdleAfter, 2*time.Minute", operations, "`IdleAfter` | 2 min"},
		{"actor/host.go", "&c.Lanes, 2", operations, "`Lanes` | 2 |"},
		{"actor/lane.go", "batchCommits = 500", architecture, "500 commits or 1 MiB"},
		{"actor/lane.go", "batchBytes = 1 << 20", architecture, "500 commits or 1 MiB"},
		{"actor/load.go", "loadBatch = 256", architecture, "256 aggregates, 2,000 events"},
		{"actor/release.go", "barrierLimit = 4096", architecture, "4,096 replies"},
		{"actor/snapshot.go", "snapshotQueue = 256", architecture, "snapshots waiting to be written | 256"},
		{"actor/dispatch.go", "make(chan func(), 1<<14)", architecture, "16,384"},
		{"actor/passivate.go", "tidyAfter = 10 * time.Second", architecture, "16 after 10 s without use"},
		{"eventsourcing/journal.go", "loadPage = 2000", architecture, "2,000 events of each"},
		{"eventsourcing/window.go", "windowMin = 32", architecture, "at least 32"},
		{"eventsourcing/window.go", "windowMax = 4096", architecture, "up to 4,096"},
		{"eventsourcing/window.go", "windowSpan = 5_000", architecture, "span less than 5 s"},
		{"eventsourcing/window.go", "windowIdle = 16", architecture, "16 after 10 s"},
		{"eventsourcing/window.go", "windowStored = 128", architecture, "128 in a snapshot"},
		{"cluster/config.go", "c.Lease = time.Second", operations, "`Lease` | 1 s"},
		{"cluster/config.go", "c.CallTimeout = 10 * time.Second", operations, "`CallTimeout` | 10 s"},
		{"cluster/config.go", "c.MaxPerPeer = 8192", architecture, "`MaxPerPeer` 8,192"},
		{"cluster/client.go", "retryFirst = time.Millisecond", architecture, "pauses of 1 ms"},
		{"cluster/client.go", "retryMost = 100 * time.Millisecond", architecture, "doubling to 100 ms"},
		{"cluster/peer.go", "packMessages = 512", architecture, "512 calls and 512 replies"},
		{"cluster/peer.go", "packBytes = 256 << 10", architecture, "256 KiB"},
		{"cluster/membership.go", "renewalsPerLease = 4", architecture, "every quarter of the lease"},
		{"cluster/membership.go", "suspicion = renewalsPerLease + 1", architecture, "5 renewals of one's own"},
		{"cluster/membership.go", "deathWatch = 50 * time.Millisecond", architecture, "every 50 ms"},
		{"cluster/claim.go", "moving = 4", architecture, "at most 4 partitions at a time"},
		{"cluster/claim.go", "drainTimeout = time.Second", architecture, "wait up to a second"},
		{"cluster/handover.go", "hotMost = 256", architecture, "up to 256 aggregates"},
		{"cluster/handover.go", "hotBytes = 32 << 10", architecture, "32 KiB of names"},
		{"cluster/handover.go", "prepareTimeout = 500 * time.Millisecond", architecture, "most 500 ms"},
		{"cluster/handover.go", "giftPatience = 50 * time.Millisecond", architecture, "waits 50 ms"},
		{"cluster/parking.go", "parkLimit = 16384", architecture, "in or out | 16,384"},
		{"cluster/parking.go", "parkPatience = time.Second", architecture, "each at most a second"},
		{"cluster/peer.go", "rowsMost = 4096", architecture, "told to a peer | 4,096"},
		{"actor/warm.go", "warmBatch = 128", architecture, "128 at a"},
		{"aggregate/ref.go", "MaxIDBytes = 512", architecture, "an id | 512 bytes"},
		{"persistence/postgres/config.go", "DefaultPartitions = 256", operations, "256 on PostgreSQL"},
		{"persistence/postgres/config.go", "defaultKnownStreams = 1 << 17", architecture, "131,072"},
		{"persistence/postgres/append.go", "maxCommitBytes = 64 << 20", architecture, "PostgreSQL 64 MiB"},
		{"persistence/sqlite/store.go", "DefaultPartitions = 16", operations, "16 on SQLite and in memory"},
		{"persistence/sqlite/checkpointer.go", "full: 160 << 20", architecture, "truncated at 160 MiB"},
	} {
		code := strings.Join(strings.Fields(read(t, bound.file)), " ")
		require.True(t, strings.Contains(code, bound.code), "%s has no %q any more: %q in the docs is wrong", bound.file, bound.code, bound.words)
		require.True(t, strings.Contains(bound.doc, bound.words), "the docs do not say %q", bound.words)
	}
}

// A drill is a promise on a page and what a test does: neither is without the
// other. The page lists it, and says how to run it.
func TestEveryDrillIsExplainedAndCanBeRun(t *testing.T) {
	page := read(t, "docs/drills.md")
	listed, explained, existing := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, found := range regexp.MustCompile("(?m)^\\| \\[.+\\]\\(#.+\\) \\| `(TestDrill\\w+)` \\|$").FindAllStringSubmatch(page, -1) {
		listed[found[1]] = true
	}
	for _, found := range regexp.MustCompile("(?m)^`go test \\./cluster -run (TestDrill\\w+)\\$? -v`").FindAllStringSubmatch(page, -1) {
		explained[found[1]] = true
	}
	tests, err := filepath.Glob("cluster/*_test.go")
	require.NoError(t, err)
	for _, file := range tests {
		for _, found := range regexp.MustCompile(`(?m)^func (TestDrill\w+)\(t `).FindAllStringSubmatch(read(t, file), -1) {
			existing[found[1]] = true
		}
	}
	require.NotEmpty(t, existing)
	require.Equal(t, existing, explained, "the drills in package cluster, and those that docs/drills.md says how to run")
	require.Equal(t, existing, listed, "the drills in package cluster, and those in the table of docs/drills.md")
}

func TestArchitectureListsEveryReason(t *testing.T) {
	architecture := read(t, "docs/architecture.md")
	reasons := regexp.MustCompile(`\n\tReason\w+ += "([^"]+)"`).FindAllStringSubmatch(read(t, "aggregate/reject.go"), -1)
	require.NotEmpty(t, reasons)
	for _, reason := range reasons {
		require.True(t, strings.Contains(architecture, "`"+reason[1]+"`"), "docs/architecture.md does not list the reason %q", reason[1])
	}
}

func TestEveryInvariantThatIsCitedIsStated(t *testing.T) {
	architecture := read(t, "docs/architecture.md")
	cited := regexp.MustCompile(`\bI[0-9]+\b`)
	for _, file := range append(files(t, ".go"), files(t, ".md")...) {
		if !inTheHouse(file) {
			continue
		}
		for _, invariant := range cited.FindAllString(read(t, file), -1) {
			require.True(t, strings.Contains(architecture, "- **"+invariant+" "), "%s cites %s, which docs/architecture.md does not state", file, invariant)
		}
	}
}

// inTheHouse leaves out the examples, whose domains have invariants of their
// own, and the benchmarks.
func inTheHouse(file string) bool {
	return !under(file, "examples") && !under(file, "benchmarks") && path.Dir(file) != "."
}

// text is a Markdown file.
type text struct {
	file   string
	prose  string // without the blocks
	blocks []codeBlock
}

// codeBlock is what stands between fences: ```language variant
type codeBlock struct{ language, variant, text string }

func documents(t *testing.T) []text {
	t.Helper()
	var all []text
	for _, file := range files(t, ".md") {
		all = append(all, document(t, file))
	}
	return all
}

func document(t *testing.T, file string) text {
	t.Helper()
	doc := text{file: file}
	var prose, code strings.Builder
	var block *codeBlock
	for line := range strings.Lines(read(t, file)) {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && block == nil:
			language, variant, _ := strings.Cut(fence, " ")
			block = &codeBlock{language: language, variant: variant}
			code.Reset()
		case isFence:
			block.text = code.String()
			doc.blocks = append(doc.blocks, *block)
			block = nil
		case block != nil:
			code.WriteString(line)
		default:
			prose.WriteString(line)
		}
	}
	require.Nil(t, block, "%s has a fence without an end", file)
	doc.prose = prose.String()
	return doc
}

// anchorsOf lists the headings of a document as they are linked to.
func anchorsOf(t *testing.T, file string) []string {
	t.Helper()
	var anchors []string
	drop := regexp.MustCompile(`[^\w\- ]`)
	for line := range strings.Lines(document(t, file).prose) {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			slug := drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			anchors = append(anchors, strings.ReplaceAll(slug, " ", "-"))
		}
	}
	return anchors
}

// unindented takes the indentation away, so that a block may show the inside of
// a function.
func unindented(code string) string {
	var b strings.Builder
	b.WriteByte('\n')
	for line := range strings.Lines(code) {
		b.WriteString(strings.TrimSpace(line))
		b.WriteByte('\n')
	}
	return b.String()
}

// files lists the files of the module with an extension, slash-separated.
func files(t *testing.T, ext string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "data"):
			return filepath.SkipDir
		case filepath.Ext(file) == ext:
			found = append(found, filepath.ToSlash(file))
		}
		return nil
	})
	require.NoError(t, err)
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")))
}

func requireExists(t *testing.T, file, format string, args ...any) {
	t.Helper()
	_, err := os.Stat(file)
	require.NoError(t, err, append([]any{format}, args...)...)
}

package ingrain_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/ingrain-go/ingrain"

// Libraries that more than one floor may use.
const (
	protoactor = "github.com/asynkron/protoactor-go"
	protobuf   = "google.golang.org/protobuf"
	pgx        = "github.com/jackc/pgx/v5"
	lru        = "github.com/hashicorp/golang-lru/v2"
	sqlite     = "modernc.org/sqlite"
	sys        = "golang.org/x/sys"
	goleak     = "go.uber.org/goleak"
	otel       = "go.opentelemetry.io/otel"
	testify    = "github.com/stretchr/testify"
	porcupine  = "github.com/anishathalye/porcupine"
)

// floor is what the packages under a folder may import besides the standard
// library and each other. A package belongs to the deepest floor that names it.
type floor struct {
	dir string
	// ours lists folders of this module. A folder stands for what is below it,
	// unless that is a floor of its own. "*" is everything.
	ours []string
	// libs lists other modules. "*" is everything.
	libs []string
	// kit marks what only tests, other kits and benchmarks may import.
	kit bool
	// pure marks what may not import impure either.
	pure bool
}

// The house, from the ground up: section 3 of docs/architecture.md.
var floors = []floor{
	{dir: "."},

	{dir: "internal/bulletin"},
	{dir: "internal/simulated"}, // where a simulation takes hold

	{dir: "aggregate"},
	{dir: "aggregate/aggregatetest", kit: true, ours: []string{"aggregate", "persistence", "eventsourcing"}, libs: []string{testify, protobuf}},

	{dir: "persistence"},
	{dir: "persistence/archive", ours: []string{"persistence"}},
	{dir: "persistence/memory", ours: []string{"persistence"}},
	{dir: "persistence/sqlite", ours: []string{"persistence"}, libs: []string{sqlite}},
	{dir: "persistence/postgres", ours: []string{"persistence"}, libs: []string{pgx, lru}},
	{dir: "persistence/persistencetest", kit: true, ours: []string{"persistence"}, libs: []string{testify}},
	{dir: "persistence/postgres/postgrestest", kit: true, ours: []string{"persistence", "persistence/postgres"}, libs: []string{pgx, testify}},

	{dir: "eventsourcing", ours: []string{"aggregate", "persistence", "internal/bulletin"}, libs: []string{protobuf}},

	{
		dir:  "actor",
		ours: []string{"aggregate", "persistence", "eventsourcing", "internal/bulletin", "internal/simulated"},
		libs: []string{protoactor, protobuf, sys},
	},

	{
		dir:  "cluster",
		ours: []string{"aggregate", "persistence", "eventsourcing", "actor", "cluster/internal/partition", "internal/bulletin", "internal/simulated"},
		libs: []string{protoactor, protobuf, sys, otel, "google.golang.org/grpc"},
	},
	{dir: "cluster/internal/upgrade", kit: true, ours: []string{"aggregate", "cluster", "cluster/clustertest"}}, // programs that a drill runs
	{dir: "cluster/internal/partition", pure: true, ours: []string{"persistence"}},
	{
		dir: "cluster/internal/simulation", kit: true,
		ours: []string{
			"aggregate", "persistence", "persistence/memory", "eventsourcing", "actor", "cluster", "internal/simulated",
		},
		libs: []string{protobuf, porcupine},
	},
	{
		dir: "cluster/clustertest", kit: true,
		ours: []string{
			"aggregate", "persistence", "eventsourcing", "actor", "cluster", "persistence/memory", "persistence/sqlite",
			"persistence/postgres", "persistence/postgres/postgrestest", "persistence/persistencetest",
		},
		libs: []string{protoactor, protobuf, testify, porcupine},
	},

	{
		dir: "examples",
		ours: []string{
			"aggregate", "persistence", "eventsourcing", "actor", "cluster", "persistence/memory", "persistence/sqlite",
			"persistence/postgres", "persistence/postgres/postgrestest", // starts a server for who has none
		},
	},
	{
		dir: "examples/trader/markettest", kit: true,
		ours: []string{"aggregate", "aggregate/aggregatetest", "persistence", "eventsourcing", "examples"}, libs: []string{testify},
	},
	// Benchmarks measure against the bare libraries.
	{dir: "benchmarks", ours: []string{"*"}, libs: []string{"*"}},
}

// impure is where a clock, randomness, waiting and the outside world come from.
var impure = []string{"time", "context", "math/rand", "crypto/rand", "os", "net", "syscall"}

// testLibs may be imported by every test.
var testLibs = []string{testify, porcupine, goleak}

// pkg is a package of this module, and what its files import.
type pkg struct {
	dir     string // slash-separated, relative to the module's root
	name    string
	imports []string
	// testImports is what its _test.go files import.
	testImports []string
	// defines says that it declares an aggregate: it calls aggregate.Define.
	defines bool
}

func TestImportsFollowTheFloors(t *testing.T) {
	pkgs := load(t, ".")
	require.NotEmpty(t, pkgs)
	require.Empty(t, violations(floors, pkgs), "see section 3 of docs/architecture.md")
}

// violations returns a sentence for every import that points upwards, sideways
// or outside.
func violations(floors []floor, pkgs []pkg) []string {
	domains := map[string]bool{}
	for _, p := range pkgs {
		domains[p.dir] = p.isDomain()
	}
	var found []string
	for _, p := range pkgs {
		own := floorOf(floors, p.dir)
		if own == nil {
			found = append(found, fmt.Sprintf("%s: no floor names this package", p.dir))
			continue
		}
		for _, imp := range p.imports {
			if why := forbids(floors, own, p, imp, domains); why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", p.dir, imp, why))
			}
		}
		for _, imp := range p.testImports {
			if why := forbidsTest(floors, own, p, imp, domains); why != "" {
				found = append(found, fmt.Sprintf("a test of %s imports %s: %s", p.dir, imp, why))
			}
		}
	}
	return found
}

// isDomain says that the package is where a domain is written: a part of an
// example, not its main package, that declares aggregates.
func (p pkg) isDomain() bool {
	return p.defines && p.name != "main" && under(p.dir, "examples")
}

// forbids says why a package may not import something, or nothing.
func forbids(floors []floor, own *floor, p pkg, imp string, domains map[string]bool) string {
	dir, isOurs := ours(imp)
	switch {
	case isStandard(imp) && own.pure && within(imp, impure):
		return own.dir + " is pure"
	case isStandard(imp):
		return ""
	case !isOurs && !slices.Contains(own.libs, "*") && !within(imp, own.libs):
		return fmt.Sprintf("%s may not use this library", own.dir)
	case !isOurs:
		return ""
	case p.isDomain() && dir != "aggregate" && !domains[dir]:
		return "a domain knows aggregate and other domains only"
	}
	other := floorOf(floors, dir)
	switch {
	case other == nil:
		return "no floor names it"
	case other.kit && !own.kit && !under(own.dir, "benchmarks") && !slices.Contains(own.ours, other.dir):
		return "it is a test kit"
	case other == own || slices.Contains(own.ours, "*") || slices.Contains(own.ours, other.dir):
		return ""
	default:
		return fmt.Sprintf("%s may not import %s", own.dir, other.dir)
	}
}

// forbidsTest says why a package's test may not import something, or nothing. A
// test may look up to other floors and kits, a domain's test only to its kit. No
// test reaches round its floor for a library.
func forbidsTest(floors []floor, own *floor, p pkg, imp string, domains map[string]bool) string {
	dir, isOurs := ours(imp)
	switch {
	case p.isDomain() && dir == "aggregate/aggregatetest":
		return ""
	case isOurs && !p.isDomain():
		return ""
	case isStandard(imp) || within(imp, testLibs):
		return ""
	default:
		return forbids(floors, own, p, imp, domains)
	}
}

// floorOf is the deepest floor that a folder lies on.
func floorOf(floors []floor, dir string) *floor {
	var deepest *floor
	for i, f := range floors {
		if under(dir, f.dir) && (deepest == nil || len(f.dir) > len(deepest.dir)) {
			deepest = &floors[i]
		}
	}
	return deepest
}

// under reports whether one slash-separated path is another or lies below it.
// Nothing but the root lies under the root.
func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func within(p string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return under(p, dir) })
}

// ours is the folder of an import of this module.
func ours(imp string) (string, bool) {
	if imp == module {
		return ".", true
	}
	return strings.CutPrefix(imp, module+"/")
}

// isStandard reports whether an import is of the standard library, whose paths
// begin without a host name.
func isStandard(imp string) bool {
	host, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(host, ".")
}

// load reads the imports of all Go files below root, whatever their build
// constraints. It reads files instead of asking the go command, so that the
// test cache knows what the result depends on.
func load(t *testing.T, root string) []pkg {
	t.Helper()
	byDir := map[string]*pkg{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return enter(root, file, entry.Name())
		}
		if filepath.Ext(file) != ".go" {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		if byDir[dir] == nil {
			byDir[dir] = &pkg{dir: dir}
		}
		return byDir[dir].add(file)
	})
	require.NoError(t, err)
	var pkgs []pkg
	for _, p := range byDir {
		pkgs = append(pkgs, *p)
	}
	slices.SortFunc(pkgs, func(a, b pkg) int { return strings.Compare(a.dir, b.dir) })
	return pkgs
}

// enter skips the folders that the go command skips, and other modules.
func enter(root, dir, name string) error {
	if dir == root {
		return nil
	}
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func (p *pkg) add(file string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	list := &p.imports
	if strings.HasSuffix(file, "_test.go") {
		list = &p.testImports
	} else {
		p.name = parsed.Name.Name
		p.defines = p.defines || callsDefine(parsed)
	}
	for _, spec := range parsed.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if !slices.Contains(*list, imp) {
			*list = append(*list, imp)
		}
	}
	return nil
}

// callsDefine reports whether a file calls Define of package aggregate, under
// whatever name it imports it.
func callsDefine(file *ast.File) bool {
	name := ""
	for _, spec := range file.Imports {
		if spec.Path.Value == strconv.Quote(module+"/aggregate") {
			name = path.Base(module + "/aggregate")
			if spec.Name != nil {
				name = spec.Name.Name
			}
		}
	}
	found := false
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if ok && sel.Sel.Name == "Define" {
			if x, ok := sel.X.(*ast.Ident); ok && name != "" && x.Name == name {
				found = true
			}
		}
		return !found
	})
	return found
}

func TestTheFloorsForbid(t *testing.T) {
	us := func(dir string) string { return module + "/" + dir }
	users := pkg{dir: "examples/trader/users", name: "users", defines: true}
	for name, tc := range map[string]struct {
		in        pkg
		imp, test string
		want      string // empty: allowed
	}{
		"the standard library everywhere":   {in: pkg{dir: "aggregate"}, imp: "go/ast"},
		"aggregate is plain Go":             {in: pkg{dir: "aggregate"}, imp: "github.com/google/uuid", want: "aggregate may not use this library"},
		"aggregate knows no store":          {in: pkg{dir: "aggregate"}, imp: us("persistence"), want: "aggregate may not import persistence"},
		"the contract knows no aggregate":   {in: pkg{dir: "persistence"}, imp: us("aggregate"), want: "persistence may not import aggregate"},
		"the contract knows no store":       {in: pkg{dir: "persistence"}, imp: us("persistence/memory"), want: "persistence may not import persistence/memory"},
		"a store has its driver":            {in: pkg{dir: "persistence/postgres"}, imp: pgx + "/pgxpool"},
		"and no other":                      {in: pkg{dir: "persistence/sqlite"}, imp: pgx, want: "persistence/sqlite may not use this library"},
		"stores do not know each other":     {in: pkg{dir: "persistence/sqlite"}, imp: us("persistence/memory"), want: "persistence/sqlite may not import persistence/memory"},
		"a library is not its namesake":     {in: pkg{dir: "persistence/sqlite"}, imp: sqlite + "3", want: "persistence/sqlite may not use this library"},
		"a floor's folders know each other": {in: pkg{dir: "actor/internal/a"}, imp: us("actor/internal/b")},
		"and stay on their floor":           {in: pkg{dir: "actor/internal/a"}, imp: us("cluster"), want: "actor may not import cluster"},
		"no arrow upwards":                  {in: pkg{dir: "eventsourcing"}, imp: us("actor"), want: "eventsourcing may not import actor"},
		"no protoactor below actor":         {in: pkg{dir: "eventsourcing"}, imp: protoactor + "/actor", want: "eventsourcing may not use this library"},
		"protoactor in actor":               {in: pkg{dir: "actor"}, imp: protoactor + "/actor"},
		"no protoactor in programs":         {in: pkg{dir: "examples/trader", name: "main"}, imp: protoactor + "/actor", want: "examples may not use this library"},
		"cluster knows the contract":        {in: pkg{dir: "cluster"}, imp: us("persistence")},
		"but no store":                      {in: pkg{dir: "cluster"}, imp: us("persistence/postgres"), want: "cluster may not import persistence/postgres"},
		"placement is pure":                 {in: pkg{dir: "cluster/internal/partition"}, imp: us("actor"), want: "cluster/internal/partition may not import actor"},
		"and asks no clock":                 {in: pkg{dir: "cluster/internal/partition"}, imp: "time", want: "cluster/internal/partition is pure"},
		"its tests may":                     {in: pkg{dir: "cluster/internal/partition"}, test: "os"},
		"programs know no kit":              {in: pkg{dir: "examples/trader", name: "main"}, imp: us("cluster/clustertest"), want: "it is a test kit"},
		"the house knows no kit":            {in: pkg{dir: "actor"}, imp: us("persistence/persistencetest"), want: "it is a test kit"},
		"benchmarks know everything":        {in: pkg{dir: "benchmarks/speed", name: "main"}, imp: us("persistence/postgres/postgrestest")},
		"a folder without a floor":          {in: pkg{dir: "util"}, imp: "fmt", want: "no floor names this package"},
		"importing one":                     {in: pkg{dir: "cluster"}, imp: us("util"), want: "no floor names it"},
		"a domain knows aggregate":          {in: users, imp: us("aggregate")},
		"and nothing above it":              {in: users, imp: us("cluster"), want: "a domain knows aggregate and other domains only"},
		"nor beside it":                     {in: users, imp: us("persistence"), want: "a domain knows aggregate and other domains only"},
		"tests look up":                     {in: pkg{dir: "eventsourcing"}, test: us("persistence/memory")},
		"tests assert":                      {in: pkg{dir: "persistence"}, test: testify + "/require"},
		"tests do not reach round a floor":  {in: pkg{dir: "eventsourcing"}, test: protoactor + "/actor", want: "eventsourcing may not use this library"},
		"a domain's test has its kit":       {in: users, test: us("aggregate/aggregatetest")},
		"and no node":                       {in: users, test: us("cluster"), want: "a domain knows aggregate and other domains only"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.imp != "" {
				tc.in.imports = []string{tc.imp}
			} else {
				tc.in.testImports = []string{tc.test}
			}
			got := strings.Join(violations(floors, []pkg{tc.in}), "\n")
			if tc.want == "" {
				require.Empty(t, got)
			} else {
				require.Contains(t, got, tc.want)
				require.Contains(t, got, tc.in.dir)
			}
		})
	}
}

func TestLoadFindsImportsAndDomains(t *testing.T) {
	root := t.TempDir()
	for file, text := range map[string]string{
		"go.mod":              "module example.com/fake\n",
		"users/users.go":      "package users\nimport agg \"" + module + "/aggregate\"\nvar T = agg.Define[int](\"t\")\n",
		"users/users_test.go": "package users_test\nimport \"testing\"\n",
		"web/web.go":          "//go:build plan9\n\npackage web\nimport (\"fmt\"; _ \"net/http\")\n",
		"web/testdata/x.go":   "package x\nimport \"os\"\n",
		"peers/go.mod":        "module example.com/other\n",
		"peers/peers.go":      "package peers\nimport \"os\"\n",
	} {
		file = filepath.Join(root, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	require.Equal(t, []pkg{
		{dir: "users", name: "users", imports: []string{module + "/aggregate"}, testImports: []string{"testing"}, defines: true},
		{dir: "web", name: "web", imports: []string{"fmt", "net/http"}},
	}, load(t, root))
}

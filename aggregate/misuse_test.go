package aggregate_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMisuseDoesNotCompile type-checks testdata/misuse.go. Each line that says
// ERROR must have such an error, and no other line may have one.
func TestMisuseDoesNotCompile(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "testdata/misuse.go", nil, parser.ParseComments)
	require.NoError(t, err)

	found := map[int]string{}
	config := types.Config{
		Importer: importer.ForCompiler(fset, "gc", compiled(t)),
		Error: func(err error) {
			var e types.Error
			require.ErrorAs(t, err, &e)
			found[fset.Position(e.Pos).Line] += e.Msg + "\n"
		},
	}
	_, err = config.Check("misuse", fset, []*ast.File{file}, nil)
	require.Error(t, err)

	for line, want := range expectedErrors(t, fset, file) {
		require.Regexp(t, want, found[line], "misuse.go:%d", line)
		delete(found, line)
	}
	require.Empty(t, found, "errors that misuse.go does not expect, by line")
}

func expectedErrors(t *testing.T, fset *token.FileSet, file *ast.File) map[int]*regexp.Regexp {
	expected := map[int]*regexp.Regexp{}
	for _, group := range file.Comments {
		for _, c := range group.List {
			quoted, ok := strings.CutPrefix(c.Text, "// ERROR ")
			if !ok {
				continue
			}
			pattern, err := strconv.Unquote("`" + strings.Trim(quoted, `"`) + "`")
			require.NoError(t, err)
			expected[fset.Position(c.Pos()).Line] = regexp.MustCompile(pattern)
		}
	}
	require.NotEmpty(t, expected)
	return expected
}

// compiled finds the compiled form of this package and all it imports, which
// the build cache has, since this test was built from them.
func compiled(t *testing.T) importer.Lookup {
	list := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", ".")
	list.Stderr = os.Stderr
	out, err := list.Output()
	require.NoError(t, err, "go list must run to find the compiled packages")
	paths := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, export, _ := strings.Cut(strings.TrimSpace(line), " ")
		paths[path] = export
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(paths[path]) }
}

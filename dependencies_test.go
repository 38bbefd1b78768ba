package ingrain_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryDependencyHasAReason(t *testing.T) {
	gomod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	reasons, err := os.ReadFile("docs/decisions/002-dependencies.md")
	require.NoError(t, err)
	for _, p := range load(t, ".") {
		for _, imp := range append(p.imports, p.testImports...) {
			if _, isOurs := ours(imp); isOurs || isStandard(imp) {
				continue
			}
			lib := moduleOf(string(gomod), imp)
			require.NotEmpty(t, lib, "go.mod has no module for %s, imported by %s", imp, p.dir)
			require.True(t, strings.Contains(string(reasons), "`"+lib+"`"),
				"docs/decisions/002-dependencies.md gives no reason for %s, imported by %s", lib, p.dir)
		}
	}
}

var required = regexp.MustCompile(`(?m)^\s*(?:require\s+)?(\S+) v\S+`)

// moduleOf is the module in go.mod that an import comes from.
func moduleOf(gomod, imp string) string {
	longest := ""
	for _, match := range required.FindAllStringSubmatch(gomod, -1) {
		if under(imp, match[1]) && len(match[1]) > len(longest) {
			longest = match[1]
		}
	}
	return longest
}

func TestModuleOfIsTheDeepest(t *testing.T) {
	gomod := strings.Join([]string{"module m", "require a.b/c v1.0.0", "require (", "\ta.b/c/d v1.0.0 // indirect", ")"}, "\n")
	require.Equal(t, "a.b/c", moduleOf(gomod, "a.b/c/x"))
	require.Equal(t, "a.b/c/d", moduleOf(gomod, "a.b/c/d"))
	require.Empty(t, moduleOf(gomod, "a.b/cc"))
}

package aggregatetest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/aggregate"
	"github.com/ingrain-go/ingrain/aggregate/aggregatetest"
)

// mistakes fail, each in a process of its own, at the line that is marked with
// its name.
var mistakes = map[string]func(t *testing.T){
	"forgotten": func(t *testing.T) {
		filled(t).When(add{[]string{"c"}}) // line: forgotten
	},
	"forgotten answer": func(t *testing.T) {
		aggregatetest.Do(aggregatetest.For(t, Accounts), Withdraw{0}).Answers(0) // line: forgotten answer
	},
	"events": func(t *testing.T) {
		filled(t).When(add{[]string{"c"}}).ThenNothing() // line: events
	},
	"answer": func(t *testing.T) {
		aggregatetest.Ask(filled(t), items{}).Answers(nil) // line: answer
	},
	"answer of a command": func(t *testing.T) {
		aggregatetest.Do(aggregatetest.For(t, Accounts), Withdraw{0}).Answers(1).ThenNothing() // line: answer of a command
	},
	"panic": func(t *testing.T) {
		filled(t).When(panics{}).ThenNothing() // line: panic
	},
	"panic in the library": func(t *testing.T) {
		filled(t).When(add{}).ThenNothing().When(repeats{}).ThenNothing() // line: panic in the library
	},
}

// A mistake is reported at the line of the test, never inside the kit.
func TestMistakesAreReportedWhereTheyWereMade(t *testing.T) {
	const name = "AGGREGATETEST_MISTAKE"
	if mistake := os.Getenv(name); mistake != "" {
		mistakes[mistake](t)
		return
	}
	for mistake := range mistakes {
		t.Run(mistake, func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run=^TestMistakesAreReportedWhereTheyWereMade$")
			child.Env = append(os.Environ(), name+"="+mistake)
			out, err := child.CombinedOutput()
			require.Error(t, err, "the mistake was not noticed")
			require.Contains(t, string(out), "lines_test.go:"+lineOf(t, "lines_test.go", "// line: "+mistake)+": ", string(out))
		})
	}
}

func TestAPanicNamesTheLineOfTheDomain(t *testing.T) {
	for file, c := range map[string]struct {
		command aggregate.Command[shelf]
		code    string
	}{
		"broken_test.go": {panics{}, "return nil, errors.New(s.Items[1000])"},
		"lines_test.go":  {repeats{}, `_ = strings.Repeat("x", ` + "-len(s.Items))"},
	} {
		failure := failureOf(t, func(t testing.TB) { filled(t).When(c.command).ThenNothing() })
		require.Regexp(t, `panicked: .*\n\tat .*`+file+":"+lineOf(t, file, c.code)+` in .*\.Decide$`, failure)
	}
}

// repeats panics in the Go library.
type repeats struct{}

func (repeats) Decide(s shelf) ([]shelfEvent, error) {
	_ = strings.Repeat("x", -len(s.Items))
	return nil, nil
}

// lineOf is the number of the one line that ends with some text.
func lineOf(t *testing.T, file, end string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Clean(file))
	require.NoError(t, err)
	found := 0
	for i, line := range strings.Split(string(source), "\n") {
		if line = strings.TrimSuffix(line, " }"); strings.HasSuffix(line, end) {
			require.Zero(t, found, "two lines of %s end with %q", file, end)
			found = i + 1
		}
	}
	require.NotZero(t, found, "no line of %s ends with %q", file, end)
	return strconv.Itoa(found)
}

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The second run goes on from where the first one stopped.
func TestTheCounterSurvivesTheProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "counter")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	dir := t.TempDir()
	for _, want := range []string{
		"version 1 value 1 rejected: a counter never goes below zero\n",
		"version 2 value 2 rejected: a counter never goes below zero\n",
	} {
		var stderr bytes.Buffer
		cmd := exec.Command(program)
		cmd.Dir, cmd.Stderr = dir, &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		require.Equal(t, want, string(out))
	}
}

func TestTheExampleIsShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(source, []byte("\n")), 60)
}

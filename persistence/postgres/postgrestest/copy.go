package postgrestest

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

// Dump writes a database as SQL into a file, with pg_dump, which may run while
// others write.
func Dump(t testing.TB, dsn string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "dump.sql")
	run(t, "pg_dump", "--no-password", "--dbname", dsn, "--file", file)
	return file
}

// Restore runs the SQL that [Dump] wrote, with psql, in a database that has
// nothing of it.
func Restore(t testing.TB, dsn, file string) {
	t.Helper()
	run(t, "psql", "--no-psqlrc", "--no-password", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", dsn, "--file", file)
}

// run runs one of PostgreSQL's programs: the server's own, which the server's
// version suits, or else the one on PATH.
func run(t testing.TB, program string, args ...string) {
	t.Helper()
	path := program
	if bin, err := findBinaries(); err == nil {
		path = filepath.Join(bin, program)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil { //nolint:gosec // a program of PostgreSQL
		t.Fatal(fmt.Errorf("%s: %w\n%s", program, err, out))
	}
}

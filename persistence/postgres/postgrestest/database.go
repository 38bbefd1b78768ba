package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Env names the environment variable with the DSN of a server to use instead of
// starting one. Its role must be allowed to create databases.
const Env = "INGRAIN_TEST_POSTGRES"

// shared is the test process's own server, started by the first test that
// needs it.
var shared struct {
	sync.Mutex
	server *Server
	err    error
}

var databases atomic.Int64

// DSN makes an empty database for the test and returns its DSN. The server is
// the one that INGRAIN_TEST_POSTGRES names, or else one that all tests of the
// process share. Without any it fails the test and says what to install.
func DSN(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	admin, err := adminDSN(ctx)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("ingrain_%d_%d_%s", os.Getpid(), databases.Add(1), strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := createDatabase(ctx, admin, name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		if err := dropDatabase(ctx, admin, name); err != nil {
			t.Error(err)
		}
	})
	return withDatabase(admin, name)
}

// Main runs a package's tests and then stops the shared server:
//
//	func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }
//
// Without it the server ends with the process, but leaves its files to the
// next run to remove.
func Main(m *testing.M) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		if err := shared.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}

func adminDSN(ctx context.Context) (string, error) {
	if dsn := os.Getenv(Env); dsn != "" {
		return dsn, nil
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = Start(ctx, "")
	}
	if shared.err != nil {
		return "", shared.err
	}
	return shared.server.DSN("postgres"), nil
}

func createDatabase(ctx context.Context, admin, name string) error {
	return execute(ctx, admin, "create database "+pgx.Identifier{name}.Sanitize())
}

func dropDatabase(ctx context.Context, admin, name string) error {
	return execute(ctx, admin, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)")
}

func execute(ctx context.Context, dsn, sql string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// withDatabase replaces the database that a DSN of either form names.
func withDatabase(dsn, name string) string {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		if u, err := url.Parse(dsn); err == nil {
			u.Path = "/" + name
			return u.String()
		}
	}
	return dsn + " dbname=" + name // the last one counts
}

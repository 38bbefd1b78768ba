package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errMissing tells what to install.
var errMissing = errors.New("no PostgreSQL server found: install one (Debian, Ubuntu: apt-get install postgresql; " +
	"Fedora: dnf install postgresql-server; macOS: brew install postgresql), put initdb and postgres on PATH, " +
	"or set INGRAIN_TEST_POSTGRES to the DSN of a server where databases may be created")

// findBinaries returns the folder that holds initdb and postgres.
func findBinaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && isComplete(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/pgsql/bin"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("find postgres: %w", err)
		}
		found = append(found, dirs...)
	}
	slices.SortStableFunc(found, byVersion)
	for _, dir := range found {
		if isComplete(dir) {
			return dir, nil
		}
	}
	return "", errMissing
}

var version = regexp.MustCompile(`(\d+(?:\.\d+)*)/bin$`)

// byVersion sorts folders by the version in their names, the newest first.
func byVersion(a, b string) int { return slices.Compare(versionIn(b), versionIn(a)) }

// versionIn returns the numbers that stand before the last part of a path, none
// if there are none: 9 and 6 of /usr/lib/postgresql/9.6/bin.
func versionIn(dir string) (numbers []int) {
	found := version.FindStringSubmatch(dir)
	if found == nil {
		return nil
	}
	for part := range strings.SplitSeq(found[1], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		numbers = append(numbers, n)
	}
	return numbers
}

func isComplete(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// account is an unprivileged user.
type account struct{ uid, gid uint32 }

func unprivileged() (*account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := osuser.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &account{uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("start postgres: it refuses to run as root, and there is no user postgres or nobody to run it as")
}

// own gives a folder to the account; nil is ourselves.
func (a *account) own(dir string) error {
	if a == nil {
		return nil
	}
	return os.Chown(dir, int(a.uid), int(a.gid))
}

func (a *account) attributes() *syscall.SysProcAttr {
	attributes := dieWithParent()
	if a != nil {
		attributes.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attributes
}

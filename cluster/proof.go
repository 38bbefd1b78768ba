package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingrain-go/ingrain/internal/simulated"
	"github.com/ingrain-go/ingrain/persistence"
)

// deaths proves that nodes on the same machine are dead. Every node holds a file
// locked for as long as it lives; the kernel releases the lock of a process that
// is gone, however it went, and never that of one which is only frozen. A lock
// that can be taken is therefore proof, and a take-over needs no hold (I8).
type deaths struct {
	locks simulated.Locks

	mu     sync.Mutex
	dead   map[persistence.NodeID]struct{}
	lapses map[persistence.NodeID]time.Duration // when the last lease of a node that is no member has run out
	latest time.Duration                        // of all lapses there ever were
	floor  time.Duration                        // until when somebody unknown may answer
}

func newDeaths(locks simulated.Locks) *deaths {
	return &deaths{locks: locks, dead: map[persistence.NodeID]struct{}{}, lapses: map[persistence.NodeID]time.Duration{}}
}

// lockFiles are the locks of this machine, in its present boot.
type lockFiles struct{ host, dir string }

func newLockFiles(dir string) lockFiles {
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("ingrain-%d", os.Getuid()))
	}
	return lockFiles{thisHost(), dir}
}

// Host is empty when the boot is unknown.
func (l lockFiles) Host() string { return l.host }

// thisHost names the machine and its boot: locks mean nothing across either.
func thisHost() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot))
}

// Lock takes the lock of a new incarnation. Without one the node merely cannot be
// proven dead.
func (l lockFiles) Lock(id string) (path string, unlock func() error, err error) {
	if l.host == "" {
		return "", nil, errors.New("the machine has no boot id")
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return "", nil, err
	}
	l.sweep()
	if path, err = filepath.Abs(filepath.Join(l.dir, id+".lock")); err != nil {
		return "", nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return path, func() error { return errors.Join(os.Remove(path), f.Close()) }, nil
}

// lockLife is how long the lock files of dead nodes are kept as evidence.
const lockLife = 24 * time.Hour

// sweep removes the lock files of nodes that died long ago.
func (l lockFiles) sweep() {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		path := filepath.Join(l.dir, e.Name())
		if err == nil && time.Since(info.ModTime()) > lockLife && strings.HasSuffix(path, ".lock") && l.Released(path) {
			_ = os.Remove(path) // another node may have been faster
		}
	}
}

// prove looks whether a node is provably dead.
func (d *deaths) prove(n *persistence.Node) bool {
	if d.proven(n.ID) {
		return true
	}
	if n.Lock == "" || n.Host == "" || n.Host != d.locks.Host() || !d.locks.Released(n.Lock) {
		return false
	}
	d.note(n.ID)
	return true
}

// note records a death that is known for certain.
func (d *deaths) note(id persistence.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead[id] = struct{}{}
}

// lapse records when a node that is no member any more, but not proven dead, has
// certainly ceased to answer under its lease.
func (d *deaths) lapse(id persistence.NodeID, at time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.lapses[id]; known || id == "" {
		return
	}
	for other, lapsed := range d.lapses {
		if at-lapsed > lapseLife {
			delete(d.lapses, other)
		}
	}
	d.lapses[id] = at
	d.latest = max(d.latest, at)
}

// assume takes it that until some moment anybody may answer under a lease,
// whatever the store says of owners.
func (d *deaths) assume(until time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.floor = max(d.floor, until)
}

// assumed is until when it is to be assumed that anybody may answer.
func (d *deaths) assumed() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.floor
}

// lapseLife is how long a lapse is remembered. Whoever is forgotten is held for
// a whole lease again.
const lapseLife = time.Hour

// lapsed tells when a node has ceased to answer, if that is known.
func (d *deaths) lapsed(id persistence.NodeID) (at time.Duration, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, known = d.lapses[id]
	return at, known
}

// lastLapse tells when all nodes that are members no more have ceased to answer.
func (d *deaths) lastLapse() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.latest
}

func (d *deaths) proven(id persistence.NodeID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.dead[id]
	return ok
}

// Released reports whether nobody holds the lock of a file. A file that is not
// there proves nothing.
func (lockFiles) Released(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // closing releases the lock
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sqlite

import (
	"os"
	"syscall"
)

// fileLock is a lock between processes, and between stores of one process. The
// kernel releases it when its holder dies.
type fileLock struct{ file *os.File }

func openFileLock(path string) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	return &fileLock{file}, nil
}

// tryLock reports whether the lock is held now. Any failure to ask counts as
// no: nothing but fairness depends on it.
func (l *fileLock) tryLock() bool {
	return syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

func (l *fileLock) unlock() { _ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN) }

func (l *fileLock) close() error { return l.file.Close() }

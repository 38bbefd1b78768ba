//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sqlite

import (
	"fmt"
	"os"
	"syscall"
)

// placeOf names the file, whatever its path, as no other file of the machine is
// named while it lives. A copy has another name, also one that a file system
// makes as a snapshot, which is why the device counts.
func placeOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("the system does not number the file %s", path)
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino), nil
}

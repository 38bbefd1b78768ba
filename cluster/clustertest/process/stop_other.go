//go:build !linux

package process

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// dieWithParent: a child notices the end of its parent by the end of its
// standard input.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// isStopped reports whether a process is stopped by a signal.
func isStopped(pid int) bool {
	state, err := exec.Command("ps", "-o", "state=", "-p", fmt.Sprint(pid)).Output()
	return err == nil && strings.HasPrefix(strings.TrimSpace(string(state)), "T")
}

//go:build unix && !linux

package postgrestest

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent has no equivalent outside Linux: a killed test run leaves its
// server behind.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func childrenOf(pid int) []int {
	list, err := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output() //nolint:gosec,noctx // a number
	if err != nil {
		return nil
	}
	var children []int
	for _, field := range strings.Fields(string(list)) {
		if child, err := strconv.Atoi(field); err == nil {
			children = append(children, child)
		}
	}
	return children
}

func isZombie(int) bool { return false }

//go:build !linux

package link

import "net"

// Supported says that [Opener] works here.
const Supported = false

// Opener tells which of some processes opened a connection; here it cannot.
func Opener(net.Conn, []int) (pid int, ok bool) { return 0, false }

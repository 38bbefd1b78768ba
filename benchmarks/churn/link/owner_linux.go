package link

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Supported says that [Opener] works here.
const Supported = true

// Opener tells which of some processes opened a loopback connection that was
// accepted here: its address is looked up among the machine's sockets, and the
// socket among the files of the processes. False when it was none of them.
func Opener(conn net.Conn, processes []int) (pid int, ok bool) {
	theirs, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return 0, false
	}
	ours, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return 0, false
	}
	inode, ok := inodeOf(theirs, ours)
	if !ok {
		return 0, false
	}
	want := "socket:[" + inode + "]"
	for _, pid := range processes {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it is gone
		}
		for _, e := range entries {
			if name, err := os.Readlink(dir + "/" + e.Name()); err == nil && name == want {
				return pid, true
			}
		}
	}
	return 0, false
}

// inodeOf finds the socket at the near end of a connection. One end is not
// enough: a port is used for connections to several others at a time.
func inodeOf(near, far netip.AddrPort) (string, bool) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "", false
	}
	from, to := inTable(near), inTable(far)
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) > 9 && string(fields[1]) == from && string(fields[2]) == to {
			return string(fields[9]), true
		}
	}
	return "", false
}

// inTable is how the kernel of a little-endian machine writes an address.
func inTable(a netip.AddrPort) string {
	ip := a.Addr().Unmap().As4()
	slices.Reverse(ip[:])
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip[:])), a.Port())
}

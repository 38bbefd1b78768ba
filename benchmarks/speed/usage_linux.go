package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every architecture that
// Go runs on.
const tick = 10 * time.Millisecond

// processorTimes returns the processor time that this process, its descendants
// (dead ones included) and all processes of the machine have used.
func processorTimes() (self, children, everyone time.Duration) {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		self = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	for _, pid := range descendants() {
		if stat := statOf(pid); len(stat) > 14 {
			// its own time and that of its children it has waited for
			children += time.Duration(number(stat[11])+number(stat[12])+number(stat[13])+number(stat[14])) * tick
		}
	}
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &usage) == nil {
		children += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return self, children, busy()
}

// statOf returns the fields of /proc/pid/stat behind the name: state, parent...
func statOf(pid int) [][]byte {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil // it has just ended
	}
	return bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
}

func descendants() []int {
	parents := map[int]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if stat := statOf(pid); len(stat) > 1 {
			parents[pid] = int(number(stat[1]))
		}
	}
	var found []int
	for pid := range parents {
		for up := parents[pid]; up != 0; up = parents[up] {
			if up == os.Getpid() {
				found = append(found, pid)
				break
			}
		}
	}
	return found
}

// busy is the time that all processors have not been idle.
func busy() time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 {
		return 0
	}
	var sum int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user nice system irq softirq steal
		sum += number(fields[i])
	}
	return time.Duration(sum) * tick
}

func number(field []byte) int64 {
	n, err := strconv.ParseInt(string(field), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

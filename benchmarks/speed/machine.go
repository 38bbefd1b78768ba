package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"time"
)

// machine is where the figures were measured, and how busy it was.
type machine struct {
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	OS       string  `json:"os"`
	Go       string  `json:"go"`
	Postgres string  `json:"postgres,omitempty"`
	Others   float64 `json:"busy_with_others"` // share of the CPU time that went to other programs during the samples

	begin         time.Time
	total, others time.Duration
}

func newMachine() *machine {
	return &machine{
		CPU: cpuName(), Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH,
		Go: runtime.Version(), begin: time.Now(),
	}
}

func (m *machine) String() string {
	text := fmt.Sprintf("%s, %d cores, %s, %s", m.CPU, m.Cores, m.OS, m.Go)
	if m.Postgres != "" {
		text += ", PostgreSQL " + m.Postgres
	}
	return text
}

// cost is what was used: processor time of this process, of its children (a
// PostgreSQL server of our own among them), of everything on the machine, and
// objects allocated in this process.
type cost struct {
	at                       time.Duration
	self, children, everyone time.Duration
	allocations              uint64
}

func (m *machine) usage() cost {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(s)
	c := cost{at: time.Since(m.begin), allocations: s[0].Value.Uint64()}
	c.self, c.children, c.everyone = processorTimes()
	return c
}

func (c cost) minus(before cost) cost {
	return cost{
		at: c.at - before.at, self: c.self - before.self, children: c.children - before.children,
		everyone: c.everyone - before.everyone, allocations: c.allocations - before.allocations,
	}
}

// note adds up how busy the machine was with other programs.
func (m *machine) note(c cost) {
	m.total += c.at * time.Duration(m.Cores)
	m.others += max(0, c.everyone-c.self-c.children)
	if m.total > 0 && c.everyone > 0 {
		m.Others = float64(m.others) / float64(m.total)
	}
}

func cpuName() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

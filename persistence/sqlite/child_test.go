package sqlite_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// The test binary is also the other process of the tests that need one: with
// childVariable set it does what the order in it says, tells its parent line
// by line on standard output, and exits.
const childVariable = "INGRAIN_SQLITE_CHILD"

// order is what a child is to do.
type order struct {
	Dir  string
	Node persistence.NodeID
	// Claim are the partitions to claim and then to write to.
	Claim []persistence.Partition
	// Contest is a partition to claim again and again, for one commit each
	// time; none if negative.
	Contest persistence.Partition
	// Batches is how many to write; 0 means until killed. A child that claims
	// nothing and has none to write only opens the store.
	Batches int
}

// report is a line of a child.
type report struct {
	StoreID string `json:",omitempty"` // the first one: the store is open
	// Acked are commits that were acknowledged.
	Acked []acked `json:",omitempty"`
	// Won is an epoch of the contested partition.
	Won persistence.Epoch `json:",omitempty"`
	// Err ends the child.
	Err string `json:",omitempty"`
}

type acked struct {
	Stream      string
	First, Last persistence.Version
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		out := json.NewEncoder(os.Stdout) // one write for each line
		if err := obey(context.Background(), text, out); err != nil {
			_ = out.Encode(report{Err: err.Error()})
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func obey(ctx context.Context, text string, out *json.Encoder) (err error) {
	var job order
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Dir: job.Dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := out.Encode(report{StoreID: s.Meta().StoreID}); err != nil {
		return err
	}
	if job.Claim == nil {
		return nil
	}
	o, err := own(ctx, s, job.Node, job.Claim)
	if err != nil {
		return err
	}
	for round := 0; job.Batches == 0 || round < job.Batches; round++ {
		if err := writeRound(ctx, o, job, round, out); err != nil {
			return err
		}
		if job.Contest < 0 {
			continue
		}
		if err := contest(ctx, o, job.Contest, out); err != nil {
			return err
		}
	}
	return nil
}

// writeRound appends one commit of 1 to 3 events to each of 40 streams, whose
// names are the node's own.
func writeRound(ctx context.Context, o *owner, job order, round int, out *json.Encoder) error {
	var commits []*persistence.Commit
	for i := 0; len(commits) < 40; i++ {
		stream := account(fmt.Sprintf("%s-%d", o.node, i))
		if slices.Contains(job.Claim, persistence.PartitionOf(stream, o.store.Meta().Partitions)) {
			n := commitSize(i)
			commits = append(commits, commit(stream, persistence.Version(round*n), n))
		}
	}
	return o.appendAll(ctx, commits, out)
}

// commitSize is how many events a commit to a node's i-th stream has.
func commitSize(i int) int { return 1 + i%3 }

func (o *owner) appendAll(ctx context.Context, commits []*persistence.Commit, out *json.Encoder) error {
	o.store.Append(ctx, o.batch(commits...))
	o.settle(commits)
	var line report
	for _, c := range commits {
		if c.Err != nil {
			return c.Err
		}
		line.Acked = append(line.Acked, acked{
			c.Stream.String(), c.Expected + 1, c.Expected + persistence.Version(len(c.Events)),
		})
	}
	return out.Encode(line)
}

// contest claims a partition that others claim as well. Losing it before or
// after is no error.
func contest(ctx context.Context, o *owner, p persistence.Partition, out *json.Encoder) error {
	epoch, err := o.claim(ctx, p)
	var lost *persistence.ClaimLostError
	if errors.As(err, &lost) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := out.Encode(report{Won: epoch}); err != nil {
		return err
	}
	for i := 0; ; i++ {
		stream := account(fmt.Sprintf("%s-contested-%d-%d", o.node, epoch, i))
		if persistence.PartitionOf(stream, o.store.Meta().Partitions) != p {
			continue
		}
		err := o.appendAll(ctx, []*persistence.Commit{commit(stream, 0, 1)}, out)
		var fenced *persistence.FencedError
		if errors.As(err, &fenced) {
			return nil
		}
		return err
	}
}

// child is a process that has been started.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startChild(t *testing.T, job order) *child {
	t.Helper()
	text, err := json.Marshal(job)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &child{cmd, lines}
}

// next returns the child's next line; io.EOF when it has ended. A line that a
// kill cut off does not count.
func (c *child) next() (report, error) {
	var line report
	if !c.lines.Scan() || json.Unmarshal(c.lines.Bytes(), &line) != nil {
		return report{}, io.EOF
	}
	if line.Err != "" {
		return report{}, fmt.Errorf("the child failed: %s", line.Err)
	}
	return line, nil
}

// rest returns the lines until the child has ended.
func (c *child) rest() ([]report, error) {
	var lines []report
	for {
		line, err := c.next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		lines = append(lines, line)
	}
}

// wait is rest for a child that ends by itself, and well.
func (c *child) wait() ([]report, error) {
	lines, err := c.rest()
	return lines, errors.Join(err, c.cmd.Wait())
}

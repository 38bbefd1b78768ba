package sqlite_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
	"github.com/ingrain-go/ingrain/persistence/sqlite"
)

// readLog reads a store from its first event to its last, and checks what
// holds for every log: dense offsets, dense versions, whole commits.
func readLog(t *testing.T, s persistence.Store) map[persistence.Stream][]persistence.Event {
	t.Helper()
	streams := make(map[persistence.Stream][]persistence.Event)
	for p := range s.Meta().Partitions {
		cursor := persistence.Cursor{Partition: persistence.Partition(p)}
		for {
			events, err := s.Tail(t.Context(), []persistence.Cursor{cursor}, 1000)
			require.NoError(t, err)
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				require.Equal(t, cursor.After+1, e.Offset)
				cursor.After = e.Offset
				streams[e.Stream] = append(streams[e.Stream], e)
			}
		}
	}
	for stream, events := range streams {
		for i, e := range events {
			require.Equal(t, persistence.Version(i+1), e.Version, stream)
			require.Equal(t, fmt.Sprintf("%s@%d", stream, i+1), string(e.Payload))
			record, found, err := s.FindCommand(t.Context(), stream, e.Command)
			require.NoError(t, err)
			require.True(t, found)
			require.Equal(t, e.Command, command(stream, record.First-1), "a commit is whole, from its first event")
		}
	}
	return streams
}

func requireAcked(t *testing.T, log map[persistence.Stream][]persistence.Event, reports []report) (commits int) {
	t.Helper()
	for _, line := range reports {
		for _, a := range line.Acked {
			stream, err := persistence.ParseStream(a.Stream)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(log[stream]), int(a.Last), "%s was acknowledged", stream)
			first, last := log[stream][a.First-1], log[stream][a.Last-1]
			require.Equal(t, first.Command, last.Command)
			require.Equal(t, first.Offset+persistence.Offset(a.Last-a.First), last.Offset, "a commit's events stand together")
			commits++
		}
	}
	return commits
}

func TestKilledWriterLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var reports []report
	for round := range 8 {
		c := startChild(t, order{
			Dir: dir, Node: persistence.NodeID(fmt.Sprintf("node-%d", round)), Claim: allPartitions(), Contest: -1,
		})
		for acked := 0; acked < 3; acked++ {
			line, err := c.next()
			require.NoError(t, err, "the child ended by itself")
			reports = append(reports, line)
		}
		kill := time.AfterFunc(rand.N(30*time.Millisecond), func() { _ = c.cmd.Process.Kill() })
		defer kill.Stop()
		rest, err := c.rest()
		require.NoError(t, err)
		reports = append(reports, rest...)
		require.ErrorContains(t, c.cmd.Wait(), "killed")

		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
		require.NoError(t, err)
		log := readLog(t, s)
		require.Positive(t, requireAcked(t, log, reports))
		for stream, events := range log {
			i, err := strconv.Atoi(stream.ID[strings.LastIndexByte(stream.ID, '-')+1:])
			require.NoError(t, err)
			require.Zero(t, len(events)%commitSize(i), "%s has a part of a commit", stream)
		}
		require.NoError(t, s.Close())
	}
}

func TestTwoProcessesShareADirectory(t *testing.T) {
	dir := t.TempDir()
	const contested = 15
	orders := []order{
		{Dir: dir, Node: "even", Claim: []persistence.Partition{0, 2, 4, 6, 8, 10, 12, 14}, Contest: contested, Batches: 60},
		{Dir: dir, Node: "odd", Claim: []persistence.Partition{1, 3, 5, 7, 9, 11, 13}, Contest: contested, Batches: 60},
	}
	reports, errs := make([][]report, len(orders)), make([]error, len(orders))
	var wg sync.WaitGroup
	for i, todo := range orders {
		c := startChild(t, todo)
		wg.Go(func() { reports[i], errs[i] = c.wait() })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))

	s := openStore(t, sqlite.Config{Dir: dir})
	log := readLog(t, s)
	won := make(map[persistence.Epoch]persistence.NodeID)
	for i, todo := range orders {
		require.GreaterOrEqual(t, requireAcked(t, log, reports[i]), 40*todo.Batches)
		for _, line := range reports[i] {
			if line.Won != 0 {
				require.NotContains(t, won, line.Won, "one epoch has one owner")
				won[line.Won] = todo.Node
			}
		}
	}
	view, err := s.View(t.Context())
	require.NoError(t, err)
	require.Len(t, won, int(view.Partitions[contested].Epoch), "every epoch was won by one of the two")
	require.Equal(t, reports[0][0].StoreID, reports[1][0].StoreID)
	for _, events := range log {
		for _, e := range events {
			if e.Partition == contested {
				require.Contains(t, e.Stream.ID, string(won[e.Epoch])+"-", "written by the owner of its epoch")
			}
		}
	}
}

func TestManyProcessesCreateOneStore(t *testing.T) {
	dir := t.TempDir()
	children := make([]*child, 8)
	for i := range children {
		children[i] = startChild(t, order{Dir: dir})
	}
	ids := make(map[string]bool)
	for _, c := range children {
		lines, err := c.wait()
		require.NoError(t, err)
		require.Len(t, lines, 1)
		ids[lines[0].StoreID] = true
	}
	require.Len(t, ids, 1)
	require.Contains(t, ids, openStore(t, sqlite.Config{Dir: dir}).Meta().StoreID)
}

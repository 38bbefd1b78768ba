package persistence_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

func TestPartitionOfNeverChanges(t *testing.T) {
	golden, err := os.ReadFile("testdata/partition.golden")
	require.NoError(t, err)
	checked := 0
	for line := range strings.Lines(string(golden)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		require.Len(t, fields, 4, line)
		n, err := strconv.Atoi(fields[0])
		require.NoError(t, err)
		want, err := strconv.Atoi(fields[1])
		require.NoError(t, err)
		id, err := strconv.Unquote(fields[3])
		require.NoError(t, err)
		stream := persistence.Stream{Type: fields[2], ID: id}
		require.Equal(t, persistence.Partition(want), persistence.PartitionOf(stream, n), "%s among %d", stream, n)
		checked++
	}
	require.GreaterOrEqual(t, checked, 85, "lines are missing")
}

// TestPartitionOfSpreadsSimilarIDs checks that short counted ids, which most
// systems have, fill the partitions evenly.
func TestPartitionOfSpreadsSimilarIDs(t *testing.T) {
	const n, streams = 256, 256 * 400
	counts := make([]int, n)
	for i := range streams {
		counts[persistence.PartitionOf(persistence.Stream{Type: "account", ID: strconv.Itoa(i)}, n)]++
	}
	for p, count := range counts {
		require.InDelta(t, streams/n, count, 100, "partition %d", p) // five standard deviations
	}
}

func FuzzParseStream(f *testing.F) {
	for _, s := range []string{"account/alice", "account/a/b", "/", "", "account", "account/", "/alice", "a//", "ü/é", "\x00/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		stream, err := persistence.ParseStream(s)
		if err != nil {
			typ, id, ok := strings.Cut(s, "/")
			require.False(t, ok && typ != "" && id != "", "refused %q: %v", s, err)
			require.Contains(t, err.Error(), fmt.Sprintf("%q", s))
			return
		}
		require.NotEmpty(t, stream.Type)
		require.NotEmpty(t, stream.ID)
		require.NotContains(t, stream.Type, "/")
		require.Equal(t, s, stream.String())
		again, err := persistence.ParseStream(stream.String())
		require.NoError(t, err)
		require.Equal(t, stream, again)
	})
}

package cluster_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/cluster/clustertest"
	"github.com/ingrain-go/ingrain/cluster/internal/upgrade"
	"github.com/ingrain-go/ingrain/persistence"
)

// A new version of the program comes with a new form of an event, a new event, a
// new command and another snapshot, and is taken back again. Two binaries, under
// load: nobody has to ask twice, neither on the way there nor on the way back.
func TestDrillUpgradeAndBack(t *testing.T) {
	v1, v2 := buildVersion(t, "v1"), buildVersion(t, "v2")
	onEveryStore(t, func(t *testing.T, store clustertest.Store) {
		s := spec(t, store)
		s.Program = upgrade.Program
		before, after := s, s
		before.Binary, after.Binary = v1, v2
		nodes := clustertest.LaunchAll(t, 3, before)
		settled(t, nodes...)
		all := balance(nodes...)
		c := startClients(t, false, all)
		ctx := within(t, 4*patience)
		replace := func(version string, by clustertest.Spec) {
			for i, n := range nodes {
				c.progress(150)
				all.drain(n)
				require.NoError(t, n.Terminate())
				nodes[i] = clustertest.Launch(t, fmt.Sprint(strings.Split(n.Name(), "-")[0], "-", version), by)
				settled(t, nodes...)
				all.add(nodes[i])
			}
			c.progress(300)
		}
		c.progress(300)
		forms := storedForms(t, store)
		require.Equal(t, []string{"added"}, forms.names, "v1 stores what it knows")

		replace("v2", after)
		forms = storedForms(t, store)
		require.NotZero(t, forms.count["added/2+added"], "while v1 ran, v2 fell back to the command of before")
		require.NotZero(t, forms.count["raised+added/2+added"], "v2 used its new command")
		require.NotZero(t, forms.snapshots[2], "v2 took snapshots of its own")
		written := forms.count["added/2+added"] + forms.count["raised+added/2+added"]

		replace("v1-again", before)
		require.Zero(t, count(ctx, nodes, takeovers), "nothing was taken by force")
		require.Zero(t, count(ctx, nodes, evictions))
		c.end(store, nodes...)

		last := storedForms(t, store)
		require.Greater(t, last.count["added"], forms.count["added"], "v1 goes on where v2 was")
		t.Logf("3 nodes replaced twice: %d events of v2 read by v1, stored as %v", written, last.count)
	})
}

// buildVersion builds one of the two programs.
func buildVersion(t *testing.T, version string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), version)
	out, err := exec.Command("go", "build", "-o", binary, "./internal/upgrade/"+version).CombinedOutput()
	require.NoError(t, err, string(out))
	return binary
}

// stored is what a store has of counters.
type stored struct {
	names     []string
	count     map[string]int
	snapshots map[int]int // by schema
}

func storedForms(t *testing.T, where clustertest.Store) stored {
	t.Helper()
	s := stored{count: map[string]int{}, snapshots: map[int]int{}}
	ctx := within(t, patience)
	store, err := where.Open(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	log, err := clustertest.ReadLog(ctx, store)
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, e := range log.Events {
		if s.count[e.Type]++; s.count[e.Type] == 1 {
			s.names = append(s.names, e.Type)
		}
		if !seen[e.Stream.ID] {
			seen[e.Stream.ID] = true
			histories, err := store.ReadMany(ctx, []persistence.Stream{e.Stream}, 1)
			require.NoError(t, err)
			if snapshot := histories[0].Snapshot; snapshot != nil {
				s.snapshots[snapshot.Schema]++
			}
		}
	}
	return s
}

package partition

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ingrain-go/ingrain/persistence"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// TestScenarios runs testdata/*.txt. A file is a list of blocks, separated by
// empty lines:
//
//	command [arguments]
//	----
//	what it prints
//
// Lines that start with # are comments. `go test -run Scenarios -update` writes
// what the commands print now; read the diff.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			got := runScenario(t, string(want))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(want), got)
		})
	}
}

func runScenario(t *testing.T, text string) string {
	t.Helper()
	w := newWorld()
	var out []string
	for _, block := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		var printed []string
		for _, line := range strings.Split(block, "\n") {
			if line == "----" {
				break
			}
			out = append(out, line)
			if !strings.HasPrefix(line, "#") {
				printed = append(printed, w.run(t, strings.Fields(line))...)
			}
		}
		if len(printed) > 0 {
			out = append(append(out, "----"), printed...)
		}
		out = append(out, "")
	}
	return strings.Join(out, "\n")
}

// world is a store with its two tables, and the nodes that look at them.
type world struct {
	mode    Mode
	rows    []persistence.Ownership
	members []Member
	frozen  map[persistence.NodeID]view // what nodes believe that do not see the store
	tables  map[persistence.NodeID]*Table
}

type view struct {
	rows    []persistence.Ownership
	members []Member
}

func newWorld() *world {
	return &world{frozen: map[persistence.NodeID]view{}, tables: map[persistence.NodeID]*Table{}}
}

// run carries out one command line and returns what it prints.
func (w *world) run(t *testing.T, args []string) []string {
	t.Helper()
	name, args := args[0], args[1:]
	switch name {
	case "partitions": // partitions N: a new store
		n, err := strconv.Atoi(args[0])
		require.NoError(t, err)
		w.rows = make([]persistence.Ownership, n)
		for i := range w.rows {
			w.rows[i].Partition = persistence.Partition(i)
		}
	case "mode": // mode sticky|balanced
		w.mode = map[string]Mode{"sticky": Sticky, "balanced": Balanced}[args[0]]
	case "join": // join NODE[*WEIGHT]...: become active members
		for _, arg := range args {
			w.members = append(w.members, parseMember(t, arg))
		}
	case "weight": // weight NODE*WEIGHT...
		for _, arg := range args {
			m := parseMember(t, arg)
			w.members[w.index(t, m.ID)] = m
		}
	case "drain": // drain NODE...: stay members, want nothing
		for _, arg := range args {
			w.members[w.index(t, persistence.NodeID(arg))].Weight = NoShare
		}
	case "crash": // crash NODE...: declared dead; the rows stay
		for _, arg := range args {
			i := w.index(t, persistence.NodeID(arg))
			w.members = slices.Delete(w.members, i, i+1)
		}
	case "leave": // leave NODE...: release everything and go
		for _, arg := range args {
			for _, row := range w.rows {
				if row.Owner == persistence.NodeID(arg) {
					w.set(row.Partition, row.Epoch, "")
				}
			}
			i := w.index(t, persistence.NodeID(arg))
			w.members = slices.Delete(w.members, i, i+1)
		}
	case "freeze": // freeze NODE...: goes on with what it sees now
		for _, arg := range args {
			w.frozen[persistence.NodeID(arg)] = view{slices.Clone(w.rows), slices.Clone(w.members)}
		}
	case "thaw": // thaw NODE...
		for _, arg := range args {
			delete(w.frozen, persistence.NodeID(arg))
		}
	case "plan": // where an empty store would end
		return describe(Plan(w.members, len(w.rows)))
	case "table": // who owns what, in the store
		return w.table()
	case "moves": // moves NODE: what it would do now
		return w.describeMoves(persistence.NodeID(args[0]))
	case "step": // step NODE [N]: it does that, or the first N
		limit := len(w.rows)
		if len(args) > 1 {
			var err error
			limit, err = strconv.Atoi(args[1])
			require.NoError(t, err)
		}
		won, lost := w.step(persistence.NodeID(args[0]), limit)
		return []string{fmt.Sprintf("%d done, %d refused", won, lost)}
	case "settle": // all nodes act, until none has anything to do
		return w.settle(t)
	case "look": // look NODE: its cached table takes in its view
		id := persistence.NodeID(args[0])
		if w.tables[id] == nil {
			w.tables[id] = NewTable(len(w.rows))
		}
		changed := w.tables[id].Update(persistence.View{Partitions: w.see(id).rows})
		return []string{fmt.Sprintf("%d rows changed", len(changed))}
	case "restore": // restore EPOCH: the store is an older copy, as it was when no epoch was higher
		epoch, err := strconv.Atoi(args[0])
		require.NoError(t, err)
		for i := range w.rows {
			w.rows[i].Epoch = min(w.rows[i].Epoch, persistence.Epoch(epoch))
		}
	case "setback": // setback NODE: its cached table follows a store that has gone back
		id, back := persistence.NodeID(args[0]), 0
		for p, now := range w.see(id).rows {
			if was := w.tables[id].Owner(persistence.Partition(p)); was.Epoch > now.Epoch && w.tables[id].SetBack(was, now) {
				back++
			}
		}
		return []string{fmt.Sprintf("%d rows set back", back)}
	case "owner": // owner NODE PARTITION: what its cached table says
		p, err := strconv.Atoi(args[1])
		require.NoError(t, err)
		row := w.tables[persistence.NodeID(args[0])].Owner(persistence.Partition(p))
		return []string{fmt.Sprintf("%q under epoch %d", row.Owner, row.Epoch)}
	default:
		require.Failf(t, "unknown command", "%q", name)
	}
	return nil
}

func parseMember(t *testing.T, s string) Member {
	t.Helper()
	id, weight, ok := strings.Cut(s, "*")
	m := Member{ID: persistence.NodeID(id)}
	if ok {
		n, err := strconv.Atoi(weight)
		require.NoError(t, err)
		m.Weight = n
	}
	return m
}

func (w *world) index(t *testing.T, id persistence.NodeID) int {
	t.Helper()
	i := slices.IndexFunc(w.members, func(m Member) bool { return m.ID == id })
	require.GreaterOrEqual(t, i, 0, "%s is not a member", id)
	return i
}

// see is the view that a node acts on.
func (w *world) see(id persistence.NodeID) view {
	if v, ok := w.frozen[id]; ok {
		return v
	}
	return view{w.rows, w.members}
}

func (w *world) moves(id persistence.NodeID) []Move {
	v := w.see(id)
	return Moves(v.rows, v.members, w.mode, id)
}

// set is the store's compare-and-set.
func (w *world) set(p persistence.Partition, seen persistence.Epoch, owner persistence.NodeID) bool {
	row := &w.rows[p]
	if row.Epoch != seen {
		return false
	}
	row.Epoch, row.Owner = seen+1, owner
	return true
}

func (w *world) step(id persistence.NodeID, limit int) (won, lost int) {
	for i, m := range w.moves(id) {
		if i == limit {
			break
		}
		if w.set(m.Partition, m.Epoch, m.To) {
			won++
		} else {
			lost++
		}
	}
	return won, lost
}

func (w *world) settle(t *testing.T) []string {
	t.Helper()
	claimed, handed := 0, 0
	for range 100 {
		busy := false
		for _, m := range w.members {
			for _, move := range w.moves(m.ID) {
				if !w.set(move.Partition, move.Epoch, move.To) {
					continue
				}
				busy = true
				if move.To == m.ID {
					claimed++
				} else {
					handed++
				}
			}
		}
		if !busy {
			line := fmt.Sprintf("%d claimed, %d handed over", claimed, handed)
			return append([]string{line}, w.table()...)
		}
	}
	require.Fail(t, "the cluster never settles")
	return nil
}

func (w *world) table() []string {
	owners := make([]persistence.NodeID, len(w.rows))
	for i, row := range w.rows {
		owners[i] = row.Owner
	}
	return describe(owners)
}

func describe(owners []persistence.NodeID) []string {
	held := map[persistence.NodeID][]string{}
	for p, id := range owners {
		held[id] = append(held[id], strconv.Itoa(p))
	}
	var lines []string
	for id, ps := range held {
		name := string(id)
		if id == "" {
			name = "nobody"
		}
		lines = append(lines, fmt.Sprintf("%s (%d): %s", name, len(ps), strings.Join(ps, " ")))
	}
	slices.Sort(lines)
	return lines
}

func (w *world) describeMoves(id persistence.NodeID) []string {
	var lines []string
	for _, m := range w.moves(id) {
		from := string(m.From)
		if from == "" {
			from = "nobody"
		}
		what := fmt.Sprintf("hand %d over to %s", m.Partition, m.To)
		if m.To == id {
			what = fmt.Sprintf("claim %d from %s", m.Partition, from)
		}
		lines = append(lines, fmt.Sprintf("%s, epoch %d", what, m.Epoch))
	}
	if len(lines) == 0 {
		return []string{"nothing"}
	}
	return lines
}
